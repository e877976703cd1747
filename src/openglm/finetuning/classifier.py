"""A fine-tuned model as a classifier: examples in, labels and probabilities out.

    classify = load_classifier("runs/reviews")
    classify.predict("这家店的菜很好吃").label

Works for what `cloze` and `classify` leave behind, whatever method trained it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import torch

from ..checkpoints.beside import HEAD, PROMPT, SETTINGS_FILE, TASK_FILE, RunSettings, model_folder_of_run
from ..checkpoints.resolve import open_checkpoint
from ..errors import CheckpointError, DataError, OptionError
from ..network.model import GLMModel
from ..scoring.predict import Scoring, predict
from ..tasks.examples import Example
from ..tasks.pattern_indices import PatternIndices, parse_indices
from ..tasks.renderer import QuestionRenderer
from ..tasks.task import Task
from ..tasks.task_files import load_task
from ..tokenizer import Tokenizer
from . import heads
from .classify import encode_text, head_logits, head_prediction
from .cloze import scoring_of

Item = str | Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """What a classifier says of one example.

    Attributes:
        label: the most probable one.
        probabilities: of every label.
    """

    label: str
    probabilities: Mapping[str, float]


class Classifier:
    """Says which label an example has.

    Args:
        model, tokenizer: with the prompt it was trained with, if any.
        task, pattern, scoring: how questions are asked; of several patterns the answers are averaged; or
        head, fields, labels: a classification head and what it reads.
    """

    def __init__(
        self,
        model: GLMModel,
        tokenizer: Tokenizer,
        *,
        task: Task | None = None,
        pattern: PatternIndices = 0,
        scoring: Scoring | None = None,
        head: heads.HeadModel | None = None,
        fields: Sequence[str] = (),
        labels: Sequence[str] = (),
    ) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self.task, self.pattern, self.scoring = task, pattern, scoring
        self.head = head
        self.fields = tuple(fields) if task is None else task.fields(pattern)
        self.labels = tuple(labels) if task is None else task.labels

    @overload
    def predict(self, examples: Item) -> Answer: ...  # type: ignore[overload-overlap]

    @overload
    def predict(self, examples: Sequence[Item]) -> list[Answer]: ...

    def predict(self, examples: Item | Sequence[Item]) -> Answer | list[Answer]:
        """The label of an example, or of each in a list.

        Args:
            examples: mappings with the task's fields; a string for its only field.

        Raises:
            DataError: a missing field, or a string for a task with several fields.
        """
        single = isinstance(examples, (str, Mapping))
        items: Sequence[Item] = [examples] if isinstance(examples, (str, Mapping)) else list(examples)
        found = [self._example(item, number) for number, item in enumerate(items, 1)]
        answers = self._by_head(found) if self.head is not None else self._by_cloze(found)
        return answers[0] if single else answers

    def _example(self, item: Item, number: int) -> Example:
        if isinstance(item, str):
            if len(self.fields) != 1:
                raise DataError(f"this task reads the fields {', '.join(self.fields)}; give a mapping with all of them")
            item = {self.fields[0]: item}
        return Example(item, "", number)

    def _by_cloze(self, examples: Sequence[Example]) -> list[Answer]:
        assert self.task is not None
        config, max_tokens = self.model.config, self.model.max_part_a
        renderer = QuestionRenderer(self.task, self.tokenizer, config, self.pattern, max_tokens=max_tokens)
        questions = renderer.questions(examples, labeled=False)
        found = predict(self.model, self.tokenizer, questions, scoring=self.scoring)
        return [Answer(p.label, dict(zip(p.question.labels, p.probabilities.tolist(), strict=True))) for p in found]

    def _by_head(self, examples: Sequence[Example]) -> list[Answer]:
        assert self.head is not None
        max_tokens = self.model.config.max_sequence_length
        texts = [
            encode_text([str(e.get(name)) for name in self.fields], self.tokenizer, max_tokens)[0] for e in examples
        ]
        rows = [head_prediction(self.labels, values) for values in head_logits(self.head, texts, self.tokenizer)]
        return [Answer(row["predicted"], row["probabilities"]) for row in rows]


def load_classifier(folder: str | Path, *, device: str = "cpu") -> Classifier:
    """The classifier that a run of `cloze` or `classify` left.

    Args:
        folder: of the run, or the `model` in it.

    Raises:
        CheckpointError: no such model there.
    """
    folder = model_folder_of_run(Path(folder))
    settings = RunSettings.read(folder)
    if settings.kind not in ("cloze", "classify"):
        raise CheckpointError(f"{folder}: fine-tuned for {settings.kind}, not for classification; use openglm.load")
    checkpoint = open_checkpoint(folder)
    tokenizer = checkpoint.tokenizer()
    model = checkpoint.network(device=device, dtype=torch.float32, applies=(PROMPT, HEAD), taker="a classifier")
    if settings.kind == "classify":
        head, found = heads.load_head(model, folder)
        return Classifier(model, tokenizer, head=head, fields=found["fields"], labels=found["labels"])
    if not (folder / TASK_FILE).is_file():
        raise CheckpointError(f"{folder / TASK_FILE}: missing; the task was made in Python, so give it to Classifier")
    task = load_task(folder / TASK_FILE)
    try:
        pattern = parse_indices(settings.pattern)
    except OptionError as error:
        raise CheckpointError(f"{folder / SETTINGS_FILE}: {error}") from error
    scoring = scoring_of(task, str(settings.calibrate), settings.length_penalty)
    return Classifier(model, tokenizer, task=task, pattern=pattern, scoring=scoring)
