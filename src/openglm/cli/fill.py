"""`openglm fill`: texts, lines or JSON Lines in; filled texts out."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import InputError, OpenGLMError, OptionError
from .options import add_decoding_options, add_model_options, decoding_options, load_model

if TYPE_CHECKING:
    from ..infill.infiller import Infiller
    from ..infill.results import Filled

COLOURS = ("\033[1;32m", "\033[1;36m", "\033[1;35m", "\033[1;33m")  # one per blank, in turn
RESET = "\033[0m"
AT_ONCE = 64  # lines of a file filled together


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Fill every [MASK] (a short span), [sMASK] (sentences) and [gMASK] (the rest of a document). "
        "Everything else comes back unchanged."
    )
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="texts with blanks; - reads one per line from stdin")
    files = parser.add_argument_group("files")
    files.add_argument("--input", metavar="FILE", help="JSON Lines with the text in --field; - is standard input")
    files.add_argument("--output", metavar="FILE", help="where to write JSON Lines (default: standard output)")
    files.add_argument("--field", default="text", help="field of the input that holds the text (default: text)")
    parser.add_argument("--json", action="store_true", help="print JSON Lines, for machines")
    parser.add_argument("--no-color", action="store_true", help="no colours, even on a terminal")
    add_model_options(parser)
    add_decoding_options(parser)


@dataclass
class Item:
    """One input: the text with its other fields, or what is wrong with it."""

    text: str
    fields: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    number: int = 0  # of the line it came from


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from_file = args.input is not None
    if from_file and args.texts:
        raise OptionError("give texts or --input, not both")
    if args.output and not from_file and not args.json:
        args.json = True
    if not from_file and not args.texts:
        if sys.stdin.isatty():
            raise InputError('no text; give one, e.g. openglm fill "Paris is the [MASK] of France."')
        args.texts = ["-"]
    from ..engine.options import FillOptions

    options = decoding_options(args)
    FillOptions(**options)  # wrong options are reported before a model is loaded

    infiller = load_model(args)
    if from_file or args.texts == ["-"]:
        return _fill_many(args, infiller, options)
    return _write(args, zip(args.texts, infiller.fill(args.texts, **options), strict=True))


def _write(args: argparse.Namespace, results: Iterable[tuple[str, Filled]]) -> int:
    out = _Output(args.output)
    with out as file:
        for text, filled in results:
            _warn_truncated("", filled)
            if args.json:
                file.write(_json_line({"text": text}, filled))
            else:
                file.write(_readable(filled, _colours(args, file)) + "\n")
    return 0


def _fill_many(args: argparse.Namespace, infiller: Infiller, options: dict[str, Any]) -> int:
    plain = args.input is None
    source = "-" if plain else args.input
    as_json = args.json or not plain
    if args.output and source != "-" and Path(args.output).resolve() == Path(source).resolve():
        raise OptionError(f"--output {args.output} is the input file; give another name")
    count = bad = 0
    with open_bytes(source) as raw, _Progress(source) as advance, _Output(args.output) as out:
        items = _items(raw, None if plain else args.field)
        while chunk := list(islice(items, AT_ONCE)):
            for item, filled in zip(chunk, _fill_chunk(infiller, chunk, options), strict=True):
                count += 1
                if filled is None:
                    bad += 1
                    print(f"openglm: line {item.number}: {item.error}", file=sys.stderr)
                    if as_json:
                        out.write(json.dumps({**item.fields, "error": item.error}, ensure_ascii=False) + "\n")
                    continue
                _warn_truncated(f"line {item.number}: ", filled)
                out.write(_json_line(item.fields, filled) if as_json else _readable(filled, _colours(args, out)) + "\n")
            advance(len(chunk))
        if not count:
            raise InputError(f"{'standard input' if source == '-' else source} is empty: nothing to fill")
    if bad:
        print(f"openglm: {bad} of {count} lines could not be filled", file=sys.stderr)
    return 1 if bad else 0


def _fill_chunk(infiller: Infiller, chunk: list[Item], options: dict[str, Any]) -> list[Filled | None]:
    results = infiller.fill_iter((item.text for item in chunk if item.error is None), on_error="return", **options)
    filled: list[Filled | None] = []
    for item in chunk:
        result = next(results) if item.error is None else None
        if isinstance(result, OpenGLMError):
            item.error, result = str(result), None
        filled.append(result)
    return filled


def _items(lines: Iterable[bytes], name: str | None) -> Iterator[Item]:
    """One per line: JSON with the text in field `name` (empty lines are skipped), or plain text."""
    for number, line in enumerate(lines, 1):
        if name is not None and not line.strip():
            continue
        item = _plain_item(line) if name is None else _json_item(line, name)
        item.number = number
        yield item


def _plain_item(line: bytes) -> Item:
    try:
        text = line.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        return Item("", error=f"not valid UTF-8 ({error.reason} at byte {error.start}); convert the input first")
    return Item(text, {"text": text})


def _json_item(line: bytes, name: str) -> Item:
    try:
        values = json.loads(line.decode("utf-8-sig"))  # some editors open a file with a byte order mark
    except UnicodeDecodeError as error:
        return Item("", error=f"not valid UTF-8 ({error.reason} at byte {error.start}); convert the file first")
    except ValueError as error:
        return Item("", error=f"not JSON ({error})")
    if not isinstance(values, dict) or not isinstance(values.get(name), str):
        fields = values if isinstance(values, dict) else {}
        return Item("", fields, error=f'expected a JSON object with the string field "{name}" (see --field)')
    return Item(values[name], values)


def _json_line(fields: dict[str, Any], filled: Filled) -> str:
    return json.dumps({**fields, "filled": filled.to_dict()}, ensure_ascii=False) + "\n"


def _readable(filled: Filled, colours: bool) -> str:
    if not filled.alternatives:
        return _coloured(filled, colours)
    return "\n".join(f"{a.logprob:8.2f}  {_coloured(a, colours)}" for a in filled.answers)


def _coloured(filled: Filled, colours: bool) -> str:
    if not colours:
        return filled.text
    parts, done = [], 0
    for number, blank in enumerate(filled.blanks):
        parts += [filled.text[done : blank.start], COLOURS[number % len(COLOURS)], blank.text, RESET]
        done = blank.end
    return "".join([*parts, filled.text[done:]])


def _colours(args: argparse.Namespace, file: IO[str]) -> bool:
    return file.isatty() and not args.no_color and not os.environ.get("NO_COLOR")


def _warn_truncated(where: str, filled: Filled) -> None:
    if filled.truncated:
        note = f"openglm: note: {where}the model did not see {filled.truncated} tokens of the text (--truncate)"
        print(note, file=sys.stderr)


def open_bytes(source: str) -> Any:
    """A file, or standard input for `-`, opened for its bytes."""
    if source == "-":
        return nullcontext(sys.stdin.buffer)
    path = Path(source)
    try:
        return path.open("rb")
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({error.strerror})") from error


class _Output:
    """Standard output, or a file that takes its name only once it is complete."""

    def __init__(self, path: str | None) -> None:
        self._path = None if path is None else Path(path)
        self._part = None if path is None else Path(f"{path}.part")

    def __enter__(self) -> IO[str]:
        if self._part is None:
            return sys.stdout
        try:
            self._file = self._part.open("w", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{self._part}: cannot be written ({error.strerror})") from error
        return self._file

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._path is None or self._part is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if kind is None:
            self._part.replace(self._path)
        elif self._part.stat().st_size:
            print(f"openglm: what was done so far is in {self._part}", file=sys.stderr)
        else:
            self._part.unlink()


class _Progress:
    """A progress bar on standard error, for files and only on a terminal."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._bar: Any = None

    def __enter__(self) -> Callable[[int], None]:
        # Lines are counted first, which only a regular file allows.
        if not Path(self._source).is_file() or not sys.stderr.isatty():
            return lambda count: None
        from tqdm import tqdm

        self._bar = tqdm(total=sum(1 for _ in _lines(self._source)), unit="text", file=sys.stderr)
        return lambda count: self._bar.update(count) and None

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _lines(path: str) -> Iterator[bytes]:
    with Path(path).open("rb") as file:
        yield from file
