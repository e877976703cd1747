"""Fresh weights that know where their neighbours are.

Learned absolute positions start as noise, and a model must find out position by position
which ones are next to each other before a blank can look at the words beside it. Masked
models spend their first thousands of updates on that. Here the position tables start as
sinusoids (Vaswani et al. 2017, section 3.5), and the heads of the first two layers start
out attending to the neighbours of a token, which for sinusoids is a rotation. Everything
stays trainable and the architecture is the published one; a small run simply begins where
a long one would arrive.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import ConfigError
from ..network import published
from ..network.model import GLMModel

FASTEST, SPAN = 2.5, 1000.0  # radians per position of the first wave; ratio of the first to the last
AMPLITUDE = 4.0  # of the waves, in units of the spread of fresh embeddings
SHARPNESS = 1.3  # of the attention to a neighbour

# (position offset, block position offset or None) of each head: the words beside a blank,
# and inside a span the tokens written just before.
HEADS = (
    ((-1, None), (1, None), (0, -1), (-2, None)),
    ((2, None), (1, None), (0, -2), (-1, None)),
)


def _rates(pairs: int) -> Tensor:
    return FASTEST * SPAN ** (-torch.arange(pairs) / pairs)


def _waves(rows: int, pairs: int) -> Tensor:
    """[rows, 2 pairs]: sine and cosine of each rate, side by side."""
    angles = torch.arange(rows)[:, None] * _rates(pairs)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


def _rotation(offset: int, rates: Tensor) -> Tensor:
    """[2 F, 2 F]: turns the waves of a position into those of the position `offset` further on."""
    blocks = [
        torch.tensor([[math.cos(r * offset), math.sin(r * offset)], [-math.sin(r * offset), math.cos(r * offset)]])
        for r in rates.tolist()
    ]
    out: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return out


@torch.no_grad()
def start_from_neighbours(model: GLMModel) -> None:
    """Set the position tables and the first heads of a fresh model.

    Positions use the first half of the width, block positions the second.

    Raises:
        ConfigError: another architecture, no block positions, or a width too small for a head to hold the waves.
    """
    config = model.config
    if not isinstance(model.transformer, published.Transformer):
        raise ConfigError(
            f"neighbour initialization sets position tables, and the architecture {config.architecture!r} has none; "
            "leave out run.neighbour_start"
        )
    half, head = config.hidden_size // 2, config.head_size
    if not config.block_position_encoding or config.hidden_size % 4 or head % 4 or head > half:
        raise ConfigError(
            "neighbour initialization needs block positions, a width and a head size divisible by 4, and two heads"
        )
    pairs = half // 2
    scale = AMPLITUDE * config.initializer_range * math.sqrt(2)
    transformer = model.transformer
    for table, start in ((transformer.position_embeddings, 0), (transformer.block_position_embeddings, half)):
        table.weight.zero_()
        table.weight[:, start : start + 2 * pairs] = scale * _waves(config.position_rows, pairs)
    rates = _rates(pairs)
    for layer, heads in zip(transformer.layers, HEADS, strict=False):
        weight = layer.get_parameter("attention.query_key_value.weight")
        for number, (position, block) in enumerate(heads[: config.num_attention_heads]):
            rows = slice(number * head, (number + 1) * head)
            query, key = torch.zeros(head, config.hidden_size), torch.zeros(head, config.hidden_size)
            # A head has room for head / 2 waves: the fastest ones, shared out if it needs both tables.
            share = head if block is None else head // 2
            query[:share, :share] = _rotation(position, rates[: share // 2])
            key[:share, :share] = torch.eye(share)
            if block is not None:
                query[share:, half : half + share] = _rotation(block, rates[: share // 2])
                key[share:, half : half + share] = torch.eye(share)
            weight[rows] = SHARPNESS * query
            weight[config.hidden_size :][rows] = SHARPNESS * key
