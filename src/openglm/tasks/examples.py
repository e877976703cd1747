"""Labelled examples out of files: JSON Lines, one JSON document, CSV or TSV, plain or compressed.

A document is a list of objects, or an object with such a list under `data`. A bad line is an
error that names the file and the line. Knows nothing about tasks, tokens or models.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.corpus import numbered_lines, open_plain
from ..data.records import TABLES, RecordReader, form_of
from ..errors import DataError, InputError, brief, suggest

_IDS = ("id", "idx", "guid", "uid", "context_id")  # fields that name an example, where files have one


@dataclass(frozen=True)
class Example:
    """One record.

    Attributes:
        values: its fields as they stand in the file.
        source: the file; "" if it comes from none.
        number: its line, or its place in a JSON list, from 1; 0 if it has none.
        unit: "line" or "item", what `number` counts.
    """

    values: Mapping[str, Any]
    source: str = ""
    number: int = 0
    unit: str = "line"

    @property
    def where(self) -> str:
        """For messages: `train.jsonl, line 3`."""
        return f"{self.source}, {self.unit} {self.number}" if self.source else f"example {self.number}"

    @property
    def id(self) -> str:
        """What the example calls itself; "" if it does not."""
        found = next((self.values[name] for name in _IDS if isinstance(self.values.get(name), (str, int))), "")
        return str(found)

    def get(self, name: str) -> Any:
        """The field `name`; `a.b` is the field b of the object a.

        Raises:
            DataError: there is no such field.
        """
        value: Any = self.values
        for part in name.split("."):
            if not isinstance(value, Mapping) or part not in value:
                known = list(value) if isinstance(value, Mapping) else []
                has = f"it has {', '.join(map(str, known))}" if known else "there are no fields in it"
                raise DataError(f'{self.where}: no field "{name}"; {has}.{suggest(part, map(str, known))}')
            value = value[part]
        return value

    def text(self, name: str) -> str:
        """The field `name`, which must be text.

        Raises:
            DataError: there is no such field, or it is something else.
        """
        value = self.get(name)
        if not isinstance(value, str):
            raise DataError(f"{self.where}: the field {name!r} must be text, not {brief(value)}")
        return value

    def has(self, name: str) -> bool:
        """Whether `get` finds the field."""
        try:
            self.get(name)
        except DataError:
            return False
        return True

    def replaced(self, **values: Any) -> Example:
        """The same example with more, or other, fields."""
        return Example({**self.values, **values}, self.source, self.number, self.unit)


def read_examples(paths: str | Path | Iterable[str | Path]) -> list[Example]:
    """The examples of one file or of several, in order.

    Raises:
        DataError: a file that is missing, damaged, empty or not UTF-8, or a line that is no
            JSON object; names file and line.
    """
    if isinstance(paths, (str, Path)):
        paths = [paths]
    return [example for path in paths for example in _read(path)]


def _read(path: str | Path) -> list[Example]:
    if form_of(path) in TABLES:
        return _from_table(path)
    try:
        with open_plain(path) as file:
            lines = list(numbered_lines(path, file))
    except DataError:
        raise
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    filled = [(number, line) for number, line in lines if line.strip()]
    if not filled:
        raise DataError(f"{path} is empty: there are no examples in it")
    if _is_document(filled):
        return _from_document(path, "".join(line for _, line in lines))
    return [Example(_object(line, f"{path}, line {number}"), str(path), number) for number, line in filled]


def _from_table(path: str | Path) -> list[Example]:
    """The rows of a CSV or TSV file, their cells text."""
    out = []
    try:
        with RecordReader(str(path), field=()) as reader:
            for record in reader:
                if record.error is not None:
                    raise DataError(f"{path}, line {record.number}: {record.error}")
                if not record.empty:
                    out.append(Example(record.values, str(path), record.number))
    except InputError as error:
        raise DataError(str(error)) from error
    if not out:
        raise DataError(f"{path} is empty: there are no examples in it")
    return out


def _is_document(lines: list[tuple[int, str]]) -> bool:
    first = lines[0][1].lstrip()
    if first.startswith("["):
        return True
    if not first.startswith("{"):
        return False
    try:
        value = json.loads(first)
    except ValueError:
        return len(lines) > 1 and first.strip() == "{"  # an object spread over lines
    return len(lines) == 1 and isinstance(value.get("data"), list)


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise DataError(f"{where}: expected a JSON object, not {type(value).__name__}")
    return value


def _from_document(path: str | Path, text: str) -> list[Example]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: neither JSON Lines nor a JSON document ({error})") from error
    items = value.get("data") if isinstance(value, dict) else value
    if not isinstance(items, list):
        raise DataError(f'{path}: expected a JSON list, or an object with a list under "data"')
    if not items:
        raise DataError(f"{path} is empty: there are no examples in it")
    out = []
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict):
            raise DataError(f"{path}, item {number}: expected a JSON object, not {type(item).__name__}")
        out.append(Example(item, str(path), number, "item"))
    return out
