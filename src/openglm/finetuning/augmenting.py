"""More examples from labelled ones, as FlipDA does it (Zhou et al. 2022, arXiv 2108.06332), with a blank-filling model.

    1. words of a text are blanked out, but for what must stay     这家店的[MASK]很好吃
    2. a pattern around it says the label that is wanted            这家店的[MASK]很好吃，总的来说满意。
    3. the blanks are filled by sampling                            这家店的牛肉面很好吃
    4. a classifier keeps what it finds to have that label; near-duplicates go

What comes out is a function of the examples, the options and the seed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.random import Generator

from ..blanks import BlankedText, BlankKind
from ..errors import DataError, OptionError
from ..infill.infiller import Infiller
from ..tasks.verbalizer import label_name
from .classifier import Classifier

_SIGNS = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # of scripts that write no spaces: each is a word here
_WORD = re.compile(rf"[{_SIGNS}]|[^\W{_SIGNS}]+")
_GRAM = 3  # signs that are compared together, to tell near-duplicates


@dataclass(frozen=True)
class AugmentOptions:
    """How examples are made from examples.

    Attributes:
        field: that holds the text; label: the field of the label.
        protect: fields whose wording in the text stays as it is.
        candidates: texts written per example; some of them are dropped.
        share: of the words that are blanked out; span: words of a blank, on average.
        flip: write texts for another label than the example's.
        confidence: least probability that the classifier gives to the wanted label.
        similarity: share of runs of three signs in common from which two texts count as one.
        temperature, top_p, seed: of sampling.
    """

    field: str = "text"
    label: str = "label"
    protect: tuple[str, ...] = ()
    candidates: int = 4
    share: float = 0.3
    span: float = 2.0
    flip: bool = False
    confidence: float = 0.5
    similarity: float = 0.9
    temperature: float = 1.0
    top_p: float = 0.9
    seed: int = 0

    def __post_init__(self) -> None:
        if self.candidates < 1 or self.span < 1:
            raise OptionError(f"candidates and span must be at least 1, not {self.candidates} and {self.span:g}")
        for name in ("share", "similarity"):
            if not 0 < getattr(self, name) <= 1:
                raise OptionError(f"{name} must be above 0 and at most 1, not {getattr(self, name):g}")
        if not 0 <= self.confidence < 1:
            raise OptionError(f"confidence must be at least 0 and below 1, not {self.confidence:g}")
        if self.temperature <= 0:
            raise OptionError(f"temperature must be above 0, not {self.temperature:g}: greedy texts are all the same")


@dataclass(frozen=True)
class Augmented:
    """A new example.

    Attributes:
        values: the fields of the one it was made from, with its text and label.
        source: index of that one.
        changed: for each blank its place in the old text, what stood there, and what stands there now.
        probability: of its label, as the classifier says; None without one.
    """

    values: Mapping[str, Any]
    source: int
    changed: tuple[tuple[int, str, str], ...]
    probability: float | None = None


@dataclass
class Tally:
    """What became of the candidates."""

    kept: int = 0
    doubted: int = 0
    alike: int = 0


@dataclass(frozen=True)
class _Candidate:
    source: int
    target: str
    blanked: BlankedText
    spans: tuple[tuple[int, int], ...]
    frame: tuple[str, str]  # what the pattern puts in front and behind


@dataclass
class Augmenter:
    """Makes examples.

    Args:
        infiller: what fills the blanks.
        options: see there.
        template: a pattern with the text's field and one `[MASK]`, as for a task; other fields may stand in it.
        words: label -> the word that says it in the pattern.
        classifier: what keeps or drops candidates; without one all are kept but near-duplicates.

    Raises:
        OptionError: flipped labels without a pattern that says them or a classifier that checks them, or a pattern
            without the text's field, a `[MASK]` or words.

    Attributes:
        tally: of the last call.
    """

    infiller: Infiller
    options: AugmentOptions = field(default_factory=AugmentOptions)
    template: str | None = None
    words: Mapping[str, str] = field(default_factory=dict)
    classifier: Classifier | None = None
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        if self.options.flip and (self.template is None or self.classifier is None):
            raise OptionError("flipped labels need a pattern that says them (pattern, words) and a classifier")
        if self.template is not None:
            place = f"{{{self.options.field}}}"
            if self.template.count(place) != 1 or self.template.count("[MASK]") != 1 or not self.words:
                raise OptionError(
                    f"the pattern {self.template!r} needs {place} and [MASK] once each, and labels' words"
                )

    def __call__(self, examples: Sequence[Mapping[str, Any]]) -> Iterator[Augmented]:
        """New examples, those of one example together, in the order of the examples.

        Raises:
            DataError: a field that is missing or no text, or a label without a word.
            ContextLengthError: a text that is too long.
        """
        self.tally = Tally()
        labels = self._labels(examples)
        seen: set[str] = {self._text(values, number) for number, values in enumerate(examples)}
        for number, values in enumerate(examples):
            kept = [str(values[self.options.field])]
            for made in self._checked(values, self._written(values, number, labels)):
                text = str(made.values[self.options.field])
                if text in seen or any(_alike(text, other) >= self.options.similarity for other in kept):
                    self.tally.alike += 1
                    continue
                seen.add(text)
                kept.append(text)
                self.tally.kept += 1
                yield made

    def _labels(self, examples: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
        known = dict.fromkeys(label_name(values.get(self.options.label)) for values in examples)
        labels = self.classifier.labels if self.classifier is not None else tuple(known)
        strange = [label for label in known if label not in labels]
        if strange:
            raise DataError(f"the classifier does not know the label {strange[0]!r}; it knows {', '.join(labels)}")
        unsaid = [label for label in labels if label not in self.words] if self.template is not None else []
        if unsaid:
            raise DataError(f"no word stands for the label {unsaid[0]!r} in the pattern")
        if self.options.flip and len(labels) < 2:
            raise DataError(f"all examples have the label {labels[0]!r}; there is none to flip to")
        return labels

    def _text(self, values: Mapping[str, Any], number: int) -> str:
        for name in (self.options.field, *self.options.protect):
            if not isinstance(values.get(name), str):
                raise DataError(f"example {number + 1}: the field {name!r} must be text, not {values.get(name)!r}")
        if self.options.label not in values:
            raise DataError(f"example {number + 1}: the field {self.options.label!r} is missing")
        return str(values[self.options.field])

    def _written(self, values: Mapping[str, Any], number: int, labels: Sequence[str]) -> list[Augmented]:
        """Candidates for one example, filled."""
        rng = np.random.default_rng([self.options.seed, number])
        out = []
        for copy in range(self.options.candidates):
            candidate = self._candidate(values, number, labels, rng)
            if candidate is None:
                return []  # nothing in it may be changed
            filled = self.infiller.fill(
                candidate.blanked, temperature=self.options.temperature, top_p=self.options.top_p,
                seed=int(rng.integers(2**31)) + copy, max_new_tokens=2 * round(self.options.span) + 4,
            )  # fmt: skip
            before, behind = candidate.frame
            text = filled.text[len(before) : len(filled.text) - len(behind)]
            old = str(values[self.options.field])
            changed = tuple(
                (start, old[start:end], filled.text[blank.start : blank.end])
                for (start, end), blank in zip(candidate.spans, filled.blanks, strict=True)
            )
            new = {**values, self.options.field: text, self.options.label: candidate.target}
            out.append(Augmented(new, number, changed))
        return out

    def _candidate(
        self, values: Mapping[str, Any], number: int, labels: Sequence[str], rng: Generator
    ) -> _Candidate | None:
        own = label_name(values[self.options.label])
        others = [label for label in labels if label != own]
        target = others[int(rng.integers(len(others)))] if self.options.flip else own
        text = str(values[self.options.field])
        spans = self._spans(text, [str(values[name]) for name in self.options.protect], rng)
        if not spans:
            return None
        before, behind = self._frame(values, target)
        ends = [0, *(end for _, end in spans)]
        starts = [*(start for start, _ in spans), len(text)]
        literals = [text[a:b] for a, b in zip(ends, starts, strict=True)]
        literals[0], literals[-1] = before + literals[0], literals[-1] + behind
        blanked = BlankedText(tuple(literals), (BlankKind.MASK,) * len(spans))
        return _Candidate(number, target, blanked, tuple(spans), (before, behind))

    def _spans(self, text: str, protected: Sequence[str], rng: Generator) -> list[tuple[int, int]]:
        """Where words are blanked out: runs of neighbours, with at least one word between two of them."""
        kept = [m.span() for wording in protected if wording for m in re.finditer(re.escape(wording), text)]
        words = [m.span() for m in _WORD.finditer(text)]
        free = [all(end <= a or start >= b for a, b in kept) for start, end in words]
        wanted = max(1, round(self.options.share * sum(free))) if any(free) else 0
        taken = np.zeros(len(words) + 2, bool)  # with a neighbour at either end
        out: list[tuple[int, int]] = []
        for first in rng.permutation(len(words)).tolist():
            length = min(int(rng.geometric(1 / self.options.span)), wanted)
            last = first
            while last - first < length and last < len(words) and free[last]:
                last += 1
                if last < len(words) and text[words[last - 1][1] : words[last][0]].strip():
                    break  # a blank does not reach beyond a comma
            if last == first or taken[first : last + 2].any():
                continue
            taken[first + 1 : last + 1] = True
            wanted -= last - first
            out.append((words[first][0], words[last - 1][1]))
            if wanted <= 0:
                break
        return sorted(out)

    def _frame(self, values: Mapping[str, Any], target: str) -> tuple[str, str]:
        """What the pattern puts in front of the text and behind it."""
        if self.template is None:
            return "", ""
        said = self.template.replace("[MASK]", self.words[target])
        parts = said.split(f"{{{self.options.field}}}")
        before, behind = (re.sub(r"\{(\w+)\}", lambda m: str(values.get(m[1], m[0])), part) for part in parts)
        return before, behind

    def _checked(self, values: Mapping[str, Any], candidates: Sequence[Augmented]) -> Iterator[Augmented]:
        """The candidates that the classifier finds to have their label."""
        if self.classifier is None or not candidates:
            yield from candidates
            return
        for candidate, answer in zip(candidates, self.classifier.predict([c.values for c in candidates]), strict=True):
            target = str(candidate.values[self.options.label])
            probability = answer.probabilities[target]
            if answer.label == target and probability >= self.options.confidence:
                own = values[self.options.label]
                label = own if label_name(own) == target else target  # a number stays one
                yield Augmented(
                    {**candidate.values, self.options.label: label}, candidate.source, candidate.changed, probability
                )
            else:
                self.tally.doubted += 1


def _alike(one: str, other: str) -> float:
    """Share of the runs of signs of two texts that they have in common (Jaccard); 1 for equal texts."""
    a, b = ({text[i : i + _GRAM] for i in range(max(1, len(text) - _GRAM + 1))} for text in (one, other))
    return len(a & b) / len(a | b)
