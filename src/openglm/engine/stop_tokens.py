"""Which tokens end a fill, and which must never be part of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..tokenizer import Tokenizer


@dataclass(frozen=True)
class StopTokens:
    """Token ids that end a fill, and those that must never be part of one.

    Attributes:
        ids: what ends a fill.
        banned: [V] bool, what is never written.
    """

    ids: tuple[int, ...]
    banned: Tensor

    @classmethod
    def of(cls, tokenizer: Tokenizer, rows: int, device: torch.device) -> StopTokens:
        """Those of a vocabulary, for a model with `rows` rows: what has no token is never written."""
        banned = torch.zeros(rows, dtype=torch.bool)
        banned[tokenizer.never_generated] = True
        banned[tokenizer.num_tokens :] = True
        return cls((tokenizer.markers.eop, tokenizer.eos), banned.to(device))

    def mask(self, logits: Tensor, too_short: Sequence[bool]) -> Tensor:
        """Logits with banned tokens, and for rows that are too short the ends, at minus infinity."""
        logits = logits.masked_fill(self.banned, -torch.inf)
        if any(too_short):
            ends = torch.zeros_like(self.banned)
            ends[list(self.ids)] = True
            rows = torch.tensor(list(too_short), device=logits.device)
            logits = logits.masked_fill(rows[:, None] & ends, -torch.inf)
        return logits
