"""Exact match and F1 of short answers, as the official scripts of SQuAD and CMRC 2018 define them.

    SQuAD   lower case, without punctuation and the articles a, an, the; F1 of the bag of words
    CMRC    lower case, without punctuation and spaces; F1 of the longest common *substring*,
            counted in Chinese characters and words

Each text counts with the reference that suits it best. Knows nothing about models.
"""

from __future__ import annotations

import functools
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from ..tasks.units import CJK, composed, word_characters
from .generation import _paired

T = TypeVar("T")

_PUNCTUATION = str.maketrans("", "", string.punctuation)
# The signs that the official Chinese script leaves out of its F1, and in addition all of these for its exact match.
_SIGNS = "-:_*^/\\~`+=，。：？！“”；’《》……·、「」（）－～『』"


@functools.cache
def _articles() -> re.Pattern[str]:
    inside = word_characters()
    return re.compile(rf"(?<![{inside}])(a|an|the)(?![{inside}])")


@functools.cache
def _chinese_units() -> re.Pattern[str]:
    return re.compile(rf"[{CJK}]|\d+(?:[.,]\d+)*|(?:(?![{CJK}])[{word_characters()}])+|\S")


def squad(predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> dict[str, float]:
    """`em` and `f1` in percent, as SQuAD's official script (Rajpurkar et al. 2016).

    Args:
        predictions: one answer each.
        references: an answer for each prediction, or several.

    Raises:
        InputError: no predictions, or not as many references.
    """
    return _scores(predictions, references, lambda a, b: float(_normalize(a) == _normalize(b)), _squad_f1)


def cmrc(predictions: Sequence[str], references: Sequence[str | Sequence[str]]) -> dict[str, float]:
    """`em` and `f1` in percent, as CMRC 2018's official script (Cui et al. 2019); otherwise as `squad`.

    Words in Latin letters inside Chinese are cut here without the script's word tokenizer, which
    differs for contractions only.
    """
    return _scores(predictions, references, lambda a, b: float(_bare(a) == _bare(b)), _cmrc_f1)


def _scores(
    predictions: Sequence[str],
    references: Sequence[str | Sequence[str]],
    exact: Callable[[str, str], float],
    f1: Callable[[str, str], float],
) -> dict[str, float]:
    listed = _paired(predictions, references)
    pairs = [
        (composed(prediction), [composed(gold) for gold in golds])
        for prediction, golds in zip(predictions, listed, strict=True)
    ]
    return {
        name: 100 * sum(max(metric(prediction, gold) for gold in golds) for prediction, golds in pairs) / len(pairs)
        for name, metric in (("em", exact), ("f1", f1))
    }


def _normalize(text: str) -> str:
    return " ".join(_articles().sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _squad_f1(prediction: str, gold: str) -> float:
    predicted, wanted = _normalize(prediction).split(), _normalize(gold).split()
    if not predicted or not wanted:
        return float(predicted == wanted)
    return _harmonic(sum((Counter(predicted) & Counter(wanted)).values()), len(predicted), len(wanted))


def _bare(text: str) -> str:
    return "".join(character for character in text.lower().strip() if character not in _SIGNS)


def _cmrc_f1(prediction: str, gold: str) -> float:
    predicted, wanted = (
        [unit for unit in _chinese_units().findall(t.lower()) if unit not in _SIGNS] for t in (prediction, gold)
    )
    return _harmonic(_longest_common(predicted, wanted), len(predicted), len(wanted))


def _harmonic(common: int, predicted: int, wanted: int) -> float:
    """F1 of `common` units among those predicted and those wanted."""
    return 2 * common / (predicted + wanted) if common else 0.0


def _longest_common(first: Sequence[T], second: Sequence[T]) -> int:
    """Length of the longest run of units that both have."""
    best, before = 0, [0] * (len(second) + 1)
    for left in first:
        row = [0] * (len(second) + 1)
        for j, right in enumerate(second, start=1):
            if left == right:
                row[j] = before[j - 1] + 1
        best, before = max(best, *row), row
    return best
