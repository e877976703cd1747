"""The thread that runs the engine, and how the event loop talks to it.

    event loop    submit, cancel -> inbox -> engine thread: step, step, step
                  ticket.updates <- one call per step with all news

Jobs are let in and given up between steps, in the engine's own thread, so nobody waits for
its lock. On a CPU scoring has one thread of its own: a long list of choices shares the machine
with the running fills instead of stopping them. On a GPU it is done between steps, one request
at a time: whatever else uses the device must not come between the kernels of a step that is being
recorded. Tokenising has two threads.

Knows jobs and threads; nothing about HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from ..engine.decoding import Answers
from ..engine.engine import Engine
from ..infill.request import Request

log = logging.getLogger("openglm.serve")
T = TypeVar("T")
Updates = asyncio.Queue[tuple["Ticket", Sequence[Any] | None]]


class Stopped(Exception):
    """The worker was stopped before a ticket was done."""


class Ticket:
    """A request that is with the engine.

    Args:
        request: what is asked.
        updates: where news go, on the event loop: the ticket with what was written, or with
            `None` when it is over. Several tickets may share it.
        streams: whether pieces are wanted as they are written.

    Attributes:
        error: what kept it from being done, if anything.
        enough: set by `news` when nothing more is wanted.
    """

    def __init__(self, request: Request, updates: Updates, *, streams: bool = False) -> None:
        self.request, self.updates, self.streams = request, updates, streams
        self.error: BaseException | None = None
        self.enough = False

    @property
    def over(self) -> bool:
        """Whether the engine is done with it."""
        return self.request.job.done

    @property
    def written(self) -> int:
        """Tokens written so far."""
        job = self.request.job
        if isinstance(job, Answers):
            return sum(len(fill) for row in job.rows for fill in row.writer.fills)
        return sum(len(fill) for beam in job.beams for fill in beam.fills)

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
        self._scorings: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._tickets: list[Ticket] = []
        self._wake = threading.Condition()
        self._stopping = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._prepare: ThreadPoolExecutor | None = None
        self._score: ThreadPoolExecutor | None = None

    @property
    def alive(self) -> bool:
        """Whether requests are being worked on."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Begin; called on the event loop that is to be told of news."""
        self._loop, self._stopping = asyncio.get_running_loop(), False
        self._prepare = ThreadPoolExecutor(2, "openglm-prepare")
        self._score = ThreadPoolExecutor(1, "openglm-score")
        self._thread = threading.Thread(target=self._run, name="openglm-engine", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Give up what is left and end; waits for the step that is running."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread is not None:
            self._thread.join()
        for pool in (self._prepare, self._score):
            if pool is not None:
                pool.shutdown(wait=False, cancel_futures=True)

    # --- called on the event loop ---------------------------------------------------------

    async def prepare(self, work: Callable[[], T]) -> T:
        """Something quick that would still hold up the event loop: tokenising, checking."""
        return await asyncio.get_running_loop().run_in_executor(self._prepare, work)

    async def score(self, work: Callable[[], T]) -> T:
        """A pass of the model beside the engine's; those that wait can be cancelled.

        Raises:
            Stopped: the worker was stopped first.
        """
        if self._between_steps:
            future: Future[T] = Future()
            with self._wake:
                self._scorings.append((work, future))
                self._wake.notify()
            return await asyncio.wrap_future(future)
        return await asyncio.get_running_loop().run_in_executor(self._score, work)

    def submit(self, ticket: Ticket) -> None:
        """Queue a request."""
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
        while True:
            with self._wake:
                while not (self._inbox or self._tickets or self._scorings or self._stopping):
                    self._wake.wait()
            if self._stopping:
                break
            self._read_inbox()
            if self._tickets:
                try:
                    self.engine.step()
                except Exception:
                    log.exception("a pass of the model failed; the requests it held were given up")
                self.steps += 1
            self._report()
            if self._scorings:
                _carry_out(*self._scorings.popleft())
        while self._scorings:
            _carry_out(_stopped, self._scorings.popleft()[1])
        self._read_inbox()
        for ticket in self._tickets:
            ticket.error = Stopped()
            self.engine.cancel(ticket.request.job)
        self._report()

    def _read_inbox(self) -> None:
        while self._inbox:
            what, ticket = self._inbox.popleft()
            if what == "submit":
                self._tickets.append(ticket)
                self.engine.submit(ticket.request.job)
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
