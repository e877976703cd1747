"""Records of a file one at a time, and back in the same form: JSON Lines, CSV, TSV or plain lines.

One line or row in gives one out, so that results can be put beside what they belong to: a bad
line is a record with an error, an empty line an empty record. Tables have a row of names first.
TSV knows no quotes; a tab or the end of a line inside a value is written as `\\t` or `\\n` there.
Knows nothing about models.
"""

from __future__ import annotations

import csv
import io
import json
import os
import select
import sys
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError, InputError, OpenGLMError, OptionError, suggest
from ..files import STANDARD_OUTPUT, OutputFile
from .addresses import is_remote
from .corpus import open_plain

JSON_LINES, CSV, TSV, LINES = "jsonl", "csv", "tsv", "lines"
FORMS = (JSON_LINES, CSV, TSV, LINES)
TABLES = (CSV, TSV)
STANDARD_INPUT = "-"
_SUFFIXES = {".jsonl": JSON_LINES, ".ndjson": JSON_LINES, ".json": JSON_LINES, ".csv": CSV, ".tsv": TSV, ".txt": LINES}
_PACKED = (".gz", ".zst")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LONGEST_CELL = 1 << 24  # characters: a quote that is never closed must not eat a whole file
_ESCAPES = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})


@dataclass
class Record:
    """One line or row.

    Attributes:
        number: of its (first) line, from 1.
        values: its fields; of a plain line the text, under the reader's field.
        error: why it cannot be used, if it cannot.
        line: a plain or empty line as it stands, without its end.
        empty: whether there is nothing in it.
    """

    number: int
    values: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    line: str = ""
    empty: bool = False


def form_of(name: str | Path) -> str | None:
    """The form that a file's name tells: one of `FORMS`, or None."""
    path = Path(str(name).lower())
    return _SUFFIXES.get(path.with_suffix("").suffix if path.suffix in _PACKED else path.suffix)


class RecordReader:
    """The records of a file or of standard input, in order.

    Args:
        source: a path, or `-` for standard input.
        form: one of `FORMS`; by default the name tells it, or else the first line: JSON Lines
            begin with a brace.
        field: holds the text: every record must have it, and it must be text.

    Attributes:
        form: as found.
        columns: the names in the first row of a table, else empty.

    Raises:
        InputError: the source cannot be read, or its first row is not one of names.
        DataError: a table without the column `field`.
    """

    def __init__(self, source: str, *, form: str | None = None, field: str | Sequence[str] = "text") -> None:
        if form is not None and form not in FORMS:
            raise OptionError(f"unknown format {form!r}; known are {', '.join(FORMS)}")
        self.source, self.fields = source, (field,) if isinstance(field, str) else tuple(field)
        self.form = form or form_of(source)
        self.columns: tuple[str, ...] = ()

    def __enter__(self) -> RecordReader:
        self._stack = ExitStack()
        try:
            with self._reading():
                self._begin()
        except BaseException:
            self._stack.close()
            raise
        return self

    def _begin(self) -> None:
        """Find out the form, and read what comes before the first record."""
        self._lines = _Lines(self._opened())
        if self.form is None:
            self.form = JSON_LINES if self._lines.first().startswith(b"{") else LINES
        if self.form == JSON_LINES and self._lines.first().startswith((b"[{", b"[\n", b"[\r")):
            raise InputError(
                f"{self.source}: one JSON list; write one object per line, e.g. by jq -c '.[]' {self.source}"
            )
        self._records = self._rows() if self.form in TABLES else self._plain()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except OpenGLMError:
            raise
        except (OSError, EOFError, ValueError, zlib.error) as error:
            raise InputError(f"{self.source}: cannot be read ({getattr(error, 'strerror', None) or error})") from error

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        """The next record. Raises InputError where reading fails."""
        with self._reading():
            return next(self._records)

    def ready(self) -> bool:
        """Whether the next record, or the end, is there without waiting (as far as one can tell)."""
        return self._lines.ready()

    @property
    def bytes_read(self) -> int:
        """Bytes of lines taken so far."""
        return self._lines.taken

    def available(self) -> Iterator[Record]:
        """The next record, waiting for it, and those that are there already; nothing at the end."""
        for record in self:
            yield record
            if not self.ready():
                return

    def need_columns(self, names: Sequence[str], *, remedy: str) -> None:
        """Whether a table has these columns; of `a.b` the column a. Raises DataError."""
        for name in names:
            if name not in self.columns and name.partition(".")[0] not in self.columns:
                hint = ""
                if len(self.columns) == 1 and ";" in self.columns[0]:
                    hint = " Its columns seem to be separated by semicolons; save it with commas."
                raise DataError(
                    f'{self.source}: no column "{name}" ({remedy}); it has {_listed(self.columns)}.'
                    f"{suggest(name, self.columns)}{hint}"
                )

    def _opened(self) -> Any:
        if self.source == STANDARD_INPUT:
            if sys.stdin is None:
                raise InputError("standard input is closed; give a text or a file")
            return sys.stdin.buffer
        if Path(self.source).suffix in _PACKED or is_remote(self.source):
            return self._stack.enter_context(open_plain(self.source))
        return self._stack.enter_context(Path(self.source).open("rb"))

    # --- lines and JSON Lines --------------------------------------------------------------

    def _plain(self) -> Iterator[Record]:
        for number, line in enumerate(self._lines, 1):
            if not line.strip():
                yield Record(number, line=line.decode("utf-8", "replace").rstrip("\r\n"), empty=True)
            elif self.form == LINES:
                yield self._text_line(number, line)
            else:
                yield self._object(number, line)

    def _text_line(self, number: int, line: bytes) -> Record:
        try:
            text = line.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            shown = line.decode("utf-8", "replace").rstrip("\r\n")
            return Record(number, error=_not_unicode(error), line=shown)
        return Record(number, {self.fields[0]: text}, line=text)

    def _object(self, number: int, line: bytes) -> Record:
        try:
            values = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            return Record(number, error=_not_unicode(error))
        except RecursionError:
            return Record(number, error="not JSON (nested too deeply)")
        except ValueError as error:
            return Record(number, error=f"not JSON ({error})")
        return self._checked(number, values)

    def _checked(self, number: int, values: Any) -> Record:
        if not isinstance(values, dict):
            return Record(number, error=f"expected a JSON object, not {type(values).__name__}")
        for name in self.fields:
            if name not in values:
                near = suggest(name, values)
                return Record(number, values, f'expected a JSON object with the string field "{name}" (--field).{near}')
            if not isinstance(values[name], str):
                return Record(number, values, f'the field "{name}" must be text, not {type(values[name]).__name__}')
        return Record(number, values)

    # --- tables ----------------------------------------------------------------------------

    def _rows(self) -> Iterator[Record]:
        csv.field_size_limit(_LONGEST_CELL)
        # Bytes that are no UTF-8 become surrogates, and the record an error.
        text = (line.decode("utf-8", "surrogateescape") for line in self._lines)
        if self.form == CSV:
            rows = csv.reader(text, strict=True)
        else:
            rows = csv.reader(text, delimiter="\t", quoting=csv.QUOTE_NONE)
        self._heading(rows)
        return self._table(rows)

    def _heading(self, rows: Any) -> None:
        try:
            names: list[str] = next((row for row in rows if row), [])
        except csv.Error as error:
            raise InputError(f"{self.source}: the first row is not one of names ({error})") from error
        if not names:
            return
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"{self.source}: the first row names a column twice: {', '.join(map(repr, twice))}")
        self.columns = tuple(names)
        self.need_columns(self.fields, remedy="choose one with --field")

    def _table(self, rows: Any) -> Iterator[Record]:
        while True:
            number = rows.line_num + 1
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                yield Record(number, error=f"not a row of a table ({error})")
                continue
            yield self._row(number, row)

    def _row(self, number: int, row: Sequence[str]) -> Record:
        values: dict[str, Any] = dict(zip(self.columns, row, strict=False))
        if not row:
            return Record(number, empty=True)
        if any("\udc80" <= character <= "\udcff" for cell in row for character in cell):
            plain = {name: cell.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
                     for name, cell in values.items()}  # fmt: skip
            return Record(number, plain, "not valid UTF-8; convert the file first")
        if len(row) != len(self.columns):
            return Record(number, values, f"{len(row)} cells where the first row has {len(self.columns)}")
        return Record(number, values)


class RecordWriter:
    """Writes records and what was found out about them, in one form.

    Args:
        out: where to.
        form: one of `FORMS` but lines.
        columns: of a table.
    """

    def __init__(self, out: OutputFile, form: str, columns: Sequence[str] = ()) -> None:
        self._out, self.form, self._columns = out, form, tuple(dict.fromkeys(columns))
        if form in TABLES and not out.done:
            out.write(self._row(self._columns))

    def write(self, values: Mapping[str, Any]) -> None:
        """One record."""
        if self.form in TABLES:
            self._out.write(self._row([_cell(values.get(name)) for name in self._columns]), records=1)
        else:
            self._out.write(json.dumps(values, ensure_ascii=False) + "\n", records=1)

    def write_line(self, line: str) -> None:
        """A line as it is: an empty one, or of plain text."""
        self._out.write(line + "\n", records=1)

    def _row(self, cells: Sequence[str]) -> str:
        if self.form == TSV:
            return "\t".join(cell.translate(_ESCAPES) for cell in cells) + "\n"
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        return text.getvalue()


def output_form(source: RecordReader, path: str | None, *, as_json: bool = False) -> str:
    """The form to write: what the output's name says, JSON Lines where asked for, else the input's.

    Raises:
        OptionError: a table out of records that have no columns.
    """
    named = form_of(path) if path is not None else None
    if named in TABLES and source.form == JSON_LINES:
        raise OptionError(f"{path}: JSON Lines have no columns, so no table can be made of them; name it .jsonl")
    form = JSON_LINES if as_json else named or source.form
    if form != LINES and form is not None:
        return form
    to_file = path is not None and path not in STANDARD_OUTPUT
    return LINES if source.form == LINES and (named == LINES or not to_file) else JSON_LINES


class _Lines:
    """Lines of a stream, which know whether the next one is there already."""

    def __init__(self, stream: Any) -> None:
        self._waiting: deque[bytes] = deque()
        self._rest, self._end, self.taken = [b""], False, 0
        self._number: int | None = None
        try:
            if stream is sys.stdin.buffer:
                self._number = stream.fileno()
        except (AttributeError, OSError):
            pass
        self._iterator = iter(stream) if self._number is None else self._arriving(self._number)
        self._started = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        line = self._waiting.popleft() if self._waiting else next(self._iterator)
        self.taken += len(line)
        if not self._started:
            self._started, line = True, line.removeprefix(_BYTE_ORDER_MARK)
        return line

    def first(self) -> bytes:
        """The first line that is not empty, without taking it."""
        seen: list[bytes] = []
        for line in self._iterator:
            seen.append(line)
            if line.strip():
                break
        self._waiting.extendleft(reversed(seen))
        return seen[-1].removeprefix(_BYTE_ORDER_MARK).lstrip() if seen else b""

    def ready(self) -> bool:
        """Whether a line can be had without waiting."""
        if self._waiting or self._number is None or self._end:
            return True
        try:
            return bool(select.select([self._number], [], [], 0)[0])
        except OSError:  # not on this system: then lines are waited for
            return True

    def _arriving(self, number: int) -> Iterator[bytes]:
        while True:
            while self._waiting:  # filled below
                yield self._waiting.popleft()
            if self._end:
                return
            block = os.read(number, 1 << 16)
            self._end = not block
            self._rest.append(block)
            if b"\n" not in block and not self._end:
                continue
            *lines, rest = b"".join(self._rest).split(b"\n")
            self._rest = [rest]
            self._waiting.extend(line + b"\n" for line in lines)
            if self._end and rest:
                self._waiting.append(rest)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")


def _not_unicode(error: UnicodeDecodeError) -> str:
    return f"not valid UTF-8 ({error.reason} at byte {error.start}); convert the file first"
