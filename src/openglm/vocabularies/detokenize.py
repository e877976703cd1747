"""Words and punctuation marks -> running text, word by word.

WordPiece forgets where spaces were: `isn't` and `isn ' t` have the same tokens. This is the
way back to how English is usually written. Spaces beside punctuation never change the
tokens of a text, so a wrong guess costs looks, not meaning. Knows nothing about vocabularies.
"""

from __future__ import annotations

import unicodedata

CLOSING = frozenset(".,!?;:)]}%”…")  # no space in front
OPENING = frozenset("([{“‘$¿¡")  # no space behind
JOINING = frozenset("/\\_@—")  # no space on either side
APOSTROPHES = frozenset("'’")
CONTRACTIONS = frozenset(["s", "t", "re", "ve", "ll", "d", "m"])  # behind an apostrophe: it's, don't, ...
ELISIONS = frozenset("odl")  # in front of one: o'clock, d'état, l'amour
SUFFIXES = frozenset(["com", "org", "net", "edu", "gov", "html", "txt", "py"])  # behind a full stop: example.com
# Words in -s in front of a quotation; behind other plurals an apostrophe is a possessive: the boys' room.
NO_PLURALS = frozenset(["is", "was", "as", "has", "says", "this", "his"])
# Words in front of a negative number; behind others a hyphen before a number belongs to a name: covid-19.
BEFORE_MINUS = frozenset(
    ["to", "of", "at", "is", "was", "by", "from", "and", "or", "than", "below", "about", "between"]
)


class Detokenizer:
    """Takes words one at a time; `push` returns the text that has become certain."""

    def __init__(self) -> None:
        self._waiting: list[str] = []  # words not given out yet; only the last one may still grow
        self._before: tuple[str, str] = ("", "")  # the two words given out last
        self._joins_next = False  # no space behind the last one
        self._quoted: set[str] = set()  # quotation marks that are open

    def push(self, word: str) -> str:
        """Add a word or a punctuation mark."""
        self._waiting.append(word)
        text = ""
        while len(self._waiting) > (2 if _looks_ahead(self._waiting[0]) else 1):
            text += self._place(self._waiting.pop(0), self._waiting[0])
        return text

    def extend(self, ending: str) -> str:
        """Add to the last word."""
        if not self._waiting:
            return self.push(ending)
        self._waiting[-1] += ending
        return ""

    def finish(self) -> str:
        """Whatever is still held back."""
        text = ""
        while self._waiting:
            word = self._waiting.pop(0)
            text += self._place(word, self._waiting[0] if self._waiting else "")
        return text

    def _place(self, word: str, following: str) -> str:
        """The word with the space in front of it, if there is one."""
        first = not self._before[1]
        joins_last, joins_next = self._joins(word, following)
        space = "" if first or joins_last or self._joins_next else " "
        self._before, self._joins_next = (self._before[1], word), joins_next
        return space + word

    def _joins(self, word: str, following: str) -> tuple[bool, bool]:
        """Whether it stands close to the word in front of it, and to the one behind it."""
        _, last = self._before
        if _is_wide(word):
            return True, True
        if word in CLOSING:
            return True, False
        if word in OPENING:
            return False, True
        if word in JOINING:
            return True, True
        if word == '"':
            return self._quote(word)
        if word in APOSTROPHES:
            return self._apostrophe(word, following)
        if word in ("-", "–"):
            return _dash(word, last, following)
        if word == "#":
            return False, following.isdigit()
        if not _is_word(word):
            return word == last, False  # **, ++, ==
        return self._continues(word, following), False

    def _continues(self, word: str, following: str) -> bool:
        """Whether a word goes on with what a point, comma or colon interrupted: 3.14, v2.0, 1,000, 7:30, u.s.a."""
        earlier, mark = self._before
        if mark == "." and _is_word(earlier) and (word in SUFFIXES or earlier == "www"):
            return True
        if mark == "." and earlier[-1:].isdigit():
            return word[0].isdigit()
        if mark == "." and _is_letter(earlier):
            return _is_letter(word) and following == "."
        if mark == "," and earlier.isdigit():
            return len(earlier) <= 3 and len(word) == 3 and word.isdigit()
        if mark == ":" and earlier.isdigit():
            return len(earlier) <= 2 and len(word) == 2 and word.isdigit()
        return False

    def _quote(self, mark: str) -> tuple[bool, bool]:
        """Opens a quotation, or closes the open one."""
        self._quoted ^= {mark}
        return (False, True) if mark in self._quoted else (True, False)

    def _apostrophe(self, mark: str, following: str) -> tuple[bool, bool]:
        """It may belong into a word, end one, or be a quotation mark."""
        _, last = self._before
        if _is_word(last) and following in CONTRACTIONS:
            return True, True
        if (last in ELISIONS and _is_word(following)) or (last.isdigit() and following.isdigit()):
            return True, True
        if mark in self._quoted:
            return self._quote(mark)
        possessive = _is_word(last) and last.endswith("s") and last not in NO_PLURALS
        if possessive or not _is_word(following) or mark == "’":
            return True, False
        return self._quote(mark)


def _dash(mark: str, last: str, following: str) -> tuple[bool, bool]:
    """A hyphen joins words, an en dash numbers; a hyphen in front of a number alone is a minus."""
    if last == mark:
        return True, False
    if mark == "–":
        joins = last.isdigit() and following.isdigit()
        return joins, joins
    if _is_word(last) and not (last in BEFORE_MINUS and following.isdigit()):
        return (True, True) if _is_word(following) else (False, False)
    return False, following.isdigit()


def _looks_ahead(word: str) -> bool:
    """Whether the place of a word depends on the next one."""
    return word in APOSTROPHES or word in ("-", "–", "#") or _is_letter(word)


def _is_word(word: str) -> bool:
    return bool(word) and word[0].isalnum()


def _is_letter(word: str) -> bool:
    return len(word) == 1 and word.isascii() and word.isalpha()


def _is_wide(word: str) -> bool:
    """A Chinese character, or punctuation of the scripts that write no spaces."""
    if len(word) != 1:
        return False
    code = ord(word)
    ideographs = (
        0x3400 <= code < 0x4DC0 or 0x4E00 <= code < 0xA000 or 0xF900 <= code < 0xFB00 or 0x20000 <= code < 0x2FA20
    )
    return ideographs or (code >= 0x2E80 and unicodedata.category(word).startswith("P"))
