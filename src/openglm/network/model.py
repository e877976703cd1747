"""`GLMModel`: word embeddings, the Transformer of the chosen architecture, the tied output.

Knows token ids, positions and a mask; nothing about text, blanks, or how a mask or a batch
came about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..errors import OptionError
from . import modern, published
from .config import GLMConfig
from .layers import Embedding

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from .cache import Cache

ARCHITECTURES = {"glm": published, "modern": modern}
Attention = published.Attention | modern.Attention


class GLMModel(nn.Module):
    """GLM: embeddings, the Transformer of `config.architecture`, and the tied output projection.

    A fresh model holds random weights: normal, with the spread that the architecture gives
    each matrix (`initial_spread`); gains of norms are 1, biases 0.

    Attributes:
        quantized: how its weights were rounded (`network/quantization.py`), None if they were not.
    """

    quantized: str | None = None

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        self.config = config
        self.word_embeddings = Embedding(config.vocab_size, config.hidden_size)
        self.transformer = ARCHITECTURES[config.architecture].Transformer(config)
        # On the meta device there is nothing to fill: weights come from a file.
        if not self.word_embeddings.weight.is_meta:
            self.reset_parameters()

    @property
    def prompt_ids(self) -> range:
        """Ids of the trained prompt that stands in front of every Part A; empty for most networks."""
        tokens: int = getattr(self.word_embeddings, "prompt_tokens", 0)
        return range(self.config.vocab_size, self.config.vocab_size + tokens)

    @property
    def max_part_a(self) -> int:
        """The most tokens of a text that this network reads: its context less its prompt."""
        return self.config.max_sequence_length - len(self.prompt_ids)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draw fresh weights from torch's default generator."""
        initial_spread = ARCHITECTURES[self.config.architecture].initial_spread
        for name, parameter in self.named_parameters():
            if "layernorm" in name:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                parameter.normal_(0.0, initial_spread(self.config, name))

    def hidden_states(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | BlockMask | None = None,
        *,
        cache: Cache | None = None,
    ) -> Tensor:
        """Final hidden states [B, S, D], after the last LayerNorm. Arguments as in `forward`."""
        if position_ids is None:
            position_ids = self._default_positions(input_ids)
        if isinstance(attention_mask, Tensor) and attention_mask.dtype != torch.bool:
            raise OptionError("attention_mask must be boolean (True = may attend) or a FlexAttention block mask")
        out: Tensor = self.transformer(self.word_embeddings(input_ids), position_ids, attention_mask, cache)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores over the vocabulary, [..., D] -> [..., V]; the projection is the word embedding."""
        return self.word_embeddings.scores(hidden)

    def forward(
        self,
        input_ids: Tensor,
        position_ids: Tensor | None = None,
        attention_mask: Tensor | BlockMask | None = None,
        *,
        cache: Cache | None = None,
        logits_for: Tensor | None = None,
    ) -> Tensor:
        """Logits for every token, or only for those in `logits_for`.

        Args:
            input_ids: [B, S] int64.
            position_ids: [B, 2, S] int64, positions and block positions; a model without block
                positions reads the first only, and takes [B, S] too. Default: 0 .. S-1 and zeros, as in a lone Part A.
            attention_mask: bool, broadcastable to [B, N, S, K], True = may attend, where K
                counts cached tokens too; a FlexAttention block mask; or None: all visible.
            cache: keys and values of earlier tokens; this call's are appended.
            logits_for: [B, S] bool; logits are computed for the True positions only.

        Returns:
            [B, S, V], or [M, V] with M the number of True positions, in row-major order.
        """
        hidden = self.hidden_states(input_ids, position_ids, attention_mask, cache=cache)
        return self.logits(hidden if logits_for is None else hidden[logits_for])

    def _default_positions(self, input_ids: Tensor) -> Tensor:
        B, S = input_ids.shape
        positions = torch.arange(S, device=input_ids.device).expand(B, S)
        if not self.config.block_position_encoding:
            return positions
        return torch.stack([positions, torch.zeros_like(positions)], dim=1)
