"""`openglm pretrain`: a recipe and text in, a model folder out."""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import OptionError

if TYPE_CHECKING:
    from ..pretraining.recipe import CorpusOptions, Recipe
    from ..training.parallel import Processes

_NAMED = re.compile(r"([\w-]+)=(.+)", re.DOTALL)

DATA = "a prepared shard, or text files: names, patterns, folders, addresses; repeatable, once per source"
SET = "a value that wins over the recipe's, such as run.compile=true; repeatable"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("recipe", type=Path, help="YAML file: model, objectives, optimizer, run, data")
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
    run.add_argument("--steps", type=int, metavar="N", help="stop after N updates in all; run again to go on")
    run.add_argument(
        "--max-seconds",
        type=float,
        metavar="N",
        help="stop after about N seconds, with the state saved; run again to go on",
    )
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (default: auto)")
    run.add_argument("--workers", type=int, metavar="N", help="processes that prepare batches (0: none)")
    run.add_argument(
        "--track", default="auto", metavar="NAME", help="auto, none, trackio or wandb (default: auto, what is set up)"
    )


def parse_corpora(groups: Sequence[Sequence[str]], option: str) -> dict[str, CorpusOptions]:
    """`[["zh=data/zh"], ["a.txt", "b.txt"]]` as corpora by name.

    Raises:
        OptionError: two groups of one name, or a name inside a group.
    """
    from ..pretraining.recipe import CorpusOptions

    out: dict[str, CorpusOptions] = {}
    for first, *rest in groups:
        match = _NAMED.fullmatch(first)
        name, path = match.groups() if match else (_name_for([first, *rest]), first)
        inner = next((entry for entry in rest if _NAMED.fullmatch(entry)), None)
        if inner is not None:
            raise OptionError(f"{inner!r}: a name comes first; write {option} {first} ... {option} {inner} ...")
        if name in out:
            raise OptionError(f"two sources are called {name!r}; write {option} NAME={first}")
        out[name] = CorpusOptions((path, *rest))
    return out


def _name_for(paths: Sequence[str]) -> str:
    """A folder's own name; files have none in common."""
    folder = Path(paths[0])
    return folder.resolve().name if len(paths) == 1 and folder.is_dir() else "text"


def read_recipe(args: argparse.Namespace) -> Recipe:
    """The recipe with what the command line says."""
    import dataclasses

    from ..pretraining.recipe import Recipe

    settings = list(args.settings)
    if args.workers is not None:
        settings.append(f"run.workers={args.workers}")
    recipe = Recipe.read(args.recipe, settings)
    changes: dict[str, object] = {}
    if args.data:
        changes["train"] = parse_corpora(args.data, "--data")
        if not args.valid:
            changes["valid"] = {}  # the recipe's belong to the recipe's training data
    if args.valid:
        changes["valid"] = parse_corpora(args.valid, "--valid")
    if args.tokenizer is not None:
        changes["tokenizer"] = str(args.tokenizer)
    changes["output"] = str(args.output or recipe.data.output or Path("runs") / args.recipe.stem)
    return dataclasses.replace(recipe, data=dataclasses.replace(recipe.data, **changes))  # type: ignore[arg-type]


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    begin = time.monotonic()
    from ..training.parallel import Processes

    if args.max_seconds is not None and args.max_seconds <= 0:
        raise OptionError(f"--max-seconds must be above 0, not {args.max_seconds:g}")
    recipe = read_recipe(args)
    processes = Processes.join(args.device)
    deadline = None if args.max_seconds is None else begin + args.max_seconds
    code = _train(recipe, processes, stop_at=args.steps, deadline=deadline, track=args.track)
    processes.leave()
    return code


def _train(recipe: Recipe, processes: Processes, *, stop_at: int | None, deadline: float | None, track: str) -> int:
    import sys

    from ..checkpoints.find import EMBEDDED
    from ..pretraining.corpora import open_corpora
    from ..pretraining.pretrainer import MODEL_FOLDER, Trainer, notes_on
    from ..tokenizer import load_tokenizer

    assert recipe.data.output is not None
    output = Path(recipe.data.output)
    tokenizer = load_tokenizer(Path(recipe.data.tokenizer or EMBEDDED))
    corpora = open_corpora(recipe.data, tokenizer, recipe.run, processes)
    if processes.first:
        for note in (*corpora.notes, *notes_on(recipe, processes.device)):
            print(f"openglm: note: {note}", file=sys.stderr)
    trainer = Trainer(
        recipe, tokenizer, corpora.train, corpora.valid, output,
        processes=processes, track=track, measure_peak=True,
    )  # fmt: skip
    finished = trainer.run(stop_at=stop_at, deadline=deadline)
    if processes.first:
        if finished:
            print(f"finished: {output / MODEL_FOLDER}")
        else:
            print(f"stopped after {trainer.done} of {recipe.run.steps} updates; the same command goes on from there")
    return 0
