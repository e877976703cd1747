"""Whose turn it is: short work does not wait behind long work, and long work is never passed over for ever.

    due = time of arrival + tokens asked for / PACE

The waiting are served by the time at which they are due, so a request for a few tokens goes ahead of a
long one that came up to a minute earlier, and of none that came before that. Long jobs together hold at most
LONG_SHARE of the engine, so that a place for short ones is always near; while a long one waits for room, short
ones take no more than the rest, so that it gets its turn.

Knows the sizes of jobs; nothing about threads or HTTP.
"""

from __future__ import annotations

import bisect
import itertools
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

PACE = 100.0  # tokens that make a request due a second later
LONG = 512  # tokens to be written: what asks for more is long
LONG_SHARE = 0.75

T = TypeVar("T")


@dataclass(frozen=True)
class Size:
    """What a job takes.

    Attributes:
        sequences: that it continues at once.
        written: tokens it writes at most, over all of them.
        held: tokens whose keys and values are kept for it at most.
    """

    sequences: int
    written: int
    held: int

    @property
    def is_long(self) -> bool:
        """Whether it must leave room for others."""
        return self.written > LONG

    @property
    def room(self) -> dict[str, int]:
        """What it takes up while it runs."""
        return {"sequences": self.sequences, "held": self.held}


@dataclass(order=True)
class _Waiting(Generic[T]):
    due: float
    number: int
    size: Size = field(compare=False)
    item: T = field(compare=False)


class Turns(Generic[T]):
    """The jobs that wait, and the room of those that were let in.

    Args:
        sequences: that run at once.
        held: tokens that are kept at once.
        clock: seconds.
    """

    def __init__(self, sequences: int, held: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._room = {"sequences": sequences, "held": held}
        self._clock, self._numbers = clock, itertools.count()
        self._waiting: list[_Waiting[T]] = []
        self._inside: dict[T, Size] = {}
        self._used = {True: Counter[str](), False: Counter[str]()}  # by long jobs, by short ones

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, item: T, size: Size, asked: int | None = None) -> None:
        """Let it wait.

        Args:
            asked: tokens of the whole request that it is a part of.
        """
        due = self._clock() + (size.written if asked is None else asked) / PACE
        bisect.insort(self._waiting, _Waiting(due, next(self._numbers), size, item))

    def remove(self, item: T) -> bool:
        """Forget one that waits or was let in; whether it was waiting."""
        size = self._inside.pop(item, None)
        if size is not None:
            self._used[size.is_long].subtract(size.room)
        waiting = len(self._waiting)
        self._waiting = [each for each in self._waiting if each.item != item]
        return len(self._waiting) < waiting

    def take(self) -> list[T]:
        """Those whose turn it is and for whom there is room; they count as inside until they are removed."""
        taken: list[T] = []
        long_waits = False
        for each in list(self._waiting):
            if self._fits(each.size, long_waits=long_waits):
                self._inside[each.item] = each.size
                self._used[each.size.is_long].update(each.size.room)
                taken.append(each.item)
            elif each.size.is_long and not self._is_huge(each.size):
                long_waits = True
            else:
                break  # nobody passes what is full for short jobs too, or a job that needs nearly everything
        self._waiting = [each for each in self._waiting if each.item not in self._inside]
        return taken

    def _fits(self, size: Size, *, long_waits: bool) -> bool:
        if not self._inside:
            return True
        for name, room in self._room.items():
            wanted = size.room[name]
            own = self._used[size.is_long][name]
            total = own + self._used[not size.is_long][name]
            if total + wanted > room:
                return False
            if size.is_long and own and own + wanted > LONG_SHARE * room:
                return False
            if long_waits and not size.is_long and own + wanted > (1 - LONG_SHARE) * room:
                return False
        return True

    def _is_huge(self, size: Size) -> bool:
        return any(size.room[name] > LONG_SHARE * room for name, room in self._room.items())
