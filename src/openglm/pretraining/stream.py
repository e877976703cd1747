"""Training batches as a function of the step number alone.

    sources -> draw a source -> draw a document -> cut a window -> blank out -> fill rows

Batch `step` is drawn from a generator seeded with (seed, step), so a resumed run sees the
same data as one that never stopped, whatever the number of workers, and nothing about the
data needs saving. Documents are drawn in proportion to their length, as the published
code does. Rows are filled with windows cut to size, so that little is padding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from ..blanks import Batch, Ids, Layout, place
from ..errors import DataError, OptionError
from .shards import Shard
from .spans import SampleMaker

OBJECTIVE_NAMES = ("token", "sentence", "document")
TRIES = 10_000  # samples in a row that come to nothing before the corpus is given up
SHORTEST_WINDOW = 16  # tokens; what is left of a row below this stays padding


@dataclass(frozen=True)
class Source:
    """One prepared corpus and how often to draw from it."""

    name: str
    shard: Shard
    weight: float


@dataclass(frozen=True)
class TrainingBatch:
    """A packed batch and, per position, the objective it came from (-1 on padding), [B, S]."""

    batch: Batch
    objectives: NDArray[np.int8]


class BatchStream:
    """Draws batches.

    Args:
        sources: corpora with weights.
        maker: blanks out and lays out.
        rows, length: B and S of a batch.
        short_probability: probability that a window is cut short, to a length uniform
            between `SHORTEST_WINDOW` and the full one, so that the model also meets short
            texts.
        seed: of all draws.

    Raises:
        OptionError: a size or weight that is not positive.
        DataError: no sources.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        maker: SampleMaker,
        *,
        rows: int,
        length: int,
        short_probability: float = 0.0,
        seed: int = 0,
    ) -> None:
        if not sources:
            raise DataError("no training data: name at least one prepared shard")
        if rows < 1 or length < 2 * SHORTEST_WINDOW:
            raise OptionError(f"a batch needs at least one row of {2 * SHORTEST_WINDOW} tokens, not {rows} x {length}")
        if min(source.weight for source in sources) <= 0:
            raise OptionError("weights of sources must be above 0")
        self.sources, self.maker = list(sources), maker
        self.rows, self.length = rows, length
        self.short_probability, self.seed = short_probability, seed
        weights = np.array([source.weight for source in sources], np.float64)
        self._cumulative = np.cumsum(weights / weights.sum())

    def batch(self, step: int) -> TrainingBatch:
        """The batch of this step; the same for the same step, always."""
        layouts: list[Layout] = []
        names: list[str] = []
        rows: list[list[int]] = []
        for row in self.rows_of_samples(step):
            rows.append(list(range(len(layouts), len(layouts) + len(row))))
            layouts += [layout for layout, _ in row]
            names += [objective for _, objective in row]
        batch = place(layouts, rows, self.length, self.maker.eos)
        return TrainingBatch(batch, self._objectives(batch, names))

    def rows_of_samples(self, step: int) -> Iterator[list[tuple[Layout, str]]]:
        """The samples of this step's rows, each with its objective.

        Raises:
            DataError: the documents are too short to cut a span from any of them.
        """
        rng = np.random.default_rng([self.seed, step])
        for _ in range(self.rows):
            row: list[tuple[Layout, str]] = []
            free, failed = self.length, 0
            while free >= 2 * SHORTEST_WINDOW:
                made = self._sample(rng, free)
                if made is None:
                    failed += 1
                    if failed == TRIES:
                        names = ", ".join(source.name for source in self.sources)
                        raise DataError(f"the documents of {names} are too short: no span can be cut from them")
                    continue
                failed = 0
                row.append(made)
                free -= len(made[0])
            yield row

    def _objectives(self, batch: Batch, names: Sequence[str]) -> NDArray[np.int8]:
        number = {name: i for i, name in enumerate(OBJECTIVE_NAMES)}
        out = np.full(batch.input_ids.shape, -1, np.int8)
        for r, row in enumerate(batch.placed):
            table = np.array([number[names[i]] for i in row] + [-1], np.int8)  # NO_DOCUMENT picks the last
            out[r] = table[batch.documents[r]]
        return out

    def _sample(self, rng: Generator, free: int) -> tuple[Layout, str] | None:
        source = self.sources[int(np.searchsorted(self._cumulative, rng.random(), side="right"))]
        objective = self.maker.choose(rng)
        # Every span costs two more tokens (its blank and its sop); leave room for them.
        options = self.maker.objectives
        overhead = 1 + 2 * options.token_ratio / options.mean_span if objective != "document" else 1.0
        room = int((free - 8) / (overhead * 1.02))
        if rng.random() < self.short_probability:
            room = int(rng.integers(SHORTEST_WINDOW, max(room, SHORTEST_WINDOW), endpoint=True))
        tokens, ends_document = self._window(rng, source.shard, room)
        made = self.maker(rng, tokens, objective, ends_document=ends_document)
        while made is not None and len(made[0]) > free:
            tokens, ends_document = tokens[: len(tokens) * 9 // 10], False
            made = self.maker(rng, tokens, objective, ends_document=ends_document)
        return made

    def _window(self, rng: Generator, shard: Shard, room: int) -> tuple[Ids, bool]:
        """At most `room` tokens of a document, begun at a sentence start where one is near."""
        where = int(rng.integers(0, shard.bounds[-1]))
        tokens = shard.document(int(np.searchsorted(shard.bounds, where, side="right")) - 1)
        if len(tokens) <= room:
            return tokens, True
        start = int(rng.integers(0, len(tokens) - room, endpoint=True))
        ends = self.maker.sentence_ends
        if start:
            before = np.flatnonzero(ends[tokens[max(0, start - room // 2) : start]])
            start = start - min(start, room // 2) + int(before[-1]) + 1 if len(before) else start
            if start + room // 2 > len(tokens):
                start = len(tokens) - room
        window = tokens[start : start + room]
        if start + room >= len(tokens):
            return window, True
        stops = np.flatnonzero(ends[window])
        if len(stops) and stops[-1] + 1 >= room // 2:
            window = window[: stops[-1] + 1]
        return window, False
