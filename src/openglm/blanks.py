"""A text with blanks, as text and as token ids: Part A.

    text      x1 x2 [blank] x4 [blank]
    Part A    [CLS] x1 x2 [MASK] x4 [MASK] <eos>

Which tokens Part A holds beside its text is decided here alone. What is written into the
blanks, Part B, and the positions of both are in `openglm.layouts`.

Works on numpy integers; knows nothing about tokenizers, models or torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

Ids = NDArray[np.int64]
Flags = NDArray[np.bool_]


class BlankKind(str, Enum):
    """The three kinds of blank, by the text that stands for them."""

    MASK = "[MASK]"  # a short span
    SMASK = "[sMASK]"  # one or more whole sentences
    GMASK = "[gMASK]"  # the rest of a document

    def __str__(self) -> str:
        return self.value


_BLANK = re.compile("|".join(re.escape(kind.value) for kind in BlankKind))


@dataclass(frozen=True)
class BlankedText:
    """A text cut at its blanks: literal, blank, literal, blank, ..., literal.

    Attributes:
        literals: the text between the blanks, one more than there are blanks; any of them
            may be empty. Their wording is never read as a blank or special token, so text
            from elsewhere is safe here.
        kinds: the kind of each blank.

    >>> BlankedText(("They wrote [MASK] here: ", "."), (BlankKind.MASK,)).substitute(["well"])
    ('They wrote [MASK] here: well.', [(24, 28)])
    >>> BlankedText.parse("[MASK] and [gMASK]").literals
    ('', ' and ', '')
    """

    literals: tuple[str, ...]
    kinds: tuple[BlankKind, ...]

    def __post_init__(self) -> None:
        if len(self.literals) != len(self.kinds) + 1:
            raise InputError(f"{len(self.kinds)} blanks need {len(self.kinds) + 1} literals, not {len(self.literals)}")

    @classmethod
    def parse(cls, text: str) -> BlankedText:
        """Cut `text` at every literal `[MASK]`, `[sMASK]` and `[gMASK]`."""
        return cls(tuple(_BLANK.split(text)), tuple(BlankKind(found) for found in _BLANK.findall(text)))

    def __str__(self) -> str:
        return self.substitute([kind.value for kind in self.kinds])[0]

    def substitute(self, fills: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
        """The text with its blanks replaced, and where each fill stands in it (start, end)."""
        if len(fills) != len(self.kinds):
            raise InputError(f"{len(fills)} fills for a text with {len(self.kinds)} blanks")
        parts, spans, end = [self.literals[0]], [], len(self.literals[0])
        for fill, literal in zip(fills, self.literals[1:], strict=True):
            spans.append((end, end + len(fill)))
            parts += [fill, literal]
            end += len(fill) + len(literal)
        return "".join(parts), spans


@dataclass(frozen=True)
class Markers:
    """The two token ids that frame Part B: `sop` opens every span, `eop` is its last target."""

    sop: int
    eop: int


@dataclass(frozen=True, eq=False)
class PartA:
    """The text with its blanks, as token ids; equal, and of equal hash, if all numbers are equal.

    Attributes:
        ids: [n] int64, `[CLS]` and the end token included, with one blank token per blank.
        blank_positions: [k] int64, where the blanks stand in `ids`.

    Raises:
        InputError: a position outside `ids`.
    """

    ids: Ids
    blank_positions: Ids = field(default_factory=lambda: np.empty(0, np.int64))

    def __post_init__(self) -> None:
        ids, positions = np.asarray(self.ids, np.int64), np.asarray(self.blank_positions, np.int64)
        if len(positions) and (positions.min() < 0 or positions.max() >= len(ids)):
            raise InputError(f"a blank position lies outside Part A of {len(ids)} tokens")
        object.__setattr__(self, "ids", ids)
        object.__setattr__(self, "blank_positions", positions)

    def __len__(self) -> int:
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PartA) and self._numbers == other._numbers

    def __hash__(self) -> int:
        return hash(self._numbers)

    @property
    def _numbers(self) -> tuple[bytes, bytes]:
        return self.ids.tobytes(), self.blank_positions.tobytes()

    def behind(self, prompt_ids: Sequence[int] | Ids) -> PartA:
        """The same behind a trained prompt; itself without one."""
        if not len(prompt_ids):
            return self
        ids = np.concatenate([np.asarray(prompt_ids, np.int64), self.ids])
        return PartA(ids, self.blank_positions + len(prompt_ids))


def has_end_token(kinds: Sequence[BlankKind], text_behind: bool) -> bool:
    """Whether Part A ends with the end token.

    It does not where the text ends with `[gMASK]`: what is written there is the rest of the
    document, which brings its own end.

    Args:
        kinds: of the blanks.
        text_behind: whether anything stands behind the last blank.
    """
    return not kinds or text_behind or kinds[-1] is not BlankKind.GMASK


def tokens_beside_text(kinds: Sequence[BlankKind], text_behind: bool) -> int:
    """How many tokens of Part A are not text: `[CLS]`, the blanks, the end token if it has one."""
    return 1 + len(kinds) + has_end_token(kinds, text_behind)


def build_part_a(
    literals: Sequence[Sequence[int]], kinds: Sequence[BlankKind], blank_ids: Sequence[int], *, cls: int, eos: int
) -> PartA:
    """Part A of a text with blanks: `[CLS] ids blank ids ... <eos>` (see `has_end_token`).

    Args:
        literals: token ids between the blanks, one list more than there are blanks.
        kinds, blank_ids: kind and token id of each blank.
        cls, eos: ids of the tokens around the text.
    """
    ids, positions = [cls, *literals[0]], []
    for blank_id, literal in zip(blank_ids, literals[1:], strict=True):
        positions.append(len(ids))
        ids += [blank_id, *literal]
    if has_end_token(kinds, len(literals[-1]) > 0):
        ids.append(eos)
    return PartA(np.array(ids, np.int64), np.array(positions, np.int64))
