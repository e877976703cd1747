"""Runs a model on a GPU, with the keys and values of each sequence in a slot of one buffer per layer.

Every step computes all slots up to the highest one in use, idle ones too: shapes then take
few values, powers of two, and a compiled step (`compile=True`) is captured once for each of
them as a CUDA graph, whose launch costs what one kernel's does. What idle slots write goes to
a column behind all others, which nobody attends to.

Works on any device; on a CPU it is slower than pages, where a fork copies nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..layouts import Layout
from ..network.attention import attend
from ..network.model import GLMModel
from .model_runner import Input, decode_logits, in_groups, prefill_logits

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

COLUMNS = 256  # buffers and steps grow by so many tokens


class SlotRunner:
    """A `ModelRunner` whose handles are numbers of slots.

    Args:
        model: the network.
        pad_id: what idle slots read; nobody attends to it.
        compile: compile decoding. The first step of each shape then takes up to a minute.
    """

    kernel: str | None = None

    def __init__(self, model: GLMModel, pad_id: int, *, compile: bool = False) -> None:
        self.model, self.pad_id = model, pad_id
        config = model.config
        self._shape = (config.num_attention_heads, config.hidden_size // config.num_attention_heads)
        self._dtype = next(p.dtype for p in model.parameters() if p.is_floating_point())
        self._lengths: list[int] = []  # of each slot
        self._free: list[int] = []
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self._compiled = compile
        self._columns = 0
        self._resize(1, COLUMNS)
        decode = self._decode
        self._run = torch.compile(decode, mode="reduce-overhead", dynamic=False) if compile else decode

    @property
    def device(self) -> torch.device:
        """Where logits are."""
        return self.model.word_embeddings.weight.device

    @property
    def num_held(self) -> int:
        """Sequences that were not freed."""
        return len(self._lengths) - len(self._free)

    def bytes_per_token(self) -> int:
        """What one token of a sequence takes."""
        heads, size = self._shape
        return 2 * self.model.config.num_layers * heads * size * torch.empty(0, dtype=self._dtype).element_size()

    def _resize(self, slots: int, columns: int) -> None:
        old, filled = len(self._lengths), self._columns
        heads, size = self._shape
        for layer in range(self.model.config.num_layers):
            for kept in (self.keys, self.values):
                grown = torch.zeros((slots, heads, columns + 1, size), dtype=self._dtype, device=self.device)
                if self._compiled:  # written in place by a graph, which must know that it stays where it is
                    torch._dynamo.mark_static_address(grown)
                if old:
                    grown[:old, :, :filled] = kept[layer][:, :, :filled]
                    kept[layer] = grown
                else:
                    kept.append(grown)
        self._free += range(old, slots)
        self._lengths += [0] * (slots - old)
        self._columns = columns

    def allocate(self, tokens: int) -> int:
        """As `ModelRunner`."""
        if not self._free or tokens > self._columns:
            slots = len(self._lengths) if self._free else 2 * len(self._lengths)
            self._resize(slots, max(self._columns, -(-tokens // COLUMNS) * COLUMNS))
        slot = min(self._free)  # the lowest, so that steps stay narrow
        self._free.remove(slot)
        self._lengths[slot] = tokens
        return slot

    def prefill(self, handles: Sequence[Any], layouts: Sequence[Layout]) -> Tensor:
        """As `ModelRunner`."""
        return in_groups(handles, layouts, self._prefill)

    def _prefill(self, slots: Sequence[int], layouts: Sequence[Layout]) -> Tensor:
        cache = _PrefillCache(self, slots)
        return prefill_logits(self.model, layouts, self.pad_id, cache, self.model.hidden_states)

    def decode(self, handles: Sequence[Any], inputs: Sequence[Input]) -> Tensor:
        """As `ModelRunner`."""
        longest = max(self._lengths[slot] for slot in handles) + 1
        columns, count = -(-longest // COLUMNS) * COLUMNS, 1 << max(handles).bit_length()
        if columns > self._columns or count > len(self._lengths):
            self._resize(max(count, len(self._lengths)), max(columns, self._columns))
        rows = [(self.pad_id, 0, 0, self._columns)] * count
        for slot, values in zip(handles, inputs, strict=True):
            rows[slot] = (*values, self._lengths[slot])
        placed = torch.tensor(rows, device=self.device)
        logits: Tensor = self._run(placed, columns)
        return logits[torch.tensor(handles, device=self.device)]

    def append(self, handles: Sequence[Any]) -> None:
        """As `ModelRunner`."""
        for slot in handles:
            self._lengths[slot] += 1

    def _decode(self, placed_C4: Tensor, columns: int) -> Tensor:
        cache = _DecodeCache(self, placed_C4[:, 3], columns)
        return decode_logits(self.model, placed_C4[:, :3], cache, self.model.hidden_states)

    def fork(self, handle: Any) -> Any:
        """As `ModelRunner`."""
        slot = self.allocate(self._lengths[handle])
        for buffers in (self.keys, self.values):
            for buffer in buffers:
                buffer[slot] = buffer[handle]
        return slot

    def free(self, handle: Any) -> None:
        """As `ModelRunner`."""
        self._lengths[handle] = 0
        self._free.append(handle)


class _PrefillCache:
    """The cache of a pass that reads whole texts."""

    def __init__(self, runner: SlotRunner, slots: Sequence[int]) -> None:
        self._runner, self._slots = runner, torch.tensor(slots, device=runner.device)

    def attend(
        self, layer: int, q_BNSH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor, mask: Tensor | BlockMask | None
    ) -> Tensor:
        S = k_BNSH.shape[2]
        self._runner.keys[layer][self._slots, :, :S] = k_BNSH
        self._runner.values[layer][self._slots, :, :S] = v_BNSH
        return attend(q_BNSH, k_BNSH, v_BNSH, mask)

    def advance(self, tokens: int) -> None:
        """Nothing to count."""


class _DecodeCache:
    """The cache of a pass that reads one token of each slot."""

    def __init__(self, runner: SlotRunner, lengths_C: Tensor, columns: int) -> None:
        self._runner, self._lengths, self._columns = runner, lengths_C, columns
        self._rows = torch.arange(len(lengths_C), device=lengths_C.device)
        self._mask = (torch.arange(columns, device=lengths_C.device) <= lengths_C[:, None])[:, None, None]

    def attend(
        self, layer: int, q_BNSH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor, mask: Tensor | BlockMask | None
    ) -> Tensor:
        keys, values, count = self._runner.keys[layer], self._runner.values[layer], len(self._rows)
        keys[self._rows, :, self._lengths] = k_BNSH[:, :, 0]
        values[self._rows, :, self._lengths] = v_BNSH[:, :, 0]
        return attend(q_BNSH, keys[:count, :, : self._columns], values[:count, :, : self._columns], self._mask)

    def advance(self, tokens: int) -> None:
        """Nothing to count."""
