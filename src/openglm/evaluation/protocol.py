"""How something was measured, and which published figures were measured in the same way.

    zero-shot     a model as it was pretrained
    few-shot      fine-tuned here, on the task's own training data
    fine-tuned    the folder of a fine-tuning run, asked as it was trained

A figure of a sample, or of a run whose training data are unknown, stands alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..tasks.parts import PublishedResult

ZERO_SHOT, FEW_SHOT, FINE_TUNED, UNLIKE = "zero-shot", "few-shot", "fine-tuned", ""
PEOPLE = "people"  # what they do needs no protocol to be compared with


@dataclass(frozen=True)
class Protocol:
    """One way of measuring.

    Attributes:
        method: what it is called in tables.
        like: the protocol whose published figures may stand beside it, one of the constants; "" for none.
        seeds: of several runs.
        settings: whatever else decides the figures.
    """

    method: str
    like: str
    seeds: tuple[int, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def comparable(self, published: Sequence[PublishedResult]) -> tuple[PublishedResult, ...]:
        """Those figures that were measured alike."""
        if not self.like:
            return ()
        return tuple(each for each in published if each.system == PEOPLE or each.setting.startswith(self.like))
