"""`openglm data prepare`: corpora into tokenised shards."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    prepare = actions.add_parser("prepare", help="tokenise text or JSON Lines files into one shard")
    prepare.add_argument("files", nargs="+", type=Path, help="text or JSON Lines, plain, .gz or .zst")
    prepare.add_argument("--tokenizer", required=True, type=Path, metavar="DIR", help="folder of the tokenizer")
    prepare.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder of the shard to write")
    prepare.add_argument("--field", default="text", help="field that holds the text (default: text)")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from ..pretraining.shards import prepare
    from ..tokenizer import load_tokenizer

    manifest = prepare(args.files, load_tokenizer(args.tokenizer), args.output, field=args.field)
    print(f"{args.output}: {manifest['documents']:,} documents, {manifest['tokens']:,} tokens")
    return 0
