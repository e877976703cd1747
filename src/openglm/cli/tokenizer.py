"""`openglm tokenizer train`: a vocabulary from a corpus."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..errors import OptionError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    train = actions.add_parser("train", help="train a lossless SentencePiece vocabulary")
    train.add_argument(
        "--group",
        action="append",
        nargs="+",
        required=True,
        metavar=("CHARACTERS", "FILE"),
        help="how many characters to sample from these files, patterns or folders; once per language",
    )
    train.add_argument("--field", default="text", help="field or column that holds the text (default: text)")
    train.add_argument("--vocab-size", type=int, default=16_000, help="pieces (default: 16000)")
    train.add_argument("--threads", type=int, default=2, help="threads (default: 2)")
    train.add_argument("--seed", type=int, default=0, help="of the sample (default: 0)")
    train.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from ..data.tokenizer_training import train_vocabulary
    from ..files import folder_for, write_atomically
    from ..tokenizer import BilingualTokenizer

    try:
        characters = [int(group[0]) for group in args.group]
    except ValueError as error:
        raise OptionError("--group takes a number of characters, then files") from error
    folder_for(args.output, ours=("tokenizer.model",))
    model = train_vocabulary(
        [group[1:] for group in args.group],
        field=args.field,
        vocab_size=args.vocab_size,
        characters=characters,
        seed=args.seed,
        threads=args.threads,
        say=lambda text: print(f"openglm: {text}", file=sys.stderr, flush=True),
    )
    tokenizer = BilingualTokenizer(model)
    for name, content in tokenizer.files().items():
        write_atomically(args.output / name, content)
    print(f"{args.output}: {tokenizer.num_tokens:,} tokens, special tokens included")
    return 0
