"""The published Transformer: pre-LayerNorm, learned positions, GELU (Du et al. 2022).

Knows word embeddings, positions and a mask; nothing about text, blanks, or how a mask or a
batch came about. Parameter names are those of the published checkpoints.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .attention import attend
from .config import GLMConfig
from .layers import Embedding, LayerNorm, Linear

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from .cache import Cache


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


def initial_spread(config: GLMConfig, name: str) -> float:
    """Standard deviation of the fresh weights of the matrix called `name`.

    As the paper's code draws them: `initializer_range`, for projections back into the residual
    stream divided by sqrt(2 num_layers).
    """
    residual = name.endswith(("attention.dense.weight", "dense_4h_to_h.weight"))
    return config.initializer_range / math.sqrt(2 * config.num_layers) if residual else config.initializer_range
