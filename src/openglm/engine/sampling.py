"""From logits to the next token, for many rows at once.

One number decides for each row, so that what a row samples does not depend on which rows it
shares a batch with. No finite option makes a number that is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from .options import FillOptions

HOTTEST = 1e30  # a temperature at which every token is as probable
MOST_GROWTH = 12.0  # of the logarithm of an end's odds
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


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Drop tokens less probable than p times the most probable one (Nguyen et al. 2024)."""
    if p <= 0.0:
        return logits
    scores = logits.log_softmax(-1)
    return logits.masked_fill(scores < scores.amax(-1, keepdim=True) + float(np.log(p)), -torch.inf)


def keep_typical(logits: Tensor, p: float) -> Tensor:
    """Keep tokens whose information is nearest to its mean, until they reach probability p (Meister et al. 2023)."""
    if p >= 1.0:
        return logits
    scores = logits.log_softmax(-1)
    probabilities = scores.exp()
    entropy = -(probabilities * scores).nan_to_num(0.0).sum(-1, keepdim=True)
    order = (-scores - entropy).abs().argsort(-1)
    ordered = probabilities.gather(-1, order)
    before = ordered.cumsum(-1) - ordered
    dropped = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, order, before >= p)
    return logits.masked_fill(dropped, -torch.inf)


def forbid_repeats(logits: Tensor, rows: Iterable[tuple[Sequence[int], Sequence[int]]], size: int) -> Tensor:
    """Forbid tokens that would repeat a run of `size` tokens of the fill, or of the text around it.

    Args:
        rows: of each row, the tokens of the fill and those of the text. Not looked at if `size` is 0.

    Returns:
        A row in which nothing would be left stays as it was.
    """
    if not size:
        return logits
    out = logits.clone()
    for row, (fill, around) in enumerate(rows):
        if len(fill) < size - 1:
            continue
        last = tuple(fill[len(fill) - size + 1 :])
        repeats = {
            text[i + size - 1]
            for text in (fill, around)
            for i in range(len(text) - size + 1)
            if tuple(text[i : i + size - 1]) == last
        }
        out[row, list(repeats)] = -torch.inf
        if not torch.isfinite(out[row]).any():
            out[row] = logits[row]
    return out


def favor_ends(logits: Tensor, lengths: Sequence[int], ends: Sequence[int], decay: tuple[int, float] | None) -> Tensor:
    """Make ends likelier from a length on: their logits grow by |logit| * (factor ** (length - start) - 1).

    Args:
        lengths: tokens of each row's fill.
        decay: (start, factor), as in Hugging Face's `exponential_decay_length_penalty`; None leaves all as it is.
    """
    if decay is None or max(lengths) <= decay[0]:
        return logits
    start, factor = decay
    beyond = [min(math.log(factor) * max(0, length - start), MOST_GROWTH) for length in lengths]
    grown = torch.tensor([math.expm1(each) for each in beyond], device=logits.device)
    out, columns = logits.clone(), list(ends)
    out[:, columns] = logits[:, columns] + logits[:, columns].abs() * grown[:, None].to(logits)
    return torch.where(torch.isfinite(logits), out, logits)


def choose(logits: Tensor, options: FillOptions, numbers: Sequence[float]) -> Tensor:
    """The next token of each row.

    Args:
        logits: [R, V] float32, bans and repetition penalty applied.
        options: temperature, top_k, top_p, min_p, typical_p.
        numbers: in 0 .. 1, one per row; not looked at unless `options.samples`.

    Returns:
        [R] int64.
    """
    if not options.samples:
        return logits.argmax(-1)
    kept = keep_top_p(keep_top_k(logits / min(options.temperature, HOTTEST), options.top_k), options.top_p)
    kept = keep_typical(keep_min_p(kept, options.min_p), options.typical_p)
    # The inverse of the cumulative distribution, in double precision: one number per row
    # decides, whatever the batch.
    cumulative = kept.double().softmax(-1).cumsum(-1)
    u = torch.from_numpy(np.array(numbers)).to(cumulative.device)
    found = torch.searchsorted(cumulative, (u * cumulative[:, -1])[:, None], right=True)[:, 0]
    return found.clamp_(max=logits.shape[-1] - 1)  # where logits are no numbers
