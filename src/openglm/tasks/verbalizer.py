"""Verbalizers: which words speak for which label.

    {"Positive": ["满意", "好"], "Negative": "失望"}

A label may have several words (their probabilities add up), a word several tokens, and a text
with several blanks one word per blank (a list in place of the string). Knows nothing about
examples or models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..blanks import BlankedText
from ..errors import DataError
from ..scoring.question import Candidate
from ..tokenizer import Tokenizer

Word = tuple[str, ...]  # one string per blank


def label_name(value: Any) -> str:
    """A label as files spell it, as text: `true` for a JSON true, `3` for a number."""
    return str(value).lower() if isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class Verbalizer:
    """Labels, in order, and their words.

    Attributes:
        words: label -> its words, each a tuple of one string per blank.
    """

    words: Mapping[str, tuple[Word, ...]]

    @classmethod
    def of(cls, words: Mapping[Any, Any], *, where: str = "verbalizer") -> Verbalizer:
        """From a mapping of labels to a word, or to a list of words.

        A word for several blanks is a list of strings, so a single such word is a list in a list.

        Raises:
            DataError: no labels, a label without words, a word that is no text.
        """
        if not isinstance(words, Mapping) or not words:
            raise DataError(f"{where}: expected labels with their words, such as {{Positive: 满意, Negative: 失望}}")
        out: dict[str, tuple[Word, ...]] = {}
        for label, value in words.items():
            name = label_name(label)
            listed = [value] if isinstance(value, str) else value
            if not isinstance(listed, Sequence) or not listed:
                raise DataError(f"{where}: the label {name!r} has no word")
            out[name] = tuple(_word(each, f"{where}: label {name!r}") for each in listed)
        return cls(out)

    @classmethod
    def from_flags(cls, flags: Sequence[str]) -> Verbalizer:
        """From `LABEL=WORD` strings; a label may come again, `|` stands between the words of several blanks.

        Raises:
            DataError: a string without `=`, or without a label or a word.
        """
        words: dict[str, list[list[str]]] = {}
        for flag in flags:
            label, equals, word = flag.partition("=")
            if not equals or not label.strip() or not word:
                raise DataError(f"verbalizer {flag!r}: expected LABEL=WORD, such as Positive=满意")
            words.setdefault(label.strip(), []).append(word.split("|"))
        return cls.of(words)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in order."""
        return tuple(self.words)

    def index(self, label: str) -> int:
        """Number of a label.

        Raises:
            DataError: no word stands for it.
        """
        try:
            return self.labels.index(label)
        except ValueError:
            known = ", ".join(self.labels[:8]) + (", ..." if len(self.labels) > 8 else "")
            raise DataError(f"no word stands for the label {label!r}; the verbalizer has {known}") from None

    def candidates(self, tokenizer: Tokenizer, blanked: BlankedText) -> tuple[tuple[Candidate, ...], tuple[int, ...]]:
        """Token ids of every word, and the label that each speaks for.

        Args:
            blanked: a text they stand in; a word behind a space is tokenized as it is there.

        Raises:
            DataError: a word that comes to no tokens, two that come to the same, or a wrong
                number of blanks.
        """
        out: list[Candidate] = []
        owner: list[int] = []
        known: dict[Candidate, tuple[str, Word]] = {}
        for number, (label, words) in enumerate(self.words.items()):
            for word in words:
                candidate = answer_ids(word, tokenizer, blanked, f"verbalizer: label {label!r}")
                if candidate in known:
                    other, twin = known[candidate]
                    same = "the same tokens as" if word != twin else "the same word as"
                    raise DataError(
                        f"verbalizer: {_show(word)} of the label {label!r} is {same} {_show(twin)} of the label "
                        f"{other!r}; give words that the vocabulary tells apart"
                    )
                known[candidate] = label, word
                out.append(candidate)
                owner.append(number)
        return tuple(out), tuple(owner)


def answer_ids(word: Sequence[str], tokenizer: Tokenizer, blanked: BlankedText, where: str) -> Candidate:
    """Token ids of an answer, for every blank of the text it stands in.

    Raises:
        DataError: a wrong number of blanks, or a blank for which there are no tokens.
    """
    if len(word) != len(blanked.kinds):
        raise DataError(f"{where}: {_show(word)} has {len(word)} parts, but the pattern {len(blanked.kinds)} blanks")
    ids = tuple(
        tuple(tokenizer.encode(tokenizer.answer_in_place(literal, part)))
        for literal, part in zip(blanked.literals, word, strict=False)
    )
    for part, tokens in zip(word, ids, strict=True):
        if not part.strip() or not tokens:
            raise DataError(f"{where}: the answer {part!r} comes to no tokens; give a word that the vocabulary knows")
    return ids


def _word(value: Any, where: str) -> Word:
    parts: Iterable[Any] = [value] if isinstance(value, str) else value
    if not isinstance(parts, Sequence) or not parts or not all(isinstance(part, str) for part in parts):
        raise DataError(f"{where}: {value!r} is no word; write text, in quotes if YAML reads it as something else")
    return tuple(parts)


def _show(word: Sequence[str]) -> str:
    return " | ".join(map(repr, word))
