"""How running jobs move on: the one place that knows every kind of job."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from .beams import Search
from .decoding import Answers, write_next
from .engine import Job
from .memory import Memory


def move_on(moved: Sequence[tuple[Job, Tensor]], memory: Memory) -> None:
    """Give each job the logits of its lines; those that draw alike are done in one go."""
    alike: dict[tuple[float, ...], list[tuple[Answers, Tensor]]] = {}
    for job, logits in moved:
        if isinstance(job, Answers):
            alike.setdefault(job.options.drawing, []).append((job, logits))
        elif isinstance(job, Search):
            job.advance(logits, memory)
    for group in alike.values():
        write_next(group, memory)
