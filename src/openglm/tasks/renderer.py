"""Examples of a task -> questions for one vocabulary and one length of context.

Examples are checked before anything runs: whatever is wrong with one of them is an error that
names its line. Knows nothing about models but their context and the blanks they fill.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from ..blanks import BlankedText, PartA
from ..errors import ContextLengthError, DataError, UnsupportedBlankError
from ..network.config import GLMConfig
from ..scoring.question import Candidate, Question
from ..tokenizer import Tokenizer
from .examples import Example
from .parts import PromptTemplate
from .pattern import FilledPattern, Pattern, fields_of, render
from .pattern_indices import PatternIndices
from .task import Task
from .verbalizer import Verbalizer, answer_ids, label_name

Answers = tuple[tuple[Candidate, ...], tuple[int, ...], tuple[str, ...]]  # candidates, their labels, the labels' names


class QuestionRenderer:
    """Makes questions of examples; what is the same for all of them is made once.

    Args:
        pattern: which of the task's patterns ask (`pattern_indices.py`); with several, the question of
            the first of them has those of the others among its `variants`.
        max_tokens: most tokens of Part A; by default what the model's context holds.

    Raises:
        OptionError: there is no such pattern, or the patterns have different labels.
        UnsupportedBlankError: a blank the model was not trained with.
    """

    def __init__(
        self,
        task: Task,
        tokenizer: Tokenizer,
        config: GLMConfig,
        pattern: PatternIndices = 0,
        *,
        max_tokens: int | None = None,
    ) -> None:
        self.task, self.tokenizer = task, tokenizer
        self.context = config.max_sequence_length
        self.max_tokens = min(max_tokens or self.context, self.context)
        self.templates = tuple(task.template(index) for index in task.pattern_indices(pattern))
        for template in self.templates:
            _check_blanks(template.pattern, config)
        self._words: dict[tuple[int, tuple[str, ...]], tuple[tuple[Candidate, ...], tuple[int, ...]]] = {}
        self._priors: dict[int, PartA] = {}

    def questions(self, examples: Sequence[Example], *, labeled: bool = True) -> list[Question]:
        """All examples as questions.

        Args:
            labeled: every example must have its right answer.

        Raises:
            DataError: as `question`; no examples; an example without a label.
        """
        if not examples:
            raise DataError(f"no examples for {self.task.name}")
        out = []
        for example in examples:
            question = self.question(example)
            if labeled and question.gold is None:
                raise DataError(f'{example.where}: no field "{self.task.label_field}", which holds the right answer')
            out.append(question)
        return out

    def question(self, example: Example) -> Question:
        """An example as a question.

        Raises:
            DataError: a missing field, an unknown label, an answer that comes to no tokens, or a
                text that cannot be cut enough; names the line.
        """
        try:
            first, *others = (self._variant(example, number) for number in range(len(self.templates)))
        except (DataError, ContextLengthError) as error:
            raise _located(error, example) from error
        return dataclasses.replace(first, others=tuple(others)) if others else first

    def _variant(self, example: Example, number: int) -> Question:
        """An example as one template asks it."""
        task, template = self.task, self.templates[number]
        filled = template.pattern.fill(task.values(example, template.pattern.fields), self.tokenizer, self.max_tokens)
        candidates, owner, labels = self._answers(example, number, filled)
        longest = max(len(ids) for candidate in candidates for ids in candidate)
        if longest >= self.context:
            raise DataError(f"an answer of {longest} tokens; a blank holds at most {self.context - 1}")
        golds = self._golds(example, template, labels)
        return Question(
            part_a=filled.part_a(self.tokenizer),
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
            group=_text_of(task.group_field, example),
            category=_text_of(task.category_field, example),
            prior=self._prior(number),
        )

    def _answers(self, example: Example, number: int, filled: FilledPattern) -> Answers:
        # Only the last character in front of a blank matters to an answer's tokens.
        ends = tuple(literal[-1:] for literal in filled.blanked.literals)
        place = BlankedText(ends, filled.blanked.kinds)
        words = self._verbalizer(self.templates[number])
        if words is not None:
            if (number, ends) not in self._words:
                self._words[number, ends] = words.candidates(self.tokenizer, place)
            return (*self._words[number, ends], words.labels)
        texts = self._options(example)
        ids = tuple(answer_ids(_split(text, place), self.tokenizer, place, f"option {text!r}") for text in texts)
        return ids, tuple(range(len(ids))), tuple(texts)

    def _verbalizer(self, template: PromptTemplate) -> Verbalizer | None:
        return template.verbalizer or self.task.verbalizer

    def _options(self, example: Example) -> list[str]:
        options = self.task.options
        if isinstance(options, str):
            listed = example.get(options)
            if not isinstance(listed, list) or not listed or not all(isinstance(each, str) for each in listed):
                raise DataError(f'the field "{options}" must list the answers to choose from')
            return list(listed)
        return [render(each, self.task.values(example, fields_of(each))) for each in options]

    def _golds(self, example: Example, template: PromptTemplate, labels: Sequence[str]) -> tuple[int, ...]:
        if self.task.kind == "pairs":
            return (len(labels) - 1,)
        value = self.task.label_value(example)
        if value is None:
            return ()
        words = self._verbalizer(template)
        if words is not None:
            return (words.index(label_name(value)),)
        return tuple(self._option(each, labels) for each in (value if isinstance(value, list) else [value]))

    def _option(self, value: Any, labels: Sequence[str]) -> int:
        if isinstance(value, str) and value in labels:
            return labels.index(value)
        is_number = isinstance(value, (int, str)) and not isinstance(value, bool) and str(value).isdecimal()
        if is_number and int(value) < len(labels):
            return int(value)
        raise DataError(
            f'{value!r} in the field "{self.task.label_field}" is none of the {len(labels)} options, '
            f"nor a number from 0 to {len(labels) - 1}"
        )

    def _prior(self, number: int) -> PartA:
        """The empty context of a template, for calibration."""
        if number not in self._priors:
            empty = self.templates[number].pattern.empty(self.tokenizer, self.max_tokens)
            self._priors[number] = empty.part_a(self.tokenizer)
        return self._priors[number]


def _check_blanks(pattern: Pattern, config: GLMConfig) -> None:
    for kind in pattern.kinds:
        if kind.value not in config.blanks:
            fills = ", ".join(config.blanks)
            raise UnsupportedBlankError(
                f"pattern {str(pattern)!r}: this model was trained without {kind}; it fills {fills}"
            )


def _text_of(name: str | None, example: Example) -> str | None:
    return str(example.get(name)) if name else None


def _split(text: str, place: BlankedText) -> list[str]:
    """An option for several blanks writes `|` between them."""
    return text.split("|") if len(place.kinds) > 1 else [text]


def _located(error: Exception, example: Example) -> DataError:
    message = str(error)
    return DataError(message if message.startswith(example.where) else f"{example.where}: {message}")
