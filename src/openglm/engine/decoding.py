"""Greedy decoding and sampling: the answers to one text, each in a sequence of its own.

A sequence that ends a blank goes on with its next one at the next step; one that is done
leaves. What was decided is noted as it is decided, so that the same code serves whole
answers and streams.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional as F

from ..layouts import Layout, PartBState
from .job import Event, Job, JobOutput
from .model_runner import Input, ModelRunner
from .options import FillOptions
from .sampling import choose, penalize_repetition
from .stop_tokens import StopTokens
from .writing import BlankState, restrict


@dataclass
class SamplingSequence:
    """One answer being written.

    Attributes:
        part_b: what is written.
        limits: (fewest, most) tokens of each blank.
        generator: its random numbers.
        num_top: note that many of the most probable tokens at every step.
        logprobs: of each blank's tokens and its end, so far.
        top_logprobs: of each blank's tokens and its end, the most probable tokens with their log-probabilities.
        reasons: finish reason of each finished blank.
        awaiting_last_token: the last token of a fill that was cut off by its limit is being read.
        kv: its handle in the model runner.
        starts: what may be written into each blank, in the state of an empty one; () for any tokens.
        state: of the current blank.
    """

    part_b: PartBState
    limits: Sequence[tuple[int, int]]
    generator: Generator
    num_top: int = 0
    logprobs: list[list[float]] = field(default_factory=lambda: [[]])
    top_logprobs: list[list[list[tuple[int, float]]]] = field(default_factory=lambda: [[]])
    reasons: list[str] = field(default_factory=list)
    awaiting_last_token: bool = False
    kv: Any = None
    starts: Sequence[BlankState] = ()
    state: BlankState | None = field(init=False)

    def __post_init__(self) -> None:
        self.state = self.starts[0] if self.starts else None

    @property
    def too_short(self) -> bool:
        """Whether the current fill may not end yet."""
        return len(self.part_b.fills[-1]) < self.limits[self.part_b.blank][0]

    @property
    def full(self) -> bool:
        """Whether the current fill has as many tokens as it may."""
        return len(self.part_b.fills[-1]) >= self.limits[self.part_b.blank][1]

    @property
    def done(self) -> bool:
        """Whether every blank is closed."""
        return len(self.reasons) == len(self.limits)

    @property
    def written(self) -> list[int]:
        """The tokens of all fills."""
        return [token for fill in self.part_b.fills for token in fill]

    def next_input(self) -> Input:
        """As `RunningSequence`."""
        return self.part_b.next_input()

    def finish_blank(self, reason: str) -> None:
        """Close the current blank and open the next one, if there is one."""
        self.reasons.append(reason)
        if not self.done:
            self.open_next()

    def open_next(self) -> None:
        """Begin the next blank."""
        self.awaiting_last_token = False
        self.part_b.next_blank()
        self.state = self.starts[self.part_b.blank] if self.starts else None
        self.logprobs.append([])
        self.top_logprobs.append([])

    def stop(self) -> None:
        """End this answer where it is: its blank and all that follow are closed."""
        self.awaiting_last_token = False
        while not self.done:
            self.finish_blank("stop")


class SamplingJob(Job):
    """The answers to one text, each drawn by itself, or the greedy one.

    Args:
        layout: Part A and the `sop` of the first blank.
        seqs: the answers, with nothing written.
        options: how tokens are chosen.
        stop_tokens: of the vocabulary.
        read_last: let later blanks see the last token of a fill that was cut off by its
            limit. The published code does not; with False neither does this.
    """

    def __init__(
        self,
        layout: Layout,
        seqs: Sequence[SamplingSequence],
        options: FillOptions,
        stop_tokens: StopTokens,
        *,
        read_last: bool = True,
    ) -> None:
        most = sum(most + 1 for _, most in seqs[0].limits)
        super().__init__(layout, num_seqs=len(seqs), max_tokens=most, num_answers=len(seqs))
        self.seqs, self.options, self.stop_tokens, self.read_last = seqs, options, stop_tokens, read_last

    def begin(self, runner: ModelRunner, kv: Any) -> None:
        """As `Job`."""
        for seq in self.seqs[1:]:
            seq.kv = runner.fork(kv)
        self.seqs[0].kv = kv

    def running_seqs(self) -> list[SamplingSequence]:
        """As `Job`."""
        return [seq for seq in self.seqs if not seq.done]

    def release(self, runner: ModelRunner) -> None:
        """As `Job`."""
        self._free(self.seqs, runner)

    def outputs(self) -> list[JobOutput]:
        """As `Job`: in the order of drawing."""
        return [JobOutput(seq.part_b.fills, seq.logprobs, seq.reasons, seq.top_logprobs) for seq in self.seqs]

    def stop(self, answer: int) -> None:
        """As `Job`."""
        self.seqs[answer].stop()

    @property
    def batch_key(self) -> Hashable:
        """As `Job`: those that draw alike."""
        return self.options.drawing

    @classmethod
    def advance(cls, batch: Sequence[tuple[SamplingJob, Tensor]], runner: ModelRunner) -> None:
        """As `Job`."""
        seqs = [(job, number) for job, _ in batch for number, seq in enumerate(job.seqs) if not seq.done]
        logits = torch.cat([rows for _, rows in batch]) if len(batch) > 1 else batch[0][1]
        # What only reads the last token of a fill draws no number, so that a sequence's numbers are its own.
        choosing = [row for row, (job, number) in enumerate(seqs) if not job.seqs[number].awaiting_last_token]
        for job, number in seqs:
            if job.seqs[number].awaiting_last_token:
                job.seqs[number].open_next()
        if choosing:
            if len(choosing) < len(seqs):
                logits = logits[torch.tensor(choosing, device=logits.device)]
            _write_next([seqs[row] for row in choosing], logits)
        for job, _ in batch:
            job._free([seq for seq in job.seqs if seq.done], runner)
            job.done = all(seq.done for seq in job.seqs)

    def write(self, number: int, token: int, logprob: float) -> None:
        """Note the token chosen for one sequence: it is written, or closes the blank."""
        seq = self.seqs[number]
        blank = seq.part_b.blank
        seq.logprobs[-1].append(logprob)
        if token in self.stop_tokens.ids:
            seq.finish_blank("stop")
            self.events.append(Event(number, blank, None, "stop"))
            return
        seq.part_b.write(token)
        seq.state = None if seq.state is None else seq.state.after(token)
        self.events.append(Event(number, blank, token, None))
        if seq.full:
            if self.read_last and not seq.part_b.is_last:
                seq.reasons.append("length")
                seq.awaiting_last_token = True
            else:
                seq.finish_blank("length")
            self.events.append(Event(number, blank, None, "length"))

    @staticmethod
    def _free(seqs: Sequence[SamplingSequence], runner: ModelRunner) -> None:
        for seq in seqs:
            if seq.kv is not None:
                runner.free(seq.kv)
                seq.kv = None


def _write_next(chosen: Sequence[tuple[SamplingJob, int]], logits: Tensor) -> None:
    """Choose and write the next token of sequences whose jobs draw alike, [R, V] logits."""
    options, stop_tokens = chosen[0][0].options, chosen[0][0].stop_tokens
    seqs = [job.seqs[number] for job, number in chosen]
    allowed = stop_tokens.mask(logits, [seq.too_short for seq in seqs])
    allowed = restrict(allowed, [seq.state for seq in seqs])
    allowed = penalize_repetition(allowed, (seq.written for seq in seqs), options.repetition_penalty)
    tokens = _accepted(allowed, options, seqs)
    logprobs = -F.cross_entropy(logits, tokens, reduction="none")
    _note_top(logits, seqs)
    for (job, number), token, logprob in zip(chosen, tokens.tolist(), logprobs.tolist(), strict=True):
        job.write(number, token, logprob)


def _accepted(allowed: Tensor, options: FillOptions, seqs: Sequence[SamplingSequence]) -> Tensor:
    """The next token of each sequence, [R]: drawn again where its state does not accept it.

    Where nothing else is left the first token drawn stands.
    """
    tokens = choose(allowed, options, [seq.generator for seq in seqs])
    first = tokens.tolist()
    again = [row for row, token in enumerate(first) if not _accepts(seqs[row], token)]
    if again:
        tokens, allowed = tokens.clone(), allowed.clone()
    while again:
        allowed[again, tokens[again]] = -torch.inf
        open_ = torch.isfinite(allowed[again]).any(-1).tolist()
        for row in (row for row, some in zip(again, open_, strict=True) if not some):
            tokens[row] = first[row]
        again = [row for row, some in zip(again, open_, strict=True) if some]
        if again:
            tokens[again] = choose(allowed[again], options, [seqs[row].generator for row in again])
            drawn = tokens[again].tolist()
            again = [row for row, token in zip(again, drawn, strict=True) if not _accepts(seqs[row], token)]
    return tokens


def _accepts(seq: SamplingSequence, token: int) -> bool:
    return seq.state is None or seq.state.accepts(token)


def _note_top(logits: Tensor, seqs: Sequence[SamplingSequence]) -> None:
    """The most probable tokens under the model, for sequences that want them."""
    wanting = [row for row, seq in enumerate(seqs) if seq.num_top]
    if not wanting:
        return
    logprobs = logits[torch.tensor(wanting, device=logits.device)].log_softmax(-1)
    values, tokens = logprobs.topk(min(logprobs.shape[-1], max(seqs[row].num_top for row in wanting)), dim=-1)
    for row, own, found in zip(wanting, values.tolist(), tokens.tolist(), strict=True):
        top = seqs[row].num_top
        seqs[row].top_logprobs[-1].append(list(zip(found[:top], own[:top], strict=True)))
