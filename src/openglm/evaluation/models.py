"""The model that is evaluated: any that can be loaded, or the folder of a fine-tuning run.

A run is asked as it was trained to: with its own pattern and words, scoring, trained prompt or
classification head. Where it cannot answer (other labels, fields that the examples do not have)
it is a model like any other, and figures say that it was fine-tuned for something else.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..checkpoints.beside import SETTINGS_FILE, RunSettings, model_folder_of_run
from ..infill.infiller import Infiller
from ..infill.loading import load
from ..scoring.predict import Prediction
from ..scoring.question import Question
from ..tasks.examples import Example
from ..tasks.task import Task
from .digests import digest_of_content, digest_of_weights
from .options import EvalOptions

if TYPE_CHECKING:
    from ..finetuning import Classifier

CLASSIFIERS = ("cloze", "classify")
REPORT_FILE = "report.json"  # of a run, beside its model folder


@dataclass(frozen=True)
class Model:
    """A model ready to be evaluated.

    Attributes:
        infiller: it, ready to fill.
        classifier: what fine-tuning made of it, or None.
        run: how it was fine-tuned, or None if it was not.
        recipe: of that run, as far as its report is there.
    """

    infiller: Infiller
    classifier: Classifier | None = None
    run: RunSettings | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def answers_for(self, task: Task, example: Example) -> bool:
        """Whether it was fine-tuned for such examples: the same labels, from fields that they have."""
        known = self.classifier
        if known is None or sorted(known.labels) != sorted(task.labels):
            return False
        if known.task is None:
            return all(example.has(name) for name in known.fields)
        derived = known.task.derived
        reads = [derived[name].source if name in derived else name for name in known.fields]
        if isinstance(known.task.options, str):
            reads.append(known.task.options)
        return known.task.kind == task.kind and all(example.has(name) for name in reads)

    def was_trained_on(self, name: str) -> bool:
        """Whether the run learnt from the training file of the task of this name, and from nothing else."""
        data = self.recipe.get("data") or {}
        return bool(name) and self.recipe.get("task") == name and not data.get("train")

    def answers(self, examples: Sequence[Example], questions: Sequence[Question]) -> list[Prediction]:
        """What a classification head says of examples, as answers to their questions."""
        assert self.classifier is not None
        out = []
        for question, answer in zip(questions, self.classifier.predict([e.values for e in examples]), strict=True):
            shares = np.array([answer.probabilities[label] for label in question.labels])
            out.append(Prediction(question, np.log(np.maximum(shares, 1e-30)), np.zeros(len(question.candidates))))
        return out

    def digest(self) -> str:
        """Of all that makes it answer as it does: weights, vocabulary, head, and how it was trained to be asked."""
        more = [self.infiller.tokenizer.identity]
        network: torch.nn.Module = self.infiller.model
        if self.classifier is not None:
            more += [repr(self.classifier.pattern), repr(self.classifier.scoring), repr(self.classifier.fields)]
            more += [digest_of_content(self.classifier.task)] if self.classifier.task is not None else []
            network = self.classifier.head or network
        return digest_of_weights(network.state_dict().items(), *more)


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
    run, recipe = RunSettings.read(folder), _recipe(folder.parent / REPORT_FILE)
    if run.kind not in CLASSIFIERS:
        return Model(_load(dataclasses.replace(options, model=str(folder))), None, run, recipe)
    from ..finetuning import load_classifier  # training is only imported where it has been done

    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    classifier = load_classifier(folder, device=device)
    return Model(Infiller(classifier.model, classifier.tokenizer), classifier, run, recipe)


def _recipe(path: Path) -> Mapping[str, Any]:
    """The recipe in a run's report; nothing where there is none."""
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))["recipe"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return recipe if isinstance(recipe, Mapping) else {}


def _load(options: EvalOptions) -> Infiller:
    on_cpu = options.device == "cpu" or (options.device == "auto" and not torch.cuda.is_available())
    dtype = "float32" if options.dtype == "auto" and options.quantize is None and on_cpu else options.dtype
    return load(options.model, device=options.device, dtype=dtype, quantize=options.quantize, compile=options.compile)
