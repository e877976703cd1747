"""A pretraining run as data: a YAML file with one section per part that owns its options.

openglm pretrain mini --data zh=DIR --data en=DIR --output RUN
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.spans import Objectives
from ..errors import OpenGLMError, TrainingError, suggest
from ..network.config import GLMConfig
from ..training.optim import OptimizerOptions
from ..training.options import LoopOptions, read_values, section

RECIPES = Path(__file__).parent.parent / "recipes"


def recipe_names() -> list[str]:
    """The recipes that come with openglm."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def find_recipe(name: str | Path) -> Path:
    """The file of a recipe: a path, or the name of one that comes with openglm.

    Raises:
        TrainingError: neither; names what there is.
    """
    path = Path(name)
    return path if path.exists() and not path.is_dir() else own_recipe(str(name))


def own_recipe(name: str) -> Path:
    """The file of a recipe that comes with openglm.

    Raises:
        TrainingError: there is none of this name; names what there is.
    """
    known = recipe_names()
    if name in known:
        return RECIPES / f"{name}.yaml"
    raise TrainingError(
        f"{name}: no such recipe; give a YAML file, or one of {', '.join(known)} (`openglm recipes`)."
        f"{suggest(Path(name).stem, known)}"
    )


@dataclass(frozen=True)
class Stage:
    """Rows and length of a batch during a `share` of the run.

    Attributes:
        objectives: values of the section `objectives` that are others during this stage.
    """

    share: float
    rows: int
    length: int
    objectives: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __hash__(self) -> int:
        return hash((self.share, self.rows, self.length, tuple(self.objectives.items())))

    def mixture(self, objectives: Objectives) -> Objectives:
        """The objectives of a batch of this stage, in a recipe with these `objectives`.

        Raises:
            TrainingError, OptionError: an unknown name or a value out of range.
        """
        return section(Objectives, {**dataclasses.asdict(objectives), **self.objectives}, "run.stages.objectives")


@dataclass(frozen=True)
class PretrainOptions(LoopOptions):
    """Length and bookkeeping of a pretraining run; `LoopOptions` and what follows.

    Attributes:
        stages: batch sizes in order; their shares sum to 1.
        short_probability: see `BatchStream`.
        neighbour_start: see `pretraining.initialize`; the published models start from noise.
        evaluation_rows: rows per objective and source in an evaluation.
    """

    stages: tuple[Stage, ...] = (Stage(1.0, 16, 512),)
    short_probability: float = 0.1
    neighbour_start: bool = False
    evaluation_rows: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.stages, (list, tuple)) or not self.stages:
            raise TrainingError(f"run.stages must be a list of stages, not {self.stages!r}")
        stages = tuple(s if isinstance(s, Stage) else section(Stage, s, "run.stages") for s in self.stages)
        object.__setattr__(self, "stages", stages)
        if abs(sum(stage.share for stage in stages) - 1) > 1e-6:
            raise TrainingError("the shares of run.stages must sum to 1")
        if self.evaluation_rows < 1:
            raise TrainingError(f"run.evaluation_rows must be at least 1, not {self.evaluation_rows}")

    def stage(self, step: int) -> Stage:
        """The stage that update `step` belongs to."""
        end = 0.0
        for stage in self.stages:
            end += stage.share
            if step < round(end * self.steps):
                return stage
        return self.stages[-1]


@dataclass(frozen=True)
class CorpusOptions:
    """Where the text of one source lies.

    Attributes:
        paths: a prepared shard folder, or text files: paths, glob patterns, folders, and
            addresses that fsspec knows.
        weight: how often to draw from it, beside the other sources.
    """

    paths: tuple[str, ...]
    weight: float = 1.0

    def __post_init__(self) -> None:
        paths = (self.paths,) if isinstance(self.paths, str) else tuple(self.paths)
        if not paths or not all(isinstance(path, str) and path for path in paths):
            raise TrainingError(f"paths of a corpus must be text, not {self.paths!r}")
        object.__setattr__(self, "paths", paths)
        if not self.weight > 0:
            raise TrainingError(f"the weight of a corpus must be above 0, not {self.weight}")

    @classmethod
    def read(cls, value: Any, name: str) -> CorpusOptions:
        """From a path, a list of paths, or a mapping with `paths` and `weight`."""
        if isinstance(value, CorpusOptions):
            return value
        if isinstance(value, Mapping):
            return section(cls, value, name)
        if not isinstance(value, (str, list, tuple)):
            raise TrainingError(f"{name} must be a path, a list of paths, or have `paths` and `weight`, not {value!r}")
        return cls((value,) if isinstance(value, str) else tuple(value))


@dataclass(frozen=True)
class CorporaOptions:
    """What to train on. Paths are relative to the working directory.

    Attributes:
        tokenizer: folder of the vocabulary (default: that of the embedded model).
        train, valid: name of a source -> where its text is.
        field: of JSON Lines that holds the text.
        hold_out: share of the training documents kept for evaluation where `valid` names
            no source.
        output: folder of the run (default: runs/ and the name of the recipe).
    """

    tokenizer: str | None = None
    train: Mapping[str, CorpusOptions] = dataclasses.field(default_factory=dict)
    valid: Mapping[str, CorpusOptions] = dataclasses.field(default_factory=dict)
    field: str = "text"
    hold_out: float = 0.01
    output: str | None = None

    def __post_init__(self) -> None:
        for part in ("train", "valid"):
            given = getattr(self, part) or {}
            if not isinstance(given, Mapping):
                raise TrainingError(f"data.{part} must map names to paths, not {given!r}")
            named = {str(n): CorpusOptions.read(value, f"data.{part}.{n}") for n, value in given.items()}
            object.__setattr__(self, part, named)
        if not 0 <= self.hold_out < 1:
            raise TrainingError(f"data.hold_out must be at least 0 and below 1, not {self.hold_out}")


SECTIONS: Mapping[str, Any] = {
    "objectives": Objectives,
    "optimizer": OptimizerOptions,
    "run": PretrainOptions,
    "data": CorporaOptions,
}


@dataclass(frozen=True)
class Recipe:
    """Everything that defines a run."""

    model: GLMConfig
    objectives: Objectives
    optimizer: OptimizerOptions
    run: PretrainOptions
    data: CorporaOptions = CorporaOptions()

    def __post_init__(self) -> None:
        for stage in self.run.stages:
            stage.mixture(self.objectives)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Recipe:
        """Build from plain nested values.

        Raises:
            TrainingError: an unknown section or key (the message names the nearest known
                one), or a value of the wrong type.
            OpenGLMError: a value out of range.
        """
        for key in values:
            if key not in SECTIONS and key != "model":
                raise TrainingError(f"unknown section {key!r} in the recipe.{suggest(str(key), [*SECTIONS, 'model'])}")
        model = values.get("model")
        if not isinstance(model, Mapping):
            raise TrainingError("the recipe lacks the section `model`, a mapping")
        given = {name: values.get(name) for name in SECTIONS}
        parts = {n: section(kind, {} if given[n] is None else given[n], n) for n, kind in SECTIONS.items()}
        return cls(model=GLMConfig.from_dict(model), **parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested values, ready for YAML or JSON."""
        out = dataclasses.asdict(self)
        out["model"] = self.model.to_dict()
        return out

    @classmethod
    def read(cls, path: Path, settings: Sequence[str] | Mapping[str, Any] = ()) -> Recipe:
        """Read a YAML file.

        Args:
            settings: values that win over those of the file, as `run.compile=true`, or by name.

        Raises:
            TrainingError: not readable, not YAML, or a wrong key; the message names the file.
        """
        values = read_values(path, "the sections model, " + ", ".join(SECTIONS), settings)
        try:
            return cls.from_dict(values)
        except OpenGLMError as error:
            raise TrainingError(f"{path}: {error}") from error
