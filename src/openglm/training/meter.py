"""What is reported of the updates since the last report: mean losses, norms, speed.

Its sums are part of a run's state, so that a report made of updates before and after a stop
is that of a run that never stopped. Knows numbers and their names only.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any


class Meter:
    """Adds up updates.

    Args:
        groups: names of the groups of losses.
    """

    def __init__(self, groups: Sequence[str]) -> None:
        self._groups = tuple(groups)
        self._clear()
        self.start_clock()

    def _clear(self) -> None:
        self._sums, self._counts = [0.0] * len(self._groups), [0.0] * len(self._groups)
        self._norm, self._made, self._left_out, self._all_positions = 0.0, 0, 0, 0.0

    def start_clock(self) -> None:
        """Begin to measure time and what is done in it."""
        self._since, self._positions = time.monotonic(), 0.0

    @contextmanager
    def clock_stopped(self) -> Iterator[None]:
        """Do not count the time spent inside."""
        before = time.monotonic()
        yield
        self._since += time.monotonic() - before

    def add(
        self, sums: Sequence[float], counts: Sequence[float], norm: float, positions: float, *, left_out: bool
    ) -> None:
        """Count one update; of one that was left out, the losses do not count.

        Args:
            sums, counts: of the losses in each group.
            norm: of the gradient before clipping.
            positions: of its batches, padding included.
        """
        self._positions += positions
        if left_out:
            self._left_out += 1
            return
        self._made += 1
        self._norm += norm
        self._all_positions += positions
        self._sums = [a + b for a, b in zip(self._sums, sums, strict=True)]
        self._counts = [a + b for a, b in zip(self._counts, counts, strict=True)]

    @property
    def predicted_share(self) -> float:
        """Losses per position, in the updates since the last entry."""
        return sum(self._counts) / self._all_positions if self._all_positions else 0.0

    def entry(self) -> dict[str, float]:
        """Means since the last call, and then begin anew.

        `loss` and `loss/GROUP` in nats per target, `norm`, `targets` per update,
        `tokens_per_second` (positions, padding included), and `skipped` updates if there are any.
        """
        out: dict[str, float] = {}
        if self._made:
            total = sum(self._counts)
            out["loss"] = sum(self._sums) / total if total else math.nan
            named = zip(self._groups, self._sums, self._counts, strict=True)
            out |= {f"loss/{name}": part / count for name, part, count in named if count}
            out["norm"] = self._norm / self._made
            out["targets"] = total / self._made
        if self._left_out:
            out["skipped"] = float(self._left_out)
        out["tokens_per_second"] = self._positions / max(time.monotonic() - self._since, 1e-9)
        self._clear()
        self.start_clock()
        return out

    def state(self) -> dict[str, Any]:
        """What `restore` needs, plain values; time is not among it."""
        return {
            "sums": dict(zip(self._groups, self._sums, strict=True)),
            "counts": dict(zip(self._groups, self._counts, strict=True)),
            "norm": self._norm,
            "made": self._made,
            "left_out": self._left_out,
            "positions": self._all_positions,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on as the meter that gave `state`."""
        self._sums = [float(state["sums"].get(name, 0.0)) for name in self._groups]
        self._counts = [float(state["counts"].get(name, 0.0)) for name in self._groups]
        self._norm, self._all_positions = float(state["norm"]), float(state["positions"])
        self._made, self._left_out = int(state["made"]), int(state["left_out"])
