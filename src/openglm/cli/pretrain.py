"""`openglm pretrain`: a recipe and text in, a model folder out."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from ..errors import OptionError

_NAMED = re.compile(r"([\w-]+)=(.+)", re.DOTALL)

DATA = "a prepared shard, or text files: names, patterns, folders, addresses; repeatable, once per source"
SET = "a value that wins over the recipe's, such as run.compile=true; repeatable"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "recipe", help="a YAML file (model, objectives, optimizer, run, data), or a name from `openglm recipes`"
    )
    data = parser.add_argument_group("data (each wins over the recipe's)")
    data.add_argument("--data", nargs="+", action="append", default=[], metavar="[NAME=]FILE", help=DATA)
    data.add_argument(
        "--valid", nargs="+", action="append", default=[], metavar="[NAME=]FILE",
        help="the same, to evaluate on (default: some of the training documents are kept for it)",
    )  # fmt: skip
    data.add_argument("--tokenizer", type=Path, metavar="DIR", help="vocabulary (default: the embedded model's)")
    data.add_argument(
        "--output", type=Path, metavar="DIR",
        help="folder of the run; an unfinished run there goes on (default: runs/ and the recipe's name)",
    )  # fmt: skip
    run = parser.add_argument_group("run")
    run.add_argument("--set", action="append", default=[], dest="settings", metavar="KEY=VALUE", help=SET)
    run.add_argument("--steps", type=int, metavar="N", help="stop after N updates in all, with a model")
    run.add_argument(
        "--max-seconds",
        type=float,
        metavar="N",
        help="stop after about N seconds of training, with a model; run again to go on",
    )
    run.add_argument(
        "--export", action="store_true", help="no training: make a model folder of the newest state of the run"
    )
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (default: auto)")
    run.add_argument("--workers", type=int, metavar="N", help="processes that prepare batches (0: none)")
    run.add_argument(
        "--track", default="auto", metavar="NAME", help="auto, none, trackio or wandb (default: auto, what is set up)"
    )


def parse_corpora(groups: Sequence[Sequence[str]], option: str) -> dict[str, list[str]]:
    """`[["zh=data/zh"], ["a.txt", "b.txt"]]` as paths by name.

    Raises:
        OptionError: two groups of one name, or a name inside a group.
    """
    out: dict[str, list[str]] = {}
    for first, *rest in groups:
        match = _NAMED.fullmatch(first)
        name, path = match.groups() if match else (_name_for([first, *rest]), first)
        inner = next((entry for entry in rest if _NAMED.fullmatch(entry)), None)
        if inner is not None:
            raise OptionError(f"{inner!r}: a name comes first; write {option} {first} ... {option} {inner} ...")
        if name in out:
            raise OptionError(f"two sources are called {name!r}; write {option} NAME={first}")
        out[name] = [path, *rest]
    return out


def _name_for(paths: Sequence[str]) -> str:
    """A folder's own name; files have none in common."""
    folder = Path(paths[0])
    return folder.resolve().name if len(paths) == 1 and folder.is_dir() else "text"


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from ..pretraining.run import export, pretrain
    from ..training.launch import launch_of
    from ..training.options import parse_settings

    settings = parse_settings(args.settings)
    if args.workers is not None:
        settings["run.workers"] = args.workers
    if args.export:
        made = export(args.recipe, tokenizer=args.tokenizer, output=args.output, settings=settings)
        print(f"model after {made.steps} updates: {made.model}")
        return 0
    result = pretrain(
        args.recipe,
        data=parse_corpora(args.data, "--data") or None,
        valid=parse_corpora(args.valid, "--valid") or None,
        tokenizer=args.tokenizer,
        output=args.output,
        settings=settings,
        steps=args.steps,
        max_seconds=args.max_seconds,
        device=args.device,
        track=args.track,
    )
    if launch_of().rank:
        return 0  # of several processes the first speaks
    if result.finished:
        print(f"finished: {result.model}")
    elif result.model is not None:
        print(f"stopped after {result.steps} updates, before the recipe's end: {result.model}")
        print("to go on, give the same command with a larger --steps or --max-seconds, or without")
    else:
        print(f"interrupted after {result.steps} updates, the state is saved; the same command goes on from there")
        print("with --export it makes a model of the state")
    return 0
