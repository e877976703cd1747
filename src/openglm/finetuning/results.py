"""What a fine-tuning run comes to: plain values that go into reports."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class RunResult:
    """One seed's run.

    Attributes:
        seed: of the run.
        step, steps: updates after which the weights were the best, and updates made.
        seconds: of training and evaluation.
        trained, parameters: numbers that were trained, and that the network has.
        tokens: read in training.
        loss: split -> mean loss of the best weights in nats.
        metrics: split -> metric -> value in percent.
        confusion: split -> [L, L]; rows are the true labels, columns the predicted ones.
    """

    seed: int
    step: int
    steps: int
    seconds: float
    trained: int
    parameters: int
    tokens: int = 0
    loss: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    confusion: Mapping[str, Sequence[Sequence[int]]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Summary:
    """One figure over all seeds: mean and standard deviation (of a sample; 0 for one seed)."""

    mean: float
    deviation: float
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """Of one value per seed."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0, tuple(values))


@dataclass(frozen=True)
class FinetuneResult:
    """All seeds' runs.

    Attributes:
        output: folder of the run; model: the finished model's, None if the run is unfinished.
        runs: one per seed that is finished.
        best: the run whose weights became the model.
        labels: in order, () if there are none; names: what people call them.
        notes: what the user was told before training began.
        finished: False if the run was interrupted; running it again goes on.
        untuned: split -> metric (and "loss") -> value of the model before training.
    """

    output: Path
    model: Path | None = None
    runs: tuple[RunResult, ...] = ()
    best: RunResult | None = None
    labels: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    finished: bool = False
    untuned: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def summary(self, split: str) -> dict[str, Summary]:
        """Metric (and "loss") -> mean and deviation over the seeds; {} without such a file."""
        if not self.runs or split not in self.runs[0].loss:
            return {}
        names = self.runs[0].metrics.get(split, {})
        out = {name: Summary.of([run.metrics[split][name] for run in self.runs]) for name in names}
        return out | {"loss": Summary.of([run.loss[split] for run in self.runs])}

    @property
    def dev(self) -> dict[str, Summary]:
        """Of the dev file."""
        return self.summary("dev")

    @property
    def test(self) -> dict[str, Summary]:
        """Of the test file."""
        return self.summary("test")
