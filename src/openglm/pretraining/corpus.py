"""Documents out of files: JSON Lines (plain, .gz or .zst) and plain text.

Knows nothing about tokens or models. A document is one string; a bad line is an error
that names the file and the line, never skipped in silence.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from ..errors import DataError


def open_text(path: Path) -> IO[str]:
    """Open a text file for reading as UTF-8, decompressing `.gz` and `.zst`.

    Raises:
        DataError: the file does not exist, or `.zst` is asked for without `zstandard`.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; give existing .jsonl, .jsonl.zst, .jsonl.gz or .txt files")
    if path.suffix == ".zst":
        try:
            import zstandard
        except ImportError as error:
            raise DataError(f"{path}: reading .zst needs the zstandard package: pip install zstandard") from error
        reader = zstandard.ZstdDecompressor().stream_reader(path.open("rb"), closefd=True)
        return io.TextIOWrapper(reader, encoding="utf-8")
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path, "rb"), encoding="utf-8")
    return path.open(encoding="utf-8")


def is_jsonl(path: Path) -> bool:
    """Whether the name says JSON Lines (`.jsonl` or `.json`, compressed or not)."""
    return any(suffix in (".jsonl", ".json") for suffix in path.suffixes)


def documents(path: Path, *, field: str = "text") -> Iterator[str]:
    """The documents of one file, in file order.

    JSON Lines give the string under `field` of every line; a plain text file is split at
    blank lines.

    Raises:
        DataError: an unreadable file, a line that is not JSON, or one without `field`.
    """
    try:
        with open_text(path) as lines:
            yield from _jsonl_documents(path, lines, field) if is_jsonl(path) else _paragraphs(lines)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not valid UTF-8 ({error.reason} at byte {error.start}); convert it first") from error
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error


def _jsonl_documents(path: Path, lines: Iterable[str], field: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)[field]
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f'{path}, line {number}: expected a JSON object with the field "{field}"') from error
        if not isinstance(text, str):
            raise DataError(f'{path}, line {number}: the field "{field}" is not a string')
        if text:
            yield text


def _paragraphs(lines: Iterable[str]) -> Iterator[str]:
    block: list[str] = []
    for line in lines:
        if line.strip():
            block.append(line)
        elif block:
            yield "".join(block).rstrip("\n")
            block = []
    if block:
        yield "".join(block).rstrip("\n")
