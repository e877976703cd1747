"""Which spans of a text to blank out: the three pretraining objectives.

- token: many short spans, Poisson lengths, about 15 % of the text, `[MASK]`
- sentence: whole sentences, about 15 %, `[sMASK]`
- document: one long span, the end of the text or its middle, `[gMASK]`

(Paper, sections 2.1 and 2.2; published code, sections 6.3 to 6.5 of its description.)
A sampler returns spans; laying them out is `openglm.blanks`. Knows nothing about files,
batches or torch. All randomness comes from the generator passed in.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ..blanks import BlankKind, Ids, Layout, Markers, blank_out
from ..errors import OptionError
from ..tokenizer import Tokenizer

MAX_SPAN = 39  # the published table of Poisson weights ends here


@dataclass(frozen=True)
class Objectives:
    """The mixture of objectives and their settings.

    Attributes:
        token, sentence, document: probabilities of the objectives, summing to 1.
        token_ratio, sentence_ratio: share of a text to blank out.
        mean_span: mean of the Poisson distribution of token span lengths.
        document_min_ratio: shortest document span, as a share of the text.
        document_infill: probability that a document span lies in the middle of the text
            and not at its end.
        input_noise: share of Part B inputs replaced by `[dBLOCK]` (token objective).
        whole_words: probability that the token spans of a text are widened to whole words,
            as blanks in real texts are. The published models were trained without.
    """

    token: float = 0.4
    sentence: float = 0.3
    document: float = 0.3
    token_ratio: float = 0.15
    sentence_ratio: float = 0.15
    mean_span: float = 3.0
    document_min_ratio: float = 0.25
    document_infill: float = 0.5
    input_noise: float = 0.0
    whole_words: float = 0.0

    def __post_init__(self) -> None:
        mixture = (self.token, self.sentence, self.document)
        if min(mixture) < 0 or not math.isclose(sum(mixture), 1.0, abs_tol=1e-6):
            raise OptionError(f"token, sentence and document must be probabilities that sum to 1, not {mixture}")
        for name in (
            "token_ratio",
            "sentence_ratio",
            "document_min_ratio",
            "document_infill",
            "input_noise",
            "whole_words",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise OptionError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        if self.mean_span <= 0:
            raise OptionError(f"mean_span must be above 0, not {self.mean_span}")

    def only(self, objective: str) -> Objectives:
        """The same settings with one objective (token, sentence or document) in place of the mixture."""
        mixture = {name: float(name == objective) for name in ("token", "sentence", "document")}
        return replace(self, **mixture)


@functools.cache
def _length_table(mean: float) -> NDArray[np.float64]:
    """Cumulative Poisson weights of the lengths 1 .. MAX_SPAN, scaled to end at 1."""
    k = np.arange(1, MAX_SPAN + 1)
    log_weight = k * math.log(mean) - mean - np.array([math.lgamma(i + 1.0) for i in k])
    weights = np.exp(log_weight)
    return np.asarray(np.cumsum(weights) / weights.sum())


def span_lengths(rng: Generator, total: int, mean: float = 3.0) -> Ids:
    """Lengths drawn until they add up to at least `total`, in random order."""
    table = _length_table(mean)
    drawn = np.empty(0, np.int64)
    while drawn.sum() < total:
        more = np.searchsorted(table, rng.random(max(4, total // 2)), side="right") + 1
        drawn = np.concatenate([drawn, more])
    count = int(np.searchsorted(np.cumsum(drawn), total)) + 1
    return rng.permutation(drawn[:count])


def place_spans(rng: Generator, lengths: Ids, room: int) -> Ids:
    """Starts of spans inside `room` tokens, in order, at least one token apart.

    The published rule: one uniform draw per span, sorted, from the positions that are
    free once spans and gaps are taken away.
    """
    count = len(lengths)
    free = room - int(lengths.sum()) - (count - 1)
    offsets = np.sort(rng.integers(0, free + 1, size=count))
    return np.asarray(offsets + np.cumsum(lengths) - lengths + np.arange(count))


def token_spans(rng: Generator, first: int, last: int, total: int, *, mean: float = 3.0) -> tuple[Ids, Ids] | None:
    """Short spans inside `tokens[first:last]`, at least `total` tokens of them.

    Returns:
        starts and ends in text order, or None if not even one span fits.
    """
    room = last - first
    lengths = span_lengths(rng, max(1, total), mean)
    while len(lengths) and int(lengths.sum()) + len(lengths) - 1 > room:
        lengths = lengths[:-1]
    if not len(lengths):
        return None
    starts = first + place_spans(rng, lengths, room)
    return starts, starts + lengths


def widen_to_words(starts: Ids, ends: Ids, inside: NDArray[np.bool_]) -> tuple[Ids, Ids]:
    """Spans widened to whole words; spans that then overlap become one.

    Args:
        inside: [n] bool, True where a token continues the word of the one before it.
    """
    n = len(inside)
    index = np.arange(n + 1)
    edge = np.append(~inside, True)
    edge[0] = True
    before = np.maximum.accumulate(np.where(edge, index, 0))
    after = np.minimum.accumulate(np.where(edge, index, n)[::-1])[::-1]
    starts, ends = before[starts], after[ends]
    first = np.append(True, starts[1:] >= ends[:-1])
    return starts[first], np.maximum.reduceat(ends, np.flatnonzero(first))


def sentence_bounds(ends: NDArray[np.bool_], first: int, last: int, *, closed: bool) -> tuple[Ids, Ids]:
    """Starts and ends of the sentences in `tokens[first:last]`: runs up to a sentence end.

    Args:
        ends: [n] bool, True where a token ends a sentence. Of several in a row (`?!`, or a
            stop and a newline) only the last closes the sentence.
        closed: a last run without sentence end is dropped (the text goes on elsewhere).
    """
    inside = ends[first:last]
    closes = inside.copy()
    closes[:-1] &= ~inside[1:]
    stops = first + np.flatnonzero(closes) + 1
    if not closed and (not len(stops) or stops[-1] < last):
        stops = np.append(stops, last)
    starts = np.concatenate([[first], stops[:-1]]) if len(stops) else np.empty(0, np.int64)
    return starts.astype(np.int64), stops.astype(np.int64)


def sentence_spans(
    rng: Generator, ends: NDArray[np.bool_], first: int, last: int, total: int
) -> tuple[Ids, Ids] | None:
    """Whole sentences in random choice until they add up to `total` tokens; None if nothing would be left."""
    starts, stops = sentence_bounds(ends, first, last, closed=False)
    order = rng.permutation(len(starts))
    sizes = (stops - starts)[order]
    count = int(np.searchsorted(np.cumsum(sizes), max(1, total))) + 1
    if count >= len(starts):
        return None
    chosen = np.sort(order[:count])
    return starts[chosen], stops[chosen]


class SampleMaker:
    """Turns a text into a laid-out sample under a mixture of objectives.

    Args:
        tokenizer: gives the blank and marker ids and the sentence ends.
        objectives: the mixture.
    """

    def __init__(self, tokenizer: Tokenizer, objectives: Objectives) -> None:
        self.objectives = objectives
        self.markers: Markers = tokenizer.markers
        self.cls, self.eos = tokenizer.cls, tokenizer.eos
        kinds = [BlankKind.MASK]
        kinds += [BlankKind.SMASK] if objectives.sentence else []
        kinds += [BlankKind.GMASK] if objectives.document else []
        self.blank_ids = {kind: tokenizer.blank_id(kind) for kind in kinds}
        self.noise = tokenizer.special.get("dblock", -1)
        if objectives.input_noise and self.noise < 0:
            raise OptionError("input_noise needs a vocabulary with [dBLOCK]")
        self.sentence_ends = tokenizer.sentence_ends
        if objectives.whole_words:
            self._goes_on, self._continues = tokenizer.word_joins

    def choose(self, rng: Generator) -> str:
        """An objective, drawn from the mixture."""
        u = rng.random()
        if u < self.objectives.token:
            return "token"
        return "sentence" if u < self.objectives.token + self.objectives.sentence else "document"

    def __call__(
        self, rng: Generator, tokens: Ids, objective: str, *, ends_document: bool
    ) -> tuple[Layout, str] | None:
        """Lay out one text.

        Args:
            tokens: [n] ids of a text, without special tokens.
            objective: "token", "sentence" or "document". A text in which no sentence can
                be blanked out without taking all of it falls back to "token".
            ends_document: the text goes up to the end of its document.

        Returns:
            The layout and the objective used; None if the text is too short for any span.
        """
        if objective == "document":
            return self._document(rng, tokens, ends_document=ends_document)
        text = np.concatenate([[self.cls], tokens, [self.eos]])
        first, last = 1, len(text) - 1
        if objective == "sentence":
            ends = np.zeros(len(text), np.bool_)
            ends[first:last] = self.sentence_ends[tokens]
            spans = sentence_spans(rng, ends, first, last, int(self.objectives.sentence_ratio * len(text)))
            if spans is not None:
                return self._lay_out(rng, text, spans, BlankKind.SMASK), "sentence"
        spans = token_spans(
            rng, first, last, int(self.objectives.token_ratio * len(text)), mean=self.objectives.mean_span
        )
        if spans is None or len(tokens) < 2:
            return None
        if self.objectives.whole_words and rng.random() < self.objectives.whole_words:
            inside = np.append(False, self._goes_on[text[:-1]] & self._continues[text[1:]])
            spans = widen_to_words(*spans, inside)
        layout = self._lay_out(rng, text, spans, BlankKind.MASK)
        if self.objectives.input_noise:
            self._add_noise(rng, layout)
        return layout, "token"

    def _lay_out(self, rng: Generator, text: Ids, spans: tuple[Ids, Ids], kind: BlankKind) -> Layout:
        order = rng.permutation(len(spans[0]))
        return blank_out(text, *spans, self.blank_ids[kind], self.markers, order=order)

    def _add_noise(self, rng: Generator, layout: Layout) -> None:
        part_b = np.arange(len(layout)) >= layout.separator
        hit = part_b & (layout.block_position_ids > 1) & (rng.random(len(layout)) < self.objectives.input_noise)
        layout.input_ids[hit] = self.noise

    def _document(self, rng: Generator, tokens: Ids, *, ends_document: bool) -> tuple[Layout, str] | None:
        if len(tokens) < 3:
            return None
        infill = rng.random() < self.objectives.document_infill
        text = np.concatenate([[self.cls], tokens, [self.eos] if infill or ends_document else []]).astype(np.int64)
        n = len(text)
        longest = n - 2 if infill else n - 1
        size = int(
            rng.integers(min(max(1, int(self.objectives.document_min_ratio * n)), longest), longest, endpoint=True)
        )
        # At the end the text closes itself (or goes on elsewhere); in the middle eop closes the span.
        start = 1 + int(rng.integers(0, n - 2 - size, endpoint=True)) if infill else n - size
        bounds = np.array([start]), np.array([start + size])
        layout = blank_out(text, *bounds, self.blank_ids[BlankKind.GMASK], self.markers, ends_with_eop=infill)
        return layout, "document"
