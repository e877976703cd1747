"""How texts and caches of transformers are handed to the network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache
from transformers.utils import ModelOutput

from ...network.attention import attend


@dataclass
class PartAOutput(ModelOutput):
    """Texts that are to be filled, as the encoder's side hands them on.

    Attributes:
        last_hidden_state: [B, S, D] word embeddings.
        text_ids: [B, S].
    """

    last_hidden_state: Tensor | None = None
    text_ids: Tensor | None = None


class PartAReader(nn.Module):
    """The encoder's side: it reads nothing yet, as texts are read together with the first token of the fill."""

    def __init__(self, embed: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.embed = embed

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> PartAOutput:
        """[B, S] ids -> what `OpenGLMForSeq2SeqLM` takes as `encoder_outputs`."""
        return PartAOutput(self.embed(input_ids), input_ids)


class Cached:
    """A cache of transformers as the network sees one."""

    def __init__(self, cache: DynamicCache) -> None:
        self.cache = cache

    def attend(self, layer: int, q_BNSH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor, mask: Any) -> Tensor:
        """As `network.cache.Cache`."""
        k_BNKH, v_BNKH = self.cache.update(k_BNSH, v_BNSH, layer)
        return attend(q_BNSH, k_BNKH, v_BNKH, mask)

    def advance(self, tokens: int) -> None:
        """The cache counts for itself."""


def part_a(ids: Tensor, attention_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Positions [B, 2, S] and mask [B, 1, S, S] of texts: every token sees all that is no padding."""
    real = torch.ones_like(ids) if attention_mask is None else attention_mask.long()
    positions = (real.cumsum(1) - 1).clamp(min=0)
    mask = real.bool()[:, None, None].expand(len(ids), 1, ids.shape[1], ids.shape[1])
    return torch.stack([positions, torch.zeros_like(positions)], 1), mask
