"""The network: one pre-LayerNorm Transformer that reads Part A and writes Part B.

Knows token ids, positions and a mask; nothing about text, blanks, or how a mask or a
batch came about. Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from ..errors import OptionError
from .attention import attend
from .config import GLMConfig
from .cpu_linear import linear

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from .cache import Cache


# torch's layers draw weights of their own when they are made. `GLMModel` draws all of them
# (or a file brings them), so here that would be work thrown away; on the meta device it
# would also import sympy, which takes longer than loading a small model.


class Linear(nn.Linear):
    """A linear layer whose weights are left for `GLMModel` to fill."""

    def reset_parameters(self) -> None:
        """Leave the weights as they are."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] -> [..., out_features]."""
        return linear(x, self.weight, self.bias)


class Embedding(nn.Embedding):
    """An embedding whose weights are left for `GLMModel` to fill."""

    def reset_parameters(self) -> None:
        """Leave the weights as they are."""

    def scores(self, hidden: Tensor) -> Tensor:
        """Products with every row, [..., D] -> [..., rows]."""
        return linear(hidden, self.weight)


class LayerNorm(nn.LayerNorm):
    """A LayerNorm whose weights are left for `GLMModel` to fill."""

    def reset_parameters(self) -> None:
        """Leave the weights as they are."""


class Attention(nn.Module):
    """Multi-head self-attention; one projection holds all queries, then keys, then values."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.query_key_value = Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = Linear(config.hidden_size, config.hidden_size)
        self.dropout = config.attention_dropout_prob

    def forward(self, x_BSD: Tensor, mask: Tensor | BlockMask | None, cache: Cache | None, layer: int) -> Tensor:
        """[B, S, D] -> [B, S, D]; `layer` is the number under which the cache files keys and values."""
        B, S, D = x_BSD.shape
        q, k, v = self.query_key_value(x_BSD).view(B, S, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        if cache is None:
            mixed = attend(q, k, v, mask, self.dropout if self.training else 0.0)
        else:
            mixed = cache.attend(layer, q, k, v, mask)
        out: Tensor = self.dense(mixed.transpose(1, 2).reshape(B, S, D))
        return out


class MLP(nn.Module):
    """D -> 4 D -> D with GELU between."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = Linear(config.hidden_size, 4 * config.hidden_size)
        self.dense_4h_to_h = Linear(4 * config.hidden_size, config.hidden_size)
        self.approximate = "tanh" if config.gelu == "tanh" else "none"

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        out: Tensor = self.dense_4h_to_h(F.gelu(self.dense_h_to_4h(x), approximate=self.approximate))
        return out


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        self.input_layernorm = LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.attention = Attention(config)
        self.post_attention_layernorm = LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.output_dropout_prob)

    def forward(self, x: Tensor, mask: Tensor | BlockMask | None, cache: Cache | None, layer: int) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        x = x + self._dropped(self.attention(self.input_layernorm(x), mask, cache, layer))
        return x + self._dropped(self.mlp(self.post_attention_layernorm(x)))

    def _dropped(self, x: Tensor) -> Tensor:
        out: Tensor = self.dropout(x) if self.training else x
        return out


class Transformer(nn.Module):
    """Position embeddings, the layers, the last LayerNorm.

    With `activation_checkpointing` set, training keeps only what goes into each layer and
    computes the rest again in the backward pass: less memory, about a third more work, the
    same gradients.
    """

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        self.position_embeddings = Embedding(config.position_rows, config.hidden_size)
        if config.block_position_encoding:
            self.block_position_embeddings = Embedding(config.position_rows, config.hidden_size)
        self.block_positions = config.block_position_encoding
        self.activation_checkpointing = False
        self.embedding_dropout = nn.Dropout(config.embedding_dropout_prob)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.final_layernorm = LayerNorm(config.hidden_size, eps=config.layernorm_epsilon)

    def forward(self, x: Tensor, position_ids: Tensor, mask: Tensor | BlockMask | None, cache: Cache | None) -> Tensor:
        """Word embeddings [B, S, D] -> final hidden states [B, S, D]."""
        if self.block_positions:
            x = x + self.position_embeddings(position_ids[:, 0]) + self.block_position_embeddings(position_ids[:, 1])
        else:
            x = x + self.position_embeddings(position_ids if position_ids.dim() == 2 else position_ids[:, 0])
        x = self.embedding_dropout(x)
        for number, layer in enumerate(self.layers):
            if self.activation_checkpointing and self.training and cache is None:
                x = checkpoint(layer, x, mask, None, number, use_reentrant=False)
            else:
                x = layer(x, mask, cache, number)
        if cache is not None:
            cache.advance(x.shape[1])
        out: Tensor = self.final_layernorm(x)
        return out


class GLMModel(nn.Module):
    """GLM (Du et al. 2022): embeddings, Transformer, and the tied output projection.

    A fresh model holds random weights, drawn as the paper's code draws them (normal with
    `initializer_range`, residual projections scaled down by sqrt(2 num_layers), biases 0).

    Attributes:
        quantized: how its weights were rounded (`network/quantization.py`), None if they were not.
    """

    quantized: str | None = None

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        self.config = config
        self.word_embeddings = Embedding(config.vocab_size, config.hidden_size)
        self.transformer = Transformer(config)
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
        std = self.config.initializer_range
        residual_std = std / math.sqrt(2 * self.config.num_layers)
        for name, parameter in self.named_parameters():
            if "layernorm" in name:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
            elif name.endswith("bias"):
                parameter.zero_()
            else:
                residual = name.endswith(("attention.dense.weight", "dense_4h_to_h.weight"))
                parameter.normal_(0.0, residual_std if residual else std)

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
