"""Many texts at once, never waiting for one another.

    queue -> prefill (a group of texts in one pass) -> decode, decode, decode -> done

Every step reads one token of every running sequence of every running job in one pass. A
sequence that closes a blank goes on with its next one, a job that is done makes room for the
next job in the queue at once, whoever asked for it. Calls from several threads share the passes.

Knows jobs and the model runner; nothing about blanks, or how a token is chosen.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from .interrupts import deferred
from .job import Job
from .model_runner import ModelRunner

CACHE_BYTES = 1 << 30  # keys and values of all running sequences
MAX_NUM_SEQS = 256  # sequences of one pass: beyond, the matrix products get no faster
MAX_PENDING = 1024  # jobs of one call that are queued or running

J = TypeVar("J", bound=Job)
Moved = list[tuple[Job, Tensor]]  # jobs with the logits of their sequences, [R, V] each


class Engine:
    """Runs jobs.

    Args:
        runner: runs the model and holds the sequences.
        cache_bytes: keep the keys and values of running sequences within so much; a job that
            needs more runs alone.
        max_num_seqs: sequences in one pass.
        mode: under which the model computes.
    """

    def __init__(
        self,
        runner: ModelRunner,
        *,
        cache_bytes: int = CACHE_BYTES,
        max_num_seqs: int = MAX_NUM_SEQS,
        mode: Callable[[], AbstractContextManager[Any]] = torch.inference_mode,
    ) -> None:
        self.runner, self._mode = runner, mode
        self.max_num_seqs, self.token_budget = max_num_seqs, cache_bytes // runner.bytes_per_token()
        self._queue: deque[Job] = deque()
        self._running: list[Job] = []
        self._admitted: dict[Job, Any] = {}  # of the running ones, those whose text is to be read, with its handle
        self._lock = threading.RLock()
        _ENGINES.add(self)

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
        with self._lock, deferred():
            self._queue.append(job)

    def cancel(self, job: Job) -> None:
        """Give a job up; its room is free at once. Does nothing to a job that is done."""
        with self._lock, deferred():
            job.done = True
            if job in self._queue:
                self._queue.remove(job)
            self._retire_done()

    def run(self, jobs: Iterable[J]) -> Iterator[J]:
        """Do jobs and give them back in order, drawing on `jobs` as room is made.

        Leaving the iteration early gives up what is not done.

        Raises:
            whatever kept a job from being done.
        """
        source, pending = iter(jobs), deque[J]()
        try:
            while True:
                while len(pending) < MAX_PENDING and (job := next(source, None)) is not None:
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

        A job that fails has its `error`, and the others go on; an interrupt loses this pass alone.

        Args:
            wanted: skip the pass if this job is done (another thread may have seen to it).
        """
        with self._lock, self._mode():
            if wanted is not None and wanted.done:
                return
            with deferred():
                self._admit()
            begun = [job for job in self._running if not (job.done or job in self._admitted)]
            read = together(list(self._admitted), self._prefill)
            decoded = together([job for job in begun if job.running_seqs()], self._decode)
            with deferred():
                self._advance(read, decoded)
                self._retire_done()

    # --- the parts of a step ---------------------------------------------------------------

    def _admit(self) -> None:
        """Let in the jobs there is room for."""
        seqs = sum(job.num_seqs for job in self._running)
        tokens = sum(map(tokens_of, self._running))
        # A pass of their own for a few new texts is not worth it while much else is running.
        if self._running and self.max_num_seqs - seqs < min(self.max_num_seqs // 8, len(self._queue)):
            return
        while self._queue:
            job = self._queue[0]
            seqs, tokens = seqs + job.num_seqs, tokens + tokens_of(job)
            if self._running and (seqs > self.max_num_seqs or tokens > self.token_budget):
                return
            self._running.append(self._queue.popleft())
            try:
                self._admitted[job] = self.runner.allocate(len(job.layout))
            except Exception as error:
                job.fail(error)

    def _prefill(self, jobs: Sequence[Job]) -> Moved:
        """The logits after these jobs' texts, one row each."""
        logits = self.runner.prefill([self._admitted[job] for job in jobs], [job.layout for job in jobs])
        return list(zip(jobs, torch.split(logits, 1), strict=True))

    def _decode(self, jobs: Sequence[Job]) -> Moved:
        """The logits after one more token of each sequence of these jobs."""
        seqs = [job.running_seqs() for job in jobs]
        flat = [seq for own in seqs for seq in own]
        logits = self.runner.decode([seq.kv for seq in flat], [seq.next_input() for seq in flat])
        return list(zip(jobs, torch.split(logits, [len(own) for own in seqs]), strict=True))

    def _advance(self, read: Moved, decoded: Moved) -> None:
        """Let jobs choose their next tokens; those that can do so in one go together."""
        for job, _ in decoded:
            self.runner.append([seq.kv for seq in job.running_seqs()])
        alike: dict[tuple[type[Job], Hashable], dict[Job, Tensor]] = {}
        for job, logits in [*self._begun(read), *decoded]:
            alike.setdefault((type(job), job.batch_key), {})[job] = logits
        for (kind, _), logits_of in alike.items():
            together(list(logits_of), partial(self._advance_alike, kind, logits_of))

    def _advance_alike(self, kind: type[Job], logits_of: dict[Job, Tensor], jobs: Sequence[Job]) -> Moved:
        kind.advance([(job, logits_of[job]) for job in jobs], self.runner)
        return []

    def _begun(self, read: Moved) -> Iterator[tuple[Job, Tensor]]:
        for job, row in read:
            try:
                job.begin(self.runner, self._admitted.pop(job))
            except Exception as error:
                job.fail(error)
            else:
                yield job, row.expand(len(job.running_seqs()), -1)

    def _retire_done(self) -> None:
        for job in [job for job in self._running if job.done]:
            self._running.remove(job)
            if job in self._admitted:
                self.runner.free(self._admitted.pop(job))
            job.release(self.runner)


def tokens_of(job: Job) -> int:
    """Tokens whose keys and values a job may come to hold."""
    return len(job.layout) + job.num_seqs * job.max_tokens


def together(jobs: Sequence[Job], work: Callable[[Sequence[Job]], Moved]) -> Moved:
    """Do something with jobs together; where that fails with each alone, so that only those fail that must."""
    if not jobs:
        return []
    try:
        return work(jobs)
    except Exception as error:
        if len(jobs) == 1:
            jobs[0].fail(error)
            return []
    return [moved for job in jobs for moved in together([job], work)]


# --- Processes that are forked ------------------------------------------------------------------

# A fork waits for the passes that run, as nobody would ever end them in the child.
_ENGINES: weakref.WeakSet[Engine] = weakref.WeakSet()
_held: list[Engine] = []


def _before_fork() -> None:
    _held.extend(sorted(_ENGINES, key=id))
    for engine in _held:
        engine._lock.acquire()


def _after_fork() -> None:
    while _held:
        _held.pop()._lock.release()


def _in_child() -> None:
    if _held:
        torch.set_num_threads(1)  # the threads of GNU OpenMP are gone, and it would wait for them for ever
    _after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)
