"""Our Transformer: the reading and writing of GLM, with what later networks have learned.

The layout, the mask and the caches are those of the published network (`published.py`). What
differs, each for a lower loss at equal compute (docs/pretraining.md has the figures):

- No position tables. Queries and keys are turned by their positions (RoPE, Su et al. 2021,
  arXiv 2104.09864) in two dimensions, as ChatGLM-6B does for this layout: one half of each
  head by the position, the other by the block position.
- RMSNorm in place of LayerNorm (Zhang and Sennrich 2019), no biases anywhere; the word
  embeddings are normalized too.
- Queries and keys are normalized (Henry et al. 2020, arXiv 2010.04245): scores cannot grow
  without bounds, and learning rates can be large.
- Projections back into the residual stream start at zero, so that a fresh network passes its
  embeddings through; the other matrices of the layers start with a spread of 1 / sqrt(D).

Knows ids, positions and a mask, as `published.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .attention import attend
from .config import GLMConfig
from .layers import Linear, RMSNorm

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from .cache import Cache

EMBEDDING_SPREAD = 0.02
GELU_SLOPE = 2 * math.sqrt(2 / math.pi)

Rotation = tuple[Tensor, Tensor]  # cosines and sines, [B, S, 1, H / 2] each


def rotation(position_ids_B2S: Tensor, head_size: int, base: float) -> Rotation:
    """Cosines and sines of the angles by which queries and keys are turned.

    A head has H / 2 pairs of numbers. The first half of them turns with the position, the
    second with the block position, each at rates from 1 down to nearly 1 / `base`.

    Returns:
        Two tensors [B, S, 1, H / 2] float32.
    """
    pairs = head_size // 4
    rates = base ** (torch.arange(pairs, device=position_ids_B2S.device, dtype=torch.float32) / -pairs)
    angles = position_ids_B2S.transpose(1, 2)[..., None] * rates  # [B, S, 2, H / 4]
    angles = angles.flatten(2)[:, :, None]
    return angles.cos(), angles.sin()


def rotate(x_BSNH: Tensor, turn: Rotation) -> Tensor:
    """Turn the pairs (x[i], x[i + H / 2]) of every head."""
    cos, sin = turn
    a, b = x_BSNH.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class Attention(nn.Module):
    """Multi-head self-attention; one projection holds all queries, then keys, then values."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.query_key_value = Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.query_layernorm = RMSNorm(config.head_size, eps=config.layernorm_epsilon)
        self.key_layernorm = RMSNorm(config.head_size, eps=config.layernorm_epsilon)
        self.dense = Linear(config.hidden_size, config.hidden_size, bias=False)
        self.dropout = config.attention_dropout_prob

    def forward(
        self, x_BSD: Tensor, turn: Rotation, mask: Tensor | BlockMask | None, cache: Cache | None, layer: int
    ) -> Tensor:
        """[B, S, D] -> [B, S, D]; `layer` is the number under which the cache files keys and values."""
        B, S, D = x_BSD.shape
        q, k, v = self.query_key_value(x_BSD).view(B, S, 3, self.num_heads, -1).unbind(2)
        q = rotate(self.query_layernorm(q), turn).to(v.dtype).transpose(1, 2)
        k = rotate(self.key_layernorm(k), turn).to(v.dtype).transpose(1, 2)
        v = v.transpose(1, 2)
        if cache is None:
            mixed = attend(q, k, v, mask, self.dropout if self.training else 0.0, normalized=True)
        else:
            mixed = cache.attend(layer, q, k, v, mask)
        out: Tensor = self.dense(mixed.transpose(1, 2).reshape(B, S, D))
        return out


def gelu(x: Tensor) -> Tensor:
    """GELU in its tanh form; in a graph by the logistic function, which is the same and half the work of tanh."""
    if not torch.compiler.is_compiling():
        return F.gelu(x, approximate="tanh")
    wide = x.float()
    return (wide * torch.sigmoid(GELU_SLOPE * (wide + 0.044715 * wide * wide * wide))).to(x.dtype)


class MLP(nn.Module):
    """D -> 4 D -> D with GELU between."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = Linear(config.hidden_size, 4 * config.hidden_size, bias=False)
        self.dense_4h_to_h = Linear(4 * config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        out: Tensor = self.dense_4h_to_h(gelu(self.dense_h_to_4h(x)))
        return out


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.attention = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(config.output_dropout_prob)

    def forward(
        self, x: Tensor, turn: Rotation, mask: Tensor | BlockMask | None, cache: Cache | None, layer: int
    ) -> Tensor:
        """[B, S, D] -> [B, S, D]."""
        x = x + self._dropped(self.attention(self.input_layernorm(x), turn, mask, cache, layer))
        return x + self._dropped(self.mlp(self.post_attention_layernorm(x)))

    def _dropped(self, x: Tensor) -> Tensor:
        out: Tensor = self.dropout(x) if self.training else x
        return out


class Transformer(nn.Module):
    """The norm of the word embeddings, the layers, the last norm.

    Attributes:
        activation_checkpointing: as in `published.Transformer`.
    """

    def __init__(self, config: GLMConfig) -> None:
        super().__init__()
        self.head_size, self.rotary_base = config.head_size, config.rotary_base
        self.activation_checkpointing = False
        self.embedding_layernorm = RMSNorm(config.hidden_size, eps=config.layernorm_epsilon)
        self.embedding_dropout = nn.Dropout(config.embedding_dropout_prob)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.final_layernorm = RMSNorm(config.hidden_size, eps=config.layernorm_epsilon)

    def forward(self, x: Tensor, position_ids: Tensor, mask: Tensor | BlockMask | None, cache: Cache | None) -> Tensor:
        """Word embeddings [B, S, D] -> final hidden states [B, S, D]."""
        turn = rotation(position_ids, self.head_size, self.rotary_base)
        x = self.embedding_dropout(self.embedding_layernorm(x))
        for number, layer in enumerate(self.layers):
            if self.activation_checkpointing and self.training and cache is None:
                x = checkpoint(layer, x, turn, mask, None, number, use_reentrant=False)
            else:
                x = layer(x, turn, mask, cache, number)
        if cache is not None:
            cache.advance(x.shape[1])
        out: Tensor = self.final_layernorm(x)
        return out


def initial_spread(config: GLMConfig, name: str) -> float:
    """Standard deviation of the fresh weights of the matrix called `name`; 0 leaves it zero."""
    if name.endswith(("attention.dense.weight", "dense_4h_to_h.weight")):
        return 0.0
    # Word embeddings are the output projection too: drawn wider, a fresh network would predict its own input.
    return EMBEDDING_SPREAD if name == "word_embeddings.weight" else 1 / math.sqrt(config.hidden_size)
