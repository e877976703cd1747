"""Rows of a batch filled with windows cut to size, so that hardly a position is lost.

All rows are filled at once, window after window: each round draws one document for every
row that has room left, cuts a window that fits, and blanks out its spans. What spans cost
(a blank and a `sop` each) is known only then, so the window is made longer, where its
document goes on, by what they have left over. Knows nothing about tokens, only lengths
and bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator

from ..blanks import Flags, Ids
from ..errors import DataError
from .samples import DOCUMENT, SENTENCE, Blanked, SampleMaker, Windows, sentence_end, sentences_up_to
from .shards import Shard
from .spans import Spans

SHORTEST = 24  # tokens; what is left of a row below this stays padding
SHORTEST_CUT = 32  # the published shortest length of rows of short texts
TRIES = 1_000  # rounds in a row that come to nothing before the corpus is given up


@dataclass(frozen=True)
class FilledRows:
    """Windows with their spans, in the order they stand in the rows.

    Attributes:
        row: [R] the row of each window, ascending.
        windows, blanked: what stands there.
    """

    row: Ids
    windows: Windows
    blanked: Blanked


class RowFiller:
    """Fills rows from shards.

    Args:
        maker: chooses objectives and spans.
        rows, length: B and S.
        short_probability: share of the rows that hold short texts only, none longer than a
            length drawn for the row (uniform from 32 to S - 2), so that the model meets
            short texts too (published code, section 6.6 of its description).
    """

    def __init__(self, maker: SampleMaker, *, rows: int, length: int, short_probability: float) -> None:
        self.maker, self.rows, self.length, self.short_probability = maker, rows, length, short_probability
        settings = maker.objectives
        # Sentences are seldom shorter than ten tokens; more of them are not taken from one window.
        self._most_sentences = 2 + int(settings.sentence_ratio * length / 10)

    def fill(self, rng: Generator, shards: Sequence[Shard], cumulative: Ids) -> FilledRows | None:
        """One batch of rows from shards drawn by their `cumulative` weights; None if no text is long enough."""
        free = np.full(self.rows, self.length)
        longest = free.copy()
        short = rng.random(self.rows) < self.short_probability
        longest[short] = rng.integers(SHORTEST_CUT, max(SHORTEST_CUT, self.length - 2) + 1, size=int(short.sum()))
        parts: list[FilledRows] = []
        failed = 0
        while len(rows := np.flatnonzero(free >= SHORTEST)):
            limit = np.minimum(free, longest)[rows]
            windows, blanked = self._round(rng, shards, cumulative, limit, limit == free[rows])
            counts = blanked.span_counts
            made = np.flatnonzero(counts)
            failed = 0 if len(made) else failed + 1
            if failed == TRIES:
                return None
            free[rows] -= np.where(counts > 0, _sizes(windows, blanked), 0)
            parts.append(FilledRows(rows[made], windows.keep(made), blanked.keep(made)))
        return _in_row_order(parts, shards)

    def _round(
        self, rng: Generator, shards: Sequence[Shard], cumulative: Ids, limit: Ids, fills: Flags
    ) -> tuple[Windows, Blanked]:
        """One window per row of at most `limit` tokens laid out; where it `fills`, exactly as many if it can."""
        maker = self.maker
        objectives = maker.choose(rng, len(limit))
        middle = maker.choose_middle(rng, len(limit))
        shard, first, last = draw_documents(rng, shards, cumulative, len(limit))
        drawn = self._draw_lengths(rng, limit)
        wanted = limit - 2 - 2 * self._spans_at_most(limit, last - first + 2, drawn)
        # A text without a sentence to spare becomes one of the token objective.
        sentence = np.minimum(wanted, limit - 2 - 2 * self._most_sentences)
        wanted = np.where(objectives == SENTENCE, sentence, wanted)
        wanted = np.where(objectives == DOCUMENT, limit - 3 - middle, wanted)
        windows, open_right = cut(rng, shards, shard, first, last, np.maximum(wanted, 1), fills)
        blanked = maker.blank_out(
            rng, windows, objectives, in_the_middle=middle, drawn=drawn, most_sentences=self._most_sentences
        )
        return self._lengthened(windows, blanked, np.where(fills, limit, 0), first, last, open_right)

    def _draw_lengths(self, rng: Generator, limit: Ids) -> Ids:
        total = max(1, int(self.maker.objectives.token_ratio * limit.max()))
        return self.maker.draw_lengths(rng, len(limit), total)

    def _spans_at_most(self, limit: Ids, lengths: Ids, drawn: Ids) -> Ids:
        """Spans a text needs under the token objective if laid out it has `limit` tokens, or if it is shorter."""
        index = np.arange(1, drawn.shape[1] + 1)
        texts = np.minimum(limit[:, None] - 2 * index, lengths[:, None])
        enough = np.cumsum(drawn, axis=1) >= (self.maker.objectives.token_ratio * texts).astype(np.int64)
        return np.asarray(np.where(enough.any(axis=1), enough.argmax(axis=1) + 1, drawn.shape[1]))

    def _lengthened(
        self, windows: Windows, blanked: Blanked, limit: Ids, first: Ids, last: Ids, open_right: Flags
    ) -> tuple[Windows, Blanked]:
        """Windows made longer up to `limit` tokens laid out, on the side where they cut their document."""
        spare = np.maximum(limit - _sizes(windows, blanked), 0)
        ends = windows.starts + windows.lengths
        # The end of a document span that reaches the end of the text must stay there.
        right = np.where(open_right & blanked.ends_with_eop, np.minimum(spare, last - ends), 0)
        left = np.where(open_right, 0, np.minimum(spare, windows.starts - first))
        grown = replace(windows, starts=windows.starts - left, lengths=windows.lengths + left + right)
        spans, shift = blanked.spans, left[blanked.spans.owner]
        return grown, replace(blanked, spans=Spans(spans.owner, spans.starts + shift, spans.ends + shift))


def draw_documents(rng: Generator, shards: Sequence[Shard], cumulative: Ids, count: int) -> tuple[Ids, Ids, Ids]:
    """[count] documents, in proportion to their length: shard, first token, end."""
    shard = np.searchsorted(cumulative, rng.random(count), side="right")
    where = rng.random(count)
    first, last = np.empty(count, np.int64), np.empty(count, np.int64)
    for number, source in enumerate(shards):
        here, bounds = shard == number, np.asarray(source.bounds)
        document = np.searchsorted(bounds, (where[here] * bounds[-1]).astype(np.int64), side="right")
        first[here], last[here] = bounds[document - 1], bounds[document]
    return shard, first, last


def cut(
    rng: Generator, shards: Sequence[Shard], shard: Ids, first: Ids, last: Ids, wanted: Ids, fills: Flags
) -> tuple[Windows, Flags]:
    """Windows of at most `wanted` tokens out of the documents `first:last`.

    A window that is to fill a row keeps its length: it begins or ends at the end of a
    sentence, either with probability one half. Any other begins and ends there. Where the
    nearest sentence end is more than half the window away, the cut falls within a sentence.

    Returns:
        The windows, and [R] bool: whether it was cut at its right within a sentence.
    """
    lengths = np.minimum(wanted, last - first)
    starts = first + (rng.random(len(first)) * (last - first - lengths + 1)).astype(np.int64)
    at_start = rng.random(len(first)) < 0.5

    # The window moves to the left until it begins behind the sentence end before it.
    mark = _last_sentence_end(shards, shard, starts)
    near = mark >= np.maximum(first, starts - lengths // 2)
    starts = np.where(near & (at_start | ~fills) & (last - first > wanted), mark, starts)
    ends = starts + lengths

    # It ends at the last sentence end in it: it becomes shorter, or moves to the left if it is to keep its length.
    mark = _last_sentence_end(shards, shard, ends)
    near = mark >= starts + lengths // 2
    stops = near & (~at_start | ~fills) & (ends < last)
    starts = np.where(stops & fills, np.maximum(first, starts - (ends - mark)), starts)
    ends = np.where(stops, mark, ends)

    closed = stops | (ends == last)
    return Windows(shards, shard, starts, ends - starts, closed), ~closed


def _last_sentence_end(shards: Sequence[Shard], shard: Ids, where: Ids) -> Ids:
    """The last sentence end at or before each place; -1 if there is none."""
    return sentence_end(shards, shard, sentences_up_to(shards, shard, where) - 1)


def _sizes(windows: Windows, blanked: Blanked) -> Ids:
    """Tokens of each window laid out: every span adds its blank and its `sop`, or the `eop` of a closed one."""
    return windows.text_lengths + blanked.span_counts * (1 + blanked.ends_with_eop)


def _in_row_order(parts: Sequence[FilledRows], shards: Sequence[Shard]) -> FilledRows:
    row = np.concatenate([part.row for part in parts])
    order = np.argsort(row, kind="stable")
    arrays = (
        np.concatenate([getattr(part.windows, name) for part in parts])[order]
        for name in ("shard", "starts", "lengths", "closed")
    )
    offsets = np.cumsum([0, *(len(part.row) for part in parts)])
    joined = Blanked(
        Spans.merged(
            [
                Spans(p.blanked.spans.owner + int(offset), p.blanked.spans.starts, p.blanked.spans.ends)
                for p, offset in zip(parts, offsets, strict=False)
            ]
        ),
        np.concatenate([part.blanked.objectives for part in parts]),
        np.concatenate([part.blanked.ends_with_eop for part in parts]),
    )
    return FilledRows(row[order], Windows(shards, *arrays), joined.keep(order))


def too_short(names: Sequence[str]) -> DataError:
    """The error of a corpus no span can be cut from."""
    return DataError(f"the documents of {', '.join(names)} are too short: no span can be cut from them")
