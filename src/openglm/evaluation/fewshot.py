"""Few-shot: a model is fine-tuned on a task's training data once per seed, and each is tested."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..errors import TrainingError
from ..tasks.examples import read_examples
from ..tasks.pattern_indices import as_plain
from ..tasks.splits import task_paths
from ..tasks.task import Task
from .options import EvalOptions
from .sample import sampled

# Few examples make evaluation on the dev file as dear as training; this is enough to choose by.
RUN = {"evaluations": 10, "patience": 0, "save_every": 1_000_000, "log_every": 50, "untuned": False}


def few_shot(
    task: Task, name: str, options: EvalOptions, tested: str, *, kind: str = "cloze", output: Path | None = None
) -> list[Mapping[str, float]]:
    """Metrics on the test file, one mapping per seed, in percent.

    Args:
        name: name or file of the task, as the recipe takes it.
        tested: the split that is tested.
        kind: "cloze", or "classify" for the plain classification head.
        output: folder of the run; by default below `options.runs_dir`, or one that is removed.

    Raises:
        DataError: no training, dev or test data. TrainingError: the run was interrupted.
    """
    from ..finetuning import FinetuneRecipe, run  # training is only imported where something is trained

    data_dir = options.data_dir
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="openglm-eval-")))
        folder = output or (options.runs_dir / name.replace("/", "-") if options.runs_dir else scratch / "run")
        test = [str(path) for path in task_paths(task, tested, data_dir)]
        if options.limit is not None:
            test = [str(_sample(Path(path), options, scratch)) for path in test]
        data: dict[str, Any] = {"train": [str(path) for path in task_paths(task, "train", data_dir)], "test": test}
        if "dev" in task.files and tested != "dev":  # else nothing is left to choose weights by
            data["dev"] = [str(path) for path in task_paths(task, "dev", data_dir)]
        recipe = FinetuneRecipe.from_dict(_recipe(name, kind, data, folder, options))
        result = run(recipe)
        if not result.finished:
            raise TrainingError(f"{task.name}: fine-tuning was interrupted; the same command goes on")
        return [dict(each.metrics["test"]) for each in result.runs]


def _recipe(name: str, kind: str, data: dict[str, Any], folder: Path, options: EvalOptions) -> dict[str, Any]:
    """The values of the recipe; what `options.finetune` says wins."""
    values: dict[str, Any] = {
        "kind": kind,
        "model": options.model,
        "output": str(folder),
        "task": name,
        "pattern": as_plain(options.task_pattern),
        "data": data,
        "run": {**RUN, "seeds": list(options.seeds)},
    }
    for key, value in options.finetune.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, Mapping) else value
    return values


def _sample(path: Path, options: EvalOptions, folder: Path) -> Path:
    """The sample of a test file's records, as JSON Lines in `folder`."""
    out = folder / f"{path.stem}-sample.jsonl"
    chosen = sampled(read_examples(path), options.limit, options.sample_seed)
    records = [json.dumps(example.values, ensure_ascii=False) for example in chosen]
    out.write_text("\n".join(records) + "\n", encoding="utf-8")
    return out
