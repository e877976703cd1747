"""FewCLUE, all nine tasks: cloze with and without fine-tuning beside plainer ways and published figures.

    python benchmarks/fewclue.py --data-dir DIR --output fewclue.json

Split 0 of each task (32 examples for most; 240 to 928 for those with many labels) is the
training data, the dev file chose the settings, `test_public` is what is reported. Methods:

    zero-shot               a pattern and the words of the labels, nothing trained
    zero-shot, calibrated   the same, each answer divided by its probability in an empty context
    cloze                   the same question, fine-tuned; mean and deviation over the seeds
    head                    the same network with a fresh classification layer, fine-tuned
    tf-idf                  TF-IDF of characters (one to three) and logistic regression

Where the dev file says so (`PATTERNS`), zero-shot and cloze ask by several patterns of a task and
average what the network says by each; cloze trains one network on all of them.

Every (task, method, seed) is written to the output when it is done; the command can be stopped
and started again, or run for some tasks and methods at a time. It ends with the tables in
Markdown. Besides openglm this needs scikit-learn (pip install 'openglm[benchmarks]').
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openglm.evaluation import cloze_tasks
from openglm.evaluation.fewshot import few_shot
from openglm.evaluation.models import Model
from openglm.evaluation.options import EvalOptions
from openglm.evaluation.results import Result, ResultFile, combine, identity
from openglm.infill.infiller import Infiller
from openglm.infill.loading import load
from openglm.markdown import markdown_table
from openglm.tasks.examples import Example
from openglm.tasks.pattern_indices import as_plain
from openglm.tasks.splits import task_examples
from openglm.tasks.task import Task
from openglm.tasks.task_files import load_task

TASKS = ("eprstmt", "csldcp", "tnews", "iflytek", "ocnli", "bustm", "chid", "csl", "cluewsc")
METHODS = ("zero-shot", "zero-shot, calibrated", "tf-idf", "head", "cloze")
SEEDED = ("head", "cloze")
# Chosen on the dev files of split 0. The last weights are taken: 32 examples are too few to
# choose weights by. What is not here is what fine-tuning does by itself.
LAST: Mapping[str, Any] = {"data": {"dev": []}, "run": {"epochs": 20}}
RECIPES: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(("eprstmt", "ocnli", "bustm", "chid", "csl", "cluewsc", "tnews"), LAST),
    # Hundreds of long texts with many labels: cut short, or each run would take hours.
    "csldcp": {"data": {"dev": []}, "run": {"steps": 150}},
    "iflytek": {"data": {"dev": []}, "run": {"steps": 80}},
}
PATTERNS: Mapping[str, int | tuple[int, ...]] = {"tnews": (0, 2, 3, 4)}  # all others: the first alone
REGULARISATION = (1.0, 10.0, 100.0)  # of logistic regression, chosen on the dev file


# --- the plain baseline ---------------------------------------------------------------------


def plain_text(task: Task, example: Example) -> str:
    """The fields of an example that its pattern uses, one after the other."""
    values = [example.get(name) for name in task.template(0).pattern.fields if name not in task.derived]
    return "\n".join("、".join(map(str, value)) if isinstance(value, list) else str(value) for value in values)


def tf_idf(task: Task, data_dir: Path, limit_train: int | None = None) -> float:
    """Accuracy of logistic regression on characters, in percent.

    Where examples bring their own answers, each answer with its text is one example, right or
    not, and the one most probably right is chosen.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    train = task_examples(task, "train", data_dir)[:limit_train]
    texts, labels = flattened(task, train)
    vectors = TfidfVectorizer(analyzer="char", ngram_range=(1, 3), sublinear_tf=True).fit(texts)
    best: tuple[float, Any] | None = None
    for strength in REGULARISATION:
        model = LogisticRegression(C=strength, max_iter=2000).fit(vectors.transform(texts), labels)
        found = accuracy_of(task, model, vectors, task_examples(task, "dev", data_dir))
        if best is None or found > best[0]:
            best = found, model
    assert best is not None
    return accuracy_of(task, best[1], vectors, task_examples(task, "test", data_dir))


def flattened(task: Task, examples: Sequence[Example]) -> tuple[list[str], list[str]]:
    """Texts and labels; for tasks whose examples bring their own answers, one text per answer."""
    texts, labels = [], []
    for example in examples:
        if task.labels:
            texts.append(plain_text(task, example))
            labels.append(str(task.label_of(example)))
            continue
        options, right = answers_of(task, example)
        texts += [f"{plain_text(task, example)}\n{option}" for option in options]
        labels += [str(number == right) for number in range(len(options))]
    return texts, labels


def answers_of(task: Task, example: Example) -> tuple[list[str], int]:
    """The answers an example brings, and which of them is right."""
    options = list(example.get(str(task.options)))
    right = example.get(task.label_field)
    return options, options.index(right) if right in options else int(right)


def accuracy_of(task: Task, model: Any, vectors: Any, examples: Sequence[Example]) -> float:
    """Share of examples answered rightly, in percent."""
    texts, labels = flattened(task, examples)
    if task.labels:
        return 100 * float((model.predict(vectors.transform(texts)) == labels).mean())
    probabilities = model.predict_proba(vectors.transform(texts))[:, list(model.classes_).index("True")]
    right = start = 0
    for example in examples:
        options, gold = answers_of(task, example)
        right += int(probabilities[start : start + len(options)].argmax()) == gold
        start += len(options)
    return 100 * right / len(examples)


# --- one (task, method, seed) ---------------------------------------------------------------


def measured(name: str, method: str, seed: int, args: argparse.Namespace, infiller: Infiller, folder: Path) -> Result:
    """One result on the test file of one task; fine-tuning leaves its files in `folder`."""
    began = time.perf_counter()
    task = load_task(f"fewclue/{name}")
    recipe = {key: value for key, value in RECIPES.get(name, {}).items() if key != "task"}
    options = EvalOptions(
        model=args.model, data_dir=args.data_dir, seeds=(seed,), pattern=patterns(name, method), finetune=recipe,
        calibrate="calibrated" in method,
    )  # fmt: skip
    model = Model(infiller)
    examples = task_examples(task, "test", args.data_dir)
    how = cloze_tasks.asking(task, f"fewclue/{name}", model, examples, options)
    questions = cloze_tasks.questions_of(how, examples, model)
    if method == "tf-idf":
        accuracy = tf_idf(task, args.data_dir, args.limit_train)
    elif method in SEEDED:
        kind = "cloze" if method == "cloze" else "classify"
        accuracy = few_shot(task, f"fewclue/{name}", options, "test", kind=kind, output=folder)[0]["accuracy"]
    else:
        predictions = cloze_tasks.predictions_of(how, model, examples, questions)
        accuracy = task.evaluate(predictions)["accuracy"]
    return Result(
        f"fewclue/{name}", args.model, method, {"accuracy": accuracy}, len(questions), task.title,
        seeds=(seed,) if method in SEEDED else (), cut=sum(question.most_cut.cut > 0 for question in questions),
        chance=cloze_tasks.chance(task, questions), majority=cloze_tasks.majority(task, questions),
        published=task.published, seconds=time.perf_counter() - began,
        settings=settings(name, method, args),
    )  # fmt: skip


def patterns(name: str, method: str) -> int | tuple[int, ...]:
    """Which patterns of a task ask; a head and TF-IDF read the fields of the first."""
    return PATTERNS.get(name, 0) if method == "cloze" or method.startswith("zero-shot") else 0


def settings(name: str, method: str, args: argparse.Namespace) -> dict[str, Any]:
    """What else decides a result."""
    if method == "tf-idf":
        return {"limit_train": args.limit_train}
    chosen: dict[str, Any] = {"model": args.model, "pattern": as_plain(patterns(name, method))}
    return chosen | ({"recipe": dict(RECIPES.get(name, {}))} if method in SEEDED else {})


# --- tables ---------------------------------------------------------------------------------


def table(results: Sequence[Result], tasks: Sequence[str]) -> str:
    """Tasks in columns; ours, the plain baselines, then what others have published."""
    by_task = {name: [each for each in results if each.task == f"fewclue/{name}"] for name in tasks}
    head = ["", *tasks, "mean"]
    rows = [head, ["test examples", *(str(found[0].count) if found else "" for found in by_task.values()), ""]]
    rows += [_row("chance", {n: _first(f, "chance") for n, f in by_task.items()})]
    rows += [_row("majority", {n: _first(f, "majority") for n, f in by_task.items()})]
    for method in METHODS:
        cells: dict[str, tuple[float, float | None] | None] = {}
        for name, found in by_task.items():
            runs = [each.metrics for each in found if each.method == method]
            if runs:
                means, deviations = combine(runs)
                cells[name] = means["accuracy"], deviations.get("accuracy")
            else:
                cells[name] = None
        rows.append(_row(f"**{method}**", cells))
    systems = dict.fromkeys(
        (figure.system, figure.setting) for found in by_task.values() for each in found for figure in each.published
    )
    for system, setting in systems:
        figures = {
            name: next(
                (
                    (figure.value, None)
                    for each in found
                    for figure in each.published
                    if (figure.system, figure.setting) == (system, setting)
                ),
                None,
            )
            for name, found in by_task.items()
        }
        rows.append(_row(f"{system}, {setting}", figures))
    return markdown_table(rows[0], rows[1:], right=range(1, len(head)))


def _first(found: Sequence[Result], which: str) -> tuple[float, float | None] | None:
    value = next((getattr(each, which).get("accuracy") for each in found), None)
    return None if value is None else (value, None)


def _row(label: str, cells: Mapping[str, tuple[float, float | None] | None]) -> list[str]:
    values = [cell[0] for cell in cells.values() if cell is not None]
    mean = f"{sum(values) / len(values):.1f}" if values and len(values) == len(cells) else ""
    return [label, *map(_cell, cells.values()), mean]


def _cell(cell: tuple[float, float | None] | None) -> str:
    if cell is None:
        return ""
    return f"{cell[0]:.1f}" if cell[1] is None else f"{cell[0]:.1f} ± {cell[1]:.1f}"


# --- the command ----------------------------------------------------------------------------


def parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with fewclue/")
    parser.add_argument("--output", type=Path, required=True, help="JSON file of results; goes on where it stopped")
    parser.add_argument("--model", default="default")
    parser.add_argument("--tasks", default=",".join(TASKS), help="some of them, with commas")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS, metavar="METHOD")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit-train", type=int, help="training examples for tf-idf (default: all)")
    parser.add_argument("--runs-dir", type=Path, help="keep the folders of fine-tuning runs")
    args = parser.parse_args(argv)
    args.tasks = args.tasks.split(",")
    unknown = [name for name in args.tasks if name not in TASKS]
    if unknown:
        parser.error(f"no task {', '.join(unknown)}; there are {', '.join(TASKS)}")
    return args


def one(
    name: str, method: str, seed: int, args: argparse.Namespace, infiller: Infiller, folder: Path, store: ResultFile
) -> None:
    """Measure one result, unless it is in the file already."""
    if method == "head" and not load_task(f"fewclue/{name}").labels:
        return  # examples bring their own answers; there are no classes
    seeds = (seed,) if method in SEEDED else ()
    if store.find(identity(f"fewclue/{name}", method, seeds, settings(name, method, args))):
        return
    result = measured(name, method, seed, args, infiller, folder)
    store.add(result)
    about = f" seed {seed}" if seeds else ""
    print(f"{name} {method}{about}: {result.metrics['accuracy']:.2f} ({result.seconds:.0f} s)", file=sys.stderr)


def is_current(result: Result, args: argparse.Namespace) -> bool:
    """Whether a result in the file is of the settings that hold now; others may lie there from before."""
    name = result.task.removeprefix("fewclue/")
    now = settings(name, result.method, args)
    return result.identity == identity(result.task, result.method, result.seeds, now)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is missing, then print the table."""
    args = parsed(argv)
    store = ResultFile(args.output)
    infiller = load(args.model, device="cpu", dtype="float32")
    for method in METHODS:
        for name in args.tasks if method in args.methods else ():
            with tempfile.TemporaryDirectory(prefix=f"fewclue-{name}-") as scratch:
                folder = args.runs_dir / f"{name}-{method}" if args.runs_dir else Path(scratch) / "run"
                for seed in range(args.seeds if method in SEEDED else 1):
                    one(name, method, seed, args, infiller, folder, store)
    print(table([each for each in store.results if is_current(each, args)], args.tasks))
    return 0


if __name__ == "__main__":
    sys.exit(main())
