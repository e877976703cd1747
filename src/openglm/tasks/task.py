"""`Task`: what it takes to make questions out of examples: a small YAML file, or flags.

`task_files.py` reads the files, `tasks/` holds those that come with openglm. Examples are
checked before anything runs: whatever is wrong with one of them is an error that names its
line. Knows nothing about models but their context.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..blanks import BlankedText, PartA
from ..errors import ContextLengthError, DataError, OptionError, UnsupportedBlankError
from ..network.config import GLMConfig
from ..scoring.predict import Prediction, Scoring
from ..scoring.question import Candidate, Question
from ..tokenizer import Tokenizer
from .examples import Example, read_examples
from .metrics import evaluate
from .parts import Derived, PromptTemplate, PublishedResult
from .pattern import FilledPattern, Pattern, fields_of, render
from .pattern_indices import PatternIndices, resolve_indices
from .transforms import prepared
from .verbalizer import Verbalizer, answer_ids, label_name

DATA_VARIABLE = "OPENGLM_EVAL"
SPLITS = ("train", "dev", "test")


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
    _known: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    # --- where tasks come from ------------------------------------------------------------

    @staticmethod
    def names() -> list[str]:
        """The tasks that come with openglm."""
        from .task_files import names

        return names()

    @staticmethod
    def load(name_or_path: str | Path) -> Task:
        """A task that comes with openglm, or one of your own (a path that ends in .yaml or .yml).

        Raises:
            DataError: no such task or file (names the nearest), or a mistake in the file.
        """
        from .task_files import load

        return load(name_or_path)

    @staticmethod
    def from_flags(
        pattern: str | Sequence[str],
        verbalizer: Sequence[str],
        *,
        label: str = "label",
        name: str = "task",
        metrics: Sequence[str] = ("accuracy",),
    ) -> Task:
        """A task with fixed labels.

        Args:
            pattern: one pattern or several.
            verbalizer: `LABEL=WORD` strings (see `Verbalizer.from_flags`).
            label: the field with the label.

        Raises:
            DataError: a pattern or verbalizer that cannot be used.
        """
        patterns = [pattern] if isinstance(pattern, str) else list(pattern)
        templates = tuple(PromptTemplate(Pattern.parse(each)) for each in patterns)
        words = Verbalizer.from_flags(verbalizer)
        return Task(name, "choice", templates, words, label_fields=(label,), metrics=tuple(metrics))

    # --- what it knows --------------------------------------------------------------------

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

    # --- examples -------------------------------------------------------------------------

    def paths(self, split: str, data_dir: str | Path | None = None) -> list[Path]:
        """The file of a split of this task.

        Args:
            split: "train", "dev" or "test".
            data_dir: folder with the files of tasks; by default what OPENGLM_EVAL says.

        Raises:
            DataError: the task has no such split, no folder is known, or the file is not there.
        """
        if split not in self.files:
            has = ", ".join(self.files) or "no files"
            raise DataError(f"the task {self.name} has no {split!r} data (it has {has}); give files instead")
        folder = data_dir or os.environ.get(DATA_VARIABLE)
        if not folder:
            raise DataError(
                f"the data of {self.name} lie in {self.files[split]} of a data folder; "
                f"name the folder with --data-dir or {DATA_VARIABLE}"
            )
        path = Path(folder) / self.files[split]
        if not path.is_file():
            raise DataError(f"{path}: no such file; {self.name} reads {self.files[split]} in the data folder")
        return [path]

    def examples(
        self, split_or_paths: str | Path | Iterable[str | Path], data_dir: str | Path | None = None
    ) -> list[Example]:
        """Examples of a split, or of files, after the task's transforms.

        Raises:
            DataError: as `paths` and `read_examples`, or an example that a transform cannot read.
        """
        if isinstance(split_or_paths, str) and split_or_paths in {*SPLITS, *self.files}:
            split_or_paths = self.paths(split_or_paths, data_dir)
        return prepared(read_examples(split_or_paths), self.prepare)

    def check_training(self, examples: Sequence[Example]) -> None:
        """Raise DataError if a label has no example to learn from."""
        seen = Counter(self.label_of(example) for example in examples)
        missing = [label for label in self.labels if not seen[label]]
        if missing:
            raise DataError(
                f"no example of the label {', '.join(missing[:5])}{' ...' if len(missing) > 5 else ''} among "
                f"{len(examples)}; add some, or take the label out of the verbalizer"
            )

    def label_of(self, example: Example) -> str | None:
        """The right label of an example, None if it has none or brings its own options."""
        value = self._label(example)
        return None if value is None or self.kind != "choice" else label_name(value)

    # --- questions ------------------------------------------------------------------------

    def question(
        self,
        example: Example,
        tokenizer: Tokenizer,
        config: GLMConfig,
        pattern: PatternIndices = 0,
        *,
        room: int | None = None,
    ) -> Question:
        """An example as a question.

        Args:
            pattern: which of the task's patterns (`pattern_indices.py`); with several, the question of the
                first of them has those of the others among its `variants`.
            room: most tokens of Part A; by default what the model's context holds.

        Raises:
            DataError: a missing field, an unknown label, an answer that comes to no tokens, or a
                text that cannot be cut enough; names the line.
            OptionError: there is no such pattern, or the patterns have different labels.
            UnsupportedBlankError: a blank the model was not trained with.
        """
        first, *others = (
            self._as_template_asks(example, tokenizer, config, number, room) for number in self.pattern_indices(pattern)
        )
        return dataclasses.replace(first, others=tuple(others)) if others else first

    def _as_template_asks(
        self, example: Example, tokenizer: Tokenizer, config: GLMConfig, pattern: int, room: int | None
    ) -> Question:
        """An example as one pattern asks it."""
        template = self.template(pattern)
        self._check_blanks(template.pattern, config)
        most = min(room or config.max_sequence_length, config.max_sequence_length)
        try:
            filled = template.pattern.fill(self.values(example, template.pattern.fields), tokenizer, most)
        except (DataError, ContextLengthError) as error:
            raise _located(error, example) from error
        candidates, owner, labels = self._candidates(example, tokenizer, pattern, filled)
        longest = max(len(ids) for candidate in candidates for ids in candidate)
        if longest >= config.max_sequence_length:
            most = config.max_sequence_length - 1
            raise DataError(f"{example.where}: an answer of {longest} tokens; a blank holds at most {most}")
        golds = self._golds(example, template, labels)
        return Question(
            part_a=filled.part_a(tokenizer),
            candidates=candidates,
            owner=owner,
            labels=labels,
            gold=golds[0] if golds else None,
            golds=golds,
            cut=filled.cut,
            cut_from=dict(filled.cut_from),
            number=example.number,
            id=example.id,
            text=str(filled.blanked),
            group=self._text_of(self.group_field, example),
            category=self._text_of(self.category_field, example),
            prior=self._prior(tokenizer, pattern, most),
        )

    def questions(
        self,
        examples: Sequence[Example],
        tokenizer: Tokenizer,
        config: GLMConfig,
        pattern: PatternIndices = 0,
        *,
        room: int | None = None,
        labelled: bool = True,
    ) -> list[Question]:
        """All examples as questions.

        Args:
            labelled: every example must have its right answer.

        Raises:
            DataError: as `question`; no examples; an example without a label.
        """
        if not examples:
            raise DataError(f"no examples for {self.name}")
        out = []
        for example in examples:
            question = self.question(example, tokenizer, config, pattern, room=room)
            if labelled and question.gold is None:
                raise DataError(f'{example.where}: no field "{self.label_field}", which holds the right answer')
            out.append(question)
        return out

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

    # --- inside ---------------------------------------------------------------------------

    def _candidates(
        self, example: Example, tokenizer: Tokenizer, pattern: int, filled: FilledPattern
    ) -> tuple[tuple[Candidate, ...], tuple[int, ...], tuple[str, ...]]:
        # Only the last character in front of a blank matters to an answer's tokens.
        ends = tuple(literal[-1:] for literal in filled.blanked.literals)
        place = BlankedText(ends, filled.blanked.kinds)
        words = self.template(pattern).verbalizer or self.verbalizer
        if words is not None:
            key = ("words", pattern, id(tokenizer), ends)
            if key not in self._known:  # the tokenizer is kept too, so that its id stays its own
                self._known[key] = (*words.candidates(tokenizer, place), tokenizer)
            candidates, owner, _ = self._known[key]
            return candidates, owner, words.labels
        try:
            texts = self._options(example)
            ids = tuple(answer_ids(_split(text, place), tokenizer, place, f"option {text!r}") for text in texts)
        except DataError as error:
            raise _located(error, example) from error
        return ids, tuple(range(len(ids))), tuple(texts)

    def _options(self, example: Example) -> list[str]:
        if isinstance(self.options, str):
            listed = example.get(self.options)
            if not isinstance(listed, list) or not listed or not all(isinstance(each, str) for each in listed):
                raise DataError(f'the field "{self.options}" must list the answers to choose from')
            return list(listed)
        return [render(each, self.values(example, fields_of(each))) for each in self.options]

    def _label(self, example: Example) -> Any:
        return next((example.get(name) for name in self.label_fields if example.has(name)), None)

    def _golds(self, example: Example, template: PromptTemplate, labels: Sequence[str]) -> tuple[int, ...]:
        if self.kind == "pairs":
            return (1,)
        value = self._label(example)
        if value is None:
            return ()
        words = template.verbalizer or self.verbalizer
        if words is not None:
            try:
                return (words.index(label_name(value)),)
            except DataError as error:
                raise _located(error, example) from error
        return tuple(self._option(each, labels, example) for each in (value if isinstance(value, list) else [value]))

    def _option(self, value: Any, labels: Sequence[str], example: Example) -> int:
        if isinstance(value, str) and value in labels:
            return labels.index(value)
        is_number = isinstance(value, (int, str)) and not isinstance(value, bool) and str(value).isdecimal()
        if is_number and int(value) < len(labels):
            return int(value)
        raise DataError(
            f'{example.where}: {value!r} in the field "{self.label_field}" is none of the {len(labels)} options, '
            f"nor a number from 0 to {len(labels) - 1}"
        )

    @staticmethod
    def _text_of(name: str | None, example: Example) -> str | None:
        return str(example.get(name)) if name else None

    def _prior(self, tokenizer: Tokenizer, pattern: int, room: int) -> PartA:
        key = ("prior", pattern, id(tokenizer), room)
        if key not in self._known:
            empty = self.template(pattern).pattern.empty(tokenizer, room).part_a(tokenizer)
            self._known[key] = (empty, tokenizer)
        context: PartA = self._known[key][0]
        return context

    @staticmethod
    def _check_blanks(pattern: Pattern, config: GLMConfig) -> None:
        for kind in pattern.kinds:
            if kind.value not in config.blanks:
                fills = ", ".join(config.blanks)
                raise UnsupportedBlankError(
                    f"pattern {str(pattern)!r}: this model was trained without {kind}; it fills {fills}"
                )


def _split(text: str, place: BlankedText) -> list[str]:
    """An option for several blanks writes `|` between them."""
    return text.split("|") if len(place.kinds) > 1 else [text]


def _located(error: Exception, example: Example) -> DataError:
    message = str(error)
    return DataError(message if message.startswith(example.where) else f"{example.where}: {message}")
