"""Beam search, blank by blank.

Hypotheses are compared only when they have closed the same number of blanks: the best
`num_beams` ways to close one blank are the beams that open the next. A finished
hypothesis stays in the running until no live one can still overtake it.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..layouts import Layout, PartBState
from .job import Job, JobOutput
from .model_runner import Input, ModelRunner
from .options import FillOptions
from .sampling import favor_ends, forbid_repeats, penalize_repetition
from .stop_tokens import StopTokens
from .writing import BlankState, restrict


@dataclass(frozen=True)
class Hypothesis:
    """Fills written so far, the log-probabilities of their tokens and ends, why each ended; the open blank's state."""

    fills: tuple[tuple[int, ...], ...] = ()
    logprobs: tuple[tuple[float, ...], ...] = ()
    reasons: tuple[str, ...] = ()
    state: BlankState | None = field(default=None, compare=False)

    @property
    def is_closed(self) -> bool:
        """Whether its last blank is closed."""
        return len(self.reasons) == len(self.fills)

    @property
    def logprob(self) -> float:
        """Sum over all tokens and ends."""
        return sum(value for blank in self.logprobs for value in blank)

    @property
    def length(self) -> int:
        """Tokens and ends."""
        return sum(map(len, self.logprobs))

    def score(self, length_penalty: float) -> float:
        """Sum of log-probabilities over length ** length_penalty, the ends counted as tokens; always finite."""
        try:
            divisor: float = float(max(1, self.length)) ** length_penalty
        except OverflowError:
            divisor = math.inf
        return max(self.logprob / max(divisor, sys.float_info.min), -sys.float_info.max)

    def rank(self, length_penalty: float, length: int | None = None) -> float:
        """Higher for a higher logprob / length ** length_penalty, the ends counted as tokens.

        That quotient is no number, or the same one, for large penalties; this is minus the logarithm of its size.

        Args:
            length: to count with in place of its own.
        """
        exponent = length_penalty * math.log(max(1, self.length if length is None else length))
        exponent = min(max(exponent, -sys.float_info.max), sys.float_info.max)
        return exponent - math.log(-self.logprob) if self.logprob < 0 else math.inf

    def extended(self, token: int, logprob: float) -> Hypothesis:
        """One more token in the open blank."""
        return Hypothesis(
            (*self.fills[:-1], (*self.fills[-1], token)),
            (*self.logprobs[:-1], (*self.logprobs[-1], logprob)),
            self.reasons,
            None if self.state is None else self.state.after(token),
        )

    def closed(self, reason: str, logprob: float | None = None) -> Hypothesis:
        """The open blank closed, by an end token of this log-probability if there was one."""
        last = self.logprobs[-1] if logprob is None else (*self.logprobs[-1], logprob)
        return Hypothesis(self.fills, (*self.logprobs[:-1], last), (*self.reasons, reason))

    def opened(self, starts: Sequence[BlankState] = ()) -> Hypothesis:
        """A new, empty blank begun."""
        state = starts[len(self.fills)] if starts else None
        return Hypothesis((*self.fills, ()), (*self.logprobs, ()), self.reasons, state)


@dataclass
class BeamSequence:
    """A hypothesis and what the model has read of it.

    Attributes:
        kv: its handle in the model runner; None where nothing follows any more.
    """

    hypothesis: Hypothesis
    part_b: PartBState
    kv: Any = None

    def next_input(self) -> Input:
        """As `RunningSequence`."""
        return self.part_b.next_input()


@dataclass(frozen=True)
class Candidate:
    """A hypothesis with one token or end more, and the sequence it comes from."""

    parent: BeamSequence
    hypothesis: Hypothesis


class BeamSearchJob(Job):
    """The beam search of one text.

    Args:
        layout: Part A and the `sop` of the first blank.
        part_b: where the text's blanks are; nothing is written yet.
        limits: (fewest, most) tokens of each blank.
        options: of the search.
        stop_tokens: of the vocabulary.
        starts: as in `SamplingSequence`.

    Attributes:
        beams: when done, the best hypotheses, best first.
    """

    ranked = True

    def __init__(
        self,
        layout: Layout,
        part_b: PartBState,
        limits: Sequence[tuple[int, int]],
        options: FillOptions,
        stop_tokens: StopTokens,
        starts: Sequence[BlankState] = (),
    ) -> None:
        most = sum(most + 1 for _, most in limits)
        answers = options.num_return_sequences
        super().__init__(layout, num_seqs=options.num_beams, max_tokens=most, num_answers=answers)
        self.limits, self.options, self.stop_tokens = limits, options, stop_tokens
        self.beams: list[Hypothesis] = []
        self._part_b, self._starts = part_b, starts
        self._live: list[BeamSequence] = []
        self._finished: list[BeamSequence] = []
        self._awaiting_last_token: list[BeamSequence] = []  # of the beams that open the next blank

    def begin(self, runner: ModelRunner, kv: Any) -> None:
        """As `Job`."""
        self._live = [self._sequence(Hypothesis().opened(self._starts), kv)]

    def running_seqs(self) -> list[BeamSequence]:
        """As `Job`."""
        return self._awaiting_last_token or self._live

    def release(self, runner: ModelRunner) -> None:
        """As `Job`."""
        self._free([*self._live, *self._finished], runner)
        self._live, self._finished, self._awaiting_last_token = [], [], []

    def outputs(self) -> list[JobOutput]:
        """As `Job`: none before the search is done."""
        penalty = self.options.length_penalty
        return [JobOutput(beam.fills, beam.logprobs, beam.reasons, score=beam.score(penalty)) for beam in self.beams]

    @classmethod
    def advance(cls, batch: Sequence[tuple[BeamSearchJob, Tensor]], runner: ModelRunner) -> None:
        """As `Job`."""
        for job, logits in batch:
            job._advance(logits, runner)

    def _advance(self, logits: Tensor, runner: ModelRunner) -> None:
        """One step: extend the live hypotheses, or open the next blank once all is read."""
        if self._awaiting_last_token:
            self._awaiting_last_token = []
            self._open_next()
            return
        going, ending = self._best(self._candidates(logits))
        self._inherit([*going, *ending], runner)
        if self._decided():
            self._close_blank(runner)

    # --- one blank ---------------------------------------------------------------------

    def _candidates(self, logits: Tensor) -> list[Candidate]:
        """Ways to go on or to end, best first: enough for `num_beams` to go on, whatever ends."""
        beams, ends = self.options.num_beams, self.stop_tokens.ids
        before = [seq.hypothesis for seq in self._live]
        fewest, _ = self.limits[self._blank]
        allowed = self.stop_tokens.mask(logits, [len(each.fills[-1]) < fewest for each in before])
        allowed = restrict(allowed, [each.state for each in before])
        written = ([token for fill in each.fills for token in fill] for each in before)
        allowed = penalize_repetition(allowed, written, self.options.repetition_penalty)
        size, fills = self.options.no_repeat_ngram_size, [each.fills[-1] for each in before]
        around = self.layout.input_ids[: self.layout.separator].tolist() if size else []
        allowed = forbid_repeats(allowed, ((fill, around) for fill in fills), size)
        decay = self.options.exponential_decay_length_penalty
        allowed = favor_ends(allowed, list(map(len, fills)), ends, decay)
        normalizer = logits.logsumexp(-1, keepdim=True)
        sums = torch.tensor([each.logprob for each in before]).to(logits)
        total = (sums[:, None] + (allowed - normalizer)).flatten()
        # Ends may take up to that many of the best places; enough others must remain.
        if not torch.isfinite(total).any():  # no way leads on: the hypotheses stand as they are
            return [Candidate(seq, seq.hypothesis.closed("unmet")) for seq in self._live]
        best = self._accepted(total, beams * (1 + len(ends)), logits.shape[1])
        logprobs = (logits - normalizer).flatten()[best].tolist()
        return [
            self._candidate(self._live[place // logits.shape[1]], place % logits.shape[1], logprob)
            for place, logprob in zip(best, logprobs, strict=True)
        ]

    def _accepted(self, total: Tensor, wanted: int, vocabulary: int) -> list[int]:
        """The places of the best `wanted` of `total` [B * V] whose states accept them, best first.

        Where none is accepted the first ones stand.
        """
        finite = int(torch.isfinite(total).sum())
        first: list[int] | None = None
        while True:
            best = total.topk(min(wanted, finite)).indices.tolist()
            first = best if first is None else first
            refused = [place for place in best if not self._accepts(*divmod(place, vocabulary))]
            finite -= len(refused)
            if not refused or not finite:
                return best if finite else first
            total[refused] = -torch.inf

    def _accepts(self, parent: int, token: int) -> bool:
        state = self._live[parent].hypothesis.state
        return state is None or state.accepts(token)

    def _candidate(self, parent: BeamSequence, token: int, logprob: float) -> Candidate:
        before = parent.hypothesis
        if token in self.stop_tokens.ids:
            return Candidate(parent, before.closed("stop", logprob))
        after = before.extended(token, logprob)
        if len(after.fills[-1]) < self.limits[self._blank][1]:
            return Candidate(parent, after)
        return Candidate(parent, after.closed("length" if after.state is None or after.state.met else "unmet"))

    def _best(self, candidates: Sequence[Candidate]) -> tuple[list[Candidate], list[Candidate]]:
        """Of candidates, best first: the `num_beams` best that go on, and those among the best that end."""
        beams = self.options.num_beams
        going: list[Candidate] = []
        ending: list[Candidate] = []
        fills = {seq.hypothesis.fills for seq in self._finished}
        for rank, candidate in enumerate(candidates):
            if not candidate.hypothesis.is_closed:
                if len(going) < beams:
                    going.append(candidate)
            # Of several ends of the same fills the best one stays.
            elif rank < beams and candidate.hypothesis.fills not in fills:
                fills.add(candidate.hypothesis.fills)
                ending.append(candidate)
        return going, ending

    def _inherit(self, children: Sequence[Candidate], runner: ModelRunner) -> None:
        """Children take the place of the live sequences; each has its parent's keys and values to itself."""
        last_blank = self._blank + 1 == len(self.limits)
        heirs = [child for child in children if not (last_blank and child.hypothesis.is_closed)]
        waiting = Counter(id(heir.parent) for heir in heirs)
        self._free([parent for parent in self._live if not waiting[id(parent)]], runner)
        self._live = []
        for child in children:
            parent, kv = child.parent, None
            if not (last_blank and child.hypothesis.is_closed):
                waiting[id(parent)] -= 1
                kv = runner.fork(parent.kv) if waiting[id(parent)] else parent.kv
            seq = self._sequence(child.hypothesis, kv)
            (self._finished if child.hypothesis.is_closed else self._live).append(seq)

    def _decided(self) -> bool:
        """Whether no live hypothesis can still overtake the finished ones."""
        beams, penalty = self.options.num_beams, self.options.length_penalty
        if not self._live:
            return True
        if len(self._finished) < beams:
            return False
        worst = sorted((seq.hypothesis.rank(penalty) for seq in self._finished), reverse=True)[beams - 1]
        # Sums only fall; with a length penalty a longer hypothesis can still come out ahead.
        most = self.limits[self._blank][1] if penalty > 0 else 0
        return max(_bound(seq.hypothesis, penalty, most) for seq in self._live) <= worst

    @property
    def _blank(self) -> int:
        """Index of the blank being written."""
        return len((self._live or self._finished)[0].hypothesis.fills) - 1

    # --- from blank to blank -----------------------------------------------------------

    def _close_blank(self, runner: ModelRunner) -> None:
        """Keep the best finished hypotheses; they open the next blank, if there is one."""
        ranked = sorted(self._finished, key=lambda seq: -seq.hypothesis.rank(self.options.length_penalty))
        best, others = ranked[: self.options.num_beams], ranked[self.options.num_beams :]
        self._free([*others, *self._live], runner)
        self._live, self._finished = [], best
        if len(best[0].hypothesis.fills) == len(self.limits):
            self.beams, self.done = [seq.hypothesis for seq in best], True
            return
        self._awaiting_last_token = [
            seq for seq in best if seq.hypothesis.reasons[-1] != "stop" and seq.hypothesis.fills[-1]
        ]
        if not self._awaiting_last_token:
            self._open_next()

    def _open_next(self) -> None:
        self._live = [self._sequence(seq.hypothesis.opened(self._starts), seq.kv) for seq in self._finished]
        self._finished = []

    def _sequence(self, hypothesis: Hypothesis, kv: Any) -> BeamSequence:
        return BeamSequence(hypothesis, replace(self._part_b, fills=[list(fill) for fill in hypothesis.fills]), kv)

    @staticmethod
    def _free(seqs: Sequence[BeamSequence], runner: ModelRunner) -> None:
        for seq in seqs:
            if seq.kv is not None:
                runner.free(seq.kv)


def _bound(hypothesis: Hypothesis, penalty: float, most: int) -> float:
    """The best rank the hypothesis can still reach."""
    longest = hypothesis.length + max(0, most - len(hypothesis.fills[-1])) + 1
    return hypothesis.rank(penalty, longest if penalty > 0 else None)
