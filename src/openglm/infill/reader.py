"""The model with the texts it has read: rows of a batch, their cache, one token at a time.

Knows layouts, positions and masks; nothing about how the next token is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..attention import dense_mask
from ..blanks import NO_DOCUMENT, Layout, Writer, pad
from ..cache import KVCache
from ..model import GLMModel


class Reader:
    """Reads layouts into a cache, then Part B tokens one step at a time for all rows.

    Args:
        model: the network.
        layouts: one row each: Part A, and Part B so far if there is any.
        pad_id: fills up shorter rows; nobody attends to it.
        expected: columns to reserve for what will be written.
    """

    def __init__(self, model: GLMModel, layouts: Sequence[Layout], pad_id: int, *, expected: int = 0) -> None:
        self.model = model
        self.device = model.word_embeddings.weight.device
        batch = pad(layouts, pad_id)
        self.cache = KVCache(batch.input_ids.shape[1] + expected)
        documents = torch.from_numpy(batch.documents).to(self.device)
        in_part_a = torch.from_numpy(batch.in_part_a).to(self.device)
        self._seen = documents != NO_DOCUMENT  # [R, columns]: what each row may look back at
        only_part_a = bool(in_part_a.all())
        model.hidden_states(
            torch.from_numpy(batch.input_ids).to(self.device),
            self._positions(torch.from_numpy(batch.position_ids).to(self.device)),
            None if only_part_a else dense_mask(documents, in_part_a),
            cache=self.cache,
        )

    def _positions(self, pairs: Tensor) -> Tensor:
        return pairs if self.model.config.block_position_encoding else pairs[:, 0]

    @property
    def rows(self) -> int:
        """Rows held."""
        return len(self._seen)

    def step(self, writers: Sequence[Writer]) -> Tensor:
        """Feed each row's next input; the logits for what comes after it, [R, V] float32."""
        inputs = torch.tensor([writer.next_input() for writer in writers], device=self.device)
        self._seen = torch.cat([self._seen, self._seen.new_ones(self.rows, 1)], dim=1)
        mask = None if bool(self._seen.all()) else self._seen[:, None, None, :]
        hidden = self.model.hidden_states(inputs[:, :1], self._positions(inputs[:, 1:, None]), mask, cache=self.cache)
        return self.model.logits(hidden[:, -1]).float()

    def select(self, rows: Tensor) -> None:
        """Keep, repeat or reorder rows."""
        self.cache.select(rows)
        self._seen = self._seen[rows]
