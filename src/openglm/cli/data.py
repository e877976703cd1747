"""`openglm data`: corpora into tokenized shards, and samples as the model will see them."""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

from ..errors import OptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    prepare = actions.add_parser("prepare", help="tokenize corpus files into one shard; goes on if it was interrupted")
    prepare.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="text or JSON Lines (plain, .gz or .zst) or Parquet: paths, fsspec addresses, patterns, folders",
    )
    prepare.add_argument("--tokenizer", required=True, type=Path, metavar="DIR", help="folder of the tokenizer")
    prepare.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder of the shard to write")
    prepare.add_argument("--field", default="text", help="field or column that holds the text (default: text)")
    prepare.add_argument("--workers", type=int, metavar="N", help="processes (default: one per processor)")
    inspect = actions.add_parser(
        "inspect", help="show training samples: what is blanked out, Part A, Part B, positions"
    )
    inspect.add_argument("shard", metavar="DATA", help="a prepared shard, or text files as `prepare` takes them")
    inspect.add_argument("--tokenizer", required=True, type=Path, metavar="DIR", help="folder of the tokenizer")
    inspect.add_argument("--field", default="text", help="field or column that holds the text (default: text)")
    inspect.add_argument("--recipe", help="take the objectives from this recipe (default: the published mix)")
    inspect.add_argument("--objective", choices=("token", "sentence", "document"), help="only this objective")
    inspect.add_argument("--length", type=int, default=128, help="longest sample in tokens (default: 128)")
    inspect.add_argument("-n", "--samples", type=int, default=3, help="how many to show (default: 3)")
    inspect.add_argument("--seed", type=int, default=0, help="of the draw (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    return _prepare(args) if args.action == "prepare" else _inspect(args)


def _prepare(args: argparse.Namespace) -> int:
    from ..data.shards import prepare
    from ..tokenizer import load_tokenizer

    manifest = prepare(args.files, load_tokenizer(args.tokenizer), args.output, field=args.field, workers=args.workers)
    print(
        f"{args.output}: {manifest['documents']:,} documents, {manifest['sentences']:,} sentences, "
        f"{manifest['tokens']:,} tokens"
    )
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from ..data.inspect import show_sample
    from ..data.samples import SampleMaker
    from ..data.spans import Objectives
    from ..data.stream import BatchStream, Source
    from ..data.text_stream import open_corpus
    from ..tokenizer import load_tokenizer

    if args.samples < 1 or args.seed < 0:
        raise OptionError("--samples must be at least 1 and --seed at least 0")
    tokenizer = load_tokenizer(args.tokenizer)
    objectives = Objectives()
    if args.recipe is not None:
        from ..pretraining.recipe import Recipe, find_recipe

        objectives = Recipe.read(find_recipe(args.recipe)).objectives
    if args.objective:
        objectives = objectives.only(args.objective)
    corpus, _ = open_corpus(args.shard, tokenizer, field=args.field, window=1000)
    source = Source("inspect", corpus.at(0), 1.0)
    stream = BatchStream([source], SampleMaker(tokenizer, objectives), rows=1, length=args.length, seed=args.seed)
    samples = (sample for step in itertools.count() for row in stream.rows_of_samples(step) for sample in row)
    for layout, objective in itertools.islice(samples, args.samples):
        print(show_sample(layout, objective, tokenizer, colours=sys.stdout.isatty()))
    return 0
