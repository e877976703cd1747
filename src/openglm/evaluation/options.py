"""What an evaluation is told: which model, which data, how to ask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import OptionError
from ..tasks.pattern_indices import PatternIndices, parse_indices

METHODS = ("zero-shot", "few-shot")


@dataclass(frozen=True)
class EvalOptions:
    """How to evaluate.

    Attributes:
        model: the embedded model, a published name or a folder.
        data_dir: the folder with the data of named tasks; default what OPENGLM_EVAL says.
        method: "zero-shot" uses the model as it is; "few-shot" fine-tunes it on the task's
            training data first, once per seed.
        seeds: of few-shot runs.
        limit: so many examples, drawn at random, for a quick look; None: all.
        sample_seed: which ones are drawn.
        pattern: which of a task's patterns: a number, several numbers, or "all" (`tasks.pattern_indices`);
            what the model says by several is averaged. None: the first one, but a fine-tuned model is asked
            by its own.
        calibrate: True or False instead of what the task says: answers' probabilities are
            divided by those in an empty context.
        generate: options of `Infiller.fill` for generated texts.
        sequence_length, stride: of the windows of perplexity.
        ratios: of words blanked out, for infilling.
        finetune: values of a fine-tuning recipe, nested as in one, for few-shot runs.
        runs_dir: where few-shot runs leave their folders; None: nowhere.
        predictions: folder in which every example is written with its text and the model's answer; None: nowhere.
        device, dtype, quantize, compile: as in `openglm.load`, but a model is only rounded to 8 bits where
            that is asked for: figures are of its weights as they are.
    """

    model: str = "default"
    data_dir: str | Path | None = None
    method: str = "zero-shot"
    seeds: tuple[int, ...] = (0, 1, 2)
    limit: int | None = None
    sample_seed: int = 0
    pattern: PatternIndices | None = None
    calibrate: bool | None = None
    generate: Mapping[str, Any] = field(default_factory=dict)
    sequence_length: int | None = None
    stride: int | None = None
    ratios: tuple[float, ...] = (0.1, 0.3, 0.5)
    finetune: Mapping[str, Any] = field(default_factory=dict)
    runs_dir: Path | None = None
    predictions: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    quantize: str | None = None
    compile: bool = False

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise OptionError(f"method must be {' or '.join(METHODS)}, not {self.method!r}")
        if self.pattern is not None:
            object.__setattr__(self, "pattern", parse_indices(self.pattern))
        if self.limit is not None and self.limit < 1:
            raise OptionError(f"limit must be at least 1, not {self.limit}")
        if self.sample_seed < 0:
            raise OptionError(f"sample_seed must be at least 0, not {self.sample_seed}")
        if not self.seeds:
            raise OptionError("name at least one seed")
        if not self.ratios:
            raise OptionError("name at least one ratio of words to blank out")

    @property
    def task_pattern(self) -> PatternIndices:
        """Which of a task's patterns ask a model that has none of its own."""
        return 0 if self.pattern is None else self.pattern
