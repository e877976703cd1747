"""Who sees whom: one rule, as a dense mask, as a FlexAttention block mask and as counts.

The rule (paper, section 2.1 and figure 2): a token sees the Part A of its own document,
and every token of its own document that comes no later than itself. Part A therefore
reads itself in both directions, Part B reads Part A and its own past, and documents that
share a packed sequence never see each other. Padding is a document of its own (`PADDING`).

Dimension letters, here and in the whole package: B batch, S query tokens, K key tokens,
N heads, H head size, D model width, V vocabulary.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

PADDING = -1  # document number of padded positions
LARGEST_SCORE = 60.0  # far above what normalized queries and keys give; its exponential can still be summed


def visible(
    query_document: Tensor, key_document: Tensor, key_in_part_a: Tensor, query_index: Tensor, key_index: Tensor
) -> Tensor:
    """The rule itself; arguments broadcast against each other, the result is boolean."""
    return (query_document == key_document) & (key_in_part_a | (key_index <= query_index))


def dense_mask(documents: Tensor, in_part_a: Tensor) -> Tensor:
    """The rule as a boolean mask, True where the query may attend.

    Args:
        documents: [B, S] integers, the number of the document each token belongs to
            within its row; `PADDING` for padding.
        in_part_a: [B, S] bool.

    Returns:
        [B, 1, S, K] bool with K = S.
    """
    index = torch.arange(documents.shape[1], device=documents.device)
    mask = visible(
        documents[:, :, None], documents[:, None, :], in_part_a[:, None, :], index[None, :, None], index[None, None, :]
    )
    return mask[:, None]


def block_mask(documents: Tensor, in_part_a: Tensor) -> BlockMask:
    """The rule as a FlexAttention block mask; arguments as in `dense_mask`."""
    from torch.nn.attention.flex_attention import create_block_mask

    def rule(b: Tensor, n: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return visible(documents[b, q], documents[b, k], in_part_a[b, k], q, k)

    batch, length = documents.shape
    return create_block_mask(rule, batch, None, length, length, device=str(documents.device))


def prefix_mask(separators: Tensor, length: int) -> Tensor:
    """The rule for unpacked rows given the length of Part A of each row, [B] -> [B, 1, S, K]."""
    index = torch.arange(length, device=separators.device)
    in_part_a = index < separators.reshape(-1, 1)
    return dense_mask(torch.zeros_like(in_part_a, dtype=torch.long), in_part_a)


def tokens_seen(separator: int, length: int) -> np.ndarray:
    """The rule for a lone text given the length of its Part A: a token sees so many of the first ones, [S] int32."""
    return np.maximum(separator, np.arange(1, length + 1, dtype=np.int32))


@functools.cache
def _compiled_flex_attention() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


def attend(
    q_BNSH: Tensor,
    k_BNKH: Tensor,
    v_BNKH: Tensor,
    mask: Tensor | BlockMask | None,
    dropout: float = 0.0,
    *,
    normalized: bool = False,
) -> Tensor:
    """Scaled dot-product attention, [B, N, S, H].

    A dense mask (or None: everything is visible) goes through SDPA, a block mask through
    FlexAttention, which is compiled on GPUs and has no dropout. In a graph for a CPU the dense
    kind is spelled out, because the backward pass of SDPA takes three times as long there as the
    products and what the compiler makes of the rest.

    Args:
        normalized: queries and keys are normalized, which bounds their scores.
    """
    if torch.compiler.is_compiling() and q_BNSH.device.type == "cpu":
        return _spelled_out(q_BNSH, k_BNKH, v_BNKH, mask, dropout, normalized)
    if mask is None or isinstance(mask, Tensor):
        return F.scaled_dot_product_attention(q_BNSH, k_BNKH, v_BNKH, attn_mask=mask, dropout_p=dropout)
    if q_BNSH.is_cuda and not torch.compiler.is_compiling():  # else it is compiled with what surrounds it
        return _compiled_flex_attention()(q_BNSH, k_BNKH, v_BNKH, block_mask=mask)  # type: ignore[no-any-return]
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention(q_BNSH, k_BNKH, v_BNKH, block_mask=mask)


class _Scores(torch.autograd.Function):
    """Queries times keys. Torch's own gradient of the keys comes with its rows across, and slows all that reads it."""

    @staticmethod
    def forward(ctx: Any, q_BNSH: Tensor, k_BNKH: Tensor) -> Tensor:
        ctx.save_for_backward(q_BNSH, k_BNKH)
        return q_BNSH @ k_BNKH.mT

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        q_BNSH, k_BNKH = ctx.saved_tensors
        return grads[0] @ k_BNKH, grads[0].mT @ q_BNSH


def _spelled_out(
    q_BNSH: Tensor,
    k_BNKH: Tensor,
    v_BNKH: Tensor,
    mask: Tensor | BlockMask | None,
    dropout: float,
    normalized: bool,
) -> Tensor:
    scores_BNSK: Tensor = _Scores.apply(q_BNSH, k_BNKH)  # type: ignore[no-untyped-call]
    scores_BNSK = scores_BNSK.float() * q_BNSH.shape[-1] ** -0.5
    if isinstance(mask, Tensor):
        scores_BNSK = scores_BNSK.masked_fill(~mask, -torch.inf)
    if not normalized:
        return F.dropout(scores_BNSK.softmax(-1), dropout).to(v_BNKH.dtype).matmul(v_BNKH)
    # Bounded scores need no maximum taken away, so that nothing has to be known of a row before
    # its first key: dividing last leaves one pass forward and one backward.
    weights_BNSK = scores_BNSK.clamp(max=LARGEST_SCORE).exp()
    sums_BNS1 = weights_BNSK.sum(-1, keepdim=True)
    mixed_BNSH = F.dropout(weights_BNSK, dropout).to(v_BNKH.dtype).matmul(v_BNKH).float()
    return mixed_BNSH.div(sums_BNS1).to(v_BNKH.dtype)
