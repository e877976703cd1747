"""`openglm choose`: given answers to a text, ranked."""

from __future__ import annotations

import argparse
import json

from .options import add_model_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("text", metavar="TEXT", help="text with blanks")
    parser.add_argument(
        "--choice",
        action="append",
        nargs="+",
        required=True,
        dest="choices",
        metavar="ANSWER",
        help="an answer, or one word per blank; once per choice",
    )
    parser.add_argument(
        "--length-penalty", type=float, default=0.0, metavar="A", help="rank by log-probability / tokens ** A"
    )
    parser.add_argument("--truncate", metavar="start|end|around", help="what to drop of a text that is too long")
    parser.add_argument("--json", action="store_true", help="print JSON Lines, for machines")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from ..infill.infiller import load

    infiller = load(args.model, device=args.device, dtype=args.dtype)
    ranked = infiller.choose(args.text, args.choices, length_penalty=args.length_penalty, truncate=args.truncate)
    for scored in ranked:
        if args.json:
            print(json.dumps(scored.to_dict(), ensure_ascii=False))
        else:
            print(f"{100 * scored.probability:6.1f} %  {scored.logprob:8.2f}  {scored.text}")
    return 0
