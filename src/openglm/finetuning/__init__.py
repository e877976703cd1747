"""Fine-tuning: examples and a model in, a better model for one task out.

    from openglm.finetuning import FinetuneRecipe, run

    result = run(FinetuneRecipe.from_dict({"kind": "cloze", "data": {...}, "task": {...}, "output": "runs/reviews"}))
    print(result.dev, result.test)

Names are imported when they are first used, so that looking at the package costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .classifier import Classifier, load_classifier
    from .jobs import Measure
    from .recipe import FinetuneRecipe
    from .results import FinetuneResult, RunResult
    from .runs import run

_HOME = {
    "Classifier": "classifier",
    "FinetuneRecipe": "recipe",
    "FinetuneResult": "results",
    "Measure": "jobs",
    "RunResult": "results",
    "load_classifier": "classifier",
    "run": "runs",
}

__all__ = ["Classifier", "FinetuneRecipe", "FinetuneResult", "Measure", "RunResult", "load_classifier", "run"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
