"""`openglm fill`: texts, lines, JSON Lines or tables in; filled texts out."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
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
from .options import add_decoding_options, add_model_options, decoding_options, load_model, model_options

if TYPE_CHECKING:
    from ..data.records import Record
    from ..infill.infiller import Infiller
    from ..infill.results import Filled

ADDED = ("filled", "logprob", "blanks", "alternatives", "truncated", "error")  # columns of a table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Fill every [MASK] (a short span), [sMASK] (sentences) and [gMASK] (the rest of a document). "
        "Everything else comes back unchanged. Without a text at a terminal: a session, text by text."
    )
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="texts with blanks; - reads one per line from stdin")
    add_file_options(parser)
    add_engine_options(parser)
    add_plain_options(parser)
    add_model_options(parser)
    add_decoding_options(parser)


prepare = load_model  # what a worker loads once for all its parts


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.engine == "ray":
        if args.texts:
            raise OptionError("--engine ray takes --input, no texts")
        return run_on_parts("fill", args)
    if args.input is not None and args.texts:
        raise OptionError("give texts or --input, not both")
    from ..engine.options import FillOptions

    options = decoding_options(args)
    FillOptions(**options)  # wrong options are reported before a model is loaded
    if args.texts == ["-"] or (not args.texts and args.input is None and not _at_terminal()):
        args.texts, args.input = [], "-"
        args.format = args.format or "lines"
    if args.input is not None:
        return _fill_file(args, options)
    infiller = load_model(args)
    if not args.texts:
        from .session import Session

        return Session(infiller, options, colours=colours(args, sys.stdout.isatty())).run()
    return _fill_texts(args, infiller, options)


def _at_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _fill_texts(args: argparse.Namespace, infiller: Infiller, options: dict[str, Any]) -> int:
    as_json = args.json or args.output is not None
    if len(args.texts) == 1 and not as_json and sys.stdout.isatty() and _streams(options):
        from .session import stream

        return stream(infiller, args.texts[0], options, colours=colours(args, terminal=True))
    results = infiller.fill(args.texts, **options)
    with OutputFile(args.output) as out:
        for text, filled in zip(args.texts, results, strict=True):
            warn_truncated("", filled)
            if as_json:
                out.write(json.dumps({"text": text, "filled": filled.to_dict()}, ensure_ascii=False) + "\n", records=1)
            else:
                out.write(readable(filled, colours(args, out.isatty())) + "\n", records=1)
    return 0


def _streams(options: dict[str, Any]) -> bool:
    return all(options.get(name, 1) == 1 for name in ("num_beams", "num_return_sequences"))


def _fill_file(args: argparse.Namespace, options: dict[str, Any]) -> int:
    from ..data.records import LINES, RecordReader, RecordWriter, output_form

    check_files(args.output, args.input)
    with RecordReader(args.input, form=args.format, field=args.field) as reader:
        form = output_form(reader, args.output, as_json=args.json)
        infiller = getattr(args, "loaded", None) or load_model(args)
        identity = identity_of(args.input, args.model, ["fill", form, args.field, options, model_options(args)])
        with OutputFile(args.output, identity=identity) as out:
            writer = RecordWriter(out, form, (*reader.columns, *ADDED))

            def write(record: Record, filled: Filled | None) -> None:
                if filled is not None:
                    warn_truncated(f"line {record.number}: ", filled)
                if record.empty or (form == LINES and filled is None):
                    writer.write_line(record.line)
                elif form == LINES and filled is not None:
                    writer.write_line(_in_one_line(readable(filled, colours(args, out.isatty()))))
                else:
                    found = {"error": record.error} if filled is None else fields_of(filled, form)
                    writer.write({**record.values, **found})

            return each_record(reader, out, partial(_answers, infiller, args.field, options), write)


def _answers(
    infiller: Infiller, field: str, options: dict[str, Any], records: Iterator[Record]
) -> Iterator[tuple[Record, Filled | None]]:
    from ..infill.records import fill_records

    return fill_records(infiller, records, field, options)


def fields_of(filled: Filled, form: str) -> dict[str, Any]:
    """A result beside the fields of its input: an object, in a table a column for each of its values."""
    values = filled.to_dict()
    if form not in ("csv", "tsv"):
        return {"filled": values}
    return {**{name: value for name, value in values.items() if name != "text"}, "filled": filled.text}


def _in_one_line(text: str) -> str:
    """With several answers there are several lines; inside one, the end of a line is spelled out."""
    return text.replace("\r", "\\r").replace("\n", "\\n")


def readable(filled: Filled, colours: bool) -> str:
    """A result for people: the filled text, or its answers with their log-probabilities."""
    if not filled.alternatives:
        return coloured(filled, colours)
    return "\n".join(f"{a.logprob:8.2f}  {coloured(a, colours)}" for a in filled.answers)


def coloured(filled: Filled, colours: bool) -> str:
    """The filled text, its fills in colours."""
    if not colours:
        return filled.text
    parts, done = [], 0
    for number, blank in enumerate(filled.blanks):
        parts += [filled.text[done : blank.start], COLOURS[number % len(COLOURS)], blank.text, RESET]
        done = blank.end
    return "".join([*parts, filled.text[done:]])


def warn_truncated(where: str, filled: Filled) -> None:
    """Say on standard error what the model did not see."""
    if filled.truncated:
        note = f"openglm: note: {where}the model did not see {filled.truncated} tokens of the text (--truncate)"
        print(note, file=sys.stderr)
