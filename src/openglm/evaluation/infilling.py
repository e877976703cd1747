"""Infilling: words of a text are blanked out at random, and filled again.

`int(n * ratio)` of a text's n words (Chinese characters each count as one) are chosen; neighbours
share a blank. Filled texts are compared with the originals by BLEU, fills with what stood there
by exact match. (Paper, section 3.3, after Shen et al. 2020.)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.random import Generator

from ..blanks import BlankedText, BlankKind
from ..errors import InputError, OptionError
from ..infill.infiller import Infiller
from ..scoring.targets import OnDone
from ..tasks.units import normalized, written_words
from .generation import bleu

TEXTS_AT_ONCE = 64


@dataclass(frozen=True)
class Infilling:
    """How well blanks were filled at one ratio of blanked words.

    Attributes:
        ratio: of the words that were blanked out.
        bleu: of the filled texts against the originals, in percent.
        bleu_unfilled: of the texts with their blanks simply left out.
        exact_match: share of blanks filled with just what stood there, in percent.
        blanks, texts: how many.
        filled: of each text, the text with its blanks, what was written into them, and what stood there.
    """

    ratio: float
    bleu: float
    bleu_unfilled: float
    exact_match: float
    blanks: int
    texts: int
    filled: tuple[tuple[str, list[str], list[str]], ...] = field(default=(), repr=False)


def blank_words(
    text: str, ratio: float, rng: Generator, kind: BlankKind = BlankKind.MASK
) -> tuple[BlankedText, list[str]]:
    """A text with some of its words blanked out, and what stood in each blank.

    Raises:
        OptionError: a ratio that is not above 0 and at most 1.
    """
    if not 0 < ratio <= 1:
        raise OptionError(f"the ratio of blanked words must be above 0 and at most 1, not {ratio}")
    words = written_words(text)
    chosen = sorted(rng.choice(len(words), int(len(words) * ratio), replace=False).tolist()) if words else []
    spans: list[tuple[int, int]] = []
    for before, index in zip([-2, *chosen], chosen, strict=False):
        start, end = words[index]
        if index == before + 1:
            spans[-1] = spans[-1][0], end
        else:
            spans.append((start, end))
    literals = [
        text[end:start] for end, start in zip([0, *(e for _, e in spans)], [*(s for s, _ in spans), None], strict=True)
    ]
    return BlankedText(tuple(literals), (kind,) * len(spans)), [text[start:end] for start, end in spans]


def infilling(
    infiller: Infiller,
    texts: Sequence[str],
    ratios: Sequence[float] = (0.1, 0.2, 0.3, 0.4, 0.5),
    *,
    seed: int = 0,
    kind: BlankKind = BlankKind.MASK,
    progress: OnDone | None = None,
    **options: Any,
) -> list[Infilling]:
    """Blank out words at each ratio and fill them.

    Args:
        seed: which words are blanked out.
        options: of `Infiller.fill`.
        progress: told about each text at each ratio.

    Raises:
        InputError: no text has enough words for a blank; a text that cannot be filled.
        OptionError: a ratio or a decoding option out of range.
    """
    return [_at_ratio(infiller, texts, ratio, seed, kind, progress, options) for ratio in ratios]


def _at_ratio(
    infiller: Infiller,
    texts: Sequence[str],
    ratio: float,
    seed: int,
    kind: BlankKind,
    progress: OnDone | None,
    options: dict[str, Any],
) -> Infilling:
    cases = [(text, *blank_words(text, ratio, np.random.default_rng([seed, i]), kind)) for i, text in enumerate(texts)]
    cases = [case for case in cases if case[2]]
    if not cases:
        raise InputError(f"no text has enough words to blank out {ratio:.0%} of them")
    filled_texts, filled, exact = [], [], 0
    for batch in _batches(cases):
        found = infiller.fill([blanked for _, blanked, _ in batch], **options)
        for (_, blanked, answers), each in zip(batch, found, strict=True):
            fills = [fill.text.strip() for fill in each.blanks]
            filled_texts.append(each.text)
            filled.append((str(blanked), fills, answers))
            exact += sum(normalized(a) == normalized(b) for a, b in zip(fills, answers, strict=True))
        if progress:
            progress(len(batch))
    originals = [text for text, _, _ in cases]
    unfilled = [blanked.substitute([""] * len(blanked.kinds))[0] for _, blanked, _ in cases]
    blanks = sum(len(answers) for _, _, answers in cases)
    return Infilling(
        ratio,
        bleu(filled_texts, originals),
        bleu(unfilled, originals),
        100 * exact / blanks,
        blanks,
        len(cases),
        tuple(filled),
    )


def _batches(
    cases: Sequence[tuple[str, BlankedText, list[str]]],
) -> Iterator[Sequence[tuple[str, BlankedText, list[str]]]]:
    for start in range(0, len(cases), TEXTS_AT_ONCE):
        yield cases[start : start + TEXTS_AT_ONCE]
