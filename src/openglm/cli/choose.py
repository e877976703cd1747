"""`openglm choose`: given answers to a text, or to many texts of a file, ranked."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import DataError, InputError, OptionError
from .fill import open_bytes
from .options import add_model_options, load_model

if TYPE_CHECKING:
    from ..infill.infiller import Infiller
    from ..infill.results import Scored

AT_ONCE = 64  # texts of a file ranked together
BAR = 20  # characters of a bar for 100 %
EIGHTHS = " ▏▎▍▌▋▊▉"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = "Rank given answers to a text with blanks by how probable the model finds them."
    parser.add_argument("text", nargs="?", metavar="TEXT", help="text with blanks")
    parser.add_argument(
        "--choice",
        action="append",
        nargs="+",
        default=[],
        dest="choices",
        metavar="ANSWER",
        help="an answer, or one word per blank; once per choice",
    )
    parser.add_argument(
        "--choices",
        dest="choices_file",
        metavar="FILE",
        help="answers, one per line; tabs between the words of several blanks",
    )
    files = parser.add_argument_group("files")
    files.add_argument("--input", metavar="FILE", help="JSON Lines with the text in --field; - is standard input")
    files.add_argument("--output", metavar="FILE", help="where to write JSON Lines (default: standard output)")
    files.add_argument("--field", default="text", help="field of the input that holds the text (default: text)")
    ranking = parser.add_argument_group("ranking")
    ranking.add_argument(
        "--length-penalty",
        type=float,
        default=0.0,
        metavar="A",
        help="rank by log-probability / tokens ** A: 0 the whole answer (default), 1 its average token",
    )
    ranking.add_argument(
        "--calibrate", action="store_true", help="rank by how much more probable an answer is than in an empty context"
    )
    ranking.add_argument(
        "--context", metavar="TEXT", help="that empty context, with as many blanks (default: nothing around the blanks)"
    )
    ranking.add_argument("--no-ends", action="store_false", dest="ends", help="do not count the end of an answer")
    ranking.add_argument("--top", type=int, metavar="N", help="show the N best only")
    parser.add_argument("--truncate", metavar="start|end|around", help="what to drop of a text that is too long")
    parser.add_argument("--json", action="store_true", help="print JSON Lines, for machines")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from_file = args.input is not None
    if from_file == (args.text is not None):
        raise OptionError("give a text or --input" if not from_file else "give a text or --input, not both")
    if args.top is not None and args.top < 1:
        raise OptionError(f"--top must be at least 1, not {args.top}")
    choices = [*args.choices, *(_choices(args.choices_file) if args.choices_file else [])]
    if not choices:
        raise OptionError("no answers to choose from; give --choice once per answer, or --choices FILE")
    options = {name: getattr(args, name) for name in ("length_penalty", "calibrate", "context", "ends", "truncate")}
    from ..scoring.predict import Scoring

    Scoring(args.length_penalty)  # wrong options are reported before a model is loaded
    infiller = load_model(args)
    if from_file:
        return _rank_file(args, infiller, choices, options)
    ranked = infiller.choose(args.text, choices, **options)[: args.top]
    with _output(args.output) as out:
        for scored in ranked:
            line = json.dumps(scored.to_dict(), ensure_ascii=False) if args.json or args.output else _readable(scored)
            out.write(line + "\n")
    return 0


def _readable(scored: Scored) -> str:
    return f"{100 * scored.probability:6.1f} %  {bar(scored.probability)}  {scored.logprob:8.2f}  {scored.text}"


def bar(share: float) -> str:
    """A share from 0 to 1 as a bar of `BAR` characters, to an eighth of a character."""
    eighths = round(8 * BAR * share)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (EIGHTHS[rest] if rest else "")).ljust(BAR)


def _choices(name: str) -> list[list[str]]:
    """The answers of a file.

    Raises:
        DataError: it cannot be read, or holds no answers.
    """
    try:
        text = Path(name).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{name}: cannot be read ({error})") from error
    answers = [line.split("\t") for line in text.splitlines() if line.strip()]
    if not answers:
        raise DataError(f"{name} holds no answers; write one per line")
    return answers


def _rank_file(
    args: argparse.Namespace, infiller: Infiller, choices: Sequence[Sequence[str]], options: dict[str, Any]
) -> int:
    if args.output and args.input != "-" and Path(args.output).resolve() == Path(args.input).resolve():
        raise OptionError(f"--output {args.output} is the input file; give another name")
    count = 0
    with _output(args.output) as out:
        records = _records(args.input, args.field)
        while chunk := list(islice(records, AT_ONCE)):
            texts = [values[args.field] for _, values in chunk]
            try:
                results = infiller.choose(texts, choices, **options)
            except InputError:
                for (number, _), text in zip(chunk, texts, strict=True):  # find the line that is wrong
                    _check(infiller, args.input, number, text, choices, options)
                raise
            for (_, values), ranked in zip(chunk, results, strict=True):
                count += 1
                line = {**values, "choices": [each.to_dict() for each in ranked[: args.top]]}
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
    if not count:
        raise InputError(f"{'standard input' if args.input == '-' else args.input} is empty: nothing to rank")
    return 0


def _check(
    infiller: Infiller, source: str, number: int, text: str, choices: Sequence[Sequence[str]], options: dict[str, Any]
) -> None:
    try:
        infiller.choose(text, choices, **options)
    except InputError as error:
        raise type(error)(f"{source}, line {number}: {error}") from error


def _records(source: str, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Numbered objects of a JSON Lines file, each with text under `name`."""
    with open_bytes(source) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                values = json.loads(line.decode("utf-8-sig"))
            except ValueError as error:
                raise InputError(f"{source}, line {number}: not JSON in UTF-8 ({error})") from error
            if not isinstance(values, dict) or not isinstance(values.get(name), str):
                raise InputError(f'{source}, line {number}: expected a JSON object with text in the field "{name}"')
            yield number, values


@contextmanager
def _output(name: str | None) -> Iterator[IO[str]]:
    """Standard output, or a file that appears when everything has been written."""
    if name is None:
        yield sys.stdout
        return
    from ..files import replacing

    try:
        with replacing(Path(name)) as part, part.open("w", encoding="utf-8") as file:
            yield file
    except OSError as error:
        raise InputError(f"{name}: cannot be written ({error.strerror or error})") from error
