"""Fine-tuning with a plain classification head: the baseline of cloze fine-tuning.

A text is the fields of an example, one after the other, without pattern or words for the
labels; the head learns the labels from nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..batches import group_by_length
from ..blanks import Ids
from ..checkpoints.checkpoint import Checkpoint
from ..errors import DataError
from ..network.model import GLMModel
from ..tasks.examples import Example
from ..tasks.verbalizer import label_name
from ..tokenizer import Tokenizer
from .heads import HeadLoss, HeadModel, TextBatch, save_head
from .jobs import SPLITS, Epochs, Evaluation, Plan, TuningJob, confusion_of, digest_of, weights_of
from .recipe import FinetuneRecipe
from .tasks import (
    LABEL_METRICS,
    check_labels,
    checked_metric,
    class_task_of,
    examples_of,
    names_of,
    note_overlap,
    note_shortened,
)

TOKENS_AT_ONCE = 8192


@dataclass(frozen=True)
class LabelledText:
    """One example.

    Attributes:
        ids: `[CLS]`, the text, the end token.
        gold: index of its label, None if it has none.
        number: of its line.
        cut: tokens left out; cut_from: of which field.
    """

    ids: Ids
    gold: int | None
    number: int
    cut: int

    @property
    def cut_from(self) -> dict[str, int]:
        """The text as a whole."""
        return {"the text": self.cut} if self.cut else {}


def encode_text(values: Sequence[str], tokenizer: Tokenizer, max_tokens: int) -> tuple[Ids, int]:
    """`[CLS]`, the texts one after the other, the end token; and how many tokens did not fit.

    The longest text loses its end first.
    """
    pieces = [tokenizer.encode(value if not number else f" {value}") for number, value in enumerate(values)]
    cut = max(0, sum(map(len, pieces)) + 2 - max_tokens)
    for _ in range(cut):
        max(pieces, key=len).pop()
    ids = [token for piece in pieces for token in piece]
    return np.array([tokenizer.cls, *ids, tokenizer.eos], np.int64), cut


class ClassifyPlan(Plan):
    """Texts with labels."""

    def __init__(self, recipe: FinetuneRecipe, checkpoint: Checkpoint, tokenizer: Tokenizer, max_tokens: int) -> None:
        super().__init__(recipe, checkpoint, tokenizer, max_tokens)
        task = class_task_of(recipe)
        self.title, self.fields, self.label_field = task.title, task.fields, task.label
        examples: dict[str, list[Example]] = {
            split: found for split in SPLITS if (found := examples_of(recipe, task.task, split))
        }
        if "train" not in examples:
            raise DataError("no training data: name a file of examples")
        self.fields = self.fields or _text_fields(examples["train"][0], self.label_field)
        known = dict.fromkeys(label_name(example.get(self.label_field)) for example in examples["train"])
        self.labels = task.labels or tuple(sorted(known))
        self.names = names_of(self.labels, task.task)
        self.texts = {split: [self._text(example) for example in found] for split, found in examples.items()}
        for split, texts in self.texts.items():
            note_shortened(self.notes, split, texts)
            address = ", ".join(Path(path).name for path in getattr(recipe.data, split)) or self.title
            self.data.append({"name": split, "documents": len(texts), "address": address})
        check_labels([() if text.gold is None else (text.gold,) for text in self.texts["train"]], self.labels)
        keys = {split: [text.ids.tobytes() for text in texts] for split, texts in self.texts.items()}
        note_overlap(self.notes, keys)
        self.digest = digest_of(keys["train"] + [str(text.gold).encode() for text in self.texts["train"]])
        self.metric = checked_metric(recipe.run.metric, LABEL_METRICS)

    def _text(self, example: Example) -> LabelledText:
        values = []
        for name in self.fields:
            value = example.get(name)
            values.append(
                value
                if isinstance(value, str)
                else " ".join(map(str, value))
                if isinstance(value, list)
                else str(value)
            )
        ids, cut = encode_text(values, self.tokenizer, self.max_tokens)
        label = label_name(example.get(self.label_field))
        if label not in self.labels:
            raise DataError(f"{example.where}: the label {label!r} is not among {', '.join(self.labels)}")
        return LabelledText(ids, self.labels.index(label), example.number, cut)

    def has(self, split: str) -> bool:
        """Whether there are texts of this split."""
        return split in self.texts

    def job(self, model: GLMModel, seed: int, precision: str) -> TuningJob:
        """The texts with a network."""
        return ClassifyJob(self, model, seed, precision)


def _text_fields(example: Example, label: str) -> tuple[str, ...]:
    found = tuple(
        str(key) for key, value in example.values.items() if isinstance(value, str) and key not in (label, "id")
    )
    if not found:
        raise DataError(f"{example.where}: no field holds text; name those to read with --text-field")
    return found


class ClassifyJob(TuningJob):
    """Texts with a network and a head."""

    groups = ("class",)

    def __init__(self, plan: ClassifyPlan, model: GLMModel, seed: int, precision: str) -> None:
        recipe = plan.recipe
        self.plan, self.model = plan, model
        torch.manual_seed(seed)
        self.holder: HeadModel = HeadModel(model, len(plan.labels), recipe.run.dropout)
        self.module = HeadLoss(self.holder, precision)
        gold = [text.gold or 0 for text in plan.texts["train"]]
        self._weights = weights_of(gold, len(plan.labels), recipe.objective.class_weights)
        self._epochs = Epochs(len(gold), recipe.run.batch_size // recipe.run.accumulate, seed)
        self.batches = self._epochs.batches

    def batch(self, number: int) -> TextBatch:
        """The texts of micro-batch `number`."""
        chosen = self._epochs(number)
        texts = [self.plan.texts["train"][i] for i in chosen]
        markers = self.plan.tokenizer.markers
        return TextBatch.of(
            [t.ids for t in texts], [t.gold or 0 for t in texts], self._weights[chosen].tolist(), markers
        )

    def describe(self, number: int) -> str:
        """How large it is."""
        lengths = [len(self.plan.texts["train"][i].ids) for i in self._epochs(number)]
        return f"{len(lengths)} texts of up to {max(lengths)} tokens"

    def evaluate(self, split: str) -> Evaluation | None:
        """Accuracy, macro F1 and mean loss on a file."""
        texts = self.plan.texts.get(split)
        if texts is None:
            return None
        logits = head_logits(self.holder, [text.ids for text in texts], self.plan.tokenizer)
        gold = [text.gold or 0 for text in texts]
        loss = float(F.cross_entropy(logits, torch.tensor(gold)))
        confusion = confusion_of(gold, logits.argmax(1).tolist(), len(self.plan.labels))
        rows = [
            head_prediction(self.plan.labels, values)
            | {"number": text.number, "label": self.plan.labels[text.gold or 0]}
            for text, values in zip(texts, logits, strict=True)
        ]
        return Evaluation(loss, class_metrics(confusion), rows, confusion)

    def save_beside(self, folder: Path) -> None:
        """The head, with what it needs to be used again."""
        settings = {
            "labels": list(self.plan.labels),
            "fields": list(self.plan.fields),
            "label_field": self.plan.label_field,
        }
        save_head(folder, self.holder, settings)


def head_prediction(labels: Sequence[str], logits: torch.Tensor) -> dict[str, Any]:
    """The label and the probability of each, from [L] logits."""
    shares = {label: round(p, 6) for label, p in zip(labels, logits.softmax(0).tolist(), strict=True)}
    return {"predicted": labels[int(logits.argmax())], "probabilities": shares}


@torch.no_grad()
def head_logits(model: HeadModel, texts: Sequence[Ids], tokenizer: Tokenizer) -> torch.Tensor:
    """[n, L] float32 on the CPU; texts of similar length share a pass."""
    out = torch.zeros(len(texts), model.final_layer.out_features)
    device = model.final_layer.weight.device
    for group in group_by_length([len(text) for text in texts], TOKENS_AT_ONCE):
        batch = TextBatch.of([texts[i] for i in group], [0] * len(group), [1.0] * len(group), tokenizer.markers)
        out[group] = model(batch.to(device)).float().cpu()
    return out


def class_metrics(confusion: Sequence[Sequence[int]]) -> dict[str, float]:
    """Accuracy and macro F1 in percent, from [L, L] counts (rows: true, columns: predicted)."""
    counts = np.asarray(confusion, np.float64)
    right = np.diag(counts)
    sizes = counts.sum(0) + counts.sum(1)
    f1 = np.divide(2 * right, sizes, out=np.zeros_like(right), where=sizes > 0)
    return {"accuracy": 100 * float(right.sum() / counts.sum()), "macro_f1": 100 * float(f1.mean())}
