"""What may be written next into a blank: states that go along with answers and beams.

A state never changes; beams that part share it. Greedy decoding, sampling and beam search ask it
the same two things: which tokens are out of the question (`forbidden`, a mask for all of them at
once), and whether a token that was drawn may stand (`accepts`, for what is too costly to know of all
tokens; a token that may not is drawn again, which leaves the distribution over the others as it is).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..tokenizer import Tokenizer
from ..vocabularies.writing import MISSING, NOWHERE

# Where a fill that brings its own space stands.
FREE, OPENING, SPACE_WRITTEN = 0, 1, 2
MOST_MISSING = max(MISSING)


class BlankState(Protocol):
    """What has been written into a blank, as far as it matters for what follows."""

    def forbidden(self) -> Tensor:
        """[V] bool: tokens, ends among them, that cannot come next."""

    def accepts(self, token: int) -> bool:
        """Whether a token that is not forbidden may come next."""

    def after(self, token: int) -> BlankState:
        """The state behind one token more."""

    @property
    def met(self) -> bool:
        """Whether the fill may be cut off here and still be what was asked for."""

    @property
    def can_fail(self) -> bool:
        """Whether everything may come to be forbidden."""


class Writing:
    """A vocabulary's rules (`openglm.vocabularies.writing`) as masks for a model.

    Args:
        banned: [V] bool, tokens that are never written.
        ends: ids that end a fill.
    """

    def __init__(self, tokenizer: Tokenizer, banned: Tensor, ends: Sequence[int]) -> None:
        self.tokenizer, self.ends, self.device = tokenizer, list(ends), banned.device
        rules, rows = tokenizer.writing_rules, len(banned)
        self._banned: NDArray[np.bool_] = banned.cpu().numpy()

        def padded(values: NDArray[np.bool_]) -> NDArray[np.bool_]:
            return np.concatenate([values, np.zeros(rows - len(values), np.bool_)])

        self.opens, self.space, self.white, self.continues = (
            padded(each) for each in (rules.opens, rules.space, rules.white, rules.continues)
        )
        self.next = np.full((len(rules.after), rows), NOWHERE, np.int8)
        self.next[:, : rules.after.shape[1]] = rules.after
        self._masks: dict[tuple[object, ...], Tensor] = {}

    def start(self, limits: tuple[int, int], *, brings_space: bool, ends: Sequence[int]) -> TextState:
        """The state of an empty blank.

        Args:
            limits: fewest and most tokens.
            brings_space: the fill brings the space in front of it.
            ends: of `self.ends`, those that a fill of this blank ends with.
        """
        return TextState(self, limits, tuple(ends), OPENING if brings_space else FREE)

    def mask(self, ends: tuple[int, ...], inside: int, place: int, opening: bool, too_short: bool, left: int) -> Tensor:
        """[V] bool, made once for each kind of state.

        Args:
            ends: as in `start`.
            inside: the state inside a character.
            place: `FREE`, `OPENING` or `SPACE_WRITTEN`.
            opening: nothing is written yet.
            left: tokens that may follow the next one, or more than a character can need.
        """
        key = (ends, inside, place, opening, too_short, left)
        if key not in self._masks:
            after = self.next[inside]
            missing = np.array([*MISSING, MOST_MISSING + 1])[after]  # the last one for NOWHERE
            out = self._banned | (missing > min(left, MOST_MISSING))
            if place == OPENING:
                out |= ~self.opens | (self.space if left == 0 else False)
            elif place == SPACE_WRITTEN:
                out |= self.white
            if opening:
                out |= self.continues
            out[self.ends] = True
            out[list(ends)] = inside != 0 or place == SPACE_WRITTEN or too_short
            self._masks[key] = torch.from_numpy(out).to(self.device)
        return self._masks[key]


@dataclass(frozen=True)
class TextState:
    """A blank of which nothing but whole text is asked.

    Attributes:
        rules: of the vocabulary.
        limits: fewest and most tokens.
        ends: what it may end with.
        place: `FREE`, `OPENING` or `SPACE_WRITTEN`.
        inside: the state inside a character.
        ids: what is written.
    """

    rules: Writing
    limits: tuple[int, int]
    ends: tuple[int, ...]
    place: int = FREE
    inside: int = 0
    ids: tuple[int, ...] = ()
    can_fail: ClassVar[bool] = False

    def forbidden(self) -> Tensor:
        """As `BlankState`."""
        count, (fewest, most) = len(self.ids), self.limits
        left = min(max(0, most - count - 1), MOST_MISSING)
        return self.rules.mask(self.ends, self.inside, self.place, not count, count < fewest, left)

    def accepts(self, token: int) -> bool:
        """As `BlankState`: spelled as it would be read."""
        if token in self.rules.ends or int(self.rules.next[self.inside, token]) != 0:
            return True
        return self.rules.tokenizer.is_canonical((*self.ids, token))

    def after(self, token: int) -> TextState:
        """As `BlankState`."""
        place = SPACE_WRITTEN if self.place == OPENING and self.rules.space[token] else FREE
        return replace(self, place=place, inside=int(self.rules.next[self.inside, token]), ids=(*self.ids, token))

    @property
    def met(self) -> bool:
        """As `BlankState`."""
        return True


def restrict(logits: Tensor, states: Sequence[BlankState | None]) -> Tensor:
    """Logits [R, V] with what each row's state forbids at minus infinity."""
    masks = [None if state is None else state.forbidden() for state in states]
    distinct = {id(mask): mask for mask in masks if mask is not None}
    if not distinct:
        return logits
    if len(distinct) == 1 and None not in masks:
        return logits.masked_fill(next(iter(distinct.values())), -torch.inf)
    nothing = torch.zeros_like(next(iter(distinct.values())))
    return logits.masked_fill(torch.stack([nothing if mask is None else mask for mask in masks]), -torch.inf)
