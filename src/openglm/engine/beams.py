"""Beam search, blank by blank.

Hypotheses are compared only when they have closed the same number of blanks: the best
`num_beams` ways to close one blank are the beams that open the next. A finished
hypothesis stays in the running until no live one can still overtake it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..blanks import Layout, Markers, Writer
from .decoding import Ends
from .engine import Job
from .memory import Input, Memory
from .options import FillOptions
from .sampling import penalise_repetition


@dataclass(frozen=True)
class Hypothesis:
    """Fills written so far, the log-probabilities of their tokens and ends, why each ended."""

    fills: tuple[tuple[int, ...], ...] = ()
    logprobs: tuple[tuple[float, ...], ...] = ()
    reasons: tuple[str, ...] = ()

    def score(self, length_penalty: float) -> float:
        """Sum of log-probabilities over length ** length_penalty, the ends counted as tokens."""
        values = [value for blank in self.logprobs for value in blank]
        return float(sum(values) / float(max(1, len(values))) ** length_penalty)

    def extended(self, token: int, logprob: float) -> Hypothesis:
        """One more token in the open blank."""
        return Hypothesis(
            (*self.fills[:-1], (*self.fills[-1], token)),
            (*self.logprobs[:-1], (*self.logprobs[-1], logprob)),
            self.reasons,
        )

    def closed(self, reason: str, logprob: float | None = None) -> Hypothesis:
        """The open blank closed, by an end token of this log-probability if there was one."""
        last = self.logprobs[-1] if logprob is None else (*self.logprobs[-1], logprob)
        return Hypothesis(self.fills, (*self.logprobs[:-1], last), (*self.reasons, reason))

    def opened(self) -> Hypothesis:
        """A new, empty blank begun."""
        return Hypothesis((*self.fills, ()), (*self.logprobs, ()), self.reasons)


@dataclass
class Branch:
    """A hypothesis and what the model has read of it; a line of the engine.

    Attributes:
        text: its handle in the memory; None where nothing follows any more.
    """

    hypothesis: Hypothesis
    writer_of: Callable[[Hypothesis], Writer]
    text: Any = None

    def next_input(self) -> Input:
        """Token id, position and block position of what the model reads next."""
        return self.writer_of(self.hypothesis).next_input()


class Search(Job):
    """The search of one text.

    Args:
        layout: Part A and the `sop` of the first blank.
        blank_positions: of the text.
        limits: (fewest, most) tokens of each blank.

    Attributes:
        beams: when done, the best hypotheses, best first.
    """

    def __init__(
        self,
        layout: Layout,
        blank_positions: Sequence[int],
        limits: Sequence[tuple[int, int]],
        options: FillOptions,
        ends: Ends,
        markers: Markers,
    ) -> None:
        self.layout, self.positions, self.limits = layout, blank_positions, limits
        self.options, self.ends, self.markers = options, ends, markers
        self.lines, self.tokens = options.num_beams, sum(most + 1 for _, most in limits)
        self.beams: list[Hypothesis] = []
        self._live: list[Branch] = []
        self._finished: list[Branch] = []
        self._settling: list[Branch] = []  # of the beams, those whose last token is still to be read

    def begin(self, memory: Memory, text: Any) -> None:
        """As `Job`."""
        self._live = [self._branch(Hypothesis().opened(), text)]

    def open_lines(self) -> list[Branch]:
        """As `Job`."""
        return self._settling or self._live

    def release(self, memory: Memory) -> None:
        """As `Job`."""
        for branch in [*self._live, *self._finished]:
            if branch.text is not None:
                memory.free(branch.text)
        self._live, self._finished, self._settling = [], [], []

    def advance(self, logits: Tensor, memory: Memory) -> None:
        """One step: extend the live hypotheses, or open the next blank once all is read."""
        if self._settling:
            self._settling = []
            self._open_next()
            return
        children = self._candidates(logits)
        self._replace(children, memory)
        if self._decided():
            self._close_blank(memory)

    # --- one blank ---------------------------------------------------------------------

    def _candidates(self, logits: Tensor) -> list[tuple[Branch, Hypothesis]]:
        """The best ways to go on or to end, with the branch each comes from, best first."""
        beams, ends, number = self.options.num_beams, self.ends, self._blank
        written = [[t for fill in branch.hypothesis.fills for t in fill] for branch in self._live]
        fewest, most = self.limits[number]
        too_short = [len(branch.hypothesis.fills[-1]) < fewest for branch in self._live]
        allowed = penalise_repetition(ends.mask(logits, too_short), written, self.options.repetition_penalty)
        scores = allowed - logits.logsumexp(-1, keepdim=True)
        base = torch.tensor([sum(v for blank in b.hypothesis.logprobs for v in blank) for b in self._live])
        total = (base.to(scores)[:, None] + scores).flatten()
        # Ends may take up to that many of the best places; enough others must remain.
        wanted = min(beams * (1 + len(ends.ending)), int(torch.isfinite(total).sum()))
        best = total.topk(wanted).indices
        true = (logits - logits.logsumexp(-1, keepdim=True)).flatten()[best].tolist()
        out: list[tuple[Branch, Hypothesis]] = []
        going = 0
        for rank, (flat, logprob) in enumerate(zip(best.tolist(), true, strict=True)):
            parent, token = divmod(flat, scores.shape[1])
            before = self._live[parent].hypothesis
            after = before.closed("stop", logprob) if token in ends.ending else before.extended(token, logprob)
            if token not in ends.ending and len(after.fills[-1]) >= most:
                after = after.closed("length")
            if _is_closed(after):
                if rank < beams:
                    out.append((self._live[parent], after))
            elif going < beams:
                going += 1
                out.append((self._live[parent], after))
        return out

    def _replace(self, children: Sequence[tuple[Branch, Hypothesis]], memory: Memory) -> None:
        """Children take the place of the live branches; each has its parent's text to itself."""
        kept: list[tuple[Branch, Hypothesis]] = []
        fills = {branch.hypothesis.fills for branch in self._finished}
        for parent, hypothesis in children:
            # Candidates come best first: of several ends of the same fills the best one stays.
            if not _is_closed(hypothesis):
                kept.append((parent, hypothesis))
            elif hypothesis.fills not in fills:
                fills.add(hypothesis.fills)
                kept.append((parent, hypothesis))
        last_blank = self._blank + 1 == len(self.limits)
        parents, self._live = self._live, []
        users = [[h for p, h in kept if p is parent and not (last_blank and _is_closed(h))] for parent in parents]
        texts: dict[int, Any] = {}
        for parent, using in zip(parents, users, strict=True):
            if not using:
                memory.free(parent.text)
            for number, hypothesis in enumerate(using):
                texts[id(hypothesis)] = parent.text if number == 0 else memory.fork(parent.text)
            parent.text = None
        for _, hypothesis in kept:
            branch = self._branch(hypothesis, texts.get(id(hypothesis)))
            (self._finished if _is_closed(hypothesis) else self._live).append(branch)

    def _decided(self) -> bool:
        """Whether no live hypothesis can still overtake the finished ones."""
        beams, penalty = self.options.num_beams, self.options.length_penalty
        if not self._live:
            return True
        if len(self._finished) < beams:
            return False
        worst = sorted((b.hypothesis.score(penalty) for b in self._finished), reverse=True)[beams - 1]
        # Sums only fall; with a length penalty a longer hypothesis can still come out ahead.
        most = self.limits[self._blank][1] if penalty > 0 else 0
        return max(_bound(b.hypothesis, penalty, most) for b in self._live) <= worst

    @property
    def _blank(self) -> int:
        """Index of the blank being written."""
        return len((self._live or self._finished)[0].hypothesis.fills) - 1

    # --- from blank to blank -----------------------------------------------------------

    def _close_blank(self, memory: Memory) -> None:
        """Keep the best finished hypotheses; they open the next blank, if there is one."""
        ranked = sorted(self._finished, key=lambda branch: -branch.hypothesis.score(self.options.length_penalty))
        best, others = ranked[: self.options.num_beams], ranked[self.options.num_beams :]
        for branch in [*others, *self._live]:
            if branch.text is not None:
                memory.free(branch.text)
        self._live, self._finished = [], best
        if len(best[0].hypothesis.fills) == len(self.limits):
            self.beams, self.done = [branch.hypothesis for branch in best], True
            return
        self._settling = [branch for branch in best if branch.hypothesis.reasons[-1] == "length"]
        if not self._settling:
            self._open_next()

    def _open_next(self) -> None:
        self._live = [self._branch(branch.hypothesis.opened(), branch.text) for branch in self._finished]
        self._finished = []

    def _branch(self, hypothesis: Hypothesis, text: Any) -> Branch:
        return Branch(hypothesis, self._writer, text)

    def _writer(self, hypothesis: Hypothesis) -> Writer:
        return Writer(self.positions, self.markers, [list(fill) for fill in hypothesis.fills])


def _is_closed(hypothesis: Hypothesis) -> bool:
    return len(hypothesis.reasons) == len(hypothesis.fills)


def _bound(hypothesis: Hypothesis, penalty: float, most: int) -> float:
    """The best score the hypothesis can still reach."""
    values = [value for blank in hypothesis.logprobs for value in blank]
    longest = len(values) + max(0, most - len(hypothesis.fills[-1])) + 1
    return float(sum(values) / float(max(1, longest if penalty > 0 else len(values))) ** penalty)
