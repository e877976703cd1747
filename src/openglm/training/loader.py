"""Micro-batches in their order, made in this process or by workers ahead of time.

A batch is a function of its number, so workers change when it is made and nothing else.
Knows numbers and workers; nothing about what a batch holds.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from ..errors import OpenGLMError, TrainingError

T = TypeVar("T")

AHEAD = 4  # batches each worker has ready or in the making


@dataclass(frozen=True)
class Numbers:
    """The numbers of the micro-batches one process takes, in order.

    Micro-batches are counted through the whole run: update `u` consists of those from
    `u * accumulate` on, and process `rank` of `count` takes every `count`-th of them.
    """

    first_update: int
    updates: int
    accumulate: int
    rank: int
    count: int

    def __iter__(self) -> Iterator[int]:
        for update in range(self.first_update, self.updates):
            yield from self.of(update)

    def of(self, update: int) -> range:
        """Those of one update."""
        return range(update * self.accumulate + self.rank, (update + 1) * self.accumulate, self.count)


@dataclass(frozen=True)
class _Failed:
    """What a worker sends when it cannot make a batch."""

    error: OpenGLMError


class _Made:
    """Number -> batch, for torch's loader."""

    def __init__(self, make: Callable[[int], Any]) -> None:
        self._make = make

    def __getitem__(self, number: int) -> Any:
        try:
            return self._make(number)
        except OpenGLMError as error:
            return _Failed(error)


def _ignore_signals(worker: int) -> None:
    """Who is asked to stop is the training process; it ends its workers itself."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _as_it_is(batch: Any) -> Any:
    return batch


def draw(make: Callable[[int], T], numbers: Iterable[int], *, workers: int, pin: bool) -> Generator[T, None, None]:
    """`make(number)` for every number, in order.

    Args:
        workers: processes that make batches ahead; 0: made here, when asked for.
        pin: copy them to memory from which a GPU reads on its own (`batch.pin_memory()`).

    Raises:
        OpenGLMError: what `make` raises, from workers too.
        TrainingError: a worker was killed.
    """
    if not workers:
        for number in numbers:
            batch: Any = make(number)
            yield batch.pin_memory() if pin else batch
        return
    import torch
    from torch.utils.data import DataLoader

    loader: Any = DataLoader(
        _Made(make),  # type: ignore[arg-type]
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        prefetch_factor=AHEAD,
        collate_fn=_as_it_is,
        worker_init_fn=_ignore_signals,
        pin_memory=pin,
        generator=torch.Generator(),  # the default one is left alone
        # A copy of this process has the corpora open already.
        multiprocessing_context="fork" if sys.platform == "linux" else None,
    )
    try:
        for batch in loader:
            if isinstance(batch, _Failed):
                raise batch.error
            yield batch
    except RuntimeError as error:
        if "worker" not in str(error):
            raise
        first = str(error).strip().split("\n")[0]
        raise TrainingError(
            f"a data worker ended ({first}), perhaps for want of memory; "
            "set run.workers lower (0: none) and go on with the same command"
        ) from error
