"""`Question`: one text with blanks and the answers that may stand in them, as token ids.

What a pattern, a verbalizer and an example come to. Knows nothing about where it came from,
about models or about tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..blanks import Ids, behind

Candidate = tuple[tuple[int, ...], ...]  # token ids of one answer, for each blank


@dataclass(frozen=True)
class Context:
    """Part A and where its blanks stand: [n] token ids and [k] positions in them."""

    part_a: Ids
    blank_positions: Ids

    @property
    def key(self) -> tuple[bytes, bytes]:
        """Equal for equal contexts."""
        return self.part_a.tobytes(), self.blank_positions.tobytes()

    def behind(self, prompt_ids: Sequence[int]) -> Context:
        """The same behind a trained prompt."""
        return Context(*behind(prompt_ids, self.part_a, self.blank_positions))


@dataclass(frozen=True)
class Question:
    """A text with k blanks and C candidate answers to L labels.

    Attributes:
        part_a: [n] token ids, `[CLS]` and the end token included.
        blank_positions: [k] where the blanks stand in `part_a`.
        candidates: C answers, each the token ids for every blank, without markers.
        owner: for each candidate, the index of the label that it speaks for; a label may have
            several candidates.
        labels: the name of each label (of each option, where every example brings its own).
        gold: index of the right label, or None where it is not known.
        golds: indices of all right labels where several are right; else (gold,) or ().
        cut: tokens left out of Part A because the text was longer than the context.
        cut_from: field -> tokens left out of it.
        number: number of the line or item the example stood in, from 1; 0 if it has none.
        group: what belongs together in a metric (one MultiRC question, one CMRC2019 passage).
        category: what it counts as in a table of its own (the phenomenon of a minimal pair), or None.
        prior: the same blanks in an empty context, for calibration, or None.
        others: the same example asked by further patterns, with the same labels; see `variants`.
    """

    part_a: Ids
    blank_positions: Ids
    candidates: tuple[Candidate, ...]
    owner: tuple[int, ...]
    labels: tuple[str, ...]
    gold: int | None = None
    golds: tuple[int, ...] = ()
    cut: int = 0
    cut_from: Mapping[str, int] = field(default_factory=dict)
    number: int = 0
    group: str | None = None
    category: str | None = None
    prior: Context | None = None
    others: tuple[Question, ...] = ()

    def behind(self, prompt_ids: Sequence[int]) -> Question:
        """The question behind a trained prompt, its empty context and its other variants too."""
        if not len(prompt_ids):
            return self
        here = self.context.behind(prompt_ids)
        return replace(
            self,
            part_a=here.part_a,
            blank_positions=here.blank_positions,
            prior=None if self.prior is None else self.prior.behind(prompt_ids),
            others=tuple(variant.behind(prompt_ids) for variant in self.others),
        )

    @property
    def context(self) -> Context:
        """Part A and its blanks."""
        return Context(self.part_a, self.blank_positions)

    @property
    def variants(self) -> tuple[Question, ...]:
        """The question as each of the chosen patterns asks it, itself first."""
        return (self, *self.others)

    @property
    def most_cut(self) -> Question:
        """The variant that left out most of the text."""
        return max(self.variants, key=lambda variant: variant.cut)
