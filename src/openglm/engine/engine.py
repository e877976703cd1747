"""Many texts at once, never waiting for one another.

    queue -> read (a group of texts in one pass) -> step, step, step -> done

Every step reads one token of every open line of every running job in one pass. A row that
closes a blank goes on with its next one, a job that is done makes room for the next job in
the queue at once, whoever asked for it. Calls from several threads share the passes.

Knows jobs and memory; nothing about blanks, or how a token is chosen.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from ..blanks import Layout
from .memory import Input, Memory

CACHE_BYTES = 1 << 30  # keys and values of all running texts
MAX_LINES = 256  # lines of one pass: beyond, the matrix products get no faster
AHEAD = 1024  # jobs of one call that are queued or running


class Line(Protocol):
    """One way in which a text is continued.

    Attributes:
        text: its handle in the memory.
    """

    text: Any

    def next_input(self) -> Input:
        """What the model reads next."""


class Job:
    """A text to be continued.

    Attributes:
        layout: what is read first, up to the first token whose successor is to be chosen.
        lines: in how many ways it is continued at most.
        tokens: how many tokens each of them grows by at most.
        done: whether nothing is left to be done.
        error: what kept it from being done, if anything.
    """

    layout: Layout
    lines: int = 1
    tokens: int = 0
    done: bool = False
    error: BaseException | None = None

    def begin(self, memory: Memory, text: Any) -> None:
        """`layout` was read; the job now owns `text`."""
        raise NotImplementedError

    def open_lines(self) -> Sequence[Line]:
        """The lines for which a token is to be chosen."""
        raise NotImplementedError

    def release(self, memory: Memory) -> None:
        """Free every text it owns; called once, when it is done or given up."""
        raise NotImplementedError


Decide = Callable[[Sequence[tuple[Job, Tensor]], Memory], None]
J = TypeVar("J", bound=Job)


class Engine:
    """Runs jobs.

    Args:
        memory: where texts are kept.
        decide: given running jobs with the logits of their open lines ([lines, V] each),
            moves each of them on.
        cache_bytes: keep the keys and values of running texts within so much; a job that
            needs more runs alone.
        max_lines: lines in one pass.
        mode: under which the model computes.
    """

    def __init__(
        self,
        memory: Memory,
        decide: Decide,
        *,
        cache_bytes: int = CACHE_BYTES,
        max_lines: int = MAX_LINES,
        mode: Callable[[], AbstractContextManager[Any]] = torch.inference_mode,
    ) -> None:
        self.memory, self.max_lines = memory, max_lines
        self._decide, self._mode = decide, mode
        self._room = cache_bytes // memory.bytes_per_token()
        self._queue: deque[Job] = deque()
        self._running: list[Job] = []
        self._reserved, self._lines = 0, 0
        self._lock = threading.RLock()

    @property
    def queued(self) -> int:
        """Jobs that have not begun."""
        return len(self._queue)

    @property
    def running(self) -> int:
        """Jobs that have begun and are not done."""
        return len(self._running)

    def submit(self, job: Job) -> None:
        """Queue a job."""
        with self._lock:
            self._queue.append(job)

    def cancel(self, job: Job) -> None:
        """Give a job up; its room is free at once. Does nothing to a job that is done."""
        with self._lock:
            if job in self._running:
                self._retire(job)
            elif job in self._queue:
                self._queue.remove(job)
            job.done = True

    def run(self, jobs: Iterable[J]) -> Iterator[J]:
        """Do jobs and give them back in order, drawing on `jobs` as room is made.

        Leaving the iteration early gives up what is not done.

        Raises:
            whatever kept a job from being done.
        """
        source, pending = iter(jobs), deque[J]()
        try:
            while True:
                while len(pending) < AHEAD and (job := next(source, None)) is not None:
                    pending.append(job)
                    self.submit(job)
                if not pending:
                    return
                while not pending[0].done:
                    self.step(pending[0])
                first = pending.popleft()
                if first.error is not None:
                    raise first.error
                yield first
        finally:
            for job in pending:
                self.cancel(job)

    def step(self, wanted: Job | None = None) -> None:
        """One pass over all that runs, after new jobs were let in.

        Args:
            wanted: skip the pass if this job is done (another thread may have seen to it).

        Raises:
            whatever the model raises; the jobs that were running are given up.
        """
        with self._lock, self._mode():
            if wanted is not None and wanted.done:
                return
            try:
                fresh = self._admit()
                lines = [(job, job.open_lines()) for job in self._running if job not in fresh]
                texts = [line for _, own in lines for line in own]
                moved = [(job, fresh[job]) for job in fresh]
                if texts:
                    logits = self.memory.step([line.text for line in texts], [line.next_input() for line in texts])
                    parts = torch.split(logits, [len(own) for _, own in lines])
                    moved += [(job, part) for (job, _), part in zip(lines, parts, strict=True)]
                self._decide(moved, self.memory)
            except BaseException as error:
                for job in list(self._running):
                    job.error = error
                    self._retire(job)
                    job.done = True
                raise
            for job in [job for job in self._running if job.done]:
                self._retire(job)

    def _admit(self) -> dict[Job, Tensor]:
        """Let in what there is room for; the new jobs with the logits of their lines."""
        new: list[Job] = []
        spare = self.max_lines - self._lines
        # A few free lines are not worth a pass of their own while much else is running.
        if self._queue and (not self._running or spare >= min(self.max_lines // 8, len(self._queue))):
            while self._queue and self._fits(self._queue[0]):
                job = self._queue.popleft()
                self._running.append(job)
                self._reserved += self._needs(job)
                self._lines += job.lines
                new.append(job)
        if not new:
            return {}
        texts, logits = self.memory.read([job.layout for job in new])
        out: dict[Job, Tensor] = {}
        for row, (job, text) in enumerate(zip(new, texts, strict=True)):
            job.begin(self.memory, text)
            out[job] = logits[row].expand(len(job.open_lines()), -1)
        return out

    def _fits(self, job: Job) -> bool:
        if not self._running:
            return True
        return self._lines + job.lines <= self.max_lines and self._reserved + self._needs(job) <= self._room

    @staticmethod
    def _needs(job: Job) -> int:
        return len(job.layout) + job.lines * job.tokens

    def _retire(self, job: Job) -> None:
        self._running.remove(job)
        self._reserved -= self._needs(job)
        self._lines -= job.lines
        job.release(self.memory)
