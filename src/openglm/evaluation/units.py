"""Text cut into the units that metrics count: one Chinese character each, or one word.

Libraries split at white space or drop whatever is not Latin; Chinese has neither spaces nor
Latin letters. Every metric and the random masking of words cut text here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Ideographs (with extensions and compatibility forms), kana and hangul: scripts whose
# characters are counted one by one. Punctuation of their own is not among them.
CJK = "\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_LETTERS = re.compile(rf"[{CJK}]|[^\W_{CJK}]+(?:['’][^\W\d_{CJK}]+)*")
_WRITTEN = re.compile(rf"[{CJK}]|[^\s{CJK}]+")
_CHINESE = re.compile(f"[{CJK}]")


def units(text: str) -> list[str]:
    """Lower-case characters of Chinese and words of everything else; punctuation is left out."""
    return _LETTERS.findall(text.lower())


def written_words(text: str) -> list[tuple[int, int]]:
    """(start, end) of each Chinese character, and of each run without white space or Chinese."""
    return [found.span() for found in _WRITTEN.finditer(text)]


def is_chinese(texts: Sequence[str]) -> bool:
    """Whether at least a third of the letters of these texts are Chinese (or Japanese, or Korean)."""
    letters = [character for text in texts for character in text if character.isalpha()]
    return bool(letters) and 3 * sum(bool(_CHINESE.match(character)) for character in letters) >= len(letters)
