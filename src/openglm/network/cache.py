"""Keys and values of the tokens a model has already read.

`KVCache` is the plain one: one buffer per layer, [B, N, T, H], grown as needed. All rows
share the column counter; rows shorter than others hide their unused columns through the
attention mask, which is the caller's business. `engine` has others, made for decoding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from torch import Tensor

from .attention import attend

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


class Cache(Protocol):
    """What the model asks of a cache: attention over what it holds and what is new."""

    def attend(
        self, layer: int, q_BNSH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor, mask: Tensor | BlockMask | None
    ) -> Tensor:
        """File this call's keys and values under `layer`; attention over all of them, [B, N, S, H]."""

    def advance(self, tokens: int) -> None:
        """Called once per forward pass, after the last layer: `tokens` more are filed."""


class KVCache:
    """Keys and values per layer, appended column by column.

    Args:
        capacity: columns to reserve at first; more are added as needed.
    """

    def __init__(self, capacity: int = 0) -> None:
        self.capacity = capacity
        self.length = 0
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def attend(
        self, layer: int, q_BNSH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor, mask: Tensor | BlockMask | None
    ) -> Tensor:
        """As `Cache`; `mask` is [B, 1 or N, S, K] bool over old and new columns, or None."""
        k_BNKH, v_BNKH = self.append(layer, k_BNSH, v_BNSH)
        return attend(q_BNSH, k_BNKH, v_BNKH, mask)

    def append(self, layer: int, k_BNSH: Tensor, v_BNSH: Tensor) -> tuple[Tensor, Tensor]:
        """Store this step's keys and values of `layer`; return all of them, [B, N, K, H]."""
        end = self.length + k_BNSH.shape[2]
        if layer == len(self._keys):
            self._keys.append(self._reserve(k_BNSH, max(end, self.capacity)))
            self._values.append(self._reserve(v_BNSH, max(end, self.capacity)))
        if end > self._keys[layer].shape[2]:
            # A quarter more than needed, so that growing costs little per token.
            self._keys[layer] = self._grow(self._keys[layer], end + end // 4)
            self._values[layer] = self._grow(self._values[layer], end + end // 4)
        keys, values = self._keys[layer], self._values[layer]
        keys[:, :, self.length : end] = k_BNSH
        values[:, :, self.length : end] = v_BNSH
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, tokens: int) -> None:
        """Count `tokens` more columns as filled; the model calls it once per forward pass."""
        self.length += tokens

    def select(self, rows: Tensor) -> None:
        """Keep, repeat or reorder rows: row i becomes what row `rows[i]` was."""
        used = self.length
        for buffers in (self._keys, self._values):
            for layer, buffer in enumerate(buffers):
                kept = buffer.new_empty((len(rows), *buffer.shape[1:]))
                kept[:, :, :used] = buffer[:, :, :used].index_select(0, rows)
                buffers[layer] = kept

    @staticmethod
    def _reserve(like: Tensor, columns: int) -> Tensor:
        B, N, _, H = like.shape
        return like.new_empty((B, N, columns, H))

    @staticmethod
    def _grow(buffer: Tensor, columns: int) -> Tensor:
        B, N, _, H = buffer.shape
        grown = buffer.new_empty((B, N, columns, H))
        grown[:, :, : buffer.shape[2]] = buffer
        return grown
