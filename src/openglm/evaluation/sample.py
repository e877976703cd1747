"""A sample of a test file for a quick look: drawn at random, as files are often sorted by their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def sampled(items: Sequence[T], limit: int | None, seed: int) -> list[T]:
    """At most `limit` of the items, each as likely as any other, in their order; None: all.

    The same seed draws the same ones.
    """
    if limit is None or limit >= len(items):
        return list(items)
    chosen = np.random.default_rng(seed).choice(len(items), limit, replace=False)
    return [items[i] for i in np.sort(chosen)]


def stretch(items: Sequence[T], limit: int | None, seed: int) -> list[T]:
    """At most `limit` items that follow each other, beginning anywhere: for text that is read as a whole."""
    if limit is None or limit >= len(items):
        return list(items)
    start = int(np.random.default_rng(seed).integers(len(items) - limit + 1))
    return list(items[start : start + limit])
