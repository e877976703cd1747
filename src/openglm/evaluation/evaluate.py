"""Names and files to results: `openglm.evaluate`, and the work behind `openglm eval`.

    fewclue/eprstmt       a cloze task that comes with openglm     mine.yaml   one of your own
    lambada, wikitext     a row of the catalogue                    infilling=texts.txt   a row on a file of yours

Everything that can be checked is checked before the first measurement: an unknown name or a
missing file is an error at once, not after an hour.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError, OptionError, suggest
from ..files import write_atomically
from ..infill.infiller import Infiller
from ..tasks.splits import DATA_VARIABLE
from ..tasks.task_files import load_task, task_names
from .catalogue import ENTRIES, Entry, entry
from .cloze_tasks import ClozeTarget
from .measure import RowTarget
from .models import Model, load_model
from .options import EvalOptions
from .protocol import Protocol
from .results import Result, ResultFile, identity
from .targets import Measurement, Target, common_settings

TASK_FILES = (".yaml", ".yml")
Notify = Callable[[Result, bool], None]  # a result, and whether it was known before


def evaluate(
    names: str | Sequence[str],
    model: str | Path | Infiller = "default",
    *,
    data_dir: str | Path | None = None,
    method: str = "zero-shot",
    seeds: Sequence[int] = (0, 1, 2),
    limit: int | None = None,
    sample_seed: int = 0,
    pattern: int | Sequence[int] | str | None = None,
    calibrate: bool | None = None,
    generate: Mapping[str, Any] | None = None,
    sequence_length: int | None = None,
    stride: int | None = None,
    ratios: Sequence[float] = (0.1, 0.3, 0.5),
    finetune: Mapping[str, Any] | None = None,
    runs_dir: str | Path | None = None,
    predictions: str | Path | None = None,
    output: str | Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    compile: bool = False,
    notify: Notify | None = None,
) -> list[Result]:
    """Measure a model: what `openglm eval` does.

    Args:
        names: what to measure, one or several: names of tasks (`openglm eval --list`), task files, or
            `infilling=FILE`, `perplexity=FILE`, `last_word=FILE`, `generation=FILE`.
        model: a name, a folder (of a fine-tuning run too, which is asked as it was trained), or a loaded model.
        data_dir: the folder with the data of named tasks; default what the variable OPENGLM_EVAL says.
        method: "zero-shot" uses the model as it is, "few-shot" fine-tunes it first, once per seed.
        seeds: of few-shot runs.
        limit: so many examples, drawn at random (`sample_seed`); None: all.
        pattern: which of a task's patterns ask: a number, several, or "all"; None: the first, or those that a
            fine-tuned model has learnt.
        calibrate: True or False instead of what the task says.
        generate: options of `Infiller.fill` for generated texts.
        sequence_length, stride: tokens per window of perplexity, and tokens scored in each.
        ratios: of words blanked out, for infilling.
        finetune: values of a fine-tuning recipe, nested as in one, for few-shot runs.
        runs_dir: where few-shot runs leave their folders.
        predictions: a folder in which each task gets a JSON Lines file with every example's text, id and answer.
        output: a JSON file of results; what is in it already is not measured again.
        device, dtype, quantize, compile: as in `openglm.load`, for a model that is not loaded yet.
        notify: is told about each result, and whether it was known before.

    Returns:
        One result per task, in the order of the names.

    Raises:
        OpenGLMError: of the class that says what is wrong; names the input.

    Example:
        >>> import openglm
        >>> openglm.evaluate("lambada", limit=100)[0].metrics  # doctest: +SKIP
        {'accuracy (bi)': 4.0, 'accuracy (uni)': 2.0}
    """
    loaded = Model(model) if isinstance(model, Infiller) else None
    if loaded is not None and method == "few-shot":
        raise OptionError("few-shot fine-tunes a model from its folder; give a name or a folder, not a loaded model")
    options = EvalOptions(
        model="a loaded model" if isinstance(model, Infiller) else str(model),
        data_dir=data_dir,
        method=method,
        seeds=tuple(seeds),
        limit=limit,
        sample_seed=sample_seed,
        pattern=pattern,
        calibrate=calibrate,
        generate=dict(generate or {}),
        sequence_length=sequence_length,
        stride=stride,
        ratios=tuple(ratios),
        finetune=dict(finetune or {}),
        runs_dir=None if runs_dir is None else Path(runs_dir),
        predictions=None if predictions is None else Path(predictions),
        device=device,
        dtype=dtype,
        quantize=quantize,
        compile=compile,
    )
    listed = [names] if isinstance(names, str) else list(names)
    file = ResultFile(None if output is None else Path(output))
    return run_evaluation(listed, options, file=file, notify=notify, model=loaded)


def run_evaluation(
    given: Sequence[str],
    options: EvalOptions | None = None,
    *,
    file: ResultFile | None = None,
    notify: Notify | None = None,
    model: Model | None = None,
) -> list[Result]:
    """Measure everything that is named.

    Args:
        given: names and files, see the module.
        file: results that are there already are not measured again; new ones are added.
        notify: is told about each result.
        model: instead of the one that the options name.

    Returns:
        One result per task, in the order of the names.

    Raises:
        DataError, OptionError, ModelNotFoundError and whatever else the work raises.
    """
    chosen = options or EvalOptions()
    wanted = targets(given, chosen)
    model = model or load_model(chosen)
    store = file or ResultFile(None)
    out = []
    for target in wanted:
        protocol = target.protocol(model)
        settings = {**protocol.settings, **common_settings(target, chosen, model)}
        rows = predictions_file(target, chosen)
        known = store.find(identity(target.name, protocol.method, protocol.seeds, settings))
        if known is not None and rows is not None and not rows.exists():
            known = None
        result = known or _measured(target, model, chosen, protocol, settings, rows)
        if known is None:
            store.add(result)
        if notify:
            notify(result, known is not None)
        out.append(result)
    return out


def _measured(
    target: Target,
    model: Model,
    options: EvalOptions,
    protocol: Protocol,
    settings: Mapping[str, Any],
    rows: Path | None,
) -> Result:
    began = time.perf_counter()
    found, population = target.measure(model), target.population()
    if rows is not None and found.predictions:
        _write_predictions(rows, target, found)
    return Result(
        task=target.name,
        model=options.model,
        method=protocol.method,
        metrics=found.metrics,
        count=found.count,
        title=target.title,
        deviations=found.deviations,
        seeds=protocol.seeds,
        runs=found.runs,
        cut=found.cut,
        chance=found.chance,
        majority=found.majority,
        published=() if population else protocol.comparable(target.published),
        seconds=time.perf_counter() - began,
        settings=settings,
        categories=found.categories,
        version=target.version,
        population=population,
        alike=found.alike,
    )


def predictions_file(target: Target, options: EvalOptions) -> Path | None:
    """Where the predictions of a target are written, if anywhere."""
    if options.predictions is None or options.method == "few-shot":
        return None
    name = "".join(c if c.isalnum() or c in "._-" else "-" for c in target.name)
    return options.predictions / f"{name}.jsonl"


def _write_predictions(path: Path, target: Target, found: Measurement) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"task": target.name, **row}, ensure_ascii=False) for row in found.predictions)
    write_atomically(path, ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass"))


# --- names --------------------------------------------------------------------------------


def names() -> list[str]:
    """Everything that can be named: cloze tasks, then the rows of the catalogue."""
    return [*task_names(), *(row.name if row.file else f"{row.name}=FILE" for row in ENTRIES)]


def targets(given: Sequence[str], options: EvalOptions) -> list[Target]:
    """What was named, its data found.

    A name that stands for a folder of tasks (`fewclue`) is all of them.

    Raises:
        DataError: an unknown name, a file that is not there.
        OptionError: nothing named, or few-shot for something that cannot be fine-tuned here.
    """
    if not given:
        raise OptionError(f"name what to evaluate: {', '.join(names())}, or a task file")
    known = task_names()
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
        return RowTarget(name, row, _data_file(row, file if equals else None, options), options)
    if Path(name).suffix not in TASK_FILES and name not in task_names():
        known = names()
        raise DataError(
            f"nothing is called {name!r}.{suggest(name, known)} There are: {', '.join(known)}; or a task file"
        )
    return ClozeTarget(name, load_task(name), options)


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
