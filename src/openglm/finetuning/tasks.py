"""From what a recipe says about its task to examples, and the checks before any training.

A task comes by name, as a file, as values (`{pattern: ..., verbalizer: {...}}`), or made.
Knows examples and labels; nothing about networks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..checkpoints.beside import TASK_FILE
from ..errors import DataError, TrainingError, suggest
from ..files import write_atomically
from ..tasks.examples import Example, read_examples
from ..tasks.splits import task_examples
from ..tasks.task import Task
from ..tasks.task_files import from_values, load_task, task_folder, task_names
from .recipe import FinetuneRecipe

UNNAMED = "task"
LABEL_METRICS = ("accuracy", "macro_f1")
SHORT_FORMS = ("pattern", "patterns", "verbalizer", "label", "text_fields", "metrics", "title", "name")


class Shortened(Protocol):
    """Something of which tokens may have been left out."""

    @property
    def cut(self) -> int: ...  # noqa: D102
    @property
    def cut_from(self) -> Mapping[str, int]: ...  # noqa: D102


def task_of(recipe: FinetuneRecipe) -> Task:
    """The task of a recipe.

    Raises:
        DataError: none is named, or what is named cannot be used.
    """
    given = recipe.task
    if isinstance(given, Task):
        return given
    if isinstance(given, (str, Path)):
        return load_task(given)
    if isinstance(given, Mapping):
        return _from_values(given)
    raise DataError(
        "cloze fine-tuning needs a task: a pattern with a blank and a verbalizer "
        "(--pattern and --verbalizer), or the name or file of a task (--task)"
    )


def names_of(labels: Sequence[str], task: Task | None) -> tuple[str, ...]:
    """What people call labels: numbers by the first word that stands for them, others by themselves."""
    words = {} if task is None or task.verbalizer is None else task.verbalizer.words
    return tuple(
        f"{label} {''.join(words[label][0])}" if label.isdecimal() and label in words else label for label in labels
    )


def measured_by(task: Task, metric: str) -> Task:
    """The task, measured by a further metric that any task with labels can be measured by."""
    if metric not in LABEL_METRICS or metric in task.metrics or not task.labels:
        return task
    return dataclasses.replace(task, metrics=(*task.metrics, metric))


def title_of(recipe: FinetuneRecipe, task: Task) -> str:
    """What the task is called; one made of flags by the folder of the run."""
    return task.title or (recipe.folder.resolve().name if task.name == UNNAMED else task.name)


def task_text(recipe: FinetuneRecipe) -> str | None:
    """The task as a file says it; None for one that was made in Python and is in no file."""
    import yaml

    given = recipe.task
    if isinstance(given, Mapping):
        return str(yaml.safe_dump(_completed(given), sort_keys=False, allow_unicode=True, width=100))
    task = task_of(recipe)
    path = Path(str(given))
    if isinstance(given, Task) or path.suffix not in (".yaml", ".yml"):
        path = task_folder() / f"{task.name}.yaml"
        if task.name not in task_names() or task != load_task(task.name):
            return None
        return f"name: {task.name}\n" + path.read_text(encoding="utf-8")
    return path.read_text(encoding="utf-8")


def save_task(recipe: FinetuneRecipe, folder: Path) -> None:
    """Write the task beside a model, if it can be written."""
    text = task_text(recipe)
    if text is not None:
        write_atomically(folder / TASK_FILE, text.encode())


def _completed(values: Mapping[str, Any]) -> dict[str, Any]:
    """The short templates (`pattern` for one of `patterns`) as a task file has them."""
    out = {key: value for key, value in values.items() if key != "text_fields"}
    if "pattern" in out:
        pattern = out.pop("pattern")
        out["patterns"] = [pattern] if isinstance(pattern, str) else list(pattern)
    missing = [name for name in ("patterns", "verbalizer") if not out.get(name)]
    if missing and "options" not in out:
        said = {"patterns": "a pattern with a blank (--pattern)", "verbalizer": "a word per label (--verbalizer)"}
        raise DataError(f"the task lacks {' and '.join(said[name] for name in missing)}")
    return {"name": UNNAMED, **out, "kind": out.get("kind", "options" if "options" in out else "choice")}


def _from_values(values: Mapping[str, Any]) -> Task:
    return from_values(_completed(values))


@dataclass(frozen=True)
class ClassTask:
    """What a classification head needs to know of a task.

    Attributes:
        task: where it comes from, None for files alone.
        fields: which hold the text; () all that do.
        label: the field of the label.
        labels: in order; () those of the training data.
        title: for people.
    """

    task: Task | None
    fields: tuple[str, ...]
    label: str
    labels: tuple[str, ...]
    title: str


def class_task_of(recipe: FinetuneRecipe) -> ClassTask:
    """What a recipe says about the text and the labels of examples.

    Raises:
        DataError: a task whose examples bring their own answers.
    """
    given = recipe.task
    if given is None or isinstance(given, Mapping):
        values = dict(given or {})
        for key in values:
            if key not in SHORT_FORMS:
                raise DataError(f"unknown key {key!r} in the task.{suggest(str(key), SHORT_FORMS)}")
        fields = values.get("text_fields") or ()
        fields = (fields,) if isinstance(fields, str) else tuple(fields)
        labels: tuple[str, ...] = ()
        if "pattern" in values and "verbalizer" in values:
            task = _from_values(values)
            fields, labels = fields or task.fields(recipe.pattern), task.labels
        return ClassTask(
            None,
            fields,
            str(values.get("label", "label")),
            labels,
            str(values.get("title") or recipe.folder.resolve().name),
        )
    task = task_of(recipe)
    if not task.labels:
        raise DataError(
            f"the examples of {task.name} bring their own answers; a head needs labels that are the same for all"
        )
    derived = set(task.derived)
    fields = tuple(name for name in task.fields(recipe.pattern) if name not in derived)
    return ClassTask(task, fields, task.label_field, task.labels, task.title or task.name)


def examples_of(recipe: FinetuneRecipe, task: Task | None, split: str) -> list[Example]:
    """The examples of a split: those of the files named, or else of the task's own; [] if there are none.

    Raises:
        DataError: a file that cannot be read, or is empty.
    """
    paths = getattr(recipe.data, split)
    if paths:
        return read_examples(paths) if task is None else task_examples(task, paths)
    if recipe.data.train or task is None or split not in task.files:
        return []
    return task_examples(task, split, recipe.data.folder or None)


def check_labels(golds: Sequence[Sequence[int]], labels: Sequence[str]) -> None:
    """Raise DataError if a label has no training example, or there is but one label."""
    if not labels:
        return
    seen = {gold for each in golds for gold in each}
    missing = [label for number, label in enumerate(labels) if number not in seen]
    if missing:
        raise DataError(
            f"no training example has the label {', '.join(map(repr, missing[:5]))}"
            f"{', ...' if len(missing) > 5 else ''}; add some, or leave the label out"
        )
    if len(labels) < 2:
        raise DataError(f"all examples have the label {labels[0]!r}; there is nothing to tell apart")


def note_shortened(notes: list[str], split: str, items: Sequence[Shortened]) -> None:
    """Note how many texts had to be shortened, and what they lost."""
    cut = [item for item in items if item.cut]
    if cut:
        fields = ", ".join(dict.fromkeys(name for item in cut for name in item.cut_from))
        where = f" ({fields})" if fields else ""
        notes.append(
            f"{split}: {len(cut)} of {len(items)} texts shortened, by {sum(i.cut for i in cut)} tokens in all{where}"
        )


def note_overlap(notes: list[str], splits: Mapping[str, Sequence[bytes]]) -> None:
    """Note examples of dev and test that are in the training data too."""
    known = set(splits["train"])
    for split in ("dev", "test"):
        found = sum(key in known for key in splits.get(split, ()))
        if found:
            notes.append(
                f"{found} of {len(splits[split])} {split} examples are in the training data too; "
                f"what is measured on them says nothing"
            )


def checked_metric(wanted: str, known: Sequence[str]) -> str:
    """The metric by which weights are chosen.

    Raises:
        TrainingError: the task is not measured by it.
    """
    if wanted and wanted != "loss" and wanted not in known:
        raise TrainingError(
            f"run.metric {wanted!r}: the task is measured by {', '.join(known)}, or loss; "
            "other metrics stand under `metrics` in a task file"
        )
    return "" if wanted == "loss" else wanted or (known[0] if known else "")
