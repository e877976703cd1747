"""Cloze tasks measured: the model's answers beside guessing and the most frequent answer."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from ..errors import OptionError
from ..scoring.predict import Prediction, Scoring, predict
from ..scoring.question import Question
from ..tasks.examples import Example, read_examples
from ..tasks.metrics import by_category
from ..tasks.pattern_indices import as_plain
from ..tasks.renderer import QuestionRenderer
from ..tasks.splits import task_paths
from ..tasks.task import Task
from ..tasks.transforms import prepared
from ..tasks.verbalizer import Verbalizer
from .digests import digest_of_content
from .fewshot import few_shot
from .models import Model
from .options import EvalOptions
from .progress import Bar
from .protocol import FEW_SHOT, FINE_TUNED, UNLIKE, ZERO_SHOT, Protocol
from .results import combine
from .sample import sampled
from .targets import Measurement, Target

QUESTIONS_AT_ONCE = 64
DRAWS = 20  # of random answers, for metrics without a closed form
_SHARES = ("accuracy", "qac", "group_accuracy")  # metrics that are the share of right answers


def test_split(task: Task) -> str:
    """What is measured: the test file, or where the answers of that are secret, the dev file."""
    return "test" if "test" in task.files or "dev" not in task.files else "dev"


@dataclass(frozen=True)
class Asking:
    """How a model is asked the questions of a task.

    Attributes:
        task: makes the questions: the task itself, or one with the pattern and words that a run has learnt.
        patterns: of that task.
        scoring: how answers are compared.
        method, like: as in `Protocol`.
        by_head: a classification head answers; the questions only say what is right.
    """

    task: Task
    patterns: tuple[int, ...]
    scoring: Scoring
    method: str
    like: str
    by_head: bool = False


def asking(task: Task, name: str, model: Model, examples: Sequence[Example], options: EvalOptions) -> Asking:
    """How a model is asked: a fine-tuned one by its own pattern, unless the options say otherwise.

    Args:
        name: of the task, as a recipe names it.

    Raises:
        OptionError: a pattern or calibration for a classification head, which has none.
    """
    indices, scoring = task.pattern_indices(options.task_pattern), _calibrated(task.scoring, options)
    known = model.classifier
    if options.method == "few-shot":
        like = UNLIKE if "data" in options.finetune else FEW_SHOT
        return Asking(task, indices, scoring, "few-shot", like)
    if model.run is None:
        return Asking(task, indices, scoring, "zero-shot, calibrated" if scoring.calibrate else "zero-shot", ZERO_SHOT)
    if known is None or not model.answers_for(task, examples[0]):
        method = "fine-tuned for something else" + (", calibrated" if scoring.calibrate else "")
        return Asking(task, indices, scoring, method, UNLIKE)
    like = FINE_TUNED if model.was_trained_on(name) else UNLIKE
    if known.task is None:
        if options.pattern is not None or options.calibrate is not None:
            raise OptionError(f"{options.model} has a classification head, which is asked by no pattern; leave it out")
        return Asking(task, indices, scoring, "fine-tuned", like, by_head=True)
    if options.pattern is not None:
        return Asking(task, indices, scoring, "fine-tuned, asked by the task's pattern", UNLIKE)
    own = with_patterns_of(known.task, task)
    return Asking(
        own, own.pattern_indices(known.pattern), _calibrated(known.scoring or own.scoring, options), "fine-tuned", like
    )


def _calibrated(scoring: Scoring, options: EvalOptions) -> Scoring:
    return scoring if options.calibrate is None else dataclasses.replace(scoring, calibrate=options.calibrate)


def with_patterns_of(learnt: Task, task: Task) -> Task:
    """A task that asks by the patterns and words of another with the same labels, and is measured as before."""

    def in_order(words: Verbalizer | None) -> Verbalizer | None:
        return words and Verbalizer({label: words.words[label] for label in task.labels})

    return dataclasses.replace(
        task,
        templates=tuple(dataclasses.replace(each, verbalizer=in_order(each.verbalizer)) for each in learnt.templates),
        verbalizer=in_order(learnt.verbalizer),
        options=learnt.options,
        derived={**task.derived, **learnt.derived},
    )


class ClozeTarget(Target):
    """A cloze task with its test file.

    Args:
        name: of the task, or its file.
    """

    def __init__(self, name: str, task: Task, options: EvalOptions) -> None:
        self.name, self.task, self.options = name, task, options
        self.title, self.version, self.published = task.title or task.name, task.version, task.published
        task.pattern_indices(options.task_pattern)
        self._paths = [
            path
            for split in (("train", test_split(task)) if options.method == "few-shot" else (test_split(task),))
            for path in task_paths(task, split, options.data_dir)
        ]

    def paths(self) -> list[Path]:
        """The test file; few-shot, also the files that are learnt from."""
        if self.options.method == "few-shot" and "dev" in self.task.files:
            return [*self._paths, *task_paths(self.task, "dev", self.options.data_dir)]
        return self._paths

    def content(self) -> str:
        """Of the task."""
        return digest_of_content(self.task)

    @functools.cached_property
    def records(self) -> list[Example]:
        """The records of the test file."""
        return read_examples(task_paths(self.task, test_split(self.task), self.options.data_dir))

    @functools.cached_property
    def examples(self) -> list[Example]:
        """What is measured; records that several questions come from are taken whole."""
        return prepared(sampled(self.records, self.options.limit, self.options.sample_seed), self.task.prepare)

    def population(self) -> int:
        """Records of the test file, if not all of them are measured."""
        return len(self.records) if self.options.limit is not None and self.options.limit < len(self.records) else 0

    def protocol(self, model: Model) -> Protocol:
        """By what the model is, and what it is asked."""
        how = asking(self.task, self.name, model, self.examples, self.options)
        # "all" may be others tomorrow, so the patterns that are asked are named.
        settings: dict[str, Any] = {"pattern": as_plain(how.patterns), "split": test_split(self.task)}
        settings["scoring"] = dataclasses.asdict(how.scoring)
        if how.method != "few-shot":
            return Protocol(how.method, how.like, (), settings)
        settings["finetune"] = dict(self.options.finetune)
        return Protocol(how.method, how.like, tuple(self.options.seeds), settings)

    def measure(self, model: Model) -> Measurement:
        """Metrics of the task on its test file."""
        how = asking(self.task, self.name, model, self.examples, self.options)
        questions = questions_of(how, self.examples, model)
        predictions: list[Prediction] = []
        if how.method == "few-shot":
            runs = few_shot(self.task, self.name, self.options, test_split(self.task))
        else:
            predictions = predictions_of(how, model, self.examples, questions)
            runs = [how.task.evaluate(predictions)]
        means, deviations = combine(runs)
        return Measurement(
            metrics=means,
            count=len(questions),
            cut=sum(question.most_cut.cut > 0 for question in questions),
            alike=sum(len(set(question.candidates)) < len(question.candidates) for question in questions),
            deviations=deviations,
            runs=tuple(runs) if len(runs) > 1 else (),
            chance=chance(self.task, questions),
            majority=majority(self.task, questions),
            categories=by_category(self.task.metrics, predictions),
            predictions=[as_row(example, each) for example, each in zip(self.examples, predictions, strict=False)],
        )


def questions_of(how: Asking, examples: Sequence[Example], model: Model) -> list[Question]:
    """Examples as questions.

    Raises:
        DataError: an example that cannot be used (names the line).
    """
    tokenizer, network = model.infiller.tokenizer, model.infiller.model
    renderer = QuestionRenderer(how.task, tokenizer, network.config, how.patterns, max_tokens=network.max_part_a)
    return renderer.questions(examples)


def predictions_of(
    how: Asking, model: Model, examples: Sequence[Example], questions: Sequence[Question]
) -> list[Prediction]:
    """The model's answers, with progress."""
    infiller, out = model.infiller, []
    with Bar(how.task.name, len(questions), "questions") as bar:
        for start in range(0, len(questions), QUESTIONS_AT_ONCE):
            batch = questions[start : start + QUESTIONS_AT_ONCE]
            if how.by_head:
                out += model.answers(examples[start : start + QUESTIONS_AT_ONCE], batch)
            else:
                out += predict(infiller.model, infiller.tokenizer, batch, scoring=how.scoring)
            bar.add(len(batch))
    return out


def as_row(example: Example, prediction: Prediction) -> Mapping[str, Any]:
    """A prediction as plain values: which example, as it was asked, what is right, what the model says."""
    question = prediction.question
    values: dict[str, Any] = {"id": question.id or question.number, "number": question.number, "text": question.text}
    for name in ("group", "category"):
        if getattr(question, name) is not None:
            values[name] = getattr(question, name)
    right = [question.labels[gold] for gold in question.golds]
    shares = {label: round(float(p), 6) for label, p in zip(question.labels, prediction.probabilities, strict=True)}
    return values | {
        "label": right[0] if len(right) == 1 else right,
        "predicted": prediction.label,
        "correct": prediction.correct,
        "probabilities": shares,
    }


def chance(task: Task, questions: Sequence[Question]) -> dict[str, float]:
    """Metrics of answers drawn with equal probability: exact for shares of right answers, else a mean of draws."""
    exact = 100 * fmean(len(question.golds) / len(question.labels) for question in questions)
    if all(name in _SHARES for name in task.metrics):
        return dict.fromkeys(task.metrics, exact)
    rng = np.random.default_rng(0)
    draws = [
        task.evaluate([_answer(question, int(rng.integers(len(question.labels)))) for question in questions])
        for _ in range(DRAWS)
    ]
    return {name: exact if name in _SHARES else fmean(draw[name] for draw in draws) for name in task.metrics}


def majority(task: Task, questions: Sequence[Question]) -> dict[str, float]:
    """Metrics of always giving the answer that is right most often; nothing for tasks without fixed labels."""
    if not task.labels:
        return {}
    counts = Counter(index for question in questions for index in question.golds)
    best = counts.most_common(1)[0][0]
    return task.evaluate([_answer(question, best) for question in questions])


def _answer(question: Question, label: int) -> Prediction:
    scores = np.zeros(len(question.labels))
    scores[label] = 1.0
    return Prediction(question, scores, np.zeros(len(question.candidates)))
