"""N-gram baselines for the embedded model: words, counts, an interpolated trigram.

The trigram is interpolated modified Kneser-Ney (Chen and Goodman 1999): at every order
three absolute discounts, each estimated in closed form from how many n-grams of the
*training* text occur once to four times. Nothing is tuned, least of all on validation.

Counting is a sort of packed integer keys, looking up a binary search in them: 25 million
tokens take some ten seconds and under a gigabyte. Knows nothing about models.
"""

from __future__ import annotations

import logging
import re
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openglm.data.corpus import documents
from openglm.errors import DataError

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]

_ENGLISH_TOKEN = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d+|\n|[^\S\n]+|.", re.DOTALL)
# Which tokens count as words, worth blanking out: fullmatch.
WORD = {"en": re.compile("[A-Za-z]+"), "zh": re.compile("[\u4e00-\u9fff]{1,4}")}
# The longer ones are mostly not function words.
CONTENT_LENGTH = {"en": 4, "zh": 2}


def segmenter(language: str) -> Callable[[str], list[str]]:
    """Cuts a text of this language into tokens that, joined, are the text again.

    English by a pattern (words, numbers, white space, single marks), Chinese by jieba.
    """
    if language == "en":
        return _ENGLISH_TOKEN.findall
    try:
        import jieba
    except ImportError as error:
        raise DataError("cutting Chinese into words needs the jieba package: pip install jieba") from error
    jieba.setLogLevel(logging.WARNING)
    cut: Callable[[str], list[str]] = jieba.lcut
    return cut


def counts_as_token(token: str) -> bool:
    """Spaces are no tokens of a word n-gram; line breaks are, they end paragraphs."""
    return token == "\n" or not token.isspace()


def pack_bits(size: int) -> int:
    """Bits an id needs; three ids must fit a 64-bit key.

    Raises:
        DataError: the vocabulary is too large.
    """
    bits = size.bit_length()
    if 3 * bits > 63:
        raise DataError(f"a vocabulary of {size} does not fit trigram keys of 63 bits; use less training text")
    return bits


def _distinct(sorted_keys: Ids) -> tuple[Ids, Ids]:
    """The distinct values of a sorted array and how often each occurs."""
    first = np.flatnonzero(np.concatenate([[True], sorted_keys[1:] != sorted_keys[:-1]]))
    return sorted_keys[first], np.diff(first, append=len(sorted_keys))


def _discounts(counts: Ids) -> Floats:
    """[4] discount of a count of 0, 1, 2, and 3 or more (Chen and Goodman, equation 26)."""
    n1, n2, n3, n4 = (float(np.count_nonzero(counts == k)) for k in range(1, 5))
    if min(n1, n2, n3) > 0:
        y = n1 / (n1 + 2 * n2)
        found = np.array([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
        if np.all(found[1:] > 0) and np.all(found[1:] < (1, 2, 3)):
            return found
    # Hardly any rare events (single pieces, toy texts): the estimate has no ground to stand on.
    return np.array([0.0, 0.5, 1.0, 1.5])


class _Order:
    """Discounted relative frequencies of one order, and the mass left to the order below."""

    def __init__(self, keys: Ids, counts: Ids, bits: int) -> None:
        discount = _discounts(counts)[np.minimum(counts, 3)]
        contexts = keys >> bits
        starts = np.flatnonzero(np.concatenate([[True], contexts[1:] != contexts[:-1]]))
        totals = np.add.reduceat(counts, starts)
        sizes = np.diff(starts, append=len(keys))
        self.bits, self.keys = bits, keys
        self.share = ((counts - discount) / np.repeat(totals, sizes)).astype(np.float32)
        self.contexts = contexts[starts]
        self.left_over = (np.add.reduceat(discount, starts) / totals).astype(np.float32)

    def interpolate(self, context: Ids, word: Ids, lower: Floats) -> Floats:
        share = _look_up(self.keys, self.share, (context << self.bits) | word, 0.0)
        return share + _look_up(self.contexts, self.left_over, context, 1.0) * lower


def _look_up(keys: Ids, values: NDArray[np.float32], wanted: Ids, otherwise: float) -> Floats:
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at].astype(np.float64), otherwise)


class Trigram:
    """Interpolated modified Kneser-Ney trigram over ids.

    Args:
        tokens: [total] ids of all training documents, end to end, each below `size`.
        bounds: [documents + 1] where each document starts. No n-gram crosses a bound, so
            the first two tokens of a document are context only.
        size: of the vocabulary. The id `size` itself stands for anything outside it:
            given as context it makes the model back off, as a word it gets the uniform floor.
    """

    def __init__(self, tokens: NDArray[Any], bounds: Ids, size: int) -> None:
        self.size, self.bits = size, pack_bits(size)
        keys = tokens[2:].astype(np.int64)
        keys |= tokens[1:-1].astype(np.int64) << self.bits
        keys |= tokens[:-2].astype(np.int64) << 2 * self.bits
        inside = np.ones(len(tokens), np.bool_)
        starts = bounds[:-1]
        inside[starts] = inside[np.minimum(starts + 1, len(tokens) - 1)] = False
        keys = keys[inside[2:]]
        if not len(keys):
            raise DataError("no training document has three tokens; nothing to count")
        keys.sort()
        trigrams, counts = _distinct(keys)
        del keys
        self._third = _Order(trigrams, counts, self.bits)
        # Kneser-Ney: the lower orders count in how many different contexts something follows.
        pairs, spread = _distinct(np.sort(trigrams & ((1 << 2 * self.bits) - 1)))
        self._second = _Order(pairs, spread, self.bits)
        followed = np.bincount(pairs & self._mask, minlength=size + 1)
        discount = _discounts(followed[followed > 0])[np.minimum(followed, 3)]
        self._first = (followed - discount + discount.sum() / (size + 1)) / len(pairs)

    @property
    def _mask(self) -> int:
        return (1 << self.bits) - 1

    def probability(self, two_left: Ids | int, one_left: Ids | int, word: Ids | int) -> Floats:
        """P(word | two_left one_left); arguments broadcast."""
        two, one, word = (ids.astype(np.int64) for ids in np.broadcast_arrays(two_left, one_left, word))
        lower = self._second.interpolate(one, word, self._first[word])
        return self._third.interpolate((two << self.bits) | one, word, lower)

    def followers(self, word: int) -> Ids:
        """Ids seen right after `word`."""
        low, high = np.searchsorted(self._second.keys, (word << self.bits, (word + 1) << self.bits))
        return self._second.keys[low:high] & self._mask

    def predecessors(self, word: int) -> Ids:
        """Ids seen right before `word`."""
        low, high = np.searchsorted(self._turned, (word << self.bits, (word + 1) << self.bits))
        return self._turned[low:high] & self._mask

    @cached_property
    def _turned(self) -> Ids:
        pairs = self._second.keys
        return np.sort(((pairs & self._mask) << self.bits) | (pairs >> self.bits))


@dataclass(frozen=True)
class Words:
    """A training text cut into words.

    Attributes:
        names: the different tokens, by id.
        tokens: [total] int32 ids of all documents, end to end.
        bounds: [documents + 1] where each document starts.
    """

    names: list[str]
    tokens: NDArray[np.int32]
    bounds: Ids

    @classmethod
    def read(cls, paths: Sequence[Path], language: str, characters: int | None, cache: Path | None) -> Words:
        """Cut training files into words, or take an earlier result from `cache`.

        Args:
            characters: stop after this many (default: read everything).
        """
        stored = None
        if cache is not None:
            name = "-".join(path.name.split(".")[0] for path in paths)
            stored = cache / f"words-{name}-{characters or 'all'}.npz"
            if stored.is_file():
                with np.load(stored) as arrays:
                    names = bytes(arrays["names"]).decode().split("\0")
                    return cls(names, arrays["tokens"], arrays["bounds"])
        words = cls.cut((text for path in paths for text in documents(path)), language, characters)
        if stored is not None:
            stored.parent.mkdir(parents=True, exist_ok=True)
            spelled = np.frombuffer("\0".join(words.names).encode(), np.uint8)
            np.savez(stored, names=spelled, tokens=words.tokens, bounds=words.bounds)
        return words

    @classmethod
    def cut(cls, texts: Iterable[str], language: str, characters: int | None = None) -> Words:
        """Cut texts into words until `characters` of them are read."""
        segment, ids = segmenter(language), dict[str, int]()
        tokens, bounds, read = array("i"), [0], 0
        for text in texts:
            if characters is not None and read >= characters:
                break
            read += len(text)
            tokens.extend([ids.setdefault(token, len(ids)) for token in segment(text) if counts_as_token(token)])
            bounds.append(len(tokens))
        return cls(list(ids), np.frombuffer(tokens, np.int32), np.array(bounds, np.int64))


class WordBaselines:
    """Three guesses at a missing word, from counts alone.

    The candidates are the `frequent` most frequent words and every word that the training
    text has right after the left neighbour or right before the right one. A rarer word
    with neither could only win through three backed-off factors at once. Unlike the model,
    the baselines are told that the answer is a single word of the language: punctuation,
    numbers and foreign words are no candidates.
    """

    def __init__(self, words: Words, language: str, frequent: int = 20_000) -> None:
        self.names, self.id_of = words.names, {name: i for i, name in enumerate(words.names)}
        self.allowed = np.array([WORD[language].fullmatch(name) is not None for name in words.names])
        counts = np.bincount(words.tokens, minlength=len(words.names)) * self.allowed
        self.by_frequency = np.argsort(-counts, kind="stable")[: min(frequent, np.count_nonzero(counts))]
        self.trigram = Trigram(words.tokens, words.bounds, len(words.names))

    def guesses(self, left: Sequence[str | None], right: Sequence[str | None], number: int) -> dict[str, list[str]]:
        """The best guesses of each baseline, best first.

        Args:
            left: the two tokens before the blank, in text order; None before the text.
            right: the two tokens after it; None after the text.
            number: how many guesses.
        """
        outside = self.trigram.size
        l2, l1 = (self.id_of.get(token, outside) if token is not None else outside for token in left)
        r1, r2 = (self.id_of.get(token, outside) if token is not None else None for token in right)
        pools = [self.by_frequency, self.trigram.followers(l1)]
        pools += [self.trigram.predecessors(r1)] if r1 is not None else []
        candidates = np.unique(np.concatenate(pools))
        candidates = candidates[self.allowed[candidates]]
        score = np.log(self.trigram.probability(l2, l1, candidates))
        out = {"unigram": self.by_frequency[:number], "trigram": candidates[_best(score, number)]}
        if r1 is not None:
            score += np.log(self.trigram.probability(l1, candidates, r1))
            if r2 is not None:
                score += np.log(self.trigram.probability(candidates, r1, r2))
        out["two-sided trigram"] = candidates[_best(score, number)]
        return {name: [self.names[i] for i in ids] for name, ids in out.items()}


def _best(score: Floats, number: int) -> Ids:
    return np.argsort(-score, kind="stable")[:number]
