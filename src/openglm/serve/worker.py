"""The thread that runs the engine, and how the event loop talks to it.

    event loop    submit, cancel -> inbox -> engine thread: step, step, step
                  ticket.updates <- one call per step with all news

Jobs are let in and given up between steps, in the engine's own thread, so nobody waits for
its lock; `Turns` says whose turn it is. On a CPU scoring has two lanes, one for short requests: a long
list of choices shares the machine with the running fills and short scorings instead of stopping them.
On a GPU it is done between steps, one request at a time: whatever else uses the device must not come
between the kernels of a step that is being recorded. Tokenizing has three threads, one of them for long
texts.

Knows jobs and threads; nothing about HTTP.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from ..engine.engine import Engine
from ..infill.request import Request
from .errors import Stopped
from .scorings import Interrupted, Lane, interrupt
from .turns import PACE, Size, Turns

log = logging.getLogger("openglm.serve")
T = TypeVar("T")
Updates = asyncio.Queue[tuple["Ticket", Sequence[Any] | None]]

SHORT = 2048  # tokens, roughly: what is to be scored or tokenized beyond that takes a lane for long work
LAST_STEP = 2.0  # seconds that a pass of the model gets to end when the worker is stopped


class Ticket:
    """A request that is with the engine.

    Args:
        request: what is asked.
        updates: where news go, on the event loop: the ticket with what was written, or with
            `None` when it is over. Several tickets may share it.
        streams: whether pieces are wanted as they are written.
        asked: tokens that whoever asks for this may get for all that he asks for; by default for this alone.

    Attributes:
        error: what kept it from being done, if anything.
        enough: set by `news` when nothing more is wanted.
    """

    def __init__(self, request: Request, updates: Updates, *, streams: bool = False, asked: int | None = None) -> None:
        self.request, self.updates, self.streams = request, updates, streams
        self.asked = self.size.written if asked is None else asked
        self.error: BaseException | None = None
        self.enough = False

    @property
    def over(self) -> bool:
        """Whether the engine is done with it."""
        return self.request.job.done

    @property
    def size(self) -> Size:
        """What it takes of the engine."""
        job = self.request.job
        return Size(job.num_seqs, job.num_seqs * job.max_tokens, len(job.layout) + job.num_seqs * job.max_tokens)

    @property
    def written(self) -> int:
        """Tokens written so far."""
        return self.request.job.tokens_written

    def news(self) -> Sequence[Any]:
        """What the last step decided; called in the engine's thread."""
        return list(self.request.pieces()) if self.streams else ()


class Worker:
    """Runs an engine in a thread. `start` before use, `stop` afterwards.

    Args:
        between_steps: score in the engine's thread, not in one beside it.

    Attributes:
        steps: passes of the model so far.
    """

    def __init__(self, engine: Engine, *, between_steps: bool = False) -> None:
        self.engine, self.steps, self._between_steps = engine, 0, between_steps
        self._inbox: deque[tuple[str, Ticket]] = deque()
        self._scorings: list[tuple[float, int, Callable[[], Any], Future[Any]]] = []  # a heap, by when they are due
        self._numbers = itertools.count()
        self._tickets: list[Ticket] = []
        self._turns = Turns[Ticket](engine.max_num_seqs, engine.token_budget)
        self._wake = threading.Condition()
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lanes: tuple[Lane, ...] = ()
        self._prepare: tuple[ThreadPoolExecutor, ...] = ()

    @property
    def alive(self) -> bool:
        """Whether requests are being worked on."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Texts that have not begun."""
        return len(self._turns) + self.engine.queued

    def start(self) -> None:
        """Begin; called on the event loop that is to be told of news."""
        self._loop, self._stopping = asyncio.get_running_loop(), False
        self._prepare = tuple(ThreadPoolExecutor(n, "openglm-prepare") for n in (2, 1))
        self._lanes = Lane("openglm-score"), Lane("openglm-score-long")
        self._thread = threading.Thread(target=self._run, name="openglm-engine", daemon=True)
        self._thread.start()

    async def stop(self) -> None:
        """Give up what is left and end, in a few seconds whatever is running; called on the same event loop."""
        self.give_up()
        end = time.monotonic() + LAST_STEP
        threads = [self._thread, *(lane.thread for lane in self._lanes)]
        while any(thread is not None and thread.is_alive() for thread in threads):
            if time.monotonic() > end:  # a long pass: it ends with the operation that is running
                for thread in threads:
                    if thread is not None:
                        interrupt(thread)
                end += LAST_STEP
            await asyncio.sleep(0.01)
        _deliver([(ticket, (), True) for ticket in self._tickets])
        self._tickets.clear()

    def abandon(self) -> None:
        """End without the event loop, at once."""
        self.give_up()
        for thread in (self._thread, *(lane.thread for lane in self._lanes)):
            if thread is not None:
                interrupt(thread)
                thread.join(LAST_STEP)

    def give_up(self) -> None:
        """Tell everything to end, without waiting for it."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        for lane in self._lanes:
            lane.stop()
        for pool in self._prepare:
            pool.shutdown(wait=False, cancel_futures=True)

    # --- called on the event loop ---------------------------------------------------------

    async def prepare(self, work: Callable[[], T], size: int) -> T:
        """Something quick that would still hold up the event loop: tokenizing, checking.

        Args:
            size: characters, roughly.

        Raises:
            Stopped: the worker was stopped first.
        """
        if self._stopping:
            raise Stopped
        try:
            return await asyncio.get_running_loop().run_in_executor(self._prepare[size > SHORT], work)
        except asyncio.CancelledError:
            if self._stopping:
                raise Stopped from None
            raise

    async def score(self, work: Callable[[], T], size: int) -> T:
        """A pass of the model beside the engine's; what nobody waits for any more is given up.

        Args:
            size: characters, roughly.

        Raises:
            Stopped: the worker was stopped first.
        """
        if not self._between_steps:
            return await self._lanes[size > SHORT].run(work, size)
        future: Future[T] = Future()
        with self._wake:
            if self._stopping:
                raise Stopped
            heapq.heappush(self._scorings, (time.monotonic() + size / PACE, next(self._numbers), work, future))
            self._wake.notify()
        return await asyncio.wrap_future(future)

    def submit(self, ticket: Ticket) -> None:
        """Queue a request."""
        if self._stopping:
            ticket.error = Stopped()
            _deliver([(ticket, (), True)])
        else:
            self._send("submit", ticket)

    def cancel(self, ticket: Ticket) -> None:
        """Give a request up; its room is free after the step that is running."""
        if not ticket.over:
            self._send("cancel", ticket)

    def _send(self, what: str, ticket: Ticket) -> None:
        with self._wake:
            self._inbox.append((what, ticket))
            self._wake.notify()

    # --- the engine's thread ----------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._wait():
                self._read_inbox()
                if self._tickets:
                    self._step()
                self._report()
                if self._scorings:
                    _carry_out(*heapq.heappop(self._scorings)[2:])
        except Interrupted:
            log.warning("a pass of the model was interrupted")
        for *_, future in self._scorings:
            _carry_out(_stopped, future)
        self._scorings.clear()
        self._read_inbox()
        for ticket in self._tickets:
            ticket.error = Stopped()
            self.engine.cancel(ticket.request.job)
        self._report()

    def _wait(self) -> bool:
        """Until there is something to do; whether to go on."""
        with self._wake:
            while not (self._inbox or self._tickets or self._scorings or self._stopping):
                self._wake.wait()
        return not self._stopping

    def _step(self) -> None:
        for ticket in self._turns.take():
            self.engine.submit(ticket.request.job)
        try:
            self.engine.step()
        except Exception:
            log.exception("a pass of the model failed; the requests it held were given up")
        self.steps += 1

    def _read_inbox(self) -> None:
        while self._inbox:
            what, ticket = self._inbox.popleft()
            if what == "submit":
                self._tickets.append(ticket)
                self._turns.add(ticket, ticket.size, ticket.asked)
            else:
                self.engine.cancel(ticket.request.job)

    def _report(self) -> None:
        news: list[tuple[Ticket, Sequence[Any], bool]] = []
        for ticket in self._tickets:
            try:
                pieces = ticket.news()
            except Exception as error:
                log.exception("what was written could not be read")
                ticket.error, pieces = error, ()
                self.engine.cancel(ticket.request.job)
            if ticket.enough and not ticket.over:
                self.engine.cancel(ticket.request.job)
            if ticket.error is None:
                ticket.error = ticket.request.job.error
            if pieces or ticket.over:
                news.append((ticket, pieces, ticket.over))
        if not news:
            return
        for ticket, _, over in news:
            if over:
                self._turns.remove(ticket)
        self._tickets = [ticket for ticket in self._tickets if not ticket.over]
        assert self._loop is not None
        try:
            self._loop.call_soon_threadsafe(_deliver, news)
        except RuntimeError:  # the loop was closed: nobody is left to be told
            pass


def _carry_out(work: Callable[[], Any], future: Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except Exception as error:
        future.set_exception(error)


def _stopped() -> None:
    raise Stopped


def _deliver(news: Sequence[tuple[Ticket, Sequence[Any], bool]]) -> None:
    for ticket, pieces, over in news:
        if pieces:
            ticket.updates.put_nowait((ticket, pieces))
        if over:
            ticket.updates.put_nowait((ticket, None))
