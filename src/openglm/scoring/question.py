"""`Question`: one text with blanks and the answers that may stand in them, as token ids.

What a pattern, a verbalizer and an example come to. Knows nothing about where it came from,
about models or about tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..blanks import PartA
from ..errors import OptionError

Candidate = tuple[tuple[int, ...], ...]  # token ids of one answer, for each blank


@dataclass(frozen=True)
class Question:
    """A text with k blanks and C candidate answers to L labels.

    Attributes:
        part_a: the text with its k blanks.
        candidates: C answers, each the token ids for every blank, without markers.
        owner: for each candidate, the index of the label that it speaks for; a label may have
            several candidates.
        labels: the name of each label (of each option, where every example brings its own).
        gold: index of the right label, or None where it is not known.
        golds: indices of all right labels where several are right; else (gold,) or ().
        cut: tokens left out of Part A because the text was longer than the context.
        cut_from: field -> tokens left out of it.
        number: number of the line or item the example stood in, from 1; 0 if it has none.
        id: what the example calls itself; "" if it does not.
        text: as the pattern asks, its blanks written out; nothing cut off.
        group: what belongs together in a metric (one MultiRC question, one CMRC2019 passage).
        category: what it counts as in a table of its own (the phenomenon of a minimal pair), or None.
        prior: the same blanks in an empty context, for calibration, or None.
        others: the same example asked by further patterns, with the same labels; see `variants`.
    """

    part_a: PartA
    candidates: tuple[Candidate, ...]
    owner: tuple[int, ...]
    labels: tuple[str, ...]
    gold: int | None = None
    golds: tuple[int, ...] = ()
    cut: int = 0
    cut_from: Mapping[str, int] = field(default_factory=dict)
    number: int = 0
    id: str = ""
    text: str = ""
    group: str | None = None
    category: str | None = None
    prior: PartA | None = None
    others: tuple[Question, ...] = ()

    def behind(self, prompt_ids: Sequence[int]) -> Question:
        """The question behind a trained prompt, its empty context and its other variants too."""
        if not len(prompt_ids):
            return self
        return replace(
            self,
            part_a=self.part_a.behind(prompt_ids),
            prior=None if self.prior is None else self.prior.behind(prompt_ids),
            others=tuple(variant.behind(prompt_ids) for variant in self.others),
        )

    @property
    def variants(self) -> tuple[Question, ...]:
        """The question as each of the chosen patterns asks it, itself first."""
        return (self, *self.others)

    @property
    def most_cut(self) -> Question:
        """The variant that left out most of the text."""
        return max(self.variants, key=lambda variant: variant.cut)


def empty_contexts(questions: Sequence[Question]) -> tuple[list[Question], list[int]]:
    """The same answers with nothing around their blanks, for calibration; equal ones once.

    Returns:
        The distinct ones, and for each of `questions` the index of its own among them.

    Raises:
        OptionError: a question without an empty context.
    """
    distinct: dict[object, int] = {}
    found: list[Question] = []
    places = []
    for question in questions:
        if question.prior is None:
            raise OptionError("a question has no empty context to calibrate with; leave calibrate out")
        key = (question.prior, question.candidates)
        if key not in distinct:
            distinct[key] = len(found)
            found.append(replace(question, part_a=question.prior))
        places.append(distinct[key])
    return found, places
