"""Documents out of files: plain text, JSON Lines and Parquet, one file or many in turn.

A document is one string. A bad line is an error that names the file and the line, never
skipped in silence, and so is a file that ends too early. Knows nothing about tokens or models.
"""

from __future__ import annotations

import gzip
import io
import itertools
import json
import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from ..errors import DataError, suggest
from ..extras import library
from .addresses import JSON_LINES, PARQUET, file_name, is_remote, kind_of, open_binary

OPEN_FILES = 16  # files that `interleaved` reads from at a time
_CHUNK = 1 << 16  # compressed bytes taken at once
_ROWS = 256  # rows of a Parquet file held at once
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

T = TypeVar("T")


def documents(address: str | Path, *, field: str = "text") -> Iterator[str]:
    """The documents of one file, in file order; empty ones are left out.

    JSON Lines give the string under `field` of every line, Parquet files that of the column
    `field`; any other file is plain text, cut at blank lines. Text and JSON Lines may be
    compressed (`.gz`, `.zst`).

    Raises:
        DataError: a file that is missing, truncated or damaged, that is not UTF-8, a line that
            is not JSON or without `field`, or a package that is needed and not installed.
    """
    try:
        if kind_of(address) == PARQUET:
            yield from _rows(address, field)
        else:
            with open_plain(address) as file:
                lines = numbered_lines(address, file)
                yield from _records(address, lines, field) if kind_of(address) == JSON_LINES else _paragraphs(lines)
    except DataError:
        raise
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{address}: cannot be read ({error})") from error
    except Exception as error:  # remote file systems raise what their own libraries raise
        if not is_remote(address):
            raise
        raise DataError(f"{address}: cannot be read ({type(error).__name__}: {error})") from error


def interleaved(addresses: Iterable[str | Path], *, field: str = "text", open_files: int = OPEN_FILES) -> Iterator[str]:
    """The documents of many files, one of each in turn, so that they mix from the start.

    At most `open_files` files are open at a time; where one ends, the next takes its place.
    The order depends on the addresses and their order alone.
    """
    return in_turn((documents(address, field=field) for address in addresses), open_files)


def in_turn(sequences: Iterable[Iterator[T]], at_once: int = OPEN_FILES) -> Iterator[T]:
    """One item of each sequence in turn, from `at_once` sequences at a time."""
    waiting = iter(sequences)
    active = deque(itertools.islice(waiting, at_once))
    while active:
        current = active.popleft()
        for item in current:
            yield item
            active.append(current)
            break
        else:
            active.extend(itertools.islice(waiting, 1))


# --- bytes and lines -------------------------------------------------------------------


@contextmanager
def open_plain(address: str | Path) -> Iterator[BinaryIO]:
    """The bytes of a file, decompressed."""
    name = file_name(address).lower()
    with open_binary(address) as file:
        if not name.endswith((".gz", ".zst")):
            yield file
            return
        packed = io.BufferedReader(cast(io.RawIOBase, file))
        if not packed.peek(1):
            raise EOFError("a compressed file of no bytes")
        source = cast(BinaryIO, packed)
        unpacked = gzip.GzipFile(fileobj=source) if name.endswith(".gz") else _Zstandard(address, source)
        with io.BufferedReader(cast(io.RawIOBase, unpacked), 1 << 20) as lines:
            yield cast(BinaryIO, lines)


class _Zstandard(io.RawIOBase):
    """Decompresses zstd to its very end.

    The stream reader of the zstandard package takes the end of a truncated file for the end
    of the text, and the end of the first frame for that of the file; both would lose documents.
    """

    def __init__(self, address: str | Path, file: BinaryIO) -> None:
        zstandard = library("zstandard", extra="train", purpose=f"{address}: reading .zst")
        self._error = zstandard.ZstdError
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)  # also of `zstd --long`
        self._file = file
        self._frame: Any = None  # None between frames
        self._packed = b""
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` as far as text is at hand; 0 at the end."""
        while not self._ready:
            if not self._packed:
                self._packed = self._file.read(_CHUNK)
            if not self._packed:
                if self._frame is not None:
                    raise EOFError("the file ends in the middle of its compressed data")
                return 0
            self._ready = memoryview(self._unpack())
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _unpack(self) -> bytes:
        if self._frame is None:
            self._frame = self._decompressor.decompressobj()
        try:
            text: bytes = self._frame.decompress(self._packed)
        except self._error as error:
            raise OSError(str(error)) from error
        self._packed = b""
        if self._frame.eof:
            self._packed, self._frame = self._frame.unused_data, None
        return text


def numbered_lines(address: str | Path, file: Iterable[bytes]) -> Iterator[tuple[int, str]]:
    """Numbered lines, decoded, each with a plain newline at its end."""
    for number, line in enumerate(file, 1):
        if number == 1:
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if line.endswith(b"\r\n"):
            line = line[:-2] + b"\n"
        try:
            yield number, line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{address}, line {number}: not valid UTF-8 ({error.reason} at byte {error.start}); convert it first"
            ) from error


# --- documents -------------------------------------------------------------------------


def _records(address: str | Path, lines: Iterable[tuple[int, str]], field: str) -> Iterator[str]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            text = json.loads(line)[field]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DataError(f'{address}, line {number}: expected a JSON object with the field "{field}"') from error
        if not isinstance(text, str):
            raise DataError(f'{address}, line {number}: the field "{field}" is not a string')
        if "\\u" in line and not _is_unicode(text):
            raise DataError(f"{address}, line {number}: the text holds half of a surrogate pair, which is not Unicode")
        if text:
            yield text


def _is_unicode(text: str) -> bool:
    """JSON can spell (as `\\ud800`) what no UTF-8 file can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _paragraphs(lines: Iterable[tuple[int, str]]) -> Iterator[str]:
    block: list[str] = []
    for _, line in lines:
        if line.strip():
            block.append(line)
        elif block:
            yield "".join(block).rstrip("\n")
            block = []
    if block:
        yield "".join(block).rstrip("\n")


def _rows(address: str | Path, field: str) -> Iterator[str]:
    pyarrow = library("pyarrow", extra="parquet", purpose=f"{address}: reading Parquet")
    parquet = library("pyarrow.parquet", extra="parquet", purpose=f"{address}: reading Parquet")
    row = 0
    try:
        with open_binary(address) as file, parquet.ParquetFile(file, buffer_size=1 << 20) as table:
            columns = table.schema_arrow.names
            if field not in columns:
                raise DataError(
                    f'{address}: no column "{field}"; it has {", ".join(columns)}.{suggest(field, columns)} '
                    "Choose one with --field"
                )
            for batch in table.iter_batches(batch_size=_ROWS, columns=[field], use_threads=False):
                for value in batch.column(0):
                    row += 1
                    text = value.as_py()
                    if not isinstance(text, str):
                        raise DataError(f'{address}, row {row}: the column "{field}" holds no string')
                    if text:
                        yield text
    except UnicodeDecodeError as error:
        raise DataError(f"{address}, row {row}: not valid UTF-8 ({error.reason}); convert it first") from error
    except pyarrow.ArrowException as error:
        raise DataError(f"{address}: not a Parquet file, or a damaged one ({error})") from error
