"""Tiny runs for the tests of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openglm.data.stream import Source
from openglm.pretraining.pretrainer import Trainer
from openglm.pretraining.recipe import Recipe
from openglm.reporting.report import read_log
from openglm.tokenizer import Tokenizer
from openglm.training.parallel import Processes

# What a log says about time, which no two runs share.
OF_TIME = ("tokens_per_second", "share_of_peak")


def recipe_values(**run: Any) -> dict[str, Any]:
    """A recipe for a network that trains in no time; dropout is on, as the default is."""
    return {
        "model": {
            "num_layers": 2,
            "hidden_size": 32,
            "num_attention_heads": 4,
            "vocab_size": 640,
            "max_sequence_length": 64,
        },
        "optimizer": {"learning_rate": 0.003},
        "run": {
            "steps": 6,
            "stages": [{"share": 0.5, "rows": 2, "length": 48}, {"share": 0.5, "rows": 2, "length": 64}],
            "precision": "fp32",
            "log_every": 1,
            "evaluate_every": 2,
            "save_every": 100,
            "evaluation_rows": 2,
            **run,
        },
    }


def trainer_for(
    values: dict[str, Any],
    tokenizer: Tokenizer,
    source: Source,
    output: Path,
    *,
    valid: bool = False,
    processes: Processes | None = None,
) -> Trainer:
    return Trainer(
        Recipe.from_dict(values), tokenizer, [source], [source] if valid else [], output, processes=processes
    )


def logged(folder: Path) -> list[dict[str, Any]]:
    """The log of a run without what it says about time."""
    return [{k: v for k, v in entry.items() if k not in OF_TIME} for entry in read_log(folder / "log.jsonl")]
