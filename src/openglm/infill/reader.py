"""The model with the texts it has read: rows of a batch, their cache, one token at a time.

Knows layouts, positions and masks; nothing about how the next token is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..attention import dense_mask
from ..batches import NO_DOCUMENT, pad
from ..blanks import Layout, Writer
from ..cache import KVCache
from ..model import GLMModel
from ..tensors import BatchTensors


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
        tensors = BatchTensors.of(batch, self.device)
        self._seen = tensors.documents != NO_DOCUMENT  # [R, columns]: what each row may look back at
        mask = None if batch.in_part_a.all() else dense_mask(tensors.documents, tensors.in_part_a)
        model.hidden_states(tensors.input_ids, tensors.position_ids, mask, cache=self.cache)

    @property
    def rows(self) -> int:
        """Rows held."""
        return len(self._seen)

    def step(self, writers: Sequence[Writer]) -> Tensor:
        """Feed each row's next input; the logits for what comes after it, [R, V] float32."""
        inputs = torch.tensor([writer.next_input() for writer in writers], device=self.device)
        self._seen = torch.cat([self._seen, self._seen.new_ones(self.rows, 1)], dim=1)
        mask = None if bool(self._seen.all()) else self._seen[:, None, None, :]
        hidden = self.model.hidden_states(inputs[:, :1], inputs[:, 1:, None], mask, cache=self.cache)
        return self.model.logits(hidden[:, -1]).float()

    def select(self, rows: Tensor) -> None:
        """Keep, repeat or reorder rows."""
        self.cache.select(rows)
        self._seen = self._seen[rows]
