"""Chinese titles from abstracts: ROUGE of the embedded model before and after fine-tuning.

    python benchmarks/title_generation.py --data-dir DIR --output titles.json

CSL: 900 abstracts with titles (the first of `csl_title/dev.jsonl`) are the training data, the
last 100 choose the weights, and titles are written for the abstracts of `test.jsonl`, which
nothing has looked at. Beside the model stand the abstract's first sentence, and as many of its
first characters as titles have on average. Decoding is greedy.

Besides openglm this needs rouge-score and sacrebleu (pip install 'openglm[eval]').
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openglm.evaluation.catalogue import entry
from openglm.evaluation.evaluate import evaluate
from openglm.evaluation.generation import bleu, mean_length, rouge
from openglm.evaluation.results import Result, ResultFile
from openglm.evaluation.sample import sampled
from openglm.finetuning import FinetuneRecipe, run
from openglm.infill.loading import load
from openglm.markdown import markdown_table
from openglm.tasks.examples import read_examples

TRAIN = 900  # of the 1000 abstracts of the dev file; the others choose the weights
NAMES = ("rouge1", "rouge2", "rougeL", "bleu", "length")


def pairs(path: Path, limit: int | None = None) -> list[tuple[str, str]]:
    """Abstracts and titles, or the sample of them that a model is measured on."""
    return [(str(each.get("abstract")), str(each.get("title"))) for each in sampled(read_examples(path), limit, 0)]


def baselines(test: Sequence[tuple[str, str]], length: int) -> dict[str, dict[str, float]]:
    """Metrics of what needs no model.

    Args:
        length: characters of a title.
    """
    titles = [title for _, title in test]
    written = {
        "first sentence of the abstract": [re.split(r"[。．;；]", abstract)[0] for abstract, _ in test],
        f"first {length} characters of the abstract": [abstract[:length] for abstract, _ in test],
    }
    return {name: metrics_of(texts, titles) for name, texts in written.items()}


def metrics_of(written: Sequence[str], titles: Sequence[str]) -> dict[str, float]:
    """ROUGE, BLEU and mean length."""
    return {**rouge(written, titles), "bleu": bleu(written, titles), "length": mean_length(written)}


def tuned(args: argparse.Namespace, folder: Path) -> tuple[Path, Mapping[str, Any]]:
    """The fine-tuned model's folder, and what the run was."""
    records = read_examples(args.data_dir / "csl_title" / "dev.jsonl")
    files = {"train": records[: args.train], "dev": records[TRAIN:]}
    folder.mkdir(parents=True, exist_ok=True)
    for name, chosen in files.items():
        lines = [json.dumps(each.values, ensure_ascii=False) for each in chosen]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    row = entry("csl_title")
    assert row is not None
    recipe = FinetuneRecipe.from_dict(
        {
            "kind": "seq2seq",
            "model": args.model,
            "output": str(folder / "run"),
            "task": {"pattern": row.pattern},
            "data": {**{name: str(folder / f"{name}.jsonl") for name in files}, "target": row.target},
            "run": {"epochs": args.epochs, "seeds": [0], "evaluations": 10},
        }
    )
    result = run(recipe)
    if result.model is None or result.best is None:
        raise SystemExit("interrupted; the same command goes on")
    return result.model, {"updates": result.best.steps, "seconds": round(result.best.seconds), "epochs": args.epochs}


def evaluated(model: Path | str, args: argparse.Namespace) -> dict[str, float]:
    """Metrics of the titles that a model writes."""
    loaded = load(model, device="cpu", dtype="float32")
    options: dict[str, Any] = {"limit": args.limit, "generate": {"max_new_tokens": 48}}
    return dict(evaluate("csl_title", loaded, data_dir=args.data_dir, **options)[0].metrics)


def table(results: Sequence[Result]) -> str:
    """One row per way to write titles."""
    rows = [["titles by", *NAMES]]
    rows += [[each.method, *(f"{each.metrics[name]:.1f}" for name in NAMES)] for each in results]
    return markdown_table(rows[0], rows[1:], right=range(1, len(NAMES) + 1))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with csl_title/")
    parser.add_argument("--output", type=Path, required=True, help="JSON file of results; goes on where it stopped")
    parser.add_argument("--model", default="default")
    parser.add_argument("--epochs", type=float, default=6)
    parser.add_argument("--train", type=int, default=TRAIN, help=f"training examples, at most {TRAIN}")
    parser.add_argument("--limit", type=int, help="N test abstracts only, drawn at random")
    parser.add_argument("--runs-dir", type=Path, help="keep the folder of the run here")
    args = parser.parse_args(argv)
    if not 1 <= args.train <= TRAIN:
        parser.error(f"--train must lie between 1 and {TRAIN}")
    store = ResultFile(args.output)
    test = pairs(args.data_dir / "csl_title" / "test.jsonl", args.limit)
    settings = {"model": args.model, "limit": args.limit}

    def add(method: str, metrics: Mapping[str, float], began: float, **more: Any) -> None:
        seconds = time.perf_counter() - began
        found = {name: metrics[name] for name in NAMES}
        store.add(Result("csl_title", args.model, method, found, len(test), seconds=seconds, settings=settings | more))
        print(f"{method}: rougeL {found['rougeL']:.2f} ({seconds:.0f} s)", file=sys.stderr)

    known = {each.method for each in store.results if each.settings["limit"] == args.limit}
    length = round(mean_length([title for _, title in pairs(args.data_dir / "csl_title" / "dev.jsonl")]))
    for method, metrics in baselines(test, length).items():
        if method not in known:
            add(method, metrics, time.perf_counter())
    if "the untuned model" not in known:
        add("the untuned model", evaluated(args.model, args), time.perf_counter())
    if "fine-tuned" not in known:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="titles-") as scratch:
            model, about = tuned(args, args.runs_dir or Path(scratch))
            add("fine-tuned", evaluated(model, args), began, **about, train=args.train)
    print(table(store.results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
