"""Work that takes long and can be given up while it runs: one thing at a time, the shortest wait first.

Everything but the work itself happens on the event loop, so there are no locks. Each piece of work has a
thread of its own: what is given up is stopped by an exception raised inside that thread, which can then
do no harm to anything else.
"""

from __future__ import annotations

import asyncio
import ctypes
import heapq
import itertools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from .errors import Stopped
from .turns import PACE

LOOK_AGAIN = 0.01  # seconds between looks at a thread that was interrupted
LAST_CHANCE = 5.0  # seconds that it gets to end

T = TypeVar("T")


class Interrupted(BaseException):
    """Raised inside a thread whose work nobody wants any more."""


def interrupt(thread: threading.Thread) -> None:
    """Raise `Interrupted` in a thread, as soon as it comes back from the call into C that it is in."""
    if thread.ident is not None and thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(Interrupted))


@dataclass(order=True)
class _Work:
    due: float
    number: int
    do: Callable[[], Any] = field(compare=False)
    done: asyncio.Future[Any] = field(compare=False)


class Lane:
    """Does one thing at a time. Lives on the event loop.

    Args:
        name: of its threads.
    """

    def __init__(self, name: str) -> None:
        self._name, self._numbers = name, itertools.count()
        self._waiting: list[_Work] = []
        self._work: _Work | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False

    async def run(self, do: Callable[[], T], size: int) -> T:
        """The result of `do`; who stops waiting for it stops it.

        Args:
            size: tokens, by which shorter work goes first.

        Raises:
            Stopped: the lane was stopped first.
        """
        if self._stopped:
            raise Stopped
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        work = _Work(time.monotonic() + size / PACE, next(self._numbers), do, done)
        heapq.heappush(self._waiting, work)
        self._next()
        try:
            return await done
        finally:
            if not done.done() or done.cancelled():
                self._give_up(work)

    def stop(self) -> None:
        """Give everything up."""
        self._stopped = True
        for work in [*self._waiting, *([self._work] if self._work else [])]:
            if not work.done.done():
                work.done.set_exception(Stopped())
        self._waiting.clear()
        if self._thread is not None:
            interrupt(self._thread)

    @property
    def thread(self) -> threading.Thread | None:
        """The thread that works, if one does."""
        return self._thread

    def _next(self) -> None:
        while self._work is None and self._waiting:
            work = heapq.heappop(self._waiting)
            if work.done.done():
                continue
            self._work = work
            self._thread = threading.Thread(target=_carry_out, args=(work, self._ended), name=self._name, daemon=True)
            self._thread.start()

    def _give_up(self, work: _Work) -> None:
        if self._work is work and self._thread is not None:
            interrupt(self._thread)
            asyncio.get_running_loop().call_later(LOOK_AGAIN, self._look, work)

    def _look(self, work: _Work) -> None:
        """An interrupted thread may have had no chance to say that it ended."""
        if self._work is not work or self._thread is None:
            return
        if self._thread.is_alive():
            asyncio.get_running_loop().call_later(LOOK_AGAIN, self._look, work)
        else:
            self._ended(work, None, None)

    def _ended(self, work: _Work, result: Any, error: BaseException | None) -> None:
        if self._work is not work:
            return
        if not work.done.done():
            if error is None:
                work.done.set_result(result)
            else:
                work.done.set_exception(error)
        self._work = self._thread = None
        self._next()


def _carry_out(work: _Work, ended: Callable[[_Work, Any, BaseException | None], None]) -> None:
    result, error = None, None
    try:
        try:
            result = work.do()
        except Exception as raised:
            error = raised
        work.done.get_loop().call_soon_threadsafe(ended, work, result, error)
    except (Interrupted, RuntimeError):  # nobody waits, or the loop was closed
        pass
