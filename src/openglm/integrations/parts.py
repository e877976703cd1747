"""Big inputs in parts: files and folders at any fsspec address, each part worked on by itself.

    sources -> plan -> InputPart, InputPart, ... -> fetch -> (work) -> deliver

A part is a whole file, or so many bytes of lines of a long one; its result is a file of its own
that takes its name when it is whole. So work can stop anywhere and go on, on any machine, and
no line is there twice. Knows nothing about models, commands, or who does the work.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..data.addresses import (
    COMPRESSED,
    PARQUET,
    expand,
    file_name,
    file_system,
    is_remote,
    kind_of,
    open_binary,
    size_of,
)
from ..errors import DataError, OutputError
from ..extras import library
from ..files import replacing

MANIFEST = "_openglm.json"
PART_BYTES = 8 << 20
_SPLIT = (".jsonl", ".ndjson", ".txt")  # what has a record on each line
_BLOCK = 1 << 20


@dataclass(frozen=True)
class InputPart:
    """A piece of an input and where its result goes.

    Attributes:
        source: address of the file.
        start, end: bytes of it; the part has the lines that begin in them. `end` None: to the end.
        target: address of the result.
    """

    source: str
    start: int
    end: int | None
    target: str


def plan(sources: str | Sequence[str], output: str, *, part_bytes: int = PART_BYTES) -> list[InputPart]:
    """The parts of an input, in order.

    Args:
        sources: files, patterns, folders; local or at any fsspec address.
        output: the folder for the results.
        part_bytes: plain files of lines that are longer are split.

    Raises:
        DataError: an input that is not there or cannot be reached, or two files of one name.
    """
    parts: list[InputPart] = []
    names: dict[str, str] = {}
    for source in expand(sources):
        name = file_name(source)
        if name in names:
            raise DataError(f"{source} and {names[name]} would be written to one name; give their folders one by one")
        names[name] = source
        stem, suffix = _named(name)
        size = size_of(source)
        count = 1 if size is None or suffix not in _SPLIT or name.endswith(COMPRESSED) else -(-size // part_bytes)
        count = max(count, 1)
        for number in range(count):
            end = None if number == count - 1 else (number + 1) * part_bytes
            label = f"{stem}{suffix}" if count == 1 else f"{stem}-{number:05}-of-{count:05}{suffix}"
            parts.append(InputPart(source, number * part_bytes, end, _join(output, label)))
    return parts


def begin(output: str, parts: Sequence[InputPart], settings: Any) -> list[InputPart]:
    """Note what is done in the folder `output`; the parts that are still to be done.

    Raises:
        OutputError: the folder holds results of other inputs or settings.
    """
    sources = sorted({part.source for part in parts})
    what = [[source, size_of(source)] for source in sources], [[part.start, part.end] for part in parts], settings
    identity = hashlib.sha256(json.dumps(what, default=str).encode()).hexdigest()
    manifest = _join(output, MANIFEST)
    system, path = file_system(manifest)
    if system.exists(path):
        try:
            known = json.loads(system.cat_file(path))["identity"]
        except (ValueError, KeyError, TypeError) as error:
            raise OutputError(
                f"{manifest}: not a manifest of ours ({error}); give another folder", "damaged"
            ) from error
        if known != identity:
            raise OutputError(
                f"{output}: holds the results of other inputs or options; repeat that command to finish it, "
                "or give another folder",
                "another output",
            )
    else:
        if system.exists(file_system(output)[1]) and system.ls(file_system(output)[1]):
            raise OutputError(f"{output}: the folder holds other files; give a new or an empty one", "not empty")
        system.makedirs(str(PurePosixPath(path).parent), exist_ok=True)
        system.pipe_file(path, json.dumps({"identity": identity, "parts": len(parts)}).encode())
    return [part for part in parts if not system.exists(file_system(part.target)[1])]


def fetch(part: InputPart, folder: Path) -> Path:
    """The records of a part as a local file.

    Raises:
        DataError: it cannot be read.
    """
    stem, suffix = _named(file_name(part.source))
    if kind_of(part.source) == PARQUET:
        local = folder / f"{stem}.jsonl"
        _from_parquet(part.source, local)
        return local
    local = folder / f"{stem}{suffix}"
    with open_binary(part.source) as file, local.open("wb") as out:
        if part.start == 0 and part.end is None:
            shutil.copyfileobj(file, out, _BLOCK)
        else:
            _copy_lines(file, out, part)
    return local


def deliver(local: Path, part: InputPart) -> None:
    """Put a finished local file where the part's result belongs, under its name only when it is whole."""
    if kind_of(part.target) == PARQUET:
        packed = local.with_suffix(".parquet")
        _to_parquet(local, packed)
        local = packed
    if not is_remote(part.target):
        with replacing(Path(part.target.removeprefix("file://"))) as beside:
            shutil.copyfile(local, beside)
        return
    system, path = file_system(part.target)
    aside = f"{path}.{os.getpid()}.part"
    system.put_file(str(local), aside)
    system.mv(aside, path)


def _copy_lines(file: Any, out: Any, part: InputPart) -> None:
    """The lines that begin in [start, end): one that began before belongs to the part before."""
    if part.start:
        file.seek(part.start - 1)
        file.readline()
    at = file.tell()
    while part.end is None or at < part.end:
        line = file.readline()
        if not line:
            return
        out.write(line)
        at += len(line)


def _from_parquet(source: str, local: Path) -> None:
    pyarrow = library("pyarrow", extra="parquet", purpose=f"{source}: reading Parquet")
    parquet = library("pyarrow.parquet", extra="parquet", purpose=f"{source}: reading Parquet")
    try:
        with open_binary(source) as file, local.open("w", encoding="utf-8") as out:
            for batch in parquet.ParquetFile(file).iter_batches():
                out.writelines(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in batch.to_pylist())
    except pyarrow.ArrowException as error:
        raise DataError(f"{source}: not a Parquet file, or a damaged one ({error})") from error


def _to_parquet(local: Path, packed: Path) -> None:
    """Records as columns; what differs in kind from record to record is kept as JSON text."""
    pyarrow = library("pyarrow", extra="parquet", purpose=f"{packed}: writing Parquet")
    parquet = library("pyarrow.parquet", extra="parquet", purpose=f"{packed}: writing Parquet")
    with local.open(encoding="utf-8") as lines:
        rows = [json.loads(line) if line.strip() else {} for line in lines]
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pyarrow.array(values)
        except pyarrow.ArrowException:
            columns[name] = pyarrow.array([None if v is None else json.dumps(v, ensure_ascii=False) for v in values])
    parquet.write_table(pyarrow.table(columns), packed)


def _named(name: str) -> tuple[str, str]:
    """A file's name without its endings, and the ending of its records' form (`a.jsonl.gz` -> a, .jsonl)."""
    path = PurePosixPath(name)
    packed = path.suffix.lower() in COMPRESSED
    inner = PurePosixPath(path.stem) if packed else path
    return inner.stem, inner.suffix.lower()


def _join(folder: str, name: str) -> str:
    return f"{folder.rstrip('/')}/{name}"
