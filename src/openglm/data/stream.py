"""Training batches as a function of their number alone: the whole way from text to rows.

Take a corpus with the document "It rained. We stayed at home." and a batch of 2 rows of 32 tokens.

1. Text becomes ids once: `openglm data prepare` writes a shard (`shards.py`), or a window of text
   files is tokenized as training goes on (`text_stream.py`). Where documents and sentences end
   is kept beside the ids.

       4 21 7 | 9 33 12 50 7                     | where a sentence ends

2. A generator is seeded with (seed, number of the batch): nothing about the data needs saving,
   and a run that was resumed, or has other workers, sees what one that never stopped sees.

3. Every row that has room draws a document, in proportion to its length, and cuts a window to the
   room (`rows.cut`): it begins or ends where a sentence does.              11 % of the time

       9 33 12 50 7                              "We stayed at home."

4. Each window draws an objective and spans (`samples.py`, `spans.py`); what spans cost (a blank
   and a `sop` each) is known now, so the window is made longer by what they left over. Rows that
   still have room go back to step 3.                                        60 %

       [CLS] 9 33 12 50 7 <eos>, spans 33 12     the token objective

5. Texts without their spans are Part A, spans in random order Part B (`layouts.py`).   19 %

       [CLS] 9 [MASK] 50 7 <eos> | <sop> 33 12   predicts 33 12 <eop>

6. Layouts stand side by side in rows, with who sees whom and what is predicted (`batches.py`).  10 %

The shares are of 2.4 ms for 16 rows of 512 tokens on one core, 3.4 million tokens a second
(`benchmarks/sampler.py`); a GPU that trains a network of 100 million parameters asks for a tenth.
Documents are drawn in proportion to their length, as the published code does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Protocol

import numpy as np

from ..batches import Arrays, Batch, collate
from ..errors import DataError, OptionError
from ..layouts import Layout
from .rows import SHORTEST_CUT, FilledRows, RowFiller, too_short
from .samples import OBJECTIVE_NAMES, SampleMaker
from .shards import Shard

MOST_POSITIONS = 1 << 24  # of a batch: a GB of arrays

__all__ = ["OBJECTIVE_NAMES", "BatchStream", "Corpus", "Source"]


class Corpus(Protocol):
    """Tokenized documents: all of a prepared corpus, or those of a text stream that are at hand."""

    def at(self, number: int) -> Shard:
        """The documents that batch `number` is drawn from."""


@dataclass(frozen=True)
class Source:
    """One corpus and how often to draw from it."""

    name: str
    shard: Corpus
    weight: float


class BatchStream:
    """Draws batches.

    Args:
        sources: corpora with weights.
        maker: blanks out and lays out.
        rows, length: B and S of a batch.
        short_probability: share of the rows that hold short texts; see `RowFiller`.
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
            raise DataError("no training data: name at least one corpus")
        if rows < 1 or length < SHORTEST_CUT:
            raise OptionError(f"a batch needs at least one row of {SHORTEST_CUT} tokens, not {rows} x {length}")
        if rows * length > MOST_POSITIONS:
            raise OptionError(
                f"a batch of {rows} rows of {length} tokens is too large; at most {MOST_POSITIONS} in all"
            )
        if min(source.weight for source in sources) <= 0:
            raise OptionError("weights of sources must be above 0")
        self.sources, self.maker, self.seed = list(sources), maker, seed
        self.rows, self.length = rows, length
        self._filler = RowFiller(maker, rows=rows, length=length, short_probability=short_probability)
        weights = np.array([source.weight for source in sources], np.float64)
        self._cumulative = np.cumsum(weights / weights.sum())

    def batch(self, number: int) -> Batch[Arrays]:
        """The batch of this number; the same for the same number, always. Its groups are the objectives.

        Raises:
            DataError: the documents are too short to cut a span from any of them.
        """
        rng = np.random.default_rng([self.seed, number])
        filled = self._filled(rng, number)
        layouts = self.maker.lay_out(rng, filled.windows, filled.blanked)
        bounds = np.searchsorted(filled.row, np.arange(self.rows + 1)).tolist()
        rows = [range(a, b) for a, b in pairwise(bounds)]
        return collate(
            layouts,
            rows,
            self.length,
            self.maker.eos,
            groups=filled.blanked.objectives,
            group_count=len(OBJECTIVE_NAMES),
        )

    def rows_of_samples(self, number: int) -> Iterator[list[tuple[Layout, str]]]:
        """The samples of this batch's rows, each with its objective; errors as in `batch`."""
        rng = np.random.default_rng([self.seed, number])
        filled = self._filled(rng, number)
        layouts = self.maker.lay_out(rng, filled.windows, filled.blanked)
        names = [OBJECTIVE_NAMES[i] for i in filled.blanked.objectives]
        for _, row in groupby(zip(filled.row.tolist(), layouts, names, strict=True), key=lambda item: item[0]):
            yield [(layout, name) for _, layout, name in row]

    def _filled(self, rng: np.random.Generator, number: int) -> FilledRows:
        filled = self._filler.fill(rng, [source.shard.at(number) for source in self.sources], self._cumulative)
        if filled is None:
            raise too_short([source.name for source in self.sources])
        return filled
