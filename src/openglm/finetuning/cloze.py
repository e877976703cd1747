"""Fine-tuning on cloze questions: the candidates of a question compete for its blank.

    cross_entropy   -log softmax over the scores of the labels, at the right one
    generative      -score of the right one
    mix             both added
    hinge           max(0, margin + best wrong score - score of the right one)

A score is what `cloze.predict.label_scores` makes of the candidates' log-probabilities: all of
them come from one pass that reads Part A once. (Section 7.2 of the published code's description.)

Several patterns (the ensemble of PET, arXiv 2001.07676, in one network): each example of each epoch
asks by one of them, drawn at random; what is measured is what `cloze.predict` averages over all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..checkpoints.checkpoint import Checkpoint
from ..errors import DataError
from ..network.model import GLMModel
from ..scoring.candidates import CandidateBatch
from ..scoring.predict import Prediction, Scoring, label_scores, predict
from ..scoring.question import Question, empty_contexts
from ..tasks.examples import Example
from ..tasks.renderer import QuestionRenderer
from ..tasks.task import Task
from ..tokenizer import Tokenizer
from .jobs import SPLITS, Epochs, Evaluation, Plan, TuningJob, confusion_of, digest_of, weights_of
from .recipe import FinetuneRecipe, ObjectiveOptions
from .tasks import (
    check_labels,
    checked_metric,
    examples_of,
    measured_by,
    names_of,
    note_overlap,
    note_shortened,
    save_task,
    task_of,
    title_of,
)


@dataclass(frozen=True)
class ClozeBatch:
    """Questions with what is right of each.

    Attributes:
        candidates: the questions side by side.
        right: [Q, L] bool.
        weights: [Q] float32.
        tokens, positions: as the loop asks.
        priors: with calibration, the empty contexts of the questions; prior_of: [C], for each
            candidate of the questions the candidate there that is the same answer.
    """

    candidates: CandidateBatch
    right: Tensor
    weights: Tensor
    tokens: int
    positions: int
    priors: CandidateBatch | None = None
    prior_of: Tensor | None = None

    @classmethod
    def of(
        cls, questions: Sequence[Question], weights: NDArray[np.float64], tokenizer: Tokenizer, scoring: Scoring
    ) -> ClozeBatch:
        """Lay questions out side by side, and with calibration their empty contexts, each once."""
        candidates = CandidateBatch.of(questions, tokenizer.markers, tokenizer.eos, ends=scoring.ends)
        right = torch.zeros(len(questions), max(len(question.labels) for question in questions), dtype=torch.bool)
        for row, question in enumerate(questions):
            right[row, list(question.golds)] = True
        laid_out, priors, prior_of = [candidates], None, None
        if scoring.calibrate:
            empty, places = empty_contexts(questions)
            starts = np.cumsum([0, *(len(each.candidates) for each in empty)])
            numbers = [starts[i] + np.arange(len(each.candidates)) for each, i in zip(questions, places, strict=True)]
            prior_of = torch.from_numpy(np.concatenate(numbers))
            priors = CandidateBatch.of(empty, tokenizer.markers, tokenizer.eos, ends=scoring.ends)
            laid_out.append(priors)
        tokens = sum(int(each.mask[:, 0].diagonal(dim1=1, dim2=2).sum()) for each in laid_out)
        positions = sum(each.input_ids.numel() for each in laid_out)
        weighted = torch.tensor(weights, dtype=torch.float32)
        return cls(candidates, right, weighted, tokens, positions, priors, prior_of)

    @property
    def counts(self) -> tuple[int, ...]:
        """One loss per question."""
        return (len(self.right),)

    def to(self, device: torch.device) -> ClozeBatch:
        """On another device."""
        return dataclasses.replace(
            self,
            candidates=self.candidates.to(device),
            right=self.right.to(device),
            weights=self.weights.to(device),
            priors=None if self.priors is None else self.priors.to(device),
            prior_of=None if self.prior_of is None else self.prior_of.to(device),
        )

    def pin_memory(self) -> ClozeBatch:
        """As it is: a few questions are copied soon enough."""
        return self


def question_losses(scores: Tensor, right: Tensor, options: ObjectiveOptions) -> Tensor:
    """The loss of each question, [Q] in nats.

    Args:
        scores: [Q, L] of the labels, -inf where a question has fewer.
        right: [Q, L] bool, at least one in each row. Where several are right, their scores are
            added up as probabilities are (for hinge, the best of them counts).
    """
    hidden = torch.full_like(scores, -torch.inf)
    of_right = torch.where(right, scores, hidden)
    if options.loss == "hinge":
        wrong = torch.where(right, hidden, scores).amax(1)
        gap = (options.margin + wrong - of_right.amax(1)).clamp(min=0)
        return torch.where(torch.isfinite(wrong), gap, torch.zeros_like(gap))
    score = of_right.logsumexp(1)
    if options.loss == "generative":
        return -score
    entropy = scores.logsumexp(1) - score
    return entropy if options.loss == "cross_entropy" else entropy - score


class ClozeLoss(nn.Module):
    """A network with the loss of cloze questions: what the training loop calls."""

    def __init__(self, model: GLMModel, scoring: Scoring, options: ObjectiveOptions, precision: str) -> None:
        super().__init__()
        self.model, self.scoring, self.options, self.precision = model, scoring, options, precision

    def forward(self, batch: ClozeBatch) -> tuple[Tensor, Tensor]:
        """The sum of the losses (differentiable), and the same in its one group, [1]."""
        candidates = batch.candidates
        with torch.autocast(candidates.input_ids.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logprobs = candidates.candidate_logprobs(self.model).float()
            priors = None
            if batch.priors is not None and batch.prior_of is not None:
                priors = batch.priors.candidate_logprobs(self.model).float()[batch.prior_of]
        scores = label_scores(candidates, logprobs, self.scoring, priors=priors)
        total = (question_losses(scores, batch.right, self.options) * batch.weights).sum()
        return total, total.detach().reshape(1)


def scoring_of(task: Task, calibrate: str, length_penalty: float) -> Scoring:
    """How answers are compared: as the task says, unless the recipe says otherwise.

    Args:
        calibrate: "task", "yes" or "no".
        length_penalty: below 0: as the task says.
    """
    scoring = task.scoring
    if calibrate != "task":
        scoring = dataclasses.replace(scoring, calibrate=calibrate == "yes")
    return scoring if length_penalty < 0 else dataclasses.replace(scoring, length_penalty=length_penalty)


class ClozePlan(Plan):
    """Questions of a task."""

    def __init__(self, recipe: FinetuneRecipe, checkpoint: Checkpoint, tokenizer: Tokenizer, max_tokens: int) -> None:
        super().__init__(recipe, checkpoint, tokenizer, max_tokens)
        self.task: Task = measured_by(task_of(recipe), recipe.run.metric)
        self.title, self.labels = title_of(recipe, self.task), tuple(self.task.labels)
        self.names = names_of(self.labels, self.task)
        self.scoring = self._scoring()
        self.examples: dict[str, list[Example]] = {
            split: examples for split in SPLITS if (examples := examples_of(recipe, self.task, split))
        }
        if "train" not in self.examples:
            raise DataError("no training data: name a file of examples")
        self.questions: dict[str, list[Question]] = {
            split: QuestionRenderer(self.task, tokenizer, self.config, recipe.pattern, max_tokens=max_tokens).questions(
                examples
            )
            for split, examples in self.examples.items()
        }
        for split, questions in self.questions.items():
            note_shortened(self.notes, split, [question.most_cut for question in questions])
            self.data.append({"name": split, "documents": len(questions), "address": self._address(split)})
        check_labels([question.golds for question in self.questions["train"]], self.labels)
        keys = {split: [_key(question) for question in each] for split, each in self.questions.items()}
        note_overlap(self.notes, keys)
        self.digest = digest_of(keys["train"] + [repr(question.golds).encode() for question in self.questions["train"]])
        self.metric = checked_metric(recipe.run.metric, self.task.metrics)

    def _scoring(self) -> Scoring:
        return scoring_of(self.task, self.recipe.objective.calibrate, self.recipe.objective.length_penalty)

    def _address(self, split: str) -> str:
        return ", ".join(Path(path).name for path in getattr(self.recipe.data, split)) or self.task.name

    def has(self, split: str) -> bool:
        """Whether there are questions of this split."""
        return split in self.questions

    def job(self, model: GLMModel, seed: int, precision: str) -> TuningJob:
        """The questions with a network."""
        return ClozeJob(self, model, seed, precision)


def _key(question: Question) -> bytes:
    """Equal for equal questions: the text, and the answers where each brings its own, in all its variants."""
    return b"".join(variant.part_a.ids.tobytes() + repr(variant.candidates).encode() for variant in question.variants)


class ClozeJob(TuningJob):
    """Questions with a network."""

    groups = ("cloze",)

    def __init__(self, plan: ClozePlan, model: GLMModel, seed: int, precision: str) -> None:
        run = plan.recipe.run
        self.plan, self.model = plan, model
        self.module = ClozeLoss(model, plan.scoring, plan.recipe.objective, precision)
        self.holder = model
        self._train = [question.behind(model.prompt_ids) for question in plan.questions["train"]]
        train = self._train
        gold = [question.golds[0] for question in train]
        self._weights = weights_of(
            gold, len(plan.labels), plan.recipe.objective.class_weights if plan.labels else "none"
        )
        self._epochs, self._seed = Epochs(len(train), run.batch_size // run.accumulate, seed), seed
        self.batches = self._epochs.batches

    def questions_of(self, number: int) -> list[Question]:
        """The questions of micro-batch `number`, each by the pattern drawn for it in this epoch."""
        train = self._train
        drawn = np.random.default_rng([self._seed, number // self.batches, 1]).random(len(train))
        return [train[i].variants[int(drawn[i] * len(train[i].variants))] for i in self._epochs(number)]

    def batch(self, number: int) -> ClozeBatch:
        """The questions of micro-batch `number`."""
        chosen, questions = self._epochs(number), self.questions_of(number)
        return ClozeBatch.of(questions, self._weights[chosen], self.plan.tokenizer, self.plan.scoring)

    def describe(self, number: int) -> str:
        """How large it is."""
        questions = self.questions_of(number)
        return f"{len(questions)} questions of up to {max(len(question.part_a) for question in questions)} tokens"

    def evaluate(self, split: str) -> Evaluation | None:
        """Metrics of the task and mean loss on a file."""
        if not self.plan.has(split):
            return None
        predictions = predict(self.model, self.plan.tokenizer, self.plan.questions[split], scoring=self.plan.scoring)
        return evaluation_of(self.plan.task, predictions, self.plan.labels, self.plan.recipe.objective)

    def save_beside(self, folder: Path) -> None:
        """The task, so that the model folder knows its pattern and words."""
        save_task(self.plan.recipe, folder)


def evaluation_of(
    task: Task, predictions: Sequence[Prediction], labels: tuple[str, ...], options: ObjectiveOptions
) -> Evaluation:
    """What predictions are worth."""
    losses = []
    for prediction in predictions:
        right = torch.zeros(1, len(prediction.scores), dtype=torch.bool)
        right[0, list(prediction.question.golds)] = True
        losses.append(float(question_losses(torch.from_numpy(prediction.scores)[None], right, options)))
    confusion = None
    if labels:
        gold = [prediction.question.golds[0] for prediction in predictions]
        confusion = confusion_of(gold, [prediction.best for prediction in predictions], len(labels))
    metrics: Mapping[str, float] = task.evaluate(predictions)
    return Evaluation(float(np.mean(losses)), dict(metrics), [as_values(each) for each in predictions], confusion)


def as_values(prediction: Prediction) -> dict[str, Any]:
    """A prediction as plain values."""
    question = prediction.question
    shares = {label: round(float(p), 6) for label, p in zip(question.labels, prediction.probabilities, strict=True)}
    out: dict[str, Any] = {"number": question.number, "predicted": prediction.label, "probabilities": shares}
    if question.golds:
        gold = [question.labels[index] for index in question.golds]
        out["label"] = gold[0] if len(gold) == 1 else gold
    return out
