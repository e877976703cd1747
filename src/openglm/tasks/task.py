"""`Task`: how examples are asked and measured, as plain data: what a task file says.

`task_files.py` reads the files, `builtin/` holds those that come with openglm, `splits.py` finds a
task's examples, `renderer.py` makes questions of them. Knows nothing about models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import OptionError
from ..scoring.predict import Prediction, Scoring
from .examples import Example
from .metrics import evaluate
from .parts import Derived, PromptTemplate, PublishedResult
from .pattern_indices import PatternIndices, resolve_indices
from .verbalizer import Verbalizer, label_name


@dataclass(frozen=True)
class Task:
    """A task.

    Attributes:
        name: what commands call it.
        kind: "choice" if labels are fixed, "options" if every example brings its own answers, "pairs" if
            every example brings a good and a bad text, of which the good one should be more probable.
        templates: at least one pattern; the first is the default.
        verbalizer: labels and their words; None for "options" and "pairs".
        options: for "options", the name of a field that lists them, or one text with fields for each.
        label_fields: the field with the right answer; the first one that an example has.
            For "options" a number (from 0), the text of an option, or a list of these.
        group_field: a field whose value tells what belongs together in a metric.
        category_field: a field whose values are measured one by one, beside the whole.
        derived: fields made from others.
        prepare: names of transforms (`transforms.py`) that examples go through first.
        metrics: names (`metrics.py`), the most important first.
        scoring: how answers are compared.
        files: "train", "dev", "test" -> path within the data folder.
        published: results of others.
        version: of the task; raised whenever its figures are no longer those of before.
        title, language, source: for people.
    """

    name: str
    kind: str
    templates: tuple[PromptTemplate, ...]
    verbalizer: Verbalizer | None = None
    options: str | tuple[str, ...] = ()
    label_fields: tuple[str, ...] = ("label",)
    group_field: str | None = None
    category_field: str | None = None
    derived: Mapping[str, Derived] = field(default_factory=dict)
    prepare: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)
    scoring: Scoring = field(default_factory=Scoring)
    files: Mapping[str, str] = field(default_factory=dict)
    published: tuple[PublishedResult, ...] = ()
    version: int = 1
    title: str = ""
    language: str = ""
    source: str = ""

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns as written."""
        return tuple(str(template.pattern) for template in self.templates)

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in order; empty where every example brings its own answers."""
        return self.verbalizer.labels if self.verbalizer else ()

    @property
    def label_field(self) -> str:
        """The field with the right answer (the first of those that are looked for)."""
        return self.label_fields[0]

    def label_of(self, example: Example) -> str | None:
        """The right label of an example, None if it has none or brings its own options."""
        value = self.label_value(example)
        return None if value is None or self.kind != "choice" else label_name(value)

    def evaluate(self, predictions: Sequence[Prediction]) -> dict[str, float]:
        """The task's metrics, in percent."""
        return evaluate(self.metrics, predictions)

    def template(self, pattern: int = 0) -> PromptTemplate:
        """One of the templates.

        Raises:
            OptionError: there is no such pattern.
        """
        (number,) = resolve_indices(pattern, len(self.templates), self.name)
        return self.templates[number]

    def pattern_indices(self, pattern: PatternIndices = 0) -> tuple[int, ...]:
        """The numbers of the patterns that a choice comes to, ascending.

        Raises:
            OptionError: there is no such pattern, or several have different labels, so that what
                they say cannot be averaged.
        """
        found = resolve_indices(pattern, len(self.templates), self.name)
        first, *others = ((self.templates[number].verbalizer or self.verbalizer) for number in found)
        for number, words in zip(found[1:], others, strict=True):
            if (words and words.labels) != (first and first.labels):
                raise OptionError(
                    f"{self.name}: the patterns {found[0]} and {number} have different labels, or another order of "
                    "them, and cannot be asked together; choose one of the two"
                )
        return found

    def fields(self, pattern: PatternIndices = 0) -> tuple[str, ...]:
        """Names of the fields in the chosen patterns, each once, in order."""
        chosen = (self.templates[number].pattern for number in self.pattern_indices(pattern))
        return tuple(dict.fromkeys(name for each in chosen for name in each.fields))

    def values(self, example: Example, names: Iterable[str]) -> dict[str, Any]:
        """Values of these fields, the derived ones included.

        Raises:
            DataError: a missing field; names the line.
        """
        return {
            name: self.derived[name].value(example) if name in self.derived else example.get(name) for name in names
        }

    def label_value(self, example: Example) -> Any:
        """The right answer as the file spells it, None if the example has none."""
        return next((example.get(name) for name in self.label_fields if example.has(name)), None)
