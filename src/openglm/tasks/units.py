"""Text as metrics see it: normalized, and cut into Chinese characters and words.

Libraries split at white space, drop whatever is not Latin, or tear marks off their letters
(`हिन्दी` is four letters and three marks); Chinese has neither spaces nor Latin letters. Every
metric and the random masking of words normalizes and cuts text here.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Sequence

# Ideographs (with extensions and compatibility forms), kana and hangul: scripts whose
# characters are counted one by one. Punctuation of their own is not among them.
CJK = "\u3005-\u3007\u3040-\u30ff\u3100-\u312f\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_JOINERS = "\u200c\u200d"  # stand inside words of Persian and of Indian scripts
_WRITTEN = re.compile(rf"[{CJK}]|[^\s{CJK}]+")
_CHINESE = re.compile(f"[{CJK}]")


def composed(text: str) -> str:
    """NFC: a letter and its accent are one character where there is one. Says the same, looks the same.

    For the metrics of official scripts, which tell full-width signs from others.
    """
    return unicodedata.normalize("NFC", text)


def normalized(text: str) -> str:
    """NFKC: `composed`, and full-width and other compatibility forms as their plain ones.

    Several vocabularies write nothing else, so texts are compared in this form.
    """
    return unicodedata.normalize("NFKC", text)


@functools.cache
def word_characters() -> str:
    """What words consist of beside Chinese, as the inside of a regular expression's class: letters, digits, marks."""
    ranges: list[list[int]] = []
    for code in (*range(0x300, 0x20000), *range(0xE0100, 0xE01F0)):
        if unicodedata.category(chr(code))[0] == "M":
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return r"\w" + _JOINERS + "".join(f"{chr(first)}-{chr(last)}" for first, last in ranges)


@functools.cache
def _words() -> re.Pattern[str]:
    letter = rf"(?:(?![_{CJK}])[{word_characters()}])"
    return re.compile(rf"[{CJK}]|{letter}+(?:['’](?!\d){letter}+)*")


def units(text: str) -> list[str]:
    """Lower-case characters of Chinese and words of everything else; punctuation is left out."""
    return [found for found in _words().findall(normalized(text.lower())) if any(map(str.isalnum, found))]


def written_words(text: str) -> list[tuple[int, int]]:
    """(start, end) of each Chinese character, and of each run without white space or Chinese."""
    return [found.span() for found in _WRITTEN.finditer(text)]


def is_chinese(texts: Sequence[str]) -> bool:
    """Whether at least a third of the letters of these texts are Chinese (or Japanese, or Korean)."""
    letters = [character for text in texts for character in text if character.isalpha()]
    return bool(letters) and 3 * sum(bool(_CHINESE.match(character)) for character in letters) >= len(letters)
