"""`openglm choose`: given answers to a text, or to many texts of a file, ranked."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError, OptionError
from ..files import OutputFile
from .distributed import add_engine_options, run_on_parts
from .filework import (
    COLOURS,
    RESET,
    add_file_options,
    add_plain_options,
    check_files,
    colours,
    each_record,
    identity_of,
)
from .options import add_model_options, load_model, model_options

if TYPE_CHECKING:
    from ..data.records import Record
    from ..infill.infiller import Infiller
    from ..infill.results import Scored

ADDED = ("choice", "choices", "error")  # columns of a table
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
        help="an answer; once per answer, or several behind one --choice; of several blanks one word each",
    )
    parser.add_argument(
        "--choices",
        dest="choices_file",
        metavar="FILE",
        help="answers, one per line; tabs between the words of several blanks",
    )
    add_file_options(parser)
    add_engine_options(parser)
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
    add_plain_options(parser)
    add_model_options(parser)


prepare = load_model  # what a worker loads once for all its parts


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.engine == "ray":
        return run_on_parts("choose", args)
    if args.text is None and args.input is None:
        if sys.stdin is None or sys.stdin.isatty():
            raise OptionError("give a text, --input, or texts on standard input; the text comes before --choice")
        args.input, args.format = "-", args.format or "lines"
    elif None not in (args.text, args.input):
        raise OptionError("give a text or --input, not both")
    check_files(args.output, args.input, args.choices_file)
    if args.top is not None and args.top < 1:
        raise OptionError(f"--top must be at least 1, not {args.top}")
    listed = _choices(args.choices_file) if args.choices_file else []
    choices = [*args.choices, *listed]
    # Of a text with one blank, several words behind one --choice are that many answers.
    args.of_one_blank = [*([word] for choice in args.choices for word in choice), *listed]
    if not choices:
        raise OptionError("no answers to choose from; give --choice once per answer, or --choices FILE")
    options = {name: getattr(args, name) for name in ("length_penalty", "calibrate", "context", "ends", "truncate")}
    from ..scoring.predict import Scoring

    Scoring(args.length_penalty)  # wrong options are reported before a model is loaded
    if args.input is not None:
        return _rank_file(args, choices, options)
    asked = args.of_one_blank if _blanks(args.text) == 1 else choices
    ranked = load_model(args).choose(args.text, asked, **options)[: args.top]
    with OutputFile(args.output) as out:
        coloured = colours(args, out.isatty())
        for number, scored in enumerate(ranked):
            as_json = args.json or args.output is not None
            line = json.dumps(scored.to_dict(), ensure_ascii=False) if as_json else _readable(scored)
            best = coloured and not number
            out.write(f"{COLOURS[0]}{line}{RESET}\n" if best else f"{line}\n", records=1)
    return 0


def _blanks(text: str) -> int:
    from ..blanks import BlankedText

    return len(BlankedText.parse(text).kinds)


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


def _rank_file(args: argparse.Namespace, choices: Sequence[Sequence[str]], options: dict[str, Any]) -> int:
    from ..data.records import LINES, RecordReader, RecordWriter, output_form

    with RecordReader(args.input, form=args.format, field=args.field) as reader:
        form = output_form(reader, args.output, as_json=args.json)
        infiller = getattr(args, "loaded", None) or load_model(args)
        settings = ["choose", form, args.field, args.top, choices, options, model_options(args)]
        with OutputFile(args.output, identity=identity_of(args.input, args.model, settings)) as out:
            writer = RecordWriter(out, form, (*reader.columns, *ADDED))

            def write(record: Record, ranked: list[Scored] | None) -> None:
                if record.empty or (form == LINES and ranked is None):
                    writer.write_line(record.line)
                elif form == LINES and ranked is not None:
                    writer.write_line("\t".join(ranked[0].fills))
                else:
                    found = {"error": record.error} if ranked is None else _fields(ranked[: args.top], form)
                    writer.write({**record.values, **found})

            return each_record(reader, out, partial(_answers, infiller, args, choices, options), write)


def _answers(
    infiller: Infiller,
    args: argparse.Namespace,
    choices: Sequence[Sequence[str]],
    options: dict[str, Any],
    records: Iterator[Record],
) -> Iterator[tuple[Record, list[Scored] | None]]:
    from ..infill.records import rank_records

    return rank_records(infiller, records, args.field, choices, options, of_one_blank=args.of_one_blank)


def _fields(ranked: Sequence[Scored], form: str) -> dict[str, Any]:
    """A ranking; in a table the best answer also has a column of its own."""
    found = {"choices": [each.to_dict() for each in ranked]}
    return found if form == "jsonl" else {"choice": "\t".join(ranked[0].fills), **found}
