"""`openglm predict RUN FILE`: labels, or texts, for the records of a file."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from ..files import OutputFile
from .distributed import add_engine_options, run_on_parts
from .filework import add_output_options, check_files, each_record, identity_of
from .options import add_decoding_options, decoding_options

if TYPE_CHECKING:
    from ..data.records import Record
    from ..finetuning.predicting import Predictor

ADDED = ("probabilities", "error")  # columns of a table, behind the answer's
IDS = ("id", "idx")  # what test servers know an example by


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Label the records of a JSON Lines, CSV or TSV file by a fine-tuned run, or by a task and a model as it is; "
        "a sequence-to-sequence run writes its texts. Every field and the order are kept."
    )
    parser.add_argument("run", metavar="RUN|TASK", help="folder of a run, or a task by name or file")
    parser.add_argument("file", metavar="FILE", help="records with the fields of the training examples; - reads stdin")
    files = parser.add_argument_group("files")
    add_output_options(files)
    add_engine_options(parser)
    files.add_argument("--as", dest="name", metavar="NAME", help="field of the answer (default: label, or output)")
    parser.add_argument("--probabilities", action="store_true", help="those of all labels, too")
    parser.add_argument(
        "--submission", action="store_true", help="only id and label, as the test servers of CLUE and FewCLUE want them"
    )
    parser.add_argument("--json", action="store_true", help="write JSON Lines, whatever the input")
    parser.add_argument(
        "--model",
        default="default",
        metavar="NAME|DIR",
        help="for a task: what is asked (default: embedded)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    add_decoding_options(parser)


def prepare(args: argparse.Namespace) -> Predictor:
    """What a worker loads once for all its parts."""
    from ..finetuning.predicting import open_predictor

    return open_predictor(
        args.run,
        model=args.model,
        device=args.device,
        name=args.name,
        probabilities=args.probabilities,
        submission=args.submission,
        options=decoding_options(args),
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.engine == "ray":
        if args.submission:
            raise OptionError("a submission is one file; leave out --engine ray")
        return run_on_parts("predict", args, field="file")
    from ..data.records import LINES, RecordReader, RecordWriter, output_form

    if args.submission and args.probabilities:
        raise OptionError("a submission holds ids and labels only; leave out --probabilities or --submission")
    check_files(args.output, args.file, args.run)
    options = decoding_options(args)
    with RecordReader(args.file, form=args.format, field=()) as reader:
        if reader.form == LINES:
            raise OptionError(f"{args.file}: plain lines have no fields; give JSON Lines, CSV or TSV (--format)")
        form = output_form(reader, args.output, as_json=args.json or args.submission)
        predictor = getattr(args, "loaded", None) or prepare(args)
        if reader.columns:
            reader.need_columns(predictor.fields, remedy="these are what the run was trained on")
        settings = ["predict", form, args.name, args.probabilities, args.submission, options, args.model]
        with OutputFile(args.output, identity=identity_of(args.file, args.run, settings)) as out:
            writer = RecordWriter(out, form, (*reader.columns, predictor.name, *ADDED))

            def write(record: Record, found: dict[str, Any] | None) -> None:
                if record.empty:
                    writer.write_line("")
                elif args.submission:
                    writer.write({**_id(record), **(found or {"error": record.error})})
                else:
                    writer.write({**record.values, **(found or {"error": record.error})})

            def answers(records: Iterator[Record]) -> Iterator[tuple[Record, dict[str, Any] | None]]:
                return predictor(records if args.submission else _without(predictor.name, records, args.file))

            return each_record(reader, out, answers, write)


def _without(name: str, records: Iterator[Record], source: str) -> Iterator[Record]:
    """Records as they are, none of which has the field that the answer goes into."""
    for record in records:
        if name in record.values:
            raise OptionError(
                f"{source}, line {record.number}: has a field {name!r} already; choose another name for the answer "
                "with --as NAME"
            )
        yield record


def _id(record: Record) -> dict[str, Any]:
    """What a submission calls a record: its own id, or its place in the file from 0."""
    name = next((name for name in IDS if name in record.values), None)
    return {"id": record.number - 1 if name is None else record.values[name]}
