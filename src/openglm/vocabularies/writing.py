"""What may be written next, token by token, so that the text is whole and is the one that is meant.

Three rules that hold for every fill. A character whose bytes lie in several tokens is finished
before anything else is written. Behind a space that the fill itself brings (`Tokenizer.brings_space`)
there is a space and a word, or nothing. A text is written in the tokens that it is read in: what
`encode` would spell otherwise is not written (canonical spelling), so that a text has one
log-probability. Prefixes of canonical spellings are canonical, for the best segmentation of a
text holds the best ones of its parts; so each token can be judged when it is written.

Knows tokens and bytes; nothing about models or blanks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# States of a text that ends inside a character, after RFC 3629: which bytes may follow, and
# where they lead. State 0 is the end of a character.
_CONTINUES = {
    1: [(0x80, 0xBF, 0)],
    2: [(0x80, 0xBF, 1)],
    3: [(0x80, 0xBF, 2)],
    4: [(0xA0, 0xBF, 1)],  # behind E0
    5: [(0x80, 0x9F, 1)],  # behind ED
    6: [(0x90, 0xBF, 2)],  # behind F0
    7: [(0x80, 0x8F, 2)],  # behind F4
    0: [
        (0x00, 0x7F, 0), (0xC2, 0xDF, 1), (0xE0, 0xE0, 4), (0xE1, 0xEC, 2), (0xED, 0xED, 5), (0xEE, 0xEF, 2),
        (0xF0, 0xF0, 6), (0xF1, 0xF3, 3), (0xF4, 0xF4, 7),
    ],
}  # fmt: skip
MISSING = (0, 1, 2, 3, 2, 2, 3, 3)  # bytes that a state lacks
STATES = len(MISSING)
NOWHERE = -1


def _transitions() -> list[list[int]]:
    table = [[NOWHERE] * 256 for _ in range(STATES)]
    for state, ranges in _CONTINUES.items():
        for first, last, after in ranges:
            table[state][first : last + 1] = [after] * (last + 1 - first)
    return table


_STEP = _transitions()


@dataclass(frozen=True)
class WritingRules:
    """The tokens of a vocabulary, V of them, by what they may follow.

    Attributes:
        after: [STATES, V] int8, the state behind each token; `NOWHERE` where it cannot stand.
        opens: [V] bool, tokens that are a space, or a space and a word: what may open a fill
            that brings its own space.
        space: [V] bool, tokens that are nothing but one space.
        white: [V] bool, tokens that begin with white space.
        continues: [V] bool, tokens that only go on with a word; no fill opens with them.
    """

    after: NDArray[np.int8]
    opens: NDArray[np.bool_]
    space: NDArray[np.bool_]
    white: NDArray[np.bool_]
    continues: NDArray[np.bool_]

    @classmethod
    def of(cls, spellings: Sequence[bytes], continues: NDArray[np.bool_]) -> WritingRules:
        """From the bytes of each token; special ones have none."""
        after = np.full((STATES, len(spellings)), NOWHERE, np.int8)
        opens, space, white = (np.zeros(len(spellings), np.bool_) for _ in range(3))
        after[0] = 0
        for token in (i for i, spelling in enumerate(spellings) if not _is_whole(spelling)):
            after[:, token] = [_run(state, spellings[token]) for state in range(STATES)]
        for token in (i for i, spelling in enumerate(spellings) if spelling[:1].isspace()):
            spelling = spellings[token]
            white[token], space[token] = True, spelling == b" "
            opens[token] = spelling[:1] == b" " and not spelling[1:2].isspace()
        return cls(after, opens, space, white, continues)


def _is_whole(spelling: bytes) -> bool:
    if spelling.isascii():
        return True
    try:
        spelling.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _run(state: int, spelling: bytes) -> int:
    for byte in spelling:
        state = _STEP[state][byte]
        if state == NOWHERE:
            return NOWHERE
    return state
