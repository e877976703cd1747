"""A training run as data: a YAML file with one section per part that owns its options.

openglm pretrain recipes/mini.yaml --data zh=DIR --data en=DIR --output RUN
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..config import GLMConfig
from ..errors import OpenGLMError, TrainingError, suggest
from ..pretraining.spans import Objectives
from .optim import OptimizerOptions

T = TypeVar("T")


@dataclass(frozen=True)
class Stage:
    """Rows and length of a batch during a `share` of the run."""

    share: float
    rows: int
    length: int


@dataclass(frozen=True)
class RunOptions:
    """Length and bookkeeping of a run.

    Attributes:
        steps: updates in all.
        stages: batch sizes in order; their shares sum to 1.
        short_probability: see `BatchStream`.
        accumulate: batches per update.
        precision: "bf16" (autocast) or "fp32".
        neighbour_start: see `training.initialise`; the published models start from noise.
        seed: of weights, dropout and data.
        log_every, evaluate_every, save_every: in updates.
        evaluation_rows: rows per objective and language in an evaluation.
        weights: source name -> weight (default 1).
    """

    steps: int = 1000
    stages: tuple[Stage, ...] = (Stage(1.0, 16, 512),)
    short_probability: float = 0.1
    accumulate: int = 1
    precision: str = "bf16"
    neighbour_start: bool = False
    seed: int = 1
    log_every: int = 20
    evaluate_every: int = 500
    save_every: int = 250
    evaluation_rows: int = 64
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        stages = tuple(s if isinstance(s, Stage) else _section(Stage, s, "run.stages") for s in self.stages)
        object.__setattr__(self, "stages", stages)
        if abs(sum(stage.share for stage in stages) - 1) > 1e-6:
            raise TrainingError("the shares of run.stages must sum to 1")
        if self.precision not in ("bf16", "fp32"):
            raise TrainingError(f"run.precision must be bf16 or fp32, not {self.precision!r}")
        for name in ("steps", "accumulate", "log_every", "evaluate_every", "save_every", "evaluation_rows"):
            if getattr(self, name) < 1:
                raise TrainingError(f"run.{name} must be at least 1, not {getattr(self, name)}")

    def stage(self, step: int) -> Stage:
        """The stage that update `step` belongs to."""
        end = 0.0
        for stage in self.stages:
            end += stage.share
            if step < round(end * self.steps):
                return stage
        return self.stages[-1]


@dataclass(frozen=True)
class Recipe:
    """Everything that defines a run but the data and where the result goes."""

    model: GLMConfig
    objectives: Objectives
    optimizer: OptimizerOptions
    run: RunOptions

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Build from plain nested values.

        Raises:
            TrainingError: an unknown section or key; the message names the nearest known one.
            OpenGLMError: a value out of range.
        """
        parts = {"objectives": Objectives, "optimizer": OptimizerOptions, "run": RunOptions}
        for key in values:
            if key not in parts and key != "model":
                raise TrainingError(f"unknown section {key!r} in the recipe.{suggest(key, [*parts, 'model'])}")
        if "model" not in values:
            raise TrainingError("the recipe lacks the section `model`")
        sections: dict[str, Any] = {n: _section(kind, values.get(n) or {}, n) for n, kind in parts.items()}
        return cls(model=GLMConfig.from_dict(values["model"]), **sections)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values, ready for YAML or JSON."""
        out = dataclasses.asdict(self)
        out["model"] = self.model.to_dict()
        return out

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a YAML file.

        Raises:
            TrainingError: not readable, not YAML, or a wrong key; the message names the file.
        """
        import yaml

        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise TrainingError(f"{path}: not a readable recipe ({error})") from error
        if not isinstance(values, dict):
            raise TrainingError(
                f"{path}: a recipe is a YAML mapping with the sections model, objectives, optimizer, run"
            )
        try:
            return cls.from_dict(values)
        except OpenGLMError as error:
            raise TrainingError(f"{path}: {error}") from error


def _section(kind: type[T], values: Any, name: str) -> T:
    if not isinstance(values, Mapping):
        raise TrainingError(f"the section {name} must be a mapping, not {values!r}")
    known = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise TrainingError(f"unknown key {key!r} in {name}.{suggest(str(key), known)}")
    try:
        return kind(**values)
    except TypeError as error:
        raise TrainingError(f"section {name}: {error}") from error
