"""`openglm pretrain`: a recipe and prepared data in, a model folder out."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OptionError

if TYPE_CHECKING:
    from ..pretraining.stream import Source
    from ..tokenizer import Tokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("recipe", type=Path, help="YAML file: model, objectives, optimizer, run")
    parser.add_argument("--tokenizer", required=True, type=Path, metavar="DIR", help="folder of the tokenizer")
    parser.add_argument(
        "--data", required=True, action="append", metavar="NAME=DIR", help="a prepared shard to train on; repeatable"
    )
    parser.add_argument(
        "--valid", default=[], action="append", metavar="NAME=DIR", help="a prepared shard to evaluate on; repeatable"
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="folder of the run; an unfinished run there goes on"
    )
    parser.add_argument("--steps", type=int, help="stop after this many updates in all; run again to go on")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (default: auto)")


def _sources(named: Sequence[str], tokenizer: Tokenizer, weights: Mapping[str, float]) -> list[Source]:
    from ..pretraining.shards import Shard
    from ..pretraining.stream import Source

    out = []
    for entry in named:
        name, separator, folder = entry.partition("=")
        if not separator:
            raise OptionError(f"{entry!r}: write NAME=DIR, for example en=data/en-train")
        out.append(Source(name, Shard.open(Path(folder), tokenizer), weights.get(name, 1.0)))
    return out


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    import torch

    from ..tokenizer import load_tokenizer
    from ..training.loop import Trainer
    from ..training.recipe import Recipe

    recipe, tokenizer = Recipe.read(args.recipe), load_tokenizer(args.tokenizer)
    device = args.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    weights = recipe.run.weights
    trainer = Trainer(
        recipe,
        tokenizer,
        _sources(args.data, tokenizer, weights),
        _sources(args.valid, tokenizer, weights),
        args.output,
        device=device,
    )
    if trainer.run(stop_at=args.steps):
        print(f"finished: {args.output / 'model'}")
    else:
        print(f"stopped after {trainer.done} of {recipe.run.steps} updates; the same command goes on from there")
    return 0
