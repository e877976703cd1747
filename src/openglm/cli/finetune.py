"""`openglm finetune`: examples and a model in, a model for one task and a report out."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from ..tasks.pattern_indices import ALL, parse_indices

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
    task = parser.add_argument_group("task")
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
    files = parser.add_argument_group("files")
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
    method = parser.add_argument_group("model and method")
    method.add_argument("--model", metavar="NAME|DIR", help="what to start from (default: the embedded model)")
    method.add_argument("--method", choices=METHODS, metavar="NAME", help=f"{', '.join(METHODS)} (default: full)")
    run = parser.add_argument_group("run")
    for flag, (_, kind, metavar, text) in SETTINGS.items():
        run.add_argument(flag, type=kind, metavar=metavar, help=text, default=None)
    run.add_argument("--seeds", type=int, metavar="N", help="N runs, with the seeds 0 to N - 1; the best is kept")
    run.add_argument("--seed", type=int, metavar="N", help="one run with this seed (default: 0)")
    run.add_argument(
        "--set", action="append", default=[], dest="settings", metavar="KEY=VALUE",
        help="a value that wins over the recipe's, such as run.evaluations=10; repeatable",
    )  # fmt: skip
    run.add_argument("--max-seconds", type=float, metavar="N", help="stop after about N seconds; run again to go on")
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
        TrainingError, DataError, OptionError: as `FinetuneRecipe`, or flags that exclude each other.
    """
    import yaml

    from ..errors import TrainingError
    from ..finetuning.recipe import FinetuneRecipe
    from ..training.options import override

    args.train = [*args.train, *args.more]
    values: dict[str, Any] = {}
    if args.recipe is not None:
        try:
            values = yaml.safe_load(args.recipe.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise TrainingError(f"{args.recipe}: not a readable recipe ({' '.join(str(error).split())})") from error
        if not isinstance(values, dict):
            raise TrainingError(f"{args.recipe}: a recipe is a YAML mapping, with kind, data, task and others")
    values["kind"] = args.kind
    for name in ("data", "run", "method", "objective", "optimizer"):
        values[name] = dict(values.get(name) or {})
    for name in ("train", "dev", "test"):
        if getattr(args, name):
            values["data"][name] = list(getattr(args, name))
    for name in ("model", "output"):
        if getattr(args, name) is not None:
            values[name] = str(getattr(args, name))
    _task(values, args)
    _method(values, args)
    for flag, (path, *_) in SETTINGS.items():
        value = getattr(args, flag.removeprefix("--").replace("-", "_"))
        if value is not None:
            section, key = path.split(".")
            values[section][key] = value
    if args.seeds is not None and args.seed is not None:
        raise OptionError("--seeds makes several runs, --seed one; give one of the two")
    if args.seeds is not None:
        if args.seeds < 1:
            raise OptionError(f"--seeds must be at least 1, not {args.seeds}")
        values["run"]["seeds"] = list(range(args.seeds))
    if args.seed is not None:
        values["run"]["seeds"] = [args.seed]
    for setting in args.settings:
        override(values, setting)
    values.setdefault("output", _default_output(values, args))
    return FinetuneRecipe.from_dict(values)


def _task(values: dict[str, Any], args: argparse.Namespace) -> None:
    """What the flags say about the task."""
    patterns: list[str] = args.pattern or []
    if args.task is not None:
        values["task"] = args.task
        if args.verbalizer or args.label or args.text_field:
            raise OptionError(
                "--task brings its own words and fields; leave out --verbalizer, --label and --text-field"
            )
    by_number = args.task is not None or (values.get("task") and not any("[" in each for each in patterns))
    if patterns and by_number:
        values["pattern"] = parse_indices(",".join(patterns))
        patterns = []
    if args.task is not None or not (patterns or args.verbalizer or args.label or args.text_field):
        return
    task = dict(values["task"]) if isinstance(values.get("task"), dict) else {}
    if patterns:
        if len(set(patterns)) < len(patterns):
            raise OptionError("--pattern: the same text twice; every pattern counts once")
        task.pop("patterns", None)
        task["pattern"] = patterns[0] if len(patterns) == 1 else patterns
        values["pattern"] = 0 if len(patterns) == 1 else ALL
    if args.verbalizer:
        from ..tasks.verbalizer import Verbalizer

        words = Verbalizer.from_flags(args.verbalizer).words
        task["verbalizer"] = {
            label: [word[0] if len(word) == 1 else list(word) for word in each] for label, each in words.items()
        }
    if args.label:
        task["label"] = args.label
    if args.text_field:
        task["text_fields"] = list(args.text_field)
    values["task"] = task


def _method(values: dict[str, Any], args: argparse.Namespace) -> None:
    """The method named, or the one that an option belongs to."""
    belongs = {
        "lora": args.rank is not None or args.alpha is not None,
        "prompt": args.prompt_tokens is not None or args.prompt_encoder is not None,
    }
    named = args.method or values["method"].get("name")
    meant = [name for name, given in belongs.items() if given]
    if named is None and not meant and args.train_layers is not None:
        meant = ["layers"]
    if len(meant) > 1 or (named and meant and named != meant[0]):
        raise OptionError(
            f"these options belong to the method {' and '.join(meant)}, not to {named or 'one'}; give one method's"
        )
    if named or meant:
        values["method"]["name"] = named or meant[0]


def _default_output(values: dict[str, Any], args: argparse.Namespace) -> str:
    if isinstance(values.get("task"), str):
        return f"runs/{Path(values['task']).stem}"
    if args.recipe is not None:
        return f"runs/{args.recipe.stem}"
    return f"runs/{Path(args.train[0]).name.partition('.')[0]}" if args.train else f"runs/{args.kind}"


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    begin = time.monotonic()
    if args.max_seconds is not None and args.max_seconds <= 0:
        raise OptionError(f"--max-seconds must be above 0, not {args.max_seconds:g}")
    recipe = read_recipe(args)
    measure = _measure(args)
    from ..finetuning.runs import run as finetune

    deadline = None if args.max_seconds is None else begin + args.max_seconds
    result = finetune(recipe, device=args.device, track=args.track, deadline=deadline, measure=measure)
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
