"""Which updates are made and which are left out: the guard against numbers that make no sense.

An update is left out when its loss or gradient is not a finite number, or when its loss
stands out far above those before it: the batch is odd then, or the weights are about to be
ruined. One such update costs nothing; many in a row mean that the run has failed. Decides
on two numbers that all processes of a run share, so all decide alike. Knows nothing about
models or optimizers.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from typing import Any

from ..errors import TrainingError

WINDOW = 100  # accepted losses that a new one is compared with; none is refused before there are as many
DEVIATIONS = 8.0  # a spike is further above their mean than this many standard deviations ...
IN_A_ROW = 20  # updates left out in a row before the run stops


class Guard:
    """Judges updates.

    A loss is a spike if it exceeds the mean of the last `WINDOW` accepted losses by more
    than `spike` and by more than `DEVIATIONS` of their standard deviations. While losses
    fall steadily, in the warm-up above all, their spread makes the guard more tolerant.

    Args:
        spike: nats; 0 switches the comparison off, infinite losses are left out all the same.
    """

    def __init__(self, spike: float) -> None:
        self.spike = spike
        self.left_out = 0  # in a row, up to now
        self._losses: list[float] = []

    def judge(self, loss: float, norm: float) -> str:
        """Why this update should be left out; empty if it should be made.

        Args:
            loss: mean loss of the update, nats per target.
            norm: of its gradient, before clipping.
        """
        reason = self._reason(loss, norm)
        if reason:
            self.left_out += 1
        else:
            self.left_out = 0
            self._losses = [*self._losses[-WINDOW + 1 :], loss]
        return reason

    def _reason(self, loss: float, norm: float) -> str:
        if not math.isfinite(loss):
            return "its loss is not a finite number"
        if not math.isfinite(norm):
            return "its gradient is not finite"
        if not self.spike or len(self._losses) < WINDOW:
            return ""
        mean, spread = statistics.fmean(self._losses), statistics.pstdev(self._losses)
        if loss <= mean + max(self.spike, DEVIATIONS * spread):
            return ""
        return f"its loss {loss:.3f} is far above the mean {mean:.3f} of the last {WINDOW} updates"

    def check(self, update: int, reason: str, states: str) -> None:
        """Stop the run once too many updates in a row were left out.

        Args:
            update: number of the last of them, counted from 1.
            reason: why it was left out.
            states: which states there are to resume from, for the message.

        Raises:
            TrainingError: says at which update, why, and what to do.
        """
        if self.left_out < IN_A_ROW:
            return
        raise TrainingError(
            f"updates {update - self.left_out + 1} to {update} could not be made; of the last one, {reason}. "
            f"Lower optimizer.learning_rate (and optimizer.muon_learning_rate) and resume: {states}"
        )

    def state(self) -> dict[str, Any]:
        """What `restore` needs, plain values."""
        return {"left_out": self.left_out, "losses": list(self._losses)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on as the guard that gave `state`."""
        self.left_out, self._losses = int(state["left_out"]), [float(loss) for loss in state["losses"]]
