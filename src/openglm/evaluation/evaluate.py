"""Names and files to results: the work behind `openglm eval`.

    fewclue/eprstmt       a cloze task that comes with openglm     mine.yaml   one of your own
    lambada, wikitext     a row of the catalogue                    infilling=texts.txt   a row on a file of yours

Everything that can be checked is checked before the first measurement: an unknown name or a
missing file is an error at once, not after an hour.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError, OptionError, suggest
from ..tasks.metrics import by_category
from ..tasks.pattern_indices import as_plain
from ..tasks.task import DATA_VARIABLE, Task
from . import cloze_tasks
from .catalogue import ENTRIES, Entry, entry
from .fewshot import few_shot
from .measure import measure, settings_of
from .models import Model, fingerprint, load_model
from .options import EvalOptions
from .results import Result, ResultFile, combine, identity

TASK_FILES = (".yaml", ".yml")
Notify = Callable[[Result, bool], None]  # a result, and whether it was known before


@dataclass(frozen=True)
class Target:
    """Something to be measured: a cloze task, or a row of the catalogue with its file."""

    name: str
    task: Task | None = None
    row: Entry | None = None
    path: Path | None = None


def names() -> list[str]:
    """Everything that can be named: cloze tasks, then the rows of the catalogue."""
    return [*Task.names(), *(row.name if row.file else f"{row.name}=FILE" for row in ENTRIES)]


def targets(given: Sequence[str], options: EvalOptions) -> list[Target]:
    """What was named, its data found.

    A name that stands for a folder of tasks (`fewclue`) is all of them.

    Raises:
        DataError: an unknown name, a file that is not there.
        OptionError: nothing named, or few-shot for something that cannot be fine-tuned here.
    """
    if not given:
        raise OptionError(f"name what to evaluate: {', '.join(names())}, or a task file")
    known = Task.names()
    expanded = [
        each
        for name in given
        for each in ([task for task in known if task.startswith(name.rstrip("/") + "/")] or [name])
    ]
    return [_target(name, options) for name in dict.fromkeys(expanded)]


def _target(name: str, options: EvalOptions) -> Target:
    before, equals, file = name.partition("=")
    row = entry(before)
    if row is not None:
        if options.method == "few-shot":
            raise OptionError(f"{before} has no training data of its own; few-shot goes with cloze tasks")
        return Target(name, row=row, path=_data_file(row, file if equals else None, options))
    if Path(name).suffix not in TASK_FILES and name not in Task.names():
        known = names()
        raise DataError(
            f"nothing is called {name!r}.{suggest(name, known)} There are: {', '.join(known)}; or a task file"
        )
    task = Task.load(name)
    task.pattern_indices(options.pattern)
    tested = cloze_tasks.test_split(task)
    for split in ("train", tested) if options.method == "few-shot" else (tested,):
        task.paths(split, options.data_dir)
    return Target(name, task=task)


def _data_file(row: Entry, given: str | None, options: EvalOptions) -> Path:
    if given is not None:
        path = Path(given)
    elif not row.file:
        raise OptionError(f"{row.name} needs a file: {row.name}=FILE")
    else:
        folder = options.data_dir or os.environ.get(DATA_VARIABLE)
        if not folder:
            raise DataError(
                f"the data of {row.name} lie in {row.file} of a data folder; name it with --data-dir or {DATA_VARIABLE}"
            )
        path = Path(folder) / row.file
    if not path.is_file():
        raise DataError(f"{path}: no such file; {row.name} reads {given or row.file}")
    return path


def evaluate(
    given: Sequence[str],
    options: EvalOptions | None = None,
    *,
    file: ResultFile | None = None,
    notify: Notify | None = None,
) -> list[Result]:
    """Measure everything that is named.

    Args:
        given: names and files, see the module.
        file: results that are there already are not measured again; new ones are added.
        notify: is told about each result.

    Returns:
        One result per task, in the order of the names.

    Raises:
        DataError, OptionError, ModelNotFoundError and whatever else the work raises.
    """
    chosen = options or EvalOptions()
    wanted = targets(given, chosen)
    model = load_model(chosen)
    mark = fingerprint(model.infiller)
    store = file or ResultFile(None)
    out = []
    for target in wanted:
        asked = _as_learnt(target, chosen, model)
        method, seeds, settings = _described(target, asked, model)
        settings["weights"] = mark
        known = store.find(identity(target.name, method, seeds, settings))
        result = known or _measured(target, model, asked, method, seeds, settings)
        if known is None:
            store.add(result)
        if notify:
            notify(result, known is not None)
        out.append(result)
    return out


def _as_learnt(target: Target, options: EvalOptions, model: Model) -> EvalOptions:
    """The options, with the patterns of a model that was fine-tuned for the task: it asks by those it has learnt."""
    learnt = model.classifier
    if target.task is None or learnt is None or learnt.task is None or not model.is_tuned_for(target.task):
        return options
    return options if options.method == "few-shot" else dataclasses.replace(options, pattern=learnt.pattern)


def _described(target: Target, options: EvalOptions, model: Model) -> tuple[str, tuple[int, ...], dict[str, Any]]:
    """Method, seeds and settings of a result before it is there."""
    settings: dict[str, Any] = {"limit": options.limit}
    if target.row is not None:
        return "zero-shot", (), settings | settings_of(target.row, options) | {"file": target.path and target.path.name}
    assert target.task is not None
    pattern = as_plain(target.task.pattern_indices(options.pattern))  # "all" may be others tomorrow
    settings |= {"pattern": pattern, "split": cloze_tasks.test_split(target.task)}
    if options.method == "few-shot":
        return "few-shot", tuple(options.seeds), settings | {"finetune": dict(options.finetune)}
    if model.is_tuned_for(target.task):
        return "fine-tuned", (), settings
    calibrated = cloze_tasks.scoring_of(target.task, options).calibrate
    return "zero-shot, calibrated" if calibrated else "zero-shot", (), settings


def _measured(
    target: Target,
    model: Model,
    options: EvalOptions,
    method: str,
    seeds: tuple[int, ...],
    settings: dict[str, Any],
) -> Result:
    began = time.perf_counter()
    if target.row is not None:
        assert target.path is not None
        metrics, count, cut = measure(target.row, target.path, model.infiller, options)
        return Result(
            target.name, options.model, method, metrics, count, target.row.title, cut=cut,
            published=tuple(target.row.published), seconds=time.perf_counter() - began, settings=settings,
        )  # fmt: skip
    task = target.task
    assert task is not None
    examples, questions = cloze_tasks.questions_of(task, model.infiller, options)
    categories: Mapping[str, Mapping[str, float]] = {}
    if method == "few-shot":
        runs = few_shot(task, target.name, options)
    else:
        predictions = cloze_tasks.predictions_of(task, model, examples, questions, options)
        runs, categories = [task.evaluate(predictions)], by_category(task.metrics, predictions)
    means, deviations = combine(runs)
    return Result(
        target.name, options.model, method, means, len(questions), task.title or task.name, deviations, seeds,
        tuple(runs) if len(runs) > 1 else (), sum(question.most_cut.cut > 0 for question in questions),
        cloze_tasks.chance(task, questions), cloze_tasks.majority(task, questions), task.published,
        time.perf_counter() - began, settings, categories,
    )  # fmt: skip
