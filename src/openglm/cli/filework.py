"""What the commands share that read a file of records and write one: options, identity, progress."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from .. import __version__
from ..errors import InputError, OptionError
from ..files import STANDARD_OUTPUT, OutputFile, digest_of_file, same_file

if TYPE_CHECKING:
    from ..data.records import Record, RecordReader

R = TypeVar("R")
COLOURS = ("\033[1;32m", "\033[1;36m", "\033[1;35m", "\033[1;33m")  # one per blank, in turn
RESET = "\033[0m"


def add_file_options(parser: argparse.ArgumentParser) -> None:
    """--input, --output, --field, --format."""
    files = parser.add_argument_group("files")
    files.add_argument(
        "--input", metavar="FILE", help="JSON Lines, CSV, TSV or plain lines (.txt), as the name says; - reads stdin"
    )
    add_output_options(files)
    files.add_argument("--field", default="text", help="field or column that holds the text (default: text)")


def add_output_options(files: Any) -> None:
    """--output, --format."""
    files.add_argument(
        "--output",
        metavar="FILE",
        help="where to write, in the form its name says (default: standard output); goes on if it was interrupted",
    )
    files.add_argument(
        "--format", choices=("jsonl", "csv", "tsv", "lines"), help="of the input, where its name is no help"
    )


def add_plain_options(parser: argparse.ArgumentParser) -> None:
    """--json, --no-color."""
    parser.add_argument("--json", action="store_true", help="print JSON Lines, for machines")
    parser.add_argument("--no-color", action="store_true", help="no colours, even on a terminal")


def colours(args: argparse.Namespace, terminal: bool) -> bool:
    """Whether to write in colours."""
    return terminal and not args.no_color and not os.environ.get("NO_COLOR")


def check_files(output: str | None, *sources: str | None) -> None:
    """Whether the output is none of the files that are read. Raises OptionError."""
    for source in sources:
        if None not in (output, source) and output not in STANDARD_OUTPUT and same_file(str(source), str(output)):
            raise OptionError(f"--output {output} is a file that is read, {source}; give another name")


def identity_of(source: str, model: str, settings: Any) -> str | None:
    """What the records written depend on, as a digest; None for an input that can be read once only."""
    path = Path(source)
    if not path.is_file():
        return None
    folder = Path(os.path.expanduser(model))
    weights: Any = model
    if folder.is_dir():
        stats = ((each, each.stat()) for each in sorted(folder.rglob("*")) if each.is_file())
        weights = [(str(each), stat.st_size, stat.st_mtime_ns) for each, stat in stats]
    try:
        digest = digest_of_file(path)
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror or error})") from error
    return hashlib.sha256(json.dumps([__version__, digest, weights, settings], default=str).encode()).hexdigest()


def each_record(
    reader: RecordReader,
    out: OutputFile,
    answers: Callable[[Iterator[Record]], Iterable[tuple[Record, R | None]]],
    write: Callable[[Record, R | None], None],
) -> int:
    """Read what is there, have it answered, write it, until the input ends. Returns the exit code.

    Bad records are named on standard error; `write` gets each of them, too.

    Raises:
        InputError: there is nothing in the input.
    """
    count = sum(1 for _ in islice(reader, out.done))
    bad = 0
    name = "standard input" if reader.source == "-" else reader.source
    if out.done:
        print(f"openglm: {out.done} records were done before; going on from there", file=sys.stderr)
    with ProgressBar(reader, out) as advance:
        while True:
            before = count
            for record, result in answers(reader.available()):
                count += 1
                if record.error is not None:
                    bad += 1
                    print(f"openglm: line {record.number}: {record.error}", file=sys.stderr)
                write(record, result)
                advance()
            if count == before:
                break
    if not count:
        raise InputError(f"{name} is empty: there is nothing to do")
    if bad:
        print(f"openglm: {bad} of {count} lines could not be used", file=sys.stderr)
    return 1 if bad else 0


class ProgressBar:
    """A progress bar on standard error, on a terminal only, and not between lines of output on it."""

    def __init__(self, reader: RecordReader, out: OutputFile) -> None:
        self._reader, self._out = reader, out
        self._bar: Any = None

    def __enter__(self) -> Callable[[], None]:
        if not sys.stderr.isatty() or self._out.isatty():
            return lambda: None
        from tqdm import tqdm

        source = Path(self._reader.source)
        size = source.stat().st_size if source.is_file() and source.suffix not in (".gz", ".zst") else None
        self._bar = tqdm(total=size, unit="B", unit_scale=True, file=sys.stderr)
        self._texts = 0
        return self._advance

    def _advance(self) -> None:
        self._texts += 1
        self._bar.set_postfix_str(f"{self._texts} texts", refresh=False)
        self._bar.update(self._reader.bytes_read - self._bar.n)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
