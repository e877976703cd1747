"""Cloze tasks measured: the model's answers beside guessing and the most frequent answer."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

import numpy as np

from ..infill.infiller import Infiller
from ..scoring.predict import Prediction, Scoring, predict
from ..scoring.question import Question
from ..tasks.examples import Example
from ..tasks.task import Task
from .models import Model
from .options import EvalOptions
from .progress import Bar

QUESTIONS_AT_ONCE = 64
DRAWS = 20  # of random answers, for metrics without a closed form
_SHARES = ("accuracy", "qac", "group_accuracy")  # metrics that are the share of right answers


def test_split(task: Task) -> str:
    """What is measured: the test file, or where the answers of that are secret, the dev file."""
    return "test" if "test" in task.files or "dev" not in task.files else "dev"


def scoring_of(task: Task, options: EvalOptions) -> Scoring:
    """How the task's answers are compared."""
    if options.calibrate is None:
        return task.scoring
    return dataclasses.replace(task.scoring, calibrate=options.calibrate)


def questions_of(task: Task, infiller: Infiller, options: EvalOptions) -> tuple[list[Example], list[Question]]:
    """The first `limit` examples of the test file, and the same as questions.

    Raises:
        DataError: no such split or file, or an example that cannot be used (names the line).
    """
    examples = task.examples(test_split(task), options.data_dir)[: options.limit]
    model = infiller.model
    return examples, task.questions(examples, infiller.tokenizer, model.config, options.pattern, room=model.max_part_a)


def predictions_of(
    task: Task, model: Model, examples: Sequence[Example], questions: Sequence[Question], options: EvalOptions
) -> list[Prediction]:
    """The model's answers, with progress."""
    tuned, scoring, infiller = model.is_tuned_for(task), scoring_of(task, options), model.infiller
    out: list[Prediction] = []
    with Bar(task.name, len(questions), "questions") as bar:
        for start in range(0, len(questions), QUESTIONS_AT_ONCE):
            batch = questions[start : start + QUESTIONS_AT_ONCE]
            if tuned:
                out += model.answers(examples[start : start + QUESTIONS_AT_ONCE], batch)
            else:
                out += predict(infiller.model, infiller.tokenizer, batch, scoring=scoring)
            bar.add(len(batch))
    return out


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
