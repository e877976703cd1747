"""Greedy decoding and sampling: the answers to one text, each in a sequence of its own.

A sequence that ends a blank goes on with its next one at the next step; one that is done
leaves. What was decided is noted as it is decided, so that the same code serves whole
answers and streams.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from numpy.random import Generator
from torch import Tensor
from torch.nn import functional as F

from ..errors import CheckpointError
from ..layouts import Layout, PartBState
from .job import Event, Job, JobOutput
from .model_runner import Input, ModelRunner
from .options import FillOptions
from .sampling import choose, favor_ends, forbid_repeats, penalize_repetition
from .stop_tokens import StopTokens
from .writing import BlankState, restrict


@dataclass(eq=False)
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
        numbers: in 0 .. 1, drawn for the token that is chosen next.
        kv: its handle in the model runner.
        starts: what may be written into each blank, in the state of an empty one; () for any tokens.
        around: tokens of the text, for what must not be repeated.
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
    numbers: list[float] = field(default_factory=list)
    kv: Any = None
    starts: Sequence[BlankState] = ()
    around: Sequence[int] = ()
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

    def drawn(self, draw: int) -> float:
        """The first, second, ... number drawn for its next token; the same until that is written."""
        while len(self.numbers) < draw:
            self.numbers.append(self.generator.random())
        return self.numbers[draw - 1]

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


@dataclass(frozen=True)
class Choice:
    """A token chosen, its log-probability under the model, and the most probable tokens if they are wanted."""

    token: int
    logprob: float
    top: list[tuple[int, float]]


NOTHING = Choice(-1, 0.0, [])  # no token leads on


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
        self.seqs[0].kv = kv
        for seq in self.seqs[1:]:
            seq.kv = runner.fork(kv)

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
        logits = torch.cat([rows for _, rows in batch]) if len(batch) > 1 else batch[0][1]
        seqs = [seq for job, _ in batch for seq in job.running_seqs()]
        # What only reads the last token of a fill draws no number, so that a sequence's numbers are its own.
        choosing = [row for row, seq in enumerate(seqs) if not seq.awaiting_last_token]
        if len(choosing) < len(seqs):
            logits = logits[torch.tensor(choosing, dtype=torch.int64, device=logits.device)]
        options, stop_tokens = batch[0][0].options, batch[0][0].stop_tokens
        choices = iter(_choose([seqs[row] for row in choosing], logits, options, stop_tokens))
        for job, _ in batch:
            own = [(seq, None if seq.awaiting_last_token else next(choices)) for seq in job.running_seqs()]
            try:
                job._move_on(own, runner)
            except Exception as error:
                job.fail(error)

    def _move_on(self, chosen: Sequence[tuple[SamplingSequence, Choice | None]], runner: ModelRunner) -> None:
        """Write what was chosen, and open the next blank of sequences that have read all of the one before."""
        for seq, choice in chosen:
            if choice is None:
                seq.open_next()
            elif choice is NOTHING:
                self.close(seq, "unmet")
            elif math.isfinite(choice.logprob):
                self.write(seq, choice)
            else:
                raise CheckpointError(
                    "the model computes values for this text that are no numbers; its weights are damaged, or their "
                    "type is too narrow: load it with dtype='float32'"
                )
        self._free([seq for seq in self.seqs if seq.done], runner)
        self.done = all(seq.done for seq in self.seqs)

    def write(self, seq: SamplingSequence, choice: Choice) -> None:
        """Note the token chosen for one sequence: it is written, or closes the blank."""
        answer, blank = self.seqs.index(seq), seq.part_b.blank
        seq.numbers.clear()
        seq.logprobs[-1].append(choice.logprob)
        if seq.num_top:
            seq.top_logprobs[-1].append(choice.top)
        if choice.token in self.stop_tokens.ids:
            seq.finish_blank("stop")
            self.events.append(Event(answer, blank, None, "stop"))
            return
        seq.part_b.write(choice.token)
        seq.state = None if seq.state is None else seq.state.after(choice.token)
        self.events.append(Event(answer, blank, choice.token, None))
        if seq.full:
            self.close(seq, "length" if seq.state is None or seq.state.met else "unmet")

    def close(self, seq: SamplingSequence, reason: str) -> None:
        """End the current blank of one sequence without an end of its own."""
        answer, blank = self.seqs.index(seq), seq.part_b.blank
        seq.numbers.clear()
        if self.read_last and seq.part_b.fills[-1] and not seq.part_b.is_last:
            seq.reasons.append(reason)
            seq.awaiting_last_token = True
        else:
            seq.finish_blank(reason)
        self.events.append(Event(answer, blank, None, reason))

    @staticmethod
    def _free(seqs: Sequence[SamplingSequence], runner: ModelRunner) -> None:
        for seq in seqs:
            if seq.kv is not None:
                runner.free(seq.kv)
                seq.kv = None


def _choose(
    seqs: Sequence[SamplingSequence], logits: Tensor, options: FillOptions, stop_tokens: StopTokens
) -> list[Choice]:
    """The next token of each sequence, [R, V] logits."""
    if not seqs:
        return []
    allowed = stop_tokens.mask(logits, [seq.too_short for seq in seqs])
    allowed = restrict(allowed, [seq.state for seq in seqs])
    allowed = penalize_repetition(allowed, (seq.written for seq in seqs), options.repetition_penalty)
    around = (seq.around for seq in seqs)
    fills = [seq.part_b.fills[-1] for seq in seqs]
    allowed = forbid_repeats(allowed, zip(fills, around, strict=True), options.no_repeat_ngram_size)
    allowed = favor_ends(allowed, list(map(len, fills)), stop_tokens.ids, options.exponential_decay_length_penalty)
    if any(seq.state is not None and seq.state.can_fail for seq in seqs):
        going = torch.isfinite(allowed).any(-1)
        if not going.all():
            rows = going.nonzero()[:, 0].tolist()
            chosen = iter(_tokens([seqs[row] for row in rows], logits[rows], allowed[rows], options) if rows else [])
            return [next(chosen) if goes else NOTHING for goes in going.tolist()]
    return _tokens(seqs, logits, allowed, options)


def _tokens(seqs: Sequence[SamplingSequence], logits: Tensor, allowed: Tensor, options: FillOptions) -> list[Choice]:
    tokens = _accepted(allowed, options, seqs)
    logprobs = -F.cross_entropy(logits, tokens, reduction="none")
    return [
        Choice(token, logprob, top)
        for token, logprob, top in zip(tokens.tolist(), logprobs.tolist(), _top(logits, seqs), strict=True)
    ]


def _accepted(allowed: Tensor, options: FillOptions, seqs: Sequence[SamplingSequence]) -> Tensor:
    """The next token of each sequence, [R]: drawn again where its state does not accept it.

    Where nothing else is left the first token drawn stands.
    """
    tokens = _drawn(allowed, options, seqs, 1)
    first = tokens.tolist()
    again = [row for row, token in enumerate(first) if not _accepts(seqs[row], token)]
    if again:
        tokens, allowed = tokens.clone(), allowed.clone()
    for draw in itertools.count(2):
        if not again:
            break
        allowed[again, tokens[again]] = -torch.inf
        open_ = torch.isfinite(allowed[again]).any(-1).tolist()
        for row in (row for row, some in zip(again, open_, strict=True) if not some):
            tokens[row] = first[row]
        again = [row for row, some in zip(again, open_, strict=True) if some]
        if again:
            tokens[again] = _drawn(allowed[again], options, [seqs[row] for row in again], draw)
            drawn = tokens[again].tolist()
            again = [row for row, token in zip(again, drawn, strict=True) if not _accepts(seqs[row], token)]
    return tokens


def _drawn(allowed: Tensor, options: FillOptions, seqs: Sequence[SamplingSequence], draw: int) -> Tensor:
    return choose(allowed, options, [seq.drawn(draw) for seq in seqs] if options.samples else [])


def _accepts(seq: SamplingSequence, token: int) -> bool:
    return seq.state is None or seq.state.accepts(token)


def _top(logits: Tensor, seqs: Sequence[SamplingSequence]) -> list[list[tuple[int, float]]]:
    """The most probable tokens under the model, for sequences that want them."""
    found: list[list[tuple[int, float]]] = [[] for _ in seqs]
    wanting = [row for row, seq in enumerate(seqs) if seq.num_top]
    if not wanting:
        return found
    logprobs = logits[torch.tensor(wanting, device=logits.device)].log_softmax(-1)
    values, tokens = logprobs.topk(min(logprobs.shape[-1], max(seqs[row].num_top for row in wanting)), dim=-1)
    for row, own, ids in zip(wanting, values.tolist(), tokens.tolist(), strict=True):
        found[row] = list(zip(ids, own, strict=True))[: seqs[row].num_top]
    return found
