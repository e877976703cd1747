"""The model that is evaluated: any that can be loaded, or the folder of a fine-tuning run.

A model fine-tuned for the very task that is measured answers as it was trained to: with its
pattern, scoring, trained prompt or classification head. For everything else it is a model like
any other.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..checkpoints.beside import SETTINGS_FILE, RunSettings, model_folder_of_run
from ..infill.infiller import Infiller
from ..infill.loading import load
from ..scoring.predict import Prediction
from ..scoring.question import Question
from ..tasks.examples import Example
from ..tasks.task import Task
from .options import EvalOptions

if TYPE_CHECKING:
    from ..finetuning import Classifier

CLASSIFIERS = ("cloze", "classify")


@dataclass(frozen=True)
class Model:
    """A model ready to be evaluated.

    Attributes:
        infiller: it, ready to fill.
        classifier: what fine-tuning made of it, or None.
    """

    infiller: Infiller
    classifier: Classifier | None = None

    def is_tuned_for(self, task: Task) -> bool:
        """Whether it was fine-tuned for this task: its patterns, or a head with the same labels.

        Patterns may have been added to the task behind those it had.
        """
        if self.classifier is None:
            return False
        if self.classifier.task is not None:
            known = self.classifier.task.patterns
            return known == task.patterns[: len(known)] and self.classifier.labels == task.labels
        return sorted(self.classifier.labels) == sorted(task.labels)

    def answers(self, examples: Sequence[Example], questions: Sequence[Question]) -> list[Prediction]:
        """What the fine-tuned model says of examples, as answers to their questions."""
        assert self.classifier is not None
        out = []
        for question, answer in zip(questions, self.classifier.predict([e.values for e in examples]), strict=True):
            shares = np.array([answer.probabilities[label] for label in question.labels])
            out.append(Prediction(question, np.log(np.maximum(shares, 1e-30)), np.zeros(len(question.candidates))))
        return out


def load_model(options: EvalOptions) -> Model:
    """The model that the options name.

    A run's folder stands for the model in it. On a CPU weights are float32 unless something else
    is asked for: figures are of the weights as they are.

    Raises:
        ModelNotFoundError, CheckpointError, OptionError: as `openglm.load`.
    """
    folder = model_folder_of_run(Path(options.model))
    if not (folder / SETTINGS_FILE).is_file():
        return Model(_load(options))
    if RunSettings.read(folder).kind not in CLASSIFIERS:
        return Model(_load(dataclasses.replace(options, model=str(folder))))
    from ..finetuning import load_classifier  # training is only imported where it has been done

    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    classifier = load_classifier(folder, device=device)
    return Model(Infiller(classifier.model, classifier.tokenizer), classifier)


def _load(options: EvalOptions) -> Infiller:
    on_cpu = options.device == "cpu" or (options.device == "auto" and not torch.cuda.is_available())
    dtype = "float32" if options.dtype == "auto" and options.quantize is None and on_cpu else options.dtype
    return load(options.model, device=options.device, dtype=dtype, quantize=options.quantize, compile=options.compile)


def fingerprint(infiller: Infiller) -> str:
    """Tells weights apart: a hash over some of every tensor, which any training changes."""
    digest = hashlib.sha256(infiller.tokenizer.identity.encode())
    for name, tensor in infiller.model.state_dict().items():
        some = tensor.detach().flatten()[:256].float().cpu().numpy()
        digest.update(name.encode() + some.tobytes())
    return digest.hexdigest()[:16]
