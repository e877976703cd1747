"""Who is let in: a bounded number of requests, none while the server is closing."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import busy, closing

REMEMBERED = 64  # requests whose end tells how fast places become free
MOST_PATIENCE = 60  # seconds: the longest that Retry-After asks for


class Admission:
    """Counts the requests that are running or waiting. Lives on the event loop.

    Args:
        most: requests at once.

    Attributes:
        count: requests that are in.
        refused: requests that were sent away.
        draining: whether nobody is let in any more.
    """

    def __init__(self, most: int) -> None:
        self.most, self.count, self.refused, self.draining = most, 0, 0, False
        self._ends: deque[float] = deque(maxlen=REMEMBERED)
        self._empty = asyncio.Event()
        self._empty.set()

    def check(self) -> None:
        """Whether there is a place now.

        Raises:
            HTTPError: 503 while closing, 429 when full.
        """
        if self.draining:
            raise closing()
        if self.count >= self.most:
            self.refused += 1
            raise busy(self.retry_after())

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place. Raises as `check`."""
        self.check()
        self.count += 1
        self._empty.clear()
        try:
            yield
        finally:
            self.count -= 1
            self._ends.append(time.monotonic())
            if not self.count:
                self._empty.set()

    def retry_after(self) -> int:
        """Seconds after which half of those that are in should be done, judged by the last ones."""
        if len(self._ends) < 2:
            return 1
        rate = len(self._ends) / max(time.monotonic() - self._ends[0], 1e-3)
        return min(MOST_PATIENCE, max(1, math.ceil(self.count / 2 / rate)))

    async def emptied(self) -> None:
        """Wait until nobody is in."""
        await self._empty.wait()
