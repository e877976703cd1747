"""The training loop: what pretraining and fine-tuning share.

    number -> batch -> module -> losses -> gradient -> guard -> update -> report, state

The loop asks a task for three things: a module that turns a batch into the sum of its
losses, a function from the number of a batch to the batch, and a look at how good the
weights are now and then. Every update is a function of the recipe, the data and its number,
whatever the number of processes and workers; dropout too is seeded by the number of the
batch. A run that was killed and resumed therefore gives the numbers of one that never stopped.

Knows nothing about text, objectives, or files other than states.
"""

from __future__ import annotations

import ctypes
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..reporting.report import Report
from .guard import Guard
from .loader import Numbers, draw
from .meter import Meter
from .optim import OptimizerOptions, build_optimizers, clip_gradients, rate_factor, set_rate
from .options import LoopOptions
from .parallel import Processes
from .state import load_state, lock, save_state, states
from .state_formats import Meta
from .task import ANYTHING, LoopBatch, TrainingTask
from .translate_errors import translate_errors

_DAMAGED = "its plain values are damaged; remove it, and the state before it is used"


@dataclass(frozen=True)
class _UpdateSize:
    """How large an update is in all processes: tokens, positions, and losses in each group."""

    tokens: float
    positions: float
    counts: Sequence[float]


class Loop:
    """Trains.

    Args:
        task, options, optimizer: see there.
        folder: of states.
        processes: of this run.
        report: where numbers go; None in all processes but the first.

    Attributes:
        done: updates so far, those left out by the guard included.
        complete: whether the task has asked for no more of them (`finish`).
        tokens_seen: positions that held a token, in all of them.
        interrupted: whether the run stopped because any of its processes was asked to by a signal.

    Raises:
        TrainingError: the processes cannot share out the batches of an update.
    """

    def __init__(
        self,
        task: TrainingTask,
        options: LoopOptions,
        optimizer: OptimizerOptions,
        folder: Path,
        *,
        processes: Processes,
        report: Report | None = None,
    ) -> None:
        processes.check_shares(options.accumulate)
        self.task, self.options, self.optimizer = task, options, optimizer
        self.folder, self.processes, self.report = folder, processes, report
        if options.compile:
            compile_layers(task.layers)
        processes.share_out(task.module, task.layers)
        self.optimizers = build_optimizers(task.model, optimizer, fused=options.compile)
        self.guard, self.meter = Guard(options.spike), Meter(task.groups)
        self.done, self.tokens_seen = 0, 0
        self.complete = False
        self.interrupted = False
        self._signalled = False
        self._deadline = float("inf")
        self._lock: IO[bytes] | None = None

    def run(
        self, *, stop_at: int | None = None, deadline: float | None = None, max_seconds: float | None = None
    ) -> bool:
        """Resume if there is a state, and train to the end; True if it was reached.

        SIGINT and SIGTERM to any of the processes finish the current update, save and return False.

        Args:
            stop_at: make no more than so many updates in all.
            deadline: begin no update after this reading of `time.monotonic`.
            max_seconds: begin no update later than so many seconds after the first could begin;
                what is loaded before does not count.
        """
        options, processes = self.options, self.processes
        end = options.steps if stop_at is None else min(stop_at, options.steps)
        self.processes.by_first(self._take_folder)
        self.resume()
        numbers = Numbers(self.done, end, options.accumulate, processes.rank, processes.count)
        pin = processes.device.type == "cuda"
        stream = draw(self.task.batch, numbers, workers=options.workers, pin=pin)
        with self._signals_caught():
            self.task.module.train()
            limits = (deadline, None if max_seconds is None else time.monotonic() + max_seconds)
            self._deadline = min((limit for limit in limits if limit is not None), default=float("inf"))
            self.meter.start_clock()
            while self.done < end and not self.complete:
                batches = [next(stream) for _ in numbers.of(self.done)]
                size = self._agree_on_size(batches)
                if size is None:
                    break
                self._update(batches, size)
                self._after_update(end)
            stream.close()
            if self.done < end and not self.complete:
                self.save()
                self._note("stopped", "the state is saved")
        if self._lock is not None:
            self._lock.close()
        return self.complete or self.done >= options.steps

    def finish(self) -> None:
        """Make no further updates; the run counts as finished. For evaluations that stop a run early."""
        self.complete = True

    # --- updates -----------------------------------------------------------------------

    def _agree_on_size(self, batches: Sequence[LoopBatch]) -> _UpdateSize | None:
        """The size of the next update, of which these batches are this process's share.

        None if any process was asked to stop, or the time is over in any.
        """
        over = time.monotonic() > self._deadline
        counts = [sum(column) for column in zip(*(batch.counts for batch in batches), strict=True)]
        tokens, positions = sum(batch.tokens for batch in batches), sum(batch.positions for batch in batches)
        # One exchange on the host tells everyone how large the whole update is, and whether to stop.
        mine = [float(self._signalled), float(over), tokens, positions, *counts]
        signals, overs, all_tokens, all_positions, *all_counts = self.processes.sum(mine)
        self.interrupted = signals > 0
        return None if signals or overs else _UpdateSize(all_tokens, all_positions, all_counts)

    def _update(self, batches: Sequence[LoopBatch], size: _UpdateSize) -> None:
        """Make the next update, of which these batches are this process's share."""
        number = self.options.accumulate * self.done + self.processes.rank
        count = max(1.0, sum(size.counts))
        with translate_errors(self.done + 1, self.task.describe(number), self.processes.device, self.options):
            sums, norm = self._gradient(number, batches, count)
            reason = self.guard.judge(sum(sums) / count, norm)
            set_rate(self.optimizers, rate_factor(self.done, self.options.steps, self.optimizer))
            for optimizer in self.optimizers:
                if not reason:
                    optimizer.step()
                optimizer.zero_grad(set_to_none=True)
        self.done += 1
        self.tokens_seen += int(size.tokens)
        self.meter.add(sums, size.counts, norm, size.positions, left_out=bool(reason))
        if reason:
            self._note("skipped", reason)
            self.guard.check(self.done, reason, self._remedy())

    def _gradient(self, number: int, batches: Sequence[LoopBatch], count: float) -> tuple[list[float], float]:
        """Leave the clipped gradient of the mean loss of the whole update in the weights.

        Args:
            number: of the first of `batches`, which are this process's.
            count: losses in the whole update.

        Returns:
            The sums of its losses in each group, and the norm of the gradient before clipping.
        """
        parts: list[Tensor] = []
        for index, batch in enumerate(batches):
            torch.manual_seed(dropout_seed(self.options.seed, number + index * self.processes.count))
            total, sums = self.task.module(batch.to(self.processes.device))
            (total / count).backward()
            parts.append(sums)
        norm = clip_gradients(self.task.model.parameters(), self.optimizer.clip)
        found = torch.stack(parts).sum(0)
        # The one moment of an update at which the host waits for the device.
        *values, norm_value = torch.cat([found, norm.reshape(1).to(found)]).tolist()
        # The first process's norm counts, so that all judge alike.
        *all_sums, norm_value = self.processes.sum([*values, norm_value if self.processes.first else 0.0])
        return all_sums, norm_value

    def _after_update(self, end: int) -> None:
        options, done = self.options, self.done
        if self.report is not None:
            self.report.advance(done)
        if done % options.log_every == 0 or done == end:
            self._log()
            if self.processes.device.type == "cpu":
                give_back_memory()
        if self.task.evaluate is not None and (done % options.evaluate_every == 0 or done == options.steps):
            self.task.module.eval()
            with torch.no_grad(), self._paused("validating"):
                self.task.evaluate(done)
            self.task.module.train()
        # While updates are left out, states do not take the place of those from before.
        if done == end or self.complete or (done % options.save_every == 0 and not self.guard.left_out):
            with self._paused("saving the state"):
                self.save()

    @contextmanager
    def _paused(self, what: str) -> Iterator[None]:
        """Time that is not training's, with a word about it on the bar."""
        with self.meter.clock_stopped(), self.report.busy(what) if self.report is not None else nullcontext():
            yield

    def _log(self) -> None:
        flops = None
        if self.task.flops is not None:
            last = self.options.accumulate * (self.done - 1)
            flops = self.task.flops(last, self.meter.predicted_share)
        entry = {**self.meter.entry(), "lr": self.optimizers[0].param_groups[0]["lr"]}
        if self.report is not None:
            entry["tokens_seen"] = float(self.tokens_seen)
            self.report.training(self.done, entry, flops_per_token=flops)

    def _note(self, kind: str, text: str) -> None:
        if self.report is not None:
            self.report.note(self.done, kind, text)

    def _remedy(self) -> str:
        kept = [f"{path.name}" for _, path in states(self.folder)]
        return f"{' or '.join(kept)} in {self.folder}" if kept else "there is no state yet, so start anew"

    # --- states ------------------------------------------------------------------------

    def save(self) -> None:
        """Write a state; all processes call it."""
        meta: Meta = {
            "step": self.done,
            "tokens_seen": self.tokens_seen,
            "guard": self.guard.state(),
            "meter": self.meter.state(),
            "identity": dict(self.task.identity),
            "task": dict(self.task.state()),
        }
        save_state(self.folder, self.done, self.task.model, self.optimizers, meta, self.processes)

    def resume(self) -> None:
        """Go on from the newest state in the folder, if there is one."""
        restored = load_state(
            self.folder,
            self.task.model,
            self.optimizers,
            self.processes,
            check=self._check_identity,
            say=lambda text: self._note("resumed", text),
        )
        if restored is not None:
            path, meta = restored
            try:
                self.done, self.tokens_seen = int(meta["step"]), int(meta["tokens_seen"])
                self.guard.restore(meta["guard"])
                self.meter.restore(meta["meter"])
                self.task.restore(meta.get("task", {}))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise TrainingError(f"{path}: {_DAMAGED} ({type(error).__name__}: {error})") from error
            self._note("resumed", f"from {path}")
        if self.report is not None:
            self.report.resume_at(self.done)

    def _check_identity(self, path: Path, meta: Meta) -> None:
        for name in ("step", "tokens_seen"):
            if not isinstance(meta.get(name), int) or meta[name] < 0:
                raise TrainingError(f"{path}: {_DAMAGED} ({name} is {meta.get(name, 'missing')})")
        assumed = self.task.assumed
        here, there = dict(flattened(self.task.identity)), dict(flattened(meta.get("identity", {})))
        for name in [*here, *there]:
            if name not in there and name in assumed and assumed[name] in (ANYTHING, here[name]):
                continue  # a state of an earlier version, which did not know it
            if here.get(name) != there.get(name):
                raise TrainingError(
                    f"{path}: of another run: {name} was {there.get(name, 'absent')} and is {here.get(name, 'absent')} "
                    "now; go on with the recipe and data it was begun with, or give another --output"
                )

    def _take_folder(self) -> None:
        self._lock = lock(self.folder)

    # --- signals -----------------------------------------------------------------------

    @contextmanager
    def _signals_caught(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread can catch signals
            return
        before = {number: signal.signal(number, self._ask_to_stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True


def dropout_seed(seed: int, number: int) -> int:
    """The seed of dropout in one micro-batch: another for each, whoever computes it."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0])


def compile_layers(layers: Sequence[nn.Module]) -> None:
    """Compile each layer by itself; as they are alike, that costs one compilation per shape.

    Hooks, such as those that gather weights, stay outside of what is compiled.
    """
    for layer in layers:
        layer.forward = torch.compile(layer.forward, dynamic=False)


def give_back_memory() -> None:
    """Let glibc return freed memory: batches differ in size, so that it holds ever more pieces none of which fits."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def flattened(values: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Nested plain values as (`a.b.0`, value) pairs."""
    if isinstance(values, Mapping):
        items = values.items()
    elif isinstance(values, (list, tuple)):
        items = dict(enumerate(values)).items()
    else:
        yield name, values
        return
    for key, value in items:
        yield from flattened(value, f"{name}.{key}" if name else str(key))
