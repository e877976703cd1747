"""From logits to the next token, for many rows at once.

Each row draws from a generator of its own, so that what a row samples does not depend on
which rows it shares a batch with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from .options import FillOptions


def penalize_repetition(logits: Tensor, written: Iterable[Sequence[int]], penalty: float) -> Tensor:
    """Make tokens a row has written already less likely (Keskar et al. 2019, section 4.1).

    Args:
        written: the tokens of each row; not looked at if the penalty is 1.
    """
    if penalty == 1.0:
        return logits
    logits = logits.clone()
    for row, tokens in enumerate(written):
        if tokens:
            index = torch.tensor(sorted(set(tokens)), device=logits.device)
            seen = logits[row, index]
            logits[row, index] = torch.where(seen > 0, seen / penalty, seen * penalty)
    return logits


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Drop all but the k largest logits of each row (ties with the k-th stay)."""
    if not 0 < k < logits.shape[-1]:
        return logits
    threshold = logits.topk(k, dim=-1).values[:, -1:]
    return logits.masked_fill(logits < threshold, -torch.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Keep the most probable tokens that together reach probability p, at least one."""
    if p >= 1.0:
        return logits
    ordered, index = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(-1)
    before = probabilities.cumsum(-1) - probabilities
    dropped = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, index, before >= p)
    return logits.masked_fill(dropped, -torch.inf)


def choose(logits: Tensor, options: FillOptions, generators: Sequence[Generator]) -> Tensor:
    """The next token of each row.

    Args:
        logits: [R, V] float32, bans and repetition penalty applied.
        options: temperature (0: the largest logit), top_k, top_p.
        generators: one per row; each gives one number per call.

    Returns:
        [R] int64.
    """
    if options.temperature == 0:
        return logits.argmax(-1)
    kept = keep_top_p(keep_top_k(logits / options.temperature, options.top_k), options.top_p)
    # The inverse of the cumulative distribution, in double precision: one number per row
    # decides, whatever the batch.
    cumulative = kept.double().softmax(-1).cumsum(-1)
    u = torch.from_numpy(np.array([g.random() for g in generators])).to(cumulative.device)
    return torch.searchsorted(cumulative, (u * cumulative[:, -1])[:, None], right=True)[:, 0]
