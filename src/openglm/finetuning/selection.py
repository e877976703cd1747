"""Which weights are kept: the best so far by the dev file, ties by the loss; and when to stop.

Knows numbers only; where weights are written is its caller's business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .jobs import Evaluation


@dataclass
class Selection:
    """The best evaluation so far.

    Attributes:
        metric: what counts, higher is better; "" for the loss, lower is better.
        patience: evaluations without a better one before `exhausted`; 0: never.
        step: updates before the best one.
        value, loss: of the best one.
        since: evaluations since then.
        looks: evaluations in all.
    """

    metric: str
    patience: int
    step: int = -1
    value: float = -math.inf
    loss: float = math.inf
    since: int = 0
    looks: int = 0

    def look(self, step: int, found: Evaluation) -> bool:
        """Count an evaluation; whether it is the best so far."""
        value = found.metrics[self.metric] if self.metric else -found.loss
        self.looks += 1
        if self.step < 0 or (value, -found.loss) > (self.value, -self.loss):
            self.step, self.value, self.loss, self.since = step, value, found.loss, 0
            return True
        self.since += 1
        return False

    @property
    def exhausted(self) -> bool:
        """Whether nothing has become better for long enough."""
        return bool(self.patience) and self.since >= self.patience

    @property
    def rank(self) -> tuple[float, float]:
        """Larger is better; compares runs."""
        return self.value, -self.loss

    def state(self) -> dict[str, Any]:
        """Plain values that `restore` takes; numbers that are not finite as text."""
        return {key: repr(value) if isinstance(value, float) else value for key, value in asdict(self).items()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on as the selection that gave `state`."""
        for key in ("step", "since", "looks"):
            setattr(self, key, int(state[key]))
        for key in ("value", "loss"):
            setattr(self, key, float(state[key]))
