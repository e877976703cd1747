"""`openglm augment FILE`: more labelled examples from few."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from ..files import OutputFile
from .filework import check_files
from .options import add_model_options, load_model

if TYPE_CHECKING:
    from ..data.records import Record
    from ..finetuning.augmenting import Augmented, AugmentOptions

ADDED = "augmented"  # field that says how a new example was made


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.description = (
        "Blank out words of labelled texts, fill the blanks by sampling, and keep what a classifier finds to have the "
        "label. The examples come out with the new ones behind each of them."
    )
    parser.add_argument("file", metavar="FILE", help="labelled examples: JSON Lines, CSV or TSV; - reads stdin")
    files = parser.add_argument_group("files")
    files.add_argument("--output", metavar="FILE", help="where to write (default: standard output)")
    files.add_argument("--format", choices=("jsonl", "csv", "tsv"), help="of the input, where its name is no help")
    files.add_argument("--field", default="text", help="field of the text that is changed (default: text)")
    files.add_argument("--label", default="label", metavar="FIELD", help="field of the label (default: label)")
    files.add_argument(
        "--protect", action="append", default=[], metavar="FIELD", help="its wording in the text stays; repeatable"
    )
    files.add_argument("--only-new", action="store_true", help="leave the examples themselves out")
    making = parser.add_argument_group("making")
    making.add_argument("--classifier", metavar="RUN", help="a fine-tuned run that keeps or drops what is written")
    making.add_argument(
        "--pattern", metavar="TEXT", help='says the label around the text: "{text} 总的来说[MASK]。", with --verbalizer'
    )
    making.add_argument("--verbalizer", action="append", default=[], metavar="LABEL=WORD", help="repeatable")
    making.add_argument("--flip", action="store_true", help="write texts for other labels than the examples'")
    making.add_argument(
        "--candidates", type=int, metavar="N", help="texts per example, before any is dropped (default: 4)"
    )
    making.add_argument("--share", type=float, metavar="S", help="of the words blanked out (default: 0.3)")
    making.add_argument("--span", type=float, metavar="N", help="words of a blank on average (default: 2)")
    making.add_argument("--confidence", type=float, metavar="P", help="the classifier's, at least (default: 0.5)")
    making.add_argument("--similarity", type=float, metavar="S", help="from which texts count as one (default: 0.9)")
    making.add_argument("--temperature", type=float, metavar="T", help="of sampling (default: 1)")
    making.add_argument("--top-p", type=float, metavar="P", help="of sampling (default: 0.9)")
    making.add_argument("--seed", type=int, metavar="N", help="of sampling and of what is blanked out (default: 0)")
    parser.add_argument("--json", action="store_true", help="write JSON Lines, whatever the input")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from ..data.records import LINES, RecordReader, RecordWriter, output_form

    check_files(args.output, args.file, args.classifier)
    options = _options(args)
    with RecordReader(args.file, form=args.format, field=()) as reader:
        if reader.form == LINES:
            raise OptionError(f"{args.file}: plain lines have no labels; give JSON Lines, CSV or TSV (--format)")
        form = output_form(reader, args.output, as_json=args.json)
        records = [record for record in reader if not record.empty]
        _check(args.file, records)
        augmenter = _augmenter(args, options)
        with OutputFile(args.output) as out:
            writer = RecordWriter(out, form, (*reader.columns, ADDED))
            made = iter(augmenter([record.values for record in records]))
            new = next(made, None)
            for number, record in enumerate(records):
                if not args.only_new:
                    writer.write(record.values)
                while new is not None and new.source == number:
                    writer.write({**new.values, ADDED: _how(new, record)})
                    new = next(made, None)
    tally = augmenter.tally
    print(
        f"openglm: {tally.kept} new examples from {len(records)}; left out: {tally.doubted} by the classifier, "
        f"{tally.alike} too much like others",
        file=sys.stderr,
    )
    return 0


def _options(args: argparse.Namespace) -> AugmentOptions:
    from ..finetuning.augmenting import AugmentOptions

    given = {each.name: getattr(args, each.name) for each in fields(AugmentOptions)}
    given["protect"] = tuple(args.protect)
    return AugmentOptions(**{name: value for name, value in given.items() if value is not None})


def _augmenter(args: argparse.Namespace, options: AugmentOptions) -> Any:
    from ..finetuning.augmenting import Augmenter
    from ..finetuning.classifier import load_classifier
    from ..infill.loading import usable_device
    from ..tasks.verbalizer import Verbalizer

    if args.verbalizer and args.pattern is None:
        raise OptionError("--verbalizer gives the words of a pattern; add --pattern")
    words = {}
    if args.verbalizer:
        words = {label: "".join(each[0]) for label, each in Verbalizer.from_flags(args.verbalizer).words.items()}
    classifier = None
    if args.classifier is not None:
        classifier = load_classifier(args.classifier, device=usable_device(args.device))
    elif not options.flip:
        print("openglm: note: without --classifier nothing checks that the labels still hold", file=sys.stderr)
    return Augmenter(load_model(args), options, template=args.pattern, words=words, classifier=classifier)


def _check(source: str, records: list[Record]) -> None:
    """Raise DataError for the first record that cannot be used, and for none at all."""
    from ..errors import DataError

    for record in records:
        if record.error is not None:
            raise DataError(f"{source}, line {record.number}: {record.error}")
    if not records:
        raise DataError(f"{source} is empty: there is nothing to augment")


def _how(new: Augmented, record: Record) -> dict[str, Any]:
    """How an example was made, for its record."""
    about: dict[str, Any] = {
        "line": record.number,
        "changed": [{"at": at, "from": old, "to": now} for at, old, now in new.changed],
    }
    if "id" in record.values:
        about["id"] = record.values["id"]
    return about if new.probability is None else {**about, "probability": round(new.probability, 6)}
