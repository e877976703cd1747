"""What every kind of fine-tuning brings to the run: a plan, and for each seed a job.

    files -> Plan: examples read, checked, tokenized    (once, before any weight is loaded)
    Plan + network -> TuningJob: module, batches, evaluation  (once per seed)

A kind is one module with these two classes. Knows nothing about the loop, files of a run, or
what any kind does.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..checkpoints.checkpoint import Checkpoint
from ..network.config import GLMConfig
from ..network.model import GLMModel
from ..tokenizer import Tokenizer
from ..training.task import LoopBatch
from .recipe import FinetuneRecipe

SPLITS = ("train", "dev", "test")


@dataclass(frozen=True)
class Evaluation:
    """How good a network is on one file.

    Attributes:
        loss: mean, in nats.
        metrics: name -> value, in percent; higher is better.
        predictions: what the network says of each example, plain values.
        confusion: [L, L] how often the true label (row) was predicted as a label (column); None if there are
            no labels.
    """

    loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    predictions: Sequence[Mapping[str, Any]] = ()
    confusion: Sequence[Sequence[int]] | None = None


@dataclass(frozen=True)
class Measure:
    """How texts that a model writes are measured.

    Attributes:
        metric: (written, wanted) -> name -> value in percent.
        options: of `Infiller.fill`.
    """

    metric: Callable[[Sequence[str], Sequence[str]], Mapping[str, float]]
    options: Mapping[str, Any] = field(default_factory=dict)


class Epochs:
    """Which examples a micro-batch holds: every epoch is a new order of all of them.

    Args:
        count: examples.
        size: examples of a micro-batch; the last one of an epoch may have fewer.
        seed: of the orders.
    """

    def __init__(self, count: int, size: int, seed: int) -> None:
        self.count, self.size, self.seed = count, size, seed
        self.batches = -(-count // size)
        self._epoch, self._order = -1, np.empty(0, np.int64)

    def __call__(self, number: int) -> NDArray[np.int64]:
        """The indices in micro-batch `number`; the same for the same number, always."""
        epoch, place = divmod(number, self.batches)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, np.random.default_rng([self.seed, epoch]).permutation(self.count)
        return self._order[place * self.size : (place + 1) * self.size]


class TuningJob(ABC):
    """A network with a task.

    Attributes:
        module: batch -> losses, as `training.loop.Task` asks for.
        holder: the part of it whose parameters are trained and kept.
        model: the network itself.
        groups: names of the groups of losses.
        batches: micro-batches in one pass over the examples.
    """

    module: nn.Module
    holder: nn.Module
    model: GLMModel
    groups: tuple[str, ...]
    batches: int

    @abstractmethod
    def batch(self, number: int) -> LoopBatch:
        """Micro-batch `number`; the same for the same number, always."""

    @abstractmethod
    def describe(self, number: int) -> str:
        """How large it is, in words."""

    @abstractmethod
    def evaluate(self, split: str) -> Evaluation | None:
        """How good the network is on a file; None if there is none. In evaluation mode, no gradients."""

    def evaluate_fully(self, split: str, measure: Measure | None) -> Evaluation | None:
        """The same for a finished run, texts that the network writes included, if it writes any."""
        return self.evaluate(split)

    def save_beside(self, folder: Path) -> None:
        """Write what belongs to the task, beside the network in its model folder."""
        return None


class Plan(ABC):
    """Examples read, checked and tokenized.

    Attributes:
        recipe: of the run.
        tokenizer, config: of the model.
        notes: what the user should know before training begins.
        data: a mapping per file for the model card: `name`, `documents`, `address`.
        labels: in order, as the files spell them; () if there are none.
        names: what people call them.
        metric: by which the best weights are chosen; "" the loss.
        title: what the task is called.
        example: a text to be filled as the model has learnt to, for its card; "": none in particular.
        text_pattern: of sequence-to-sequence, the text in whose blank targets are written.
        digest: differs where the training data do.
    """

    def __init__(self, recipe: FinetuneRecipe, checkpoint: Checkpoint, tokenizer: Tokenizer, max_tokens: int) -> None:
        self.recipe, self.tokenizer = recipe, tokenizer
        self.config: GLMConfig = checkpoint.config
        self.max_tokens = max_tokens  # tokens that a prompt leaves of the context
        self.notes: list[str] = []
        self.data: list[dict[str, Any]] = []
        self.labels: tuple[str, ...] = ()
        self.names: tuple[str, ...] = ()
        self.metric = ""
        self.title = recipe.kind
        self.example = ""
        self.text_pattern = ""
        self.digest = ""

    @abstractmethod
    def job(self, model: GLMModel, seed: int, precision: str) -> TuningJob:
        """The task with a network, whose parameters to train have been chosen by then."""

    @abstractmethod
    def has(self, split: str) -> bool:
        """Whether there are examples of this split."""


def digest_of(parts: Iterable[bytes]) -> str:
    """A hash over pieces of data."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:16]


def weights_of(gold: Sequence[int], labels: int, how: str) -> NDArray[np.float64]:
    """[n] weight of each example; 1 on average.

    Args:
        gold: the label of each.
        how: "none", or "balanced": all labels that occur count alike.
    """
    if how == "none":
        return np.ones(len(gold))
    counts = np.bincount(gold, minlength=labels)
    per_label = len(gold) / (np.count_nonzero(counts) * np.maximum(counts, 1))
    return np.asarray(per_label[np.asarray(gold)])


def confusion_of(gold: Sequence[int], predicted: Sequence[int], labels: int) -> list[list[int]]:
    """[L, L] counts: rows are the true labels, columns the predicted ones."""
    out = np.zeros((labels, labels), np.int64)
    np.add.at(out, (np.asarray(gold, np.int64), np.asarray(predicted, np.int64)), 1)
    return [[int(value) for value in row] for row in out]
