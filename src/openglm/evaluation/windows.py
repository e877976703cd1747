"""Long texts and last words as Part A and Part B: how a blank-filling model is judged as a language model.

    first window        [CLS] x1 [gMASK] | <sop> x2 x3 ... xw              scored: all but x1
    later, both ways    [CLS] x9 ... x(w) [gMASK] | <sop> x(w+1) ...       scored: the last `stride`
    later, one way      [CLS] x9 [gMASK] | <sop> x10 ... x(w) x(w+1) ...   scored: the last `stride`

In the bidirectional setting what was read before is Part A, where tokens see each other both
ways; in the unidirectional one only the first token is. Nothing ends with an end token: a window
is a piece of a text. (Paper, section 3.3; windows are those of the published evaluation.)

Knows token ids only; nothing about models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..blanks import Ids, Markers, PartA
from ..errors import OptionError
from ..layouts import Layout, lay_out


@dataclass(frozen=True)
class SpecialIds:
    """Token ids around a text: what opens it, the blank, the end token and the marks of Part B."""

    cls: int
    blank: int
    eos: int
    markers: Markers


def starts(length: int, window: int, stride: int) -> range:
    """Where windows over a text of `length` tokens begin: `stride` apart, until one reaches its end."""
    return range(0, 1 + stride * -(-max(0, length - window) // stride), stride)


def windows(tokens: Ids, signs: SpecialIds, *, window: int, stride: int, unidirectional: bool) -> Iterator[Layout]:
    """Windows over one text; together they score every token but the first once.

    With `stride == window` in the unidirectional setting the first token of each window is read
    and not scored, as in the published evaluation.

    Args:
        tokens: [n] the text.
        window: tokens of the text per window.
        stride: tokens scored per window after the first.

    Yields:
        Layouts whose `loss_mask` is True on what is scored. Windows that score nothing are left out.

    Raises:
        OptionError: a window below 2, or a stride outside 1 ... window.
    """
    if window < 2 or not 1 <= stride <= window:
        raise OptionError(
            f"a window of {window} tokens and a stride of {stride}: use 1 <= stride <= window, window >= 2"
        )
    for start in starts(len(tokens), window, stride):
        piece = tokens[start : start + window]
        read = 1 if start == 0 or unidirectional else window - stride
        skipped = max(0, window - stride - 1) if start and unidirectional else 0
        if len(piece) - read - skipped > 0:
            yield _window(piece[:read], piece[read:], skipped, signs)


def _window(prompt: Ids, rest: Ids, skipped: int, signs: SpecialIds, *, eos: bool = False) -> Layout:
    """`[CLS] prompt blank` and the rest, of which the first `skipped` tokens are not scored."""
    part_a = np.array([signs.cls, *prompt, signs.blank, *([signs.eos] if eos else [])], np.int64)
    layout = lay_out(PartA(part_a, np.array([len(prompt) + 1])), [rest], signs.markers, ends_with_eop=False)
    scored = layout.loss_mask.copy()
    scored[len(part_a) : len(part_a) + skipped] = False
    return dataclasses.replace(layout, loss_mask=scored)


def last_word(context: Ids, word: Ids, signs: SpecialIds, *, unidirectional: bool) -> Layout:
    """A text whose last word is to be predicted (LAMBADA); only the word is scored.

    Args:
        context: [n] the text before the word; in the unidirectional setting its first token is
            Part A and the others are read from Part B.
        word: the tokens of the word; no end token is scored.
    """
    if unidirectional and len(context):
        return _window(context[:1], np.concatenate([context[1:], word]), len(context) - 1, signs, eos=True)
    return _window(context, word, 0, signs, eos=True)
