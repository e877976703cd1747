"""What can be measured, as one interface: how it is done is said before, the figures come after."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..tasks.parts import PublishedResult
from .models import Model
from .options import EvalOptions
from .protocol import Protocol


@dataclass(frozen=True)
class Measurement:
    """Figures, and what they are figures of.

    Attributes:
        metrics: name -> value (a mean over `runs`), the most important first.
        count: examples measured.
        cut: examples of which something did not fit the context.
        alike: examples of which two answers come to the same tokens.
        deviations, runs: over several runs, as in `Result`.
        chance, majority, categories: as in `Result`.
        predictions: plain values for each example, with its text and id; () where there are none.
    """

    metrics: Mapping[str, float]
    count: int
    cut: int = 0
    alike: int = 0
    deviations: Mapping[str, float] = field(default_factory=dict)
    runs: tuple[Mapping[str, float], ...] = ()
    chance: Mapping[str, float] = field(default_factory=dict)
    majority: Mapping[str, float] = field(default_factory=dict)
    categories: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    predictions: Sequence[Mapping[str, Any]] = ()


class Target(ABC):
    """Something to be measured, its data found.

    Attributes:
        name: as given.
        title: for people.
        version: of the task.
        published: results of others, measured in any way.
    """

    name: str
    title: str
    version: int
    published: Sequence[PublishedResult]

    @abstractmethod
    def paths(self) -> list[Path]:
        """The files whose content decides the figures."""

    @abstractmethod
    def content(self) -> str:
        """Digest of what it asks and how answers are measured."""

    @abstractmethod
    def population(self) -> int:
        """How many examples there are if only some of them are measured, else 0."""

    @abstractmethod
    def protocol(self, model: Model) -> Protocol:
        """How the model is measured.

        Raises:
            OptionError: options that do not go with this model.
        """

    @abstractmethod
    def measure(self, model: Model) -> Measurement:
        """The figures."""


def common_settings(target: Target, options: EvalOptions, model: Model) -> dict[str, Any]:
    """What decides the figures of every target: the sample, and digests of task, data and weights."""
    from .digests import digest_of_files

    sample = {"limit": options.limit, "sample_seed": options.sample_seed} if target.population() else {}
    return {
        **sample,
        "task": target.content(),
        "data": digest_of_files(target.paths()),
        "weights": model.digest(),
    }
