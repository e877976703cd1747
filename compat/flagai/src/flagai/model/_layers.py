"""openglm's layers run as FlagAI runs them: over remembered hidden states, with its kinds of mask.

Memory is a tensor per layer, [B, M, D], of what went into that layer before its LayerNorm; keys
and values are computed from it again at every call. (Decoding in the predictor uses openglm's
cache of keys and values instead, which says the same.) Knows nothing about configurations,
losses or tokenizers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from openglm.errors import OptionError
from openglm.network.attention import attend, prefix_mask
from openglm.network.published import Layer, Transformer


def visible(attention_mask: Tensor, batch: int, length: int, memory: int) -> Tensor:
    """FlagAI's attention mask as a boolean one, [B, 1, S, M + S], True where the query may attend.

    Args:
        attention_mask: one element or one per row: the length of Part A, which everyone sees,
            while the rest is read from left to right and memory is visible to all. Or a
            whole mask of 0 and 1, [B, 1, S, K]; its last M + S columns count.

    Raises:
        OptionError: another shape.
    """
    if attention_mask.dim() == 4:
        mask = attention_mask[..., -(memory + length) :].bool()
        wanted = (length, memory + length)
        if tuple(mask.shape[2:]) != wanted or mask.shape[0] not in (1, batch) or mask.shape[1] != 1:
            raise OptionError(
                f"attention_mask has shape {list(attention_mask.shape)}, where [{batch}, 1, {length}, "
                f"{memory + length}] is needed (queries, then memory and queries)"
            )
        # A row that sees nothing is padding that nobody reads; it must not become NaN.
        return mask | ~mask.any(-1, keepdim=True)
    if attention_mask.numel() not in (1, batch):
        raise OptionError(
            f"attention_mask has shape {list(attention_mask.shape)}: give the length of Part A, once or for each "
            f"of the {batch} rows, or a whole mask [{batch}, 1, {length}, {memory + length}]"
        )
    mask = prefix_mask(attention_mask.reshape(-1).expand(batch), length)
    return torch.cat([mask.new_ones(batch, 1, length, memory), mask], dim=-1)


def run(
    transformer: Transformer,
    words: Tensor,
    position_ids: Tensor,
    mask: Tensor,
    mems: Sequence[Tensor] | None = None,
    *,
    checkpoint_activations: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """Word embeddings [B, S, D] -> final hidden states [B, S, D], and this call's share of memory.

    Args:
        position_ids: [B, 2, S], or [B, S] without block positions.
        mask: as `visible` gives it.
        mems: memory of each layer and of the end, L + 1 tensors [B, M, D].

    Returns:
        The hidden states, and L + 1 tensors [B, S, D]: what went into each layer, and what
        came out of the last one, before LayerNorm.
    """
    if transformer.block_positions:
        words = words + transformer.position_embeddings(position_ids[:, 0])
        x = words + transformer.block_position_embeddings(position_ids[:, 1])
    else:
        x = words + transformer.position_embeddings(position_ids if position_ids.dim() == 2 else position_ids[:, 0])
    x = transformer.embedding_dropout(x)
    states = [x]
    for number, layer in enumerate(transformer.layers):
        memory = mems[number] if mems else None
        if checkpoint_activations and transformer.training:
            x = checkpoint(_layer, layer, x, mask, memory, use_reentrant=False)
        else:
            x = _layer(layer, x, mask, memory)  # type: ignore[arg-type]
        states.append(x)
    return transformer.final_layernorm(x), states


def _layer(layer: Layer, x: Tensor, mask: Tensor, memory: Tensor | None) -> Tensor:
    read = layer.input_layernorm(x if memory is None else torch.cat([memory.to(x), x], dim=1))
    attention = layer.attention
    (B, K, D), S = read.shape, x.shape[1]
    q, k, v = (
        part.view(B, K, attention.num_heads, -1).transpose(1, 2)
        for part in attention.query_key_value(read).chunk(3, -1)
    )
    mixed = attend(q[:, :, K - S :], k, v, mask, attention.dropout if layer.training else 0.0)
    x = x + layer.dropout(attention.dense(mixed.transpose(1, 2).reshape(B, S, D)))
    out: Tensor = x + layer.dropout(layer.mlp(layer.post_attention_layernorm(x)))
    return out


def remember(
    mems: Sequence[Tensor] | None, states: Sequence[Tensor], *, longest: int | None, detach: bool
) -> list[Tensor]:
    """Old memory and this call's, joined; the last `longest` positions of it (None: all)."""
    joined = []
    for number, state in enumerate(states):
        new = state.detach() if detach else state
        joined.append(torch.cat([mems[number].to(new), new], dim=1) if mems else new)
    if longest is None:
        return joined
    return [memory[:, max(0, memory.shape[1] - longest) :] for memory in joined]
