"""Perplexity of texts and the accuracy of last words, in the paper's two settings.

    perplexity           exp(loss / (tokens - 1))     loss: of every scored token, in nats
    perplexity per word  exp(loss / (words - 1))      words of the text before it was restored

The second does not depend on the vocabulary and is the published number for WikiText. The
formulas and the windows are those of the published evaluation (see `windows`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..blanks import BlankKind
from ..errors import InputError, OptionError, UnsupportedBlankError
from ..infill.infiller import Infiller
from ..layouts import Layout
from ..scoring.targets import OnDone, target_logprobs
from .windows import SpecialIds, last_word, starts, windows

DIRECTIONS = ("bi", "uni")


@dataclass(frozen=True)
class Perplexity:
    """How well a model predicts texts.

    Attributes:
        perplexity: per token of the model's vocabulary.
        word_perplexity: per word between white space; None for texts without.
        tokens, words: of the texts, the first of each text (which is given) left out.
        loss: in nats, of all scored tokens.
    """

    perplexity: float
    word_perplexity: float | None
    tokens: int
    words: int
    loss: float


@dataclass(frozen=True)
class LastWords:
    """Accuracy of last words, in percent: every token of the word is the model's first choice."""

    accuracy: float
    count: int
    cut: int  # texts whose beginning did not fit the context
    right: tuple[bool, ...] = ()  # of each text


def signs_of(infiller: Infiller, blank: BlankKind | str | None = None) -> SpecialIds:
    """The token ids around a text; the blank is `[gMASK]` where the model has it, else `[MASK]`.

    Raises:
        UnsupportedBlankError: a kind of blank the model was not trained with.
    """
    kinds = infiller.model.config.blanks
    kind = BlankKind(blank or (BlankKind.GMASK if BlankKind.GMASK.value in kinds else BlankKind.MASK))
    if kind.value not in kinds:
        raise UnsupportedBlankError(f"this model was trained without {kind}; it fills {', '.join(kinds)}")
    tokenizer = infiller.tokenizer
    return SpecialIds(tokenizer.cls, tokenizer.blank_id(kind), tokenizer.eos, tokenizer.markers)


def perplexity(
    infiller: Infiller,
    texts: Sequence[str],
    *,
    direction: str = "bi",
    sequence_length: int | None = None,
    stride: int | None = None,
    originals: Sequence[str] | None = None,
    progress: OnDone | None = None,
) -> Perplexity:
    """Perplexity of texts, each read in windows of its own.

    Args:
        direction: "bi" or "uni".
        sequence_length: tokens per window plus one (the published counting); default 1024, or
            the model's context if that is shorter.
        stride: tokens scored per window; default a quarter of `sequence_length`.
        originals: the texts whose words are counted, where `texts` was restored from them.
        progress: told about each window.

    Raises:
        OptionError: a direction, length or stride that cannot be.
        InputError: no text of two tokens or more.
    """
    context = infiller.model.config.max_sequence_length
    length = min(1024, context) if sequence_length is None else sequence_length
    if not 3 <= length <= context:
        raise OptionError(f"sequence_length must lie between 3 and the model's context of {context}, not {length}")
    step = max(1, length // 4) if stride is None else stride
    unidirectional = _unidirectional(direction)
    signs = signs_of(infiller)
    encoded = [np.array(infiller.tokenizer.encode(text), np.int64) for text in texts]
    encoded = [tokens for tokens in encoded if len(tokens) > 1]
    if not encoded:
        raise InputError("nothing to measure: perplexity needs a text of at least two tokens")

    def layouts() -> Iterator[Layout]:
        for tokens in encoded:
            yield from windows(tokens, signs, window=length - 1, stride=step, unidirectional=unidirectional)

    loss = 0.0
    for logprobs, _ in target_logprobs(infiller.model, layouts(), infiller.tokenizer.eos):
        loss -= float(logprobs.sum())
        if progress:
            progress(1)
    count = sum(len(tokens) - 1 for tokens in encoded)
    words = sum(max(0, len(text.split()) - 1) for text in (originals or texts))
    return Perplexity(_exp(loss / count), _exp(loss / words) if words else None, count, words, loss)


def count_windows(infiller: Infiller, texts: Sequence[str], sequence_length: int, stride: int) -> int:
    """About how many windows `perplexity` will read, for progress."""
    return sum(len(starts(len(infiller.tokenizer.encode(text)), sequence_length - 1, stride)) for text in texts)


def last_words(
    infiller: Infiller,
    texts: Sequence[str],
    *,
    direction: str = "bi",
    blank: BlankKind | str | None = None,
    progress: OnDone | None = None,
) -> LastWords:
    """Predict the last word (between white space) of each text: LAMBADA.

    A text that does not fit the context loses its beginning, which is counted.

    Args:
        blank: kind of blank that stands for the word; default as published (see `signs_of`).
        progress: told about each text.

    Raises:
        OptionError: an unknown direction. InputError: no texts, or one of a single word.
    """
    if not texts:
        raise InputError("nothing to measure: no texts")
    unidirectional, signs = _unidirectional(direction), signs_of(infiller, blank)
    cut = 0
    layouts: list[Layout] = []
    for number, text in enumerate(texts, start=1):
        parts = text.strip().rsplit(maxsplit=1)
        if len(parts) < 2:
            raise InputError(f"text {number} has no word before its last one: {text!r}")
        context, word = infiller.tokenizer.encode(parts[0].rstrip()), infiller.tokenizer.encode(" " + parts[1])
        # Part A holds the context, [CLS], blank and end; Part B counts up to the context's length.
        max_tokens = infiller.model.config.max_sequence_length - (len(word) if unidirectional else 3)
        if max_tokens < 1:
            raise InputError(f"text {number} ends in a word of {len(word)} tokens, too long for this model")
        cut += len(context) > max_tokens
        layouts.append(
            last_word(
                np.array(context[-max_tokens:], np.int64),
                np.array(word, np.int64),
                signs,
                unidirectional=unidirectional,
            )
        )
    right = []
    for _, first in target_logprobs(infiller.model, layouts, infiller.tokenizer.eos):
        right.append(bool(first.all()))
        if progress:
            progress(1)
    return LastWords(100 * sum(right) / len(texts), len(texts), cut, tuple(right))


def _unidirectional(direction: str) -> bool:
    if direction not in DIRECTIONS:
        raise OptionError(f"direction must be {' or '.join(DIRECTIONS)}, not {direction!r}")
    return direction == "uni"


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
