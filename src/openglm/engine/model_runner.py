"""`ModelRunner`: the model and what it has read, whole texts first, then one token of each at a time.

`runners.py` chooses how keys and values are kept: on a CPU in pages (`paged_runner.py`), elsewhere
in slots (`slot_runner.py`). Sequences come and go one by one, and one text may be continued in
several ways: a fork shares what was read.

Knows layouts, positions and masks; nothing about how the next token is chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from ..batches import NO_DOCUMENT, pad
from ..layouts import Layout
from ..network.attention import dense_mask
from ..network.cache import Cache
from ..network.model import GLMModel
from ..tensors import to_tensors

Input = tuple[int, int, int]  # token id, position, block position

# Positions, padding included, that one forward pass reads: enough to keep the matrix
# products busy, few enough for what lies between them to stay in the cache of a CPU.
PREFILL_POSITIONS = 1024
# Texts go into one pass while the longest is at most this much longer than the shortest.
UNEVEN = 1.25


class HiddenStates(Protocol):
    """`GLMModel.hidden_states`, or what computes the same."""

    def __call__(self, input_ids: Tensor, position_ids: Tensor, attention_mask: Any = None, *, cache: Cache) -> Tensor:
        """[B, S] ids and [B, 2, S] positions -> [B, S, D]."""


class ModelRunner(Protocol):
    """Runs the model over sequences, whose keys and values are held by a handle that `allocate` and `fork` give.

    `prefill` and `decode` change nothing that counts: what failed, or was interrupted, can be done again.
    """

    model: GLMModel
    kernel: str | None  # of our own for attention, by its instructions; None: torch's

    @property
    def device(self) -> torch.device:
        """Where logits are."""

    def allocate(self, tokens: int) -> Any:
        """A handle for a text of so many tokens."""

    def prefill(self, handles: Sequence[Any], layouts: Sequence[Layout]) -> Tensor:
        """Read whole texts; the logits after the last token of each, [R, V] float32."""

    def decode(self, handles: Sequence[Any], inputs: Sequence[Input]) -> Tensor:
        """Read one more token of each of these sequences; the logits after it, [R, V] float32."""

    def append(self, handles: Sequence[Any]) -> None:
        """Count the token that was decoded last as part of these sequences."""

    def fork(self, handle: Any) -> Any:
        """A second sequence that begins with all of this one."""

    def free(self, handle: Any) -> None:
        """Forget a sequence."""

    def bytes_per_token(self) -> int:
        """What one token of a sequence takes."""

    @property
    def num_held(self) -> int:
        """Sequences that were not freed."""


def similar_lengths(lengths: Sequence[int], positions: int = PREFILL_POSITIONS) -> Iterator[list[int]]:
    """Indices of texts that are read in one pass, the shortest first."""
    group: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        longer = lengths[i] > UNEVEN * lengths[group[0]] + 8 if group else False
        if group and (longer or lengths[i] * (len(group) + 1) > positions):
            yield group
            group = []
        group.append(i)
    if group:
        yield group


def in_groups(
    handles: Sequence[Any], layouts: Sequence[Layout], prefill: Callable[[Sequence[Any], Sequence[Layout]], Tensor]
) -> Tensor:
    """What `prefill` gives for texts of similar length at a time, in the order of `layouts`."""
    rows: list[Tensor] = [torch.empty(0)] * len(layouts)
    for group in similar_lengths([len(layout) for layout in layouts]):
        logits = prefill([handles[i] for i in group], [layouts[i] for i in group])
        for row, i in enumerate(group):
            rows[i] = logits[row]
    return torch.stack(rows)


def prefill_logits(
    model: GLMModel, layouts: Sequence[Layout], pad_id: int, cache: Cache, hidden_states: HiddenStates
) -> Tensor:
    """One pass over whole texts, padded to the longest; the logits after the last token of each, [R, V]."""
    tensors = to_tensors(pad(layouts, pad_id), model.word_embeddings.weight.device)
    plain = bool(tensors.in_part_a.all())
    mask = None if plain else dense_mask(tensors.documents, tensors.in_part_a)
    hidden_BSD = hidden_states(tensors.input_ids, tensors.position_ids, mask, cache=cache)
    last = (tensors.documents != NO_DOCUMENT).sum(1) - 1
    return model.logits(hidden_BSD[torch.arange(len(layouts), device=last.device), last]).float()


def decode_logits(model: GLMModel, inputs_R3: Tensor, cache: Cache, hidden_states: HiddenStates) -> Tensor:
    """One pass over one token of each sequence, [R, 3] ids and positions -> [R, V]."""
    hidden = hidden_states(inputs_R3[:, :1], inputs_R3[:, 1:, None], None, cache=cache)
    return model.logits(hidden[:, -1]).float()
