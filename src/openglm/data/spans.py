"""Which spans of texts to blank out: the three pretraining objectives.

- token: many short spans, Poisson lengths, about 15 % of the text, `[MASK]`
- sentence: whole sentences, about 15 %, `[sMASK]`
- document: one long span, the end of the text or its middle, `[gMASK]`

(Paper, sections 2.1 and 2.2; published code, sections 6.3 to 6.5 of its description.)
Every sampler works on R texts at once and returns the spans of all of them; none looks at
a token. Knows nothing about files, layouts or torch. All randomness comes from the
generator passed in.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ..blanks import Flags, Ids
from ..errors import OptionError
from ..layouts import starts_of

MAX_SPAN = 39  # the published table of Poisson weights ends here
NEAR = 3  # context noise falls on the tokens this close to a span


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
        single_span: probability that a text under the token objective gets one span only.
        input_noise: share of Part B inputs replaced by `[dBLOCK]` (token objective).
        context_noise: tokens of Part A replaced by `[dBLOCK]`, as a share of the text, taken
            among the three on either side of each span (token objective).
        whole_words: probability that the token spans of a text are widened to whole words,
            as blanks in real texts are. The published models were trained without.
        single_words: probability that the token spans of a text are single whole words, never
            punctuation alone: what people leave blank most often, and what a model seldom
            answers with that has seen spans of three tokens on average. `token_ratio` is then
            an upper bound.
    """

    token: float = 0.4
    sentence: float = 0.3
    document: float = 0.3
    token_ratio: float = 0.15
    sentence_ratio: float = 0.15
    mean_span: float = 3.0
    document_min_ratio: float = 0.25
    document_infill: float = 0.5
    single_span: float = 0.0
    input_noise: float = 0.0
    context_noise: float = 0.0
    whole_words: float = 0.0
    single_words: float = 0.0

    def __post_init__(self) -> None:
        mixture = (self.token, self.sentence, self.document)
        if min(mixture) < 0 or not math.isclose(sum(mixture), 1.0, abs_tol=1e-6):
            raise OptionError(f"token, sentence and document must be probabilities that sum to 1, not {mixture}")
        for name in (
            "token_ratio",
            "sentence_ratio",
            "document_min_ratio",
            "document_infill",
            "single_span",
            "input_noise",
            "context_noise",
            "whole_words",
            "single_words",
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


@dataclass(frozen=True)
class Spans:
    """Spans of R texts, K in all, text by text and in text order.

    Attributes:
        owner: [K] the text each span lies in.
        starts, ends: [K] its bounds within that text.
    """

    owner: Ids
    starts: Ids
    ends: Ids

    def __len__(self) -> int:
        return len(self.owner)

    @classmethod
    def merged(cls, parts: list[Spans]) -> Spans:
        """The spans of different texts, brought into order."""
        owner, starts, ends = (
            np.concatenate([np.empty(0, np.int64), *(getattr(p, n) for p in parts)])
            for n in ("owner", "starts", "ends")
        )
        order = np.argsort(owner, kind="stable")
        return cls(owner[order], starts[order], ends[order])

    def keep(self, chosen: Flags) -> Spans:
        """The spans where `chosen` [K] is True."""
        return Spans(self.owner[chosen], self.starts[chosen], self.ends[chosen])


def draw_lengths(rng: Generator, texts: int, total: int, mean: float = 3.0) -> Ids:
    """[texts, D] span lengths, as many for each text as add up to at least `total`."""
    table = _length_table(mean)
    out = np.empty((texts, 0), np.int64)
    while not out.size or out.sum(axis=1).min() < total:
        # Nearly always enough at once: lengths are at least 1 and `mean` on average.
        width = min(total, int(1.2 * total / max(1.0, mean)) + 12)
        more = np.searchsorted(table, rng.random((texts, width)), side="right") + 1
        out = np.concatenate([out, more], axis=1)
        if not texts:
            break
    return out


def token_spans(
    rng: Generator, rooms: Ids, totals: Ids, *, mean: float = 3.0, drawn: Ids | None = None, single: Flags | None = None
) -> Spans:
    """Short spans: as many lengths as are needed for `totals` tokens, where they fit.

    Args:
        rooms: [R] tokens of each text.
        totals: [R] tokens to blank out, at least; at least one span is drawn.
        mean: of the Poisson distribution of the lengths.
        drawn: lengths to use (`draw_lengths`), if they have been drawn already.
        single: [R] bool, one span only.

    Returns:
        Spans; a text with no room for its first span has none. Neighbours are at least one
        token apart.
    """
    totals = np.maximum(totals, 1)
    if drawn is None:
        drawn = draw_lengths(rng, len(rooms), int(totals.max(initial=1)), mean)
    sums = np.cumsum(drawn, axis=1)
    counts = 1 + (sums < totals[:, None]).sum(axis=1)
    if single is not None:
        counts = np.where(single, 1, counts)
    fitting = (sums + np.arange(drawn.shape[1]) <= rooms[:, None]).sum(axis=1)
    counts = np.minimum(counts, fitting)
    width = int(counts.max(initial=0))
    used = np.arange(width) < counts[:, None]
    lengths = np.where(used, drawn[:, :width], 0)
    # The last length drawn tends to be a long one: mix them.
    order = np.argsort(np.where(used, rng.random(used.shape), 2.0), axis=1)
    lengths = np.take_along_axis(lengths, order, axis=1)
    starts = place_spans(rng, lengths, counts, rooms)[used]
    owner = np.repeat(np.arange(len(rooms)), counts)
    return Spans(owner, starts, starts + lengths[used])


def place_spans(rng: Generator, lengths: Ids, counts: Ids, rooms: Ids) -> Ids:
    """Starts of spans inside `rooms` tokens, in order, at least one token apart.

    The published rule: one uniform draw per span, sorted, from the positions that are
    free once spans and gaps are taken away.

    Args:
        lengths: [R, C], the first `counts` of each row; 0 after them.
        counts: [R].
        rooms: [R].

    Returns:
        [R, C], meaningful where `lengths` is.
    """
    free = rooms - lengths.sum(axis=1) - (counts - 1)
    index = np.arange(lengths.shape[1])
    drawn = (rng.random(lengths.shape) * (free + 1)[:, None]).astype(np.int64)
    drawn[index >= counts[:, None]] = np.iinfo(np.int64).max // 2
    return np.sort(drawn, axis=1) + np.cumsum(lengths, axis=1) - lengths + index


def widen_to_words(spans: Spans, inside: Callable[[Ids, Ids], Flags]) -> Spans:
    """Spans widened to whole words; spans of a text that then overlap become one.

    Args:
        inside: for texts and positions in them, whether the token there continues the word
            of the one before it; False at and beyond the bounds of the text.
    """
    owner, starts, ends = spans.owner, spans.starts.copy(), spans.ends.copy()
    for bounds, step in ((starts, -1), (ends, 1)):
        moving = np.arange(len(spans))
        while len(moving := moving[inside(owner[moving], bounds[moving])]):
            bounds[moving] += step
    first = np.ones(len(spans), np.bool_)
    first[1:] = (owner[1:] != owner[:-1]) | (starts[1:] >= ends[:-1])
    begins = np.flatnonzero(first)
    return Spans(owner[begins], starts[begins], np.maximum.reduceat(ends, begins) if len(begins) else ends)


def sentence_spans(
    rng: Generator, owner: Ids, starts: Ids, stops: Ids, totals: Ids, *, most: int | None = None
) -> tuple[Spans, Flags]:
    """Whole sentences in random choice until they add up to `totals` tokens.

    Args:
        owner, starts, stops: [Q] the sentences of all texts, text by text and in text order.
        totals: [R] tokens to blank out, at least; at least one sentence is taken.
        most: sentences taken from a text at most.

    Returns:
        The spans, and [R] bool: False where nothing of the text would be left, or it has no
        sentence; such a text has no spans.
    """
    texts = len(totals)
    counts = np.bincount(owner, minlength=texts)
    first = starts_of(counts)
    order = np.lexsort((rng.random(len(owner)), owner))
    sizes = (stops - starts)[order]
    before = np.cumsum(sizes) - sizes  # owners stand together and keep their places in `order`
    before -= before[first[owner]] if len(owner) else before
    taken = before < np.maximum(totals, 1)[owner]
    if most is not None:
        taken &= np.arange(len(owner)) - first[owner] < most
    found = np.bincount(owner, weights=taken, minlength=texts) < counts
    chosen = np.sort(order[taken & found[owner]])
    return Spans(owner[chosen], starts[chosen], stops[chosen]), found


def document_spans(
    rng: Generator, lengths: Ids, closed: Flags, in_the_middle: Flags, *, min_ratio: float = 0.25
) -> Spans:
    """One long span per text: its middle, or its end.

    Args:
        lengths: [R] tokens of each text, `[CLS]` and end token included; at least 4.
        closed: [R] whether the text has an end token, which a span in the middle spares.
        in_the_middle: [R] else the span reaches up to the end of the text.
        min_ratio: shortest span as a share of the text; lengths are uniform up to the whole.
    """
    longest = np.where(in_the_middle, lengths - 2, lengths - 1)
    shortest = np.minimum(np.maximum(1, (min_ratio * lengths).astype(np.int64)), longest)
    sizes = rng.integers(shortest, longest + 1)
    last = lengths - closed - sizes  # the last place a span in the middle may start at
    starts = np.where(in_the_middle, rng.integers(1, np.maximum(last, 1) + 1), lengths - sizes)
    return Spans(np.arange(len(lengths)), starts, starts + sizes)
