"""Beam search, blank by blank.

Hypotheses are compared only when they have closed the same number of blanks: the best
`num_beams` ways to close one blank are the beams that open the next. A finished
hypothesis stays in the running until no live one can still overtake it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from ..blanks import Ids, Layout, Markers, Writer, lay_out
from ..model import GLMModel
from .decoding import Ends
from .options import FillOptions
from .reader import Reader
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
class Search:
    """The search of one text.

    Attributes:
        part_a, blank_positions: the text.
        limits: (fewest, most) tokens of each blank.
        beams: the best hypotheses with all blanks before the current one closed.
    """

    part_a: Ids
    blank_positions: Ids
    limits: Sequence[tuple[int, int]]
    beams: list[Hypothesis] = field(default_factory=lambda: [Hypothesis()])


@dataclass
class _Round:
    """One blank of one text: its live hypotheses, row by row, and the finished ones."""

    search: Search
    live: list[Hypothesis]
    finished: list[Hypothesis] = field(default_factory=list)

    def finish(self, hypothesis: Hypothesis) -> None:
        """Keep a finished hypothesis, unless the same fills ended otherwise are as good.

        Candidates come best first, so of `eop` and end of text the better one stays.
        """
        if all(other.fills != hypothesis.fills for other in self.finished):
            self.finished.append(hypothesis)

    def done(self, beams: int, penalty: float) -> bool:
        if not self.live:
            return True
        if len(self.finished) < beams:
            return False
        worst = sorted((h.score(penalty) for h in self.finished), reverse=True)[beams - 1]
        # Sums only fall; with a length penalty a longer hypothesis can still come out ahead.
        limit = self.search.limits[len(self.live[0].fills) - 1][1] if penalty > 0 else 0
        best = max(_bound(h, penalty, limit) for h in self.live)
        return best <= worst


def _bound(hypothesis: Hypothesis, penalty: float, limit: int) -> float:
    """The best score the hypothesis can still reach."""
    values = [value for blank in hypothesis.logprobs for value in blank]
    longest = len(values) + max(0, limit - len(hypothesis.fills[-1])) + 1
    return float(sum(values) / float(max(1, longest if penalty > 0 else len(values))) ** penalty)


@torch.inference_mode()
def beam_search(
    model: GLMModel, searches: Sequence[Search], options: FillOptions, ends: Ends, markers: Markers, pad_id: int
) -> None:
    """Fill all blanks of all texts; afterwards `search.beams` holds the best, best first."""
    blanks = max((len(search.blank_positions) for search in searches), default=0)
    for blank in range(blanks):
        going = [search for search in searches if blank < len(search.blank_positions)]
        _search_blank(model, going, options, ends, markers, pad_id)


def _search_blank(
    model: GLMModel, searches: Sequence[Search], options: FillOptions, ends: Ends, markers: Markers, pad_id: int
) -> None:
    rounds = [_Round(search, [beam.opened() for beam in search.beams]) for search in searches]
    layouts = [_layout(round_.search, h, markers) for round_ in rounds for h in round_.live]
    reader = Reader(model, layouts, pad_id, expected=16)
    going = list(rounds)
    while going:
        held = [(round_, h) for round_ in going for h in round_.live]
        writers = [_writer(round_.search, h, markers) for round_, h in held]
        logits = reader.step(writers)
        too_short = [len(h.fills[-1]) < r.search.limits[len(h.fills) - 1][0] for r, h in held]
        allowed = ends.mask(logits, too_short)
        written = ([t for fill in h.fills for t in fill] for _, h in held)
        scores = penalise_repetition(allowed, written, options.repetition_penalty)
        scores = scores - logits.logsumexp(-1, keepdim=True)
        true = logits.log_softmax(-1)
        keep: list[int] = []
        first = 0
        for round_ in going:
            count = len(round_.live)
            rows = slice(first, first + count)
            parents = _extend(round_, scores[rows], true[rows], options, ends)
            if round_.done(options.num_beams, options.length_penalty):
                ranked = sorted(round_.finished, key=lambda h: -h.score(options.length_penalty))
                round_.search.beams = ranked[: options.num_beams]
                round_.live = []
            else:
                keep += [first + parent for parent in parents]
            first += count
        going = [round_ for round_ in going if round_.live]
        if going:
            reader.select(torch.tensor(keep, device=reader.device))


def _extend(round_: _Round, scores: torch.Tensor, true: torch.Tensor, options: FillOptions, ends: Ends) -> list[int]:
    """One step of one text: new live hypotheses; returns the row each descends from."""
    beams = options.num_beams
    base = torch.tensor([sum(v for blank in h.logprobs for v in blank) for h in round_.live], device=scores.device)
    total = (base[:, None] + scores).flatten()
    # Ends may take up to that many of the best places; enough others must remain.
    wanted = min(beams * (1 + len(ends.ending)), int(torch.isfinite(total).sum()))
    best = total.topk(wanted).indices.tolist()
    live: list[Hypothesis] = []
    parents: list[int] = []
    for rank, flat in enumerate(best):
        parent, token = divmod(flat, scores.shape[1])
        before, logprob = round_.live[parent], float(true[parent, token])
        if token in ends.ending:
            if rank < beams:
                round_.finish(before.closed("stop", logprob))
            continue
        after = before.extended(token, logprob)
        if len(after.fills[-1]) >= round_.search.limits[len(after.fills) - 1][1]:
            if rank < beams:
                round_.finish(after.closed("length"))
            continue
        if len(live) < beams:
            live.append(after)
            parents.append(parent)
    round_.live = live
    return parents


def _writer(search: Search, hypothesis: Hypothesis, markers: Markers) -> Writer:
    return Writer(search.blank_positions.tolist(), markers, [list(fill) for fill in hypothesis.fills])


def _layout(search: Search, hypothesis: Hypothesis, markers: Markers) -> Layout:
    """Part A and the closed blanks; the open one is written token by token."""
    closed = hypothesis.fills[:-1]
    return lay_out(search.part_a, search.blank_positions[: len(closed)], closed, markers)
