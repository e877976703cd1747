"""`openglm finetune`: examples and a model in, a model for one task and a report out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from .options import MOST_SEEDS

if TYPE_CHECKING:
    from ..finetuning.jobs import Measure
    from ..finetuning.recipe import FinetuneRecipe
    from ..finetuning.results import FinetuneResult

KINDS = ("cloze", "seq2seq", "infilling", "lm", "classify")
METHODS = ("full", "lora", "prompt", "layers", "bias")

# Options that change one value of the recipe: flag -> section and key, type, metavar, help.
SETTINGS: dict[str, tuple[str, Any, str, str]] = {
    "--epochs": ("run.epochs", float, "N", "passes over the examples (default: about 300 updates, 3 to 50 passes)"),
    "--steps": ("run.steps", int, "N", "updates in all, in place of epochs"),
    "--batch-size": ("run.batch_size", int, "N", "examples per update (default: 16)"),
    "--lr": ("optimizer.learning_rate", float, "RATE", "peak learning rate (default: by size of the model and method)"),
    "--patience": ("run.patience", int, "N", "looks at the dev file without a better one before a run ends (0: never)"),
    "--metric": (
        "run.metric",
        str,
        "NAME",
        "by which the best weights are chosen (default: the task's first, or loss)",
    ),
    "--dropout": ("run.dropout", float, "P", "of the network in training (default: 0.1)"),
    "--loss": ("objective.loss", str, "NAME", "of cloze: cross_entropy (default), generative, mix or hinge"),
    "--class-weights": ("objective.class_weights", str, "HOW", "none (default) or balanced"),
    "--label-smoothing": ("objective.label_smoothing", float, "E", "of seq2seq (default: 0.1)"),
    "--rank": ("method.rank", int, "N", "of LoRA (default: 8)"),
    "--alpha": ("method.alpha", float, "A", "of LoRA (default: 16)"),
    "--prompt-tokens": ("method.tokens", int, "N", "of a trained prompt (default: 16)"),
    "--prompt-encoder": ("method.encoder", str, "NAME", "lstm (default), mlp or none"),
    "--train-layers": ("method.layers", int, "N", "how many of the last layers are trained"),
    "--field": ("data.field", str, "NAME", "that holds the text, for infilling and lm (default: text)"),
    "--source": ("data.source", str, "NAME", "field of seq2seq examples (default: source)"),
    "--target": ("data.target", str, "NAME", "field of seq2seq examples (default: target)"),
    "--data-dir": ("data.folder", str, "DIR", "folder with the files of named tasks"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("kind", choices=KINDS, metavar="KIND", help=f"what is learnt: {', '.join(KINDS)}")
    parser.add_argument("train", nargs="*", metavar="FILE", help="examples to train on (JSON Lines; texts for lm)")
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="YAML file with any of these settings")
    _add_task(parser.add_argument_group("task"))
    _add_files(parser.add_argument_group("files"))
    method = parser.add_argument_group("model and method")
    method.add_argument("--model", metavar="NAME|DIR", help="what to start from (default: the embedded model)")
    method.add_argument("--method", choices=METHODS, metavar="NAME", help=f"{', '.join(METHODS)} (default: full)")
    _add_run(parser.add_argument_group("run"))


def _add_task(task: argparse._ArgumentGroup) -> None:
    task.add_argument("--task", metavar="NAME|FILE", help="a named task, or a task file")
    task.add_argument(
        "--pattern",
        action="append",
        metavar="TEXT|N[,N]|all",
        help='text with fields and a blank: "{sentence} 总的来说[MASK]。"; or numbers of patterns of --task. '
        "Repeatable: the model learns all of them, and what it says by each is averaged",
    )
    task.add_argument(
        "--verbalizer", action="append", default=[], metavar="LABEL=WORD", help="what stands in the blank; repeatable"
    )
    task.add_argument("--label", metavar="FIELD", help="field with the right answer (default: label)")
    task.add_argument(
        "--text-field", action="append", default=[], metavar="FIELD", help="field that classify reads; repeatable"
    )


def _add_files(files: argparse._ArgumentGroup) -> None:
    files.add_argument(
        "--train", nargs="+", default=[], dest="more", metavar="FILE", help="the same as FILE behind KIND, anywhere"
    )
    files.add_argument("--dev", nargs="+", default=[], metavar="FILE", help="examples that choose the best weights")
    files.add_argument("--test", nargs="+", default=[], metavar="FILE", help="examples to measure the result on")
    files.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help="folder of the run; an unfinished run there goes on (default: in runs/)",
    )


def _add_run(run: argparse._ArgumentGroup) -> None:
    for flag, (_, kind, metavar, text) in SETTINGS.items():
        run.add_argument(flag, type=kind, metavar=metavar, help=text, default=None)
    run.add_argument("--seeds", type=int, metavar="N", help="N runs, with the seeds 0 to N - 1; the best is kept")
    run.add_argument("--seed", type=int, metavar="N", help="one run with this seed (default: 0)")
    run.add_argument(
        "--set", action="append", default=[], dest="settings", metavar="KEY=VALUE",
        help="a value that wins over the recipe's, such as run.evaluations=10; repeatable",
    )  # fmt: skip
    run.add_argument(
        "--max-seconds", type=float, metavar="N", help="stop after about N seconds of training; run again to go on"
    )
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, ... (default: auto)")
    run.add_argument("--track", default="none", metavar="NAME", help="auto, none, trackio or wandb (default: none)")
    run.add_argument(
        "--rouge", action="store_true",
        help="seq2seq: the finished model writes the targets of the dev and test files, and so does the untuned one",
    )  # fmt: skip
    run.add_argument("--json", action="store_true", help="print the summary as JSON, for machines")


def read_recipe(args: argparse.Namespace) -> FinetuneRecipe:
    """The recipe that file and flags come to; flags win.

    Raises:
        TrainingError, DataError, OptionError: as `FinetuneRequest.to_recipe`, or flags that exclude each other.
    """
    from ..finetuning.request import FinetuneRequest, words_of_flags

    found = {path: getattr(args, flag.strip("-").replace("-", "_")) for flag, (path, *_) in SETTINGS.items()}
    settings = {path: value for path, value in found.items() if value is not None}
    if args.seeds is not None and args.seed is not None:
        raise OptionError("--seeds makes several runs, --seed one; give one of the two")
    if args.seeds is not None and not 1 <= args.seeds <= MOST_SEEDS:
        raise OptionError(f"--seeds must be from 1 to {MOST_SEEDS}, not {args.seeds}")
    if args.seeds is not None or args.seed is not None:
        settings["run.seeds"] = [args.seed] if args.seeds is None else list(range(args.seeds))
    request = FinetuneRequest(
        kind=args.kind,
        train=[*args.train, *args.more],
        dev=args.dev,
        test=args.test,
        recipe=args.recipe,
        task=args.task,
        patterns=args.pattern or [],
        words=words_of_flags(args.verbalizer),
        label=args.label,
        text_fields=args.text_field,
        model=args.model,
        output=None if args.output is None else str(args.output),
        method=args.method,
        settings=settings,
        overrides=args.settings,
    )
    return request.to_recipe()


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.max_seconds is not None and args.max_seconds <= 0:
        raise OptionError(f"--max-seconds must be above 0, not {args.max_seconds:g}")
    recipe = read_recipe(args)
    measure = _measure(args)
    from ..finetuning.runs import run as finetune

    result = finetune(recipe, device=args.device, track=args.track, max_seconds=args.max_seconds, measure=measure)
    if not result.finished:
        print(f"stopped after {len(result.runs)} of {len(recipe.run.seeds)} runs; the same command goes on from there")
        return 0
    _print(result, machine=args.json)
    return 0


def _measure(args: argparse.Namespace) -> Measure | None:
    """How written texts are measured.

    Raises:
        OptionError: asked for with a kind that writes none. MissingLibraryError.
    """
    if not args.rouge:
        return None
    if args.kind != "seq2seq":
        raise OptionError(f"--rouge measures the texts of seq2seq; {args.kind} writes none")
    from ..evaluation.generation import rouge
    from ..finetuning.jobs import Measure

    rouge(["a"], ["a"])  # a library that is missing is missed now, not when training is over
    return Measure(rouge)


def _print(result: FinetuneResult, *, machine: bool) -> None:
    import json
    from dataclasses import asdict

    from ..finetuning.report import shown

    summaries = {split: result.summary(split) for split in ("dev", "test")}
    if machine:
        values = {split: {name: asdict(each) for name, each in found.items()} for split, found in summaries.items()}
        print(json.dumps({"model": str(result.model), **values}, ensure_ascii=False))
        return
    for split, found in summaries.items():
        if found:
            print(f"{split:4}  " + "  ".join(f"{name} {shown(each)}" for name, each in found.items()))
    print(f"finished: {result.model}  (report: {result.output / 'report.md'})")
