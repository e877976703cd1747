"""Windows of documents, what is blanked out of them, and their layouts.

Between the samplers, which know lengths only, and the layout, which knows tokens only.
Knows nothing about rows, batches or torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ..blanks import BlankKind, Flags, Ids, Markers
from ..errors import OptionError
from ..layouts import Layouts, blank_out_many, count_up, starts_of
from ..tokenizer import Tokenizer
from .shards import Shard
from .spans import (
    NEAR,
    Objectives,
    Spans,
    document_spans,
    draw_lengths,
    sentence_spans,
    token_spans,
    widen_to_words,
)

OBJECTIVE_NAMES = ("token", "sentence", "document")
TOKEN, SENTENCE, DOCUMENT = range(3)
KINDS = (BlankKind.MASK, BlankKind.SMASK, BlankKind.GMASK)


@dataclass(frozen=True)
class Windows:
    """R pieces of documents. The text of one is `[CLS] tokens`, and `<eos>` if it is closed.

    Attributes:
        shards: where the tokens are.
        shard: [R] the number of the shard.
        starts: [R] first token, counted in the shard.
        lengths: [R] tokens, special ones not counted.
        closed: [R] bool, whether the text stops here: at the end of its document or of a
            sentence.
    """

    shards: Sequence[Shard]
    shard: Ids
    starts: Ids
    lengths: Ids
    closed: Flags

    def __len__(self) -> int:
        return len(self.starts)

    def keep(self, chosen: NDArray[np.bool_] | Ids) -> Windows:
        """Some of them: a mask or indices."""
        return Windows(self.shards, self.shard[chosen], self.starts[chosen], self.lengths[chosen], self.closed[chosen])

    @classmethod
    def whole(cls, shard: Shard) -> Windows:
        """All documents of a shard, uncut."""
        bounds = np.asarray(shard.bounds)
        count = len(bounds) - 1
        return cls([shard], np.zeros(count, np.int64), bounds[:-1], np.diff(bounds), np.ones(count, np.bool_))

    @property
    def text_lengths(self) -> Ids:
        """[R] tokens of each text, special ones counted."""
        return 1 + self.lengths + self.closed

    def texts(self, cls: int, eos: int) -> Ids:
        """The texts, end to end."""
        begin, end = np.array([cls]), np.array([eos])
        arrays = [np.asarray(shard.tokens) for shard in self.shards]
        pieces: list[NDArray[np.integer]] = [np.empty(0, np.int64)]
        for shard, start, length, closed in zip(
            self.shard.tolist(), self.starts.tolist(), self.lengths.tolist(), self.closed.tolist(), strict=True
        ):
            pieces += (begin, arrays[shard][start : start + length])
            if closed:
                pieces.append(end)
        return np.concatenate(pieces)

    def tokens_at(self, window: Ids, positions: Ids) -> Ids:
        """Token ids at positions of texts (1 is the first token after `[CLS]`)."""
        where = self.starts[window] + positions - 1
        out = np.empty(len(where), np.int64)
        for number, shard in enumerate(self.shards):
            here = self.shard[window] == number
            out[here] = np.asarray(shard.tokens)[where[here]]
        return out

    def sentences(self) -> tuple[Ids, Ids, Ids]:
        """Owner, start and stop (positions in the text) of the sentences of all windows.

        A sentence goes up to its end mark; what follows the last mark counts as one too. For one
        window, without arrays, it would read

            stops = [mark for mark in shard.sentences if start < mark <= end]
            if not stops or stops[-1] < end:
                stops.append(end)
            starts = [start, *stops[:-1]]

        and positions are these numbers less `start - 1`, as `[CLS]` stands in front.
        """
        ends = self.starts + self.lengths
        before = sentences_up_to(self.shards, self.shard, self.starts)
        up_to_end = sentences_up_to(self.shards, self.shard, ends)
        within = up_to_end - before  # marks inside each window
        last = sentence_end(self.shards, self.shard, up_to_end - 1)
        counts = within + ((within == 0) | (last < ends))
        owner, number = np.repeat(np.arange(len(self)), counts), count_up(counts)
        marks = sentence_end(self.shards, self.shard[owner], before[owner] + number)
        stops = np.where(number < within[owner], marks, ends[owner])
        starts = np.where(number == 0, self.starts[owner], np.roll(stops, 1))
        first = self.starts[owner] - 1
        return owner, starts - first, stops - first


def sentences_up_to(shards: Sequence[Shard], shard: Ids, where: Ids) -> Ids:
    """How many sentences of its shard end at or before each place."""
    out = np.zeros(len(where), np.int64)
    for number, source in enumerate(shards):
        here = shard == number
        out[here] = np.searchsorted(np.asarray(source.sentences), where[here], side="right")
    return out


def sentence_end(shards: Sequence[Shard], shard: Ids, index: Ids) -> Ids:
    """Where the sentence of this index in its shard ends; -1 if there is none."""
    out = np.full(len(index), -1)
    for number, source in enumerate(shards):
        known = np.asarray(source.sentences)
        here = np.flatnonzero((shard == number) & (index >= 0) & (index < len(known)))
        out[here] = known[index[here]]
    return out


@dataclass(frozen=True)
class Blanked:
    """What is blanked out of R windows.

    Attributes:
        spans: bounds within the texts; a window that is too short for any has none.
        objectives: [R] int8, indices into `OBJECTIVE_NAMES`.
        ends_with_eop: [R] bool, False where a document span reaches the end of the text.
    """

    spans: Spans
    objectives: NDArray[np.int8]
    ends_with_eop: Flags

    @property
    def span_counts(self) -> Ids:
        """[R] spans of each window."""
        return np.bincount(self.spans.owner, minlength=len(self.objectives))

    def keep(self, chosen: Ids) -> Blanked:
        """Those windows, given as indices, in that order."""
        place = np.full(len(self.objectives), -1)
        place[chosen] = np.arange(len(chosen))
        owner = place[self.spans.owner]
        spans = self.spans.keep(owner >= 0)
        moved = Spans.merged([Spans(owner[owner >= 0], spans.starts, spans.ends)])
        return Blanked(moved, self.objectives[chosen], self.ends_with_eop[chosen])


class SampleMaker:
    """Turns windows into laid-out samples under a mixture of objectives.

    Args:
        tokenizer: gives the blank and marker ids and the word joins.
        objectives: the mixture.

    Raises:
        OptionError: noise is asked for, and the vocabulary has no `[dBLOCK]`.
    """

    def __init__(self, tokenizer: Tokenizer, objectives: Objectives) -> None:
        self.objectives = objectives
        self.markers: Markers = tokenizer.markers
        self.cls, self.eos = tokenizer.cls, tokenizer.eos
        drawn = (True, bool(objectives.sentence), bool(objectives.document))
        self.blank_ids = np.array(
            [tokenizer.blank_id(kind) if used else -1 for kind, used in zip(KINDS, drawn, strict=True)]
        )
        self.noise = tokenizer.special.get("dblock", -1)
        if (objectives.input_noise or objectives.context_noise) and self.noise < 0:
            raise OptionError("input_noise and context_noise need a vocabulary with [dBLOCK]")
        if objectives.whole_words or objectives.single_words:
            self._goes_on, self._continues = tokenizer.word_joins
        if objectives.single_words:
            texts = (tokenizer.token_text(token) for token in range(tokenizer.num_tokens))
            self._says_something = np.array([any(map(str.isalnum, text)) for text in texts])

    def choose(self, rng: Generator, count: int) -> NDArray[np.int8]:
        """[count] objectives, drawn from the mixture."""
        mixture = np.cumsum([self.objectives.token, self.objectives.sentence])
        return np.searchsorted(mixture, rng.random(count), side="right").astype(np.int8)

    def draw_lengths(self, rng: Generator, count: int, total: int) -> Ids:
        """[count, D] lengths of token spans, as many for each text as add up to at least `total`; or ones alone."""
        drawn = draw_lengths(rng, count, total, self.objectives.mean_span)
        if self.objectives.single_words:
            drawn[rng.random(count) < self.objectives.single_words] = 1
        return drawn

    def blank_out(
        self,
        rng: Generator,
        windows: Windows,
        objectives: NDArray[np.int8],
        *,
        in_the_middle: Flags | None = None,
        drawn: Ids | None = None,
        most_sentences: int | None = None,
    ) -> Blanked:
        """Choose the spans of windows.

        Args:
            objectives: [R] indices into `OBJECTIVE_NAMES`. A text in which no sentence can be
                blanked out without taking all of it falls back to "token".
            in_the_middle: [R] where document spans lie (default: drawn).
            drawn: [R, D] span lengths for the token objective (default: drawn).
            most_sentences: sentences blanked out of a text at most.
        """
        settings = self.objectives
        lengths, used = windows.text_lengths, objectives.copy()
        middle = self.choose_middle(rng, len(windows)) if in_the_middle is None else in_the_middle
        parts: list[Spans] = []

        sentence = np.flatnonzero(used == SENTENCE)
        if len(sentence):
            totals = (settings.sentence_ratio * lengths[sentence]).astype(np.int64)
            found_in = windows.keep(sentence).sentences()
            spans, found = sentence_spans(rng, *found_in, totals, most=most_sentences)
            parts.append(Spans(sentence[spans.owner], spans.starts, spans.ends))
            used[sentence[~found]] = TOKEN

        token = np.flatnonzero((used == TOKEN) & (windows.lengths >= 2))
        if len(token):
            totals = (settings.token_ratio * lengths[token]).astype(np.int64)
            single = rng.random(len(token)) < settings.single_span if settings.single_span else None
            enough = max(1, int(totals.max()))
            own = self.draw_lengths(rng, len(token), enough) if drawn is None else drawn[token]
            spans = token_spans(rng, windows.lengths[token], totals, drawn=own, single=single)
            words = (own == 1).all(axis=1)[spans.owner] if settings.single_words else np.zeros(len(spans), np.bool_)
            spans = Spans(token[spans.owner], spans.starts + 1, spans.ends + 1)
            parts += [self._widened(rng, windows, spans.keep(~words)), self._words(windows, spans.keep(words))]

        document = np.flatnonzero((used == DOCUMENT) & (windows.lengths >= 3))
        if len(document):
            spans = document_spans(
                rng,
                lengths[document],
                windows.closed[document],
                middle[document],
                min_ratio=settings.document_min_ratio,
            )
            parts.append(Spans(document[spans.owner], spans.starts, spans.ends))
        return Blanked(Spans.merged(parts), used, (used != DOCUMENT) | middle)

    def choose_middle(self, rng: Generator, count: int) -> Flags:
        """[count] bool, whether a document span lies in the middle."""
        return np.asarray(rng.random(count) < self.objectives.document_infill)

    def _widened(self, rng: Generator, windows: Windows, spans: Spans) -> Spans:
        """The spans, those of some texts widened to whole words."""
        if not self.objectives.whole_words:
            return spans
        chosen = (rng.random(len(windows)) < self.objectives.whole_words)[spans.owner]
        return Spans.merged([self._whole(windows, spans.keep(chosen)), spans.keep(~chosen)])

    def _words(self, windows: Windows, spans: Spans) -> Spans:
        """The words that spans of one token lie in."""
        if not len(spans):
            return spans
        spans = self._whole(windows, spans)
        ends = (windows.tokens_at(spans.owner, at) for at in (spans.starts, spans.ends - 1))
        return spans.keep(np.logical_or(*(self._says_something[tokens] for tokens in ends)))

    def _whole(self, windows: Windows, spans: Spans) -> Spans:
        def inside(window: Ids, positions: Ids) -> Flags:
            out = np.zeros(len(window), np.bool_)
            known = np.flatnonzero((positions > 1) & (positions <= windows.lengths[window]))
            window, positions = window[known], positions[known]
            before, here = windows.tokens_at(window, positions - 1), windows.tokens_at(window, positions)
            out[known] = self._goes_on[before] & self._continues[here]
            return out

        return widen_to_words(spans, inside)

    def lay_out(self, rng: Generator, windows: Windows, blanked: Blanked) -> Layouts:
        """The layouts of windows; spans are written in random order."""
        spans, objectives = blanked.spans, blanked.objectives
        lengths = windows.text_lengths
        texts = windows.texts(self.cls, self.eos)
        offset = starts_of(lengths)[spans.owner]
        starts, ends = spans.starts + offset, spans.ends + offset
        if self.objectives.context_noise:
            self._add_context_noise(rng, texts, lengths, starts, ends, objectives == TOKEN)
        order = np.lexsort((rng.random(len(spans)), spans.owner))
        layouts = blank_out_many(
            texts,
            lengths,
            starts,
            ends,
            self.blank_ids[objectives[spans.owner]],
            self.markers,
            order=order,
            ends_with_eop=blanked.ends_with_eop,
        )
        if self.objectives.input_noise:
            token = np.repeat(objectives == TOKEN, layouts.lengths)
            hit = token & (layouts.block_position_ids > 1) & (rng.random(len(token)) < self.objectives.input_noise)
            layouts.input_ids[hit] = self.noise
        return layouts

    def _add_context_noise(
        self, rng: Generator, texts: Ids, lengths: Ids, starts: Ids, ends: Ids, chosen: Flags
    ) -> None:
        opens = starts_of(lengths)
        near = np.concatenate([starts[:, None] - 1 - np.arange(NEAR), ends[:, None] + np.arange(NEAR)], axis=1)
        owner = np.repeat(np.searchsorted(opens, starts, side="right") - 1, near.shape[1])
        near = near.ravel()
        own = (near > opens[owner]) & (near < opens[owner] + lengths[owner])
        free = np.zeros(len(texts), np.bool_)
        free[near[own & chosen[owner]]] = True
        taken = np.zeros(len(texts) + 1, np.int64)
        taken[starts] += 1
        taken[ends] -= 1  # spans of the token objective never touch
        free &= np.cumsum(taken[:-1]) == 0
        candidates = np.flatnonzero(free & (texts != self.eos))
        owner = np.searchsorted(opens, candidates, side="right") - 1
        order = np.lexsort((rng.random(len(candidates)), owner))
        rank = np.arange(len(order)) - starts_of(np.bincount(owner, minlength=len(lengths)))[owner[order]]
        share = (self.objectives.context_noise * lengths).astype(np.int64)
        texts[candidates[order[rank < share[owner[order]]]]] = self.noise
