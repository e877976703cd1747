"""`openglm eval`: named tasks and files measured, with published figures beside ours."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OptionError
from .options import MOST_SEEDS, add_decoding_options, add_model_options, decoding_options, model_options

if TYPE_CHECKING:
    from ..evaluation.options import EvalOptions
    from ..evaluation.results import Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME_OR_FILE",
        help="fewclue/eprstmt, fewclue (all of them), lambada, wikitext, csl_title, ... (--list), "
        "a task file of your own, or infilling=FILE, perplexity=FILE, last_word=FILE, generation=FILE",
    )
    parser.add_argument("--list", action="store_true", help="list the names and stop")
    parser.add_argument(
        "--data-dir", metavar="DIR", help="folder with the data of named tasks (default: the variable OPENGLM_EVAL)"
    )
    _add_protocol(parser)
    parser.add_argument(
        "--output", metavar="FILE", help="write results here; .json goes on where it stopped, .md is a table"
    )
    parser.add_argument(
        "--predictions",
        metavar="DIR",
        help="write every example with its text, its id and the model's answer, a JSON Lines file per task",
    )
    parser.add_argument("--json", action="store_true", help="print JSON Lines, for machines")
    windows = parser.add_argument_group("perplexity and infilling")
    windows.add_argument("--sequence-length", type=int, metavar="N", help="tokens per window (default: the context)")
    windows.add_argument("--stride", type=int, metavar="N", help="tokens scored per window (default: a quarter of it)")
    windows.add_argument(
        "--ratios", default="0.1,0.3,0.5", metavar="R,R", help="of words blanked out (default: 0.1,0.3,0.5)"
    )
    tuning = parser.add_argument_group("few-shot")
    tuning.add_argument(
        "--set",
        action="append",
        default=[],
        dest="settings",
        metavar="SECTION.KEY=VALUE",
        help="a value of the fine-tuning recipe, such as run.epochs=20 or method.name=lora",
    )
    tuning.add_argument("--runs-dir", metavar="DIR", help="keep the folders of few-shot runs here")
    add_decoding_options(parser)
    add_model_options(parser)


def _add_protocol(parser: argparse.ArgumentParser) -> None:
    """What decides a figure: which examples, asked in which way."""
    ways = parser.add_mutually_exclusive_group()
    ways.add_argument(
        "--zero-shot",
        action="store_true",
        help="the model as it is; a fine-tuned one is asked as it was trained (default)",
    )
    ways.add_argument(
        "--few-shot", action="store_true", help="fine-tune it on the task's training data first, once per seed"
    )
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="few-shot runs (default: 3)")
    parser.add_argument("--limit", type=int, metavar="N", help="N examples only, drawn at random, for a quick look")
    parser.add_argument(
        "--sample-seed", type=int, default=0, metavar="N", help="which examples --limit draws (default: 0)"
    )
    parser.add_argument(
        "--pattern",
        metavar="N[,N]|all",
        help="which pattern of a task (default: 0, or those that a fine-tuned model has learnt); "
        "what the model says by several is averaged",
    )
    parser.add_argument(
        "--calibrate",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="divide answers' probabilities by those in an empty context (default: as the task says)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    if args.list:
        from ..evaluation.evaluate import names

        print("\n".join(names()))
        return 0
    from ..evaluation.evaluate import run_evaluation
    from ..evaluation.results import ResultFile
    from ..evaluation.tables import render
    from ..files import write_atomically

    output = Path(args.output) if args.output else None
    kept = _checked(output).with_suffix(".json") if output is not None else None
    notify = None if args.json else _tell
    results = run_evaluation(args.names, _options(args), file=ResultFile(kept), notify=notify)
    for result in results if args.json else ():
        print(json.dumps(result.to_dict(), ensure_ascii=False))
    table = render(results)
    if not args.json:
        print(table, end="")
    if output is not None:
        write_atomically(output.with_suffix(".md"), table.encode())
    return 0


def _checked(output: Path) -> Path:
    """The output, if neither of its two files is something else. Raises OptionError, OutputError."""
    from ..files import target_of

    if output.suffix not in (".json", ".md"):
        raise OptionError(f"--output {output}: the name must end in .json or .md")
    results, table = (target_of(output.with_suffix(suffix)) for suffix in (".json", ".md"))
    if table.exists() and not results.exists():
        raise OptionError(f"{table}: is there and not the table of a file of results; give another --output")
    return output


def _options(args: argparse.Namespace) -> EvalOptions:
    from ..evaluation.options import EvalOptions

    if not 1 <= args.seeds <= MOST_SEEDS:
        raise OptionError(f"--seeds must be from 1 to {MOST_SEEDS}, not {args.seeds}")
    return EvalOptions(
        model=args.model,
        data_dir=args.data_dir,
        method="few-shot" if args.few_shot else "zero-shot",
        seeds=tuple(range(args.seeds)),
        limit=args.limit,
        sample_seed=args.sample_seed,
        pattern=args.pattern,
        calibrate=args.calibrate,
        generate=decoding_options(args),
        sequence_length=args.sequence_length,
        stride=args.stride,
        ratios=_ratios(args.ratios),
        finetune=_settings(args.settings),
        predictions=Path(args.predictions) if args.predictions else None,
        runs_dir=Path(args.runs_dir) if args.runs_dir else None,
        **model_options(args),
    )


def _ratios(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise OptionError(f"--ratios takes numbers with commas, not {text!r}") from None


def _settings(given: list[str]) -> dict[str, Any]:
    from ..training.options import override, parse_settings

    values: dict[str, Any] = {}
    for name, value in parse_settings(given).items():
        override(values, name, value)
    return values


def _tell(result: Result, known: bool) -> None:
    """One line on standard error per result."""
    metrics = ", ".join(f"{name} {value:.2f}" for name, value in result.metrics.items())
    how = "kept from before" if known else f"{result.seconds:.0f} s"
    print(f"{result.task} ({result.method}): {metrics}  [{how}]", file=sys.stderr)
