"""From log-probabilities of candidates to scores of labels, and predictions.

    score of a candidate = (log p(candidate) - log p(candidate | empty context)) / tokens ** a
    score of a label     = logsumexp over the scores of its candidates
    several patterns     the mean of their log softmax(scores of the labels), normalised again

The subtraction only with `calibrate`. The empty context is `Question.prior`: a pattern whose
fields are all empty, or what the caller of `Infiller.choose` gives. `a` is `length_penalty`;
tokens count the ends where those are scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checks import check_number
from ..errors import OptionError
from ..network.model import GLMModel
from ..tokenizer import Tokenizer
from .candidates import CandidateBatch, token_logprobs
from .question import Question, empty_contexts

TOKENS_AT_ONCE = 4096  # more are slower on CPUs, whose caches they leave


@dataclass(frozen=True)
class Scoring:
    """How candidates are compared.

    Attributes:
        length_penalty: rank by log-probability / tokens ** length_penalty: 0 by the probability
            of the answer, 1 by that of its average token.
        calibrate: subtract the answer's log-probability in an empty context first, so that an
            answer that is frequent everywhere gains nothing by it.
        ends: score the end token of every fill. Without it "no" also collects what "nobody"
            is worth; single-token verbalizers of the published code leave it out.

    Raises:
        OptionError: no finite number, or no bool.
    """

    length_penalty: float = 0.0
    calibrate: bool = False
    ends: bool = True

    def __post_init__(self) -> None:
        check_number("length_penalty", self.length_penalty)
        for name in ("calibrate", "ends"):
            if not isinstance(getattr(self, name), bool):
                raise OptionError(f"{name} must be True or False, not {getattr(self, name)!r:.80}")


@dataclass(frozen=True)
class Prediction:
    """What the model makes of one question.

    Attributes:
        question: what was asked.
        scores: [L] of each label; their softmax are the probabilities.
        logprobs: [C] log-probability in nats of each candidate, before any normalisation; of
            those of the first pattern where several ask.
    """

    question: Question
    scores: NDArray[np.float64]
    logprobs: NDArray[np.float64]

    @property
    def best(self) -> int:
        """Index of the label with the highest score (the first of equals)."""
        return int(np.argmax(self.scores))

    @property
    def label(self) -> str:
        """Name of that label."""
        return self.question.labels[self.best]

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """[L] share of each label, summing to 1."""
        return shares(self.scores)

    @property
    def correct(self) -> bool:
        """Whether the best label is a right one; False where that is not known."""
        return self.best in self.question.golds


def shares(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Softmax: [n] -> [n], summing to 1."""
    values = np.exp(scores - scores.max())
    return np.asarray(values / values.sum())


def label_scores(batch: CandidateBatch, logprobs: Tensor, scoring: Scoring, *, priors: Tensor | None = None) -> Tensor:
    """Scores of the labels of each question, [Q, L] float32, differentiable.

    Cross-entropy of them against `batch.gold` is the loss of the published fine-tuning.

    Args:
        logprobs: [C] of the candidates of `batch`.
        priors: [C] log-probability of each in the empty context; needed with `calibrate`.

    Returns:
        L is the largest number of labels; where a question has fewer, the rest is -inf.

    Raises:
        OptionError: `calibrate` without priors.
    """
    if scoring.calibrate:
        if priors is None:
            raise OptionError("calibrated scores need the priors of the candidates")
        logprobs = logprobs - priors
    scores = logprobs / batch.lengths.to(logprobs.dtype) ** scoring.length_penalty
    width = int(batch.num_labels.max())
    where = batch.question_of * width + batch.owner
    with torch.no_grad():
        top = scores.new_full((len(batch) * width,), -torch.inf).scatter_reduce(0, where, scores, "amax")
    shifted = (scores - top[where]).exp()
    sums = shifted.new_zeros(len(top)).index_add(0, where, shifted)
    known = torch.isfinite(top)
    out = torch.where(known, sums, 1.0).log() + top
    return out.view(len(batch), width)


def predict(
    model: GLMModel,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    *,
    scoring: Scoring | None = None,
    tokens_at_once: int = TOKENS_AT_ONCE,
) -> list[Prediction]:
    """Score every label of every question; the model is in evaluation mode meanwhile.

    A question that several patterns ask has one prediction, `averaged` over them.

    Args:
        tokens_at_once: positions per forward pass, padding included (bounds memory).

    Raises:
        OptionError: `calibrate`, and a question without an empty context.
    """
    chosen = scoring or Scoring()
    was_training = model.training
    model.eval()
    try:
        variants = [variant for question in questions for variant in question.variants]
        values = _logprobs(model, tokenizer, variants, chosen, tokens_at_once)
        priors = _priors(model, tokenizer, variants, chosen, tokens_at_once) if chosen.calibrate else None
    finally:
        model.train(was_training)
    out = []
    for i, (variant, (logprobs, lengths)) in enumerate(zip(variants, values, strict=True)):
        scores = (logprobs - priors[i] if priors is not None else logprobs) / lengths**chosen.length_penalty
        out.append(Prediction(variant, _by_label(variant, scores), logprobs))
    each = iter(out)
    return [averaged([next(each) for _ in question.variants]) for question in questions]


def averaged(predictions: Sequence[Prediction]) -> Prediction:
    """What one prediction per pattern comes to: their labels' log-probabilities averaged, then normalised.

    Args:
        predictions: of the variants of one question, its first one first. A single one stays as it is.
    """
    first = predictions[0]
    if len(predictions) == 1:
        return first
    logs = np.mean([each.scores - np.logaddexp.reduce(each.scores) for each in predictions], axis=0)
    return Prediction(first.question, np.asarray(logs - np.logaddexp.reduce(logs)), first.logprobs)


def _by_label(question: Question, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    owner = np.asarray(question.owner)
    return np.array([np.logaddexp.reduce(scores[owner == label]) for label in range(len(question.labels))])


def _logprobs(
    model: GLMModel, tokenizer: Tokenizer, questions: Sequence[Question], scoring: Scoring, tokens_at_once: int
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    values = token_logprobs(
        model, questions, tokenizer.markers, tokenizer.eos, ends=scoring.ends, tokens_at_once=tokens_at_once
    )
    return [(np.array([v.sum() for v in each]), np.array([float(len(v)) for v in each])) for each in values]


def _priors(
    model: GLMModel, tokenizer: Tokenizer, questions: Sequence[Question], scoring: Scoring, tokens_at_once: int
) -> list[NDArray[np.float64]]:
    """Log-probabilities of the candidates in the empty contexts."""
    distinct, places = empty_contexts(questions)
    values = _logprobs(model, tokenizer, distinct, scoring, tokens_at_once)
    return [values[place][0] for place in places]
