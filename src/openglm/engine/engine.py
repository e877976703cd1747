"""Many texts at once, never waiting for one another.

    queue -> prefill (a group of texts in one pass) -> decode, decode, decode -> done

Every step reads one token of every running sequence of every running job in one pass. A
sequence that closes a blank goes on with its next one, a job that is done makes room for the
next job in the queue at once, whoever asked for it. Calls from several threads share the passes.

Knows jobs and the model runner; nothing about blanks, or how a token is chosen.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import torch
from torch import Tensor

from .job import Job
from .model_runner import ModelRunner

CACHE_BYTES = 1 << 30  # keys and values of all running sequences
MAX_NUM_SEQS = 256  # sequences of one pass: beyond, the matrix products get no faster
MAX_PENDING = 1024  # jobs of one call that are queued or running

J = TypeVar("J", bound=Job)


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
        self.runner, self.max_num_seqs = runner, max_num_seqs
        self.token_budget = cache_bytes // runner.bytes_per_token()
        self._mode = mode
        self._queue: deque[Job] = deque()
        self._running: list[Job] = []
        self._tokens, self._seqs = 0, 0  # that the running jobs may come to
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

        Args:
            wanted: skip the pass if this job is done (another thread may have seen to it).

        Raises:
            whatever the model raises; the jobs that were running are given up.
        """
        with self._lock, self._mode():
            if wanted is not None and wanted.done:
                return
            try:
                decoding = list(self._running)
                for batch in _alike([*self._prefill(self._admit()), *self._decode(decoding)]):
                    type(batch[0][0]).advance(batch, self.runner)
            except BaseException as error:
                for job in list(self._running):
                    job.error = error
                    self._retire(job)
                    job.done = True
                raise
            for job in [job for job in self._running if job.done]:
                self._retire(job)

    # --- the parts of a step ---------------------------------------------------------------

    def _admit(self) -> list[Job]:
        """Let in the jobs there is room for."""
        admitted: list[Job] = []
        spare = self.max_num_seqs - self._seqs
        # A pass of their own for a few new texts is not worth it while much else is running.
        if self._running and spare < min(self.max_num_seqs // 8, len(self._queue)):
            return admitted
        while self._queue and self._fits(self._queue[0]):
            job = self._queue.popleft()
            self._running.append(job)
            self._tokens += self._tokens_of(job)
            self._seqs += job.num_seqs
            admitted.append(job)
        return admitted

    def _prefill(self, jobs: Sequence[Job]) -> list[tuple[Job, Tensor]]:
        """Read new jobs' texts; the jobs with the logits of their sequences, [R, V] each."""
        if not jobs:
            return []
        handles, logits = self.runner.prefill([job.layout for job in jobs])
        for job, handle in zip(jobs, handles, strict=True):
            job.begin(self.runner, handle)
        return [(job, row.expand(len(job.running_seqs()), -1)) for job, row in zip(jobs, logits, strict=True)]

    def _decode(self, jobs: Sequence[Job]) -> list[tuple[Job, Tensor]]:
        """Read one token of each sequence of these jobs; the jobs with the logits, [R, V] each."""
        seqs = [job.running_seqs() for job in jobs]
        flat = [seq for own in seqs for seq in own]
        if not flat:
            return []
        logits = self.runner.decode([seq.kv for seq in flat], [seq.next_input() for seq in flat])
        return list(zip(jobs, torch.split(logits, [len(own) for own in seqs]), strict=True))

    def _fits(self, job: Job) -> bool:
        if not self._running:
            return True
        seqs, tokens = self._seqs + job.num_seqs, self._tokens + self._tokens_of(job)
        return seqs <= self.max_num_seqs and tokens <= self.token_budget

    @staticmethod
    def _tokens_of(job: Job) -> int:
        return len(job.layout) + job.num_seqs * job.max_tokens

    def _retire(self, job: Job) -> None:
        self._running.remove(job)
        self._tokens -= self._tokens_of(job)
        self._seqs -= job.num_seqs
        job.release(self.runner)


def _alike(moved: Sequence[tuple[Job, Tensor]]) -> list[list[tuple[Job, Tensor]]]:
    """Jobs that can advance in one go, with their logits."""
    batches: dict[tuple[type[Job], Hashable], list[tuple[Job, Tensor]]] = {}
    for job, logits in moved:
        batches.setdefault((type(job), job.batch_key), []).append((job, logits))
    return list(batches.values())
