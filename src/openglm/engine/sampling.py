"""From logits to the next token, for many rows at once.

One number decides for each row, so that what a row samples does not depend on which rows it
shares a batch with. No finite option makes a number that is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from .options import FillOptions

HOTTEST = 1e30  # a temperature at which every token is as probable
LARGEST = 1e30  # of a logit or of a factor on it: quotients of such numbers are still numbers


def penalize_repetition(logits: Tensor, written: Iterable[Sequence[int]], penalty: float) -> Tensor:
    """Make tokens a row has written already less likely (Keskar et al. 2019, section 4.1).

    Args:
        written: the tokens of each row; not looked at if the penalty is 1.
        penalty: above 0.
    """
    if penalty == 1.0:
        return logits
    penalty = min(max(penalty, 1 / LARGEST), LARGEST)
    logits = logits.clone()
    for row, tokens in enumerate(written):
        if tokens:
            index = torch.tensor(sorted(set(tokens)), device=logits.device)
            seen = logits[row, index]
            moved = torch.where(seen > 0, seen / penalty, seen * penalty).clamp(-LARGEST, LARGEST)
            logits[row, index] = torch.where(seen.isinf(), seen, moved)  # what is banned stays so
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
    beyond = before >= p
    beyond[:, 0] = False  # the first one's 0.0 is not below a p that is too small for float32
    dropped = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, index, beyond)
    return logits.masked_fill(dropped, -torch.inf)


def choose(logits: Tensor, options: FillOptions, numbers: Sequence[float]) -> Tensor:
    """The next token of each row.

    Args:
        logits: [R, V] float32, bans and repetition penalty applied.
        options: temperature, top_k, top_p.
        numbers: in 0 .. 1, one per row; not looked at unless `options.samples`.

    Returns:
        [R] int64.
    """
    if not options.samples:
        return logits.argmax(-1)
    kept = keep_top_p(keep_top_k(logits / min(options.temperature, HOTTEST), options.top_k), options.top_p)
    # The inverse of the cumulative distribution, in double precision: one number per row
    # decides, whatever the batch.
    cumulative = kept.double().softmax(-1).cumsum(-1)
    u = torch.from_numpy(np.array(numbers)).to(cumulative.device)
    found = torch.searchsorted(cumulative, (u * cumulative[:, -1])[:, None], right=True)[:, 0]
    return found.clamp_(max=logits.shape[-1] - 1)  # where logits are no numbers
