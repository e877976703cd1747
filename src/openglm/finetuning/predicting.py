"""Records in, predictions out: labels by a fine-tuned run or a task, texts by a sequence-to-sequence run.

    predictor = open_predictor("runs/reviews")
    for record, fields in predictor(records): ...

Records come one after another and are answered in groups, so a file may be of any length.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from ..checkpoints.beside import SETTINGS_FILE, RunSettings, model_folder_of_run
from ..checkpoints.find import RUN_MODEL
from ..checkpoints.resolve import open_model
from ..data.records import Record
from ..errors import CheckpointError, OpenGLMError, OptionError
from ..infill.infiller import Infiller
from ..infill.loading import load, usable_device
from ..tasks.pattern import Pattern
from ..tasks.task_files import load_task
from .classifier import Answer, Classifier, load_classifier

AT_ONCE = 128  # records answered together
LABEL, OUTPUT = "label", "output"


class Predictor(ABC):
    """Answers records.

    Attributes:
        fields: of a record that are read; empty where only reading a record tells.
        name: of the field that an answer is put into.
    """

    fields: tuple[str, ...] = ()
    name: str

    def __call__(self, records: Iterable[Record]) -> Iterator[tuple[Record, dict[str, Any] | None]]:
        """Every record with new fields; None for empty ones and those with an error, which is noted in them."""
        source = iter(records)
        while chunk := list(islice(source, AT_ONCE)):
            good = [record for record in chunk if record.error is None and not record.empty]
            found = dict(zip(map(id, good), self._each(good), strict=True))
            yield from ((record, found.get(id(record))) for record in chunk)

    @abstractmethod
    def answers(self, values: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """New fields for each of some records. Raises OpenGLMError."""

    def _each(self, records: Sequence[Record]) -> list[dict[str, Any] | None]:
        """Answers of records together; where one of them is wrong, of each by itself."""
        if not records:
            return []
        try:
            return list(self.answers([record.values for record in records]))
        except OptionError:
            raise
        except OpenGLMError as error:
            if len(records) == 1:
                records[0].error = str(error).removeprefix("example 1: ")
                return [None]
        return [each for record in records for each in self._each([record])]


class LabelPredictor(Predictor):
    """Labels.

    Args:
        name: of the field for the label.
        probabilities: give those of all labels too.
        number: give the place of the label among the choices in its stead.
    """

    def __init__(
        self, classifier: Classifier, *, name: str | None = None, probabilities: bool = False, number: bool = False
    ) -> None:
        self._classifier, self._probabilities, self._number = classifier, probabilities, number
        self.name = name or LABEL
        task = classifier.task
        self.fields = () if task is not None and task.prepare else classifier.fields
        self._known = () if task is None else task.label_fields  # an answer that a record has is not looked at

    def answers(self, values: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Labels of records, all in one batch."""
        asked = [{name: each[name] for name in each if name not in self._known} for each in values]
        return [self._fields(answer) for answer in self._classifier.predict(asked)]

    def _fields(self, answer: Answer) -> dict[str, Any]:
        label = list(answer.probabilities).index(answer.label) if self._number else answer.label
        out: dict[str, Any] = {self.name: label}
        if self._probabilities:
            out["probabilities"] = {each: round(float(value), 6) for each, value in answer.probabilities.items()}
        return out


class TextPredictor(Predictor):
    """What a sequence-to-sequence run writes.

    Args:
        pattern: by which the run was trained.
        options: of decoding.
    """

    def __init__(
        self, infiller: Infiller, pattern: Pattern, *, name: str | None = None, options: Mapping[str, Any] | None = None
    ) -> None:
        self._infiller, self._pattern = infiller, pattern
        self._options = {"truncate": "start", **(options or {})}
        self.name, self.fields = name or OUTPUT, pattern.fields

    def answers(self, values: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Texts for records, all in one batch."""
        tokenizer, max_tokens = self._infiller.tokenizer, self._infiller.model.max_part_a
        texts = [self._pattern.fill(each, tokenizer, max_tokens).blanked for each in values]
        return [{self.name: each.blanks[0].text.strip()} for each in self._infiller.fill(texts, **self._options)]


def open_predictor(
    run: str,
    *,
    model: str = "default",
    device: str = "auto",
    name: str | None = None,
    probabilities: bool = False,
    submission: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Predictor:
    """What a run or a task predicts with.

    Args:
        run: folder of a run of `cloze`, `classify` or `seq2seq`; or the name or file of a task, which
            is then asked of `model` as it is.
        name: of the field for answers (default: label, or output of sequence-to-sequence runs).
        probabilities: of all labels, too.
        submission: fields as the test servers of CLUE and FewCLUE want them: of a choice among a
            record's own options the number, in the field of the task's answer.
        options: of decoding, for sequence-to-sequence runs.

    Raises:
        CheckpointError: a run that is not finished, or of a kind that predicts nothing.
        DataError: no such task. OptionError: options of another kind of run.
    """
    device = usable_device(device)
    folder = Path(run)
    if not folder.is_dir():
        task = load_task(run)
        network, tokenizer = open_model(model, device=device, dtype=torch.float32)
        classifier = Classifier(network, tokenizer, task=task)
    else:
        kind = _kind(folder)
        if kind == "seq2seq":
            return _texts(folder, device, name, probabilities or submission, options)
        classifier = load_classifier(folder, device=device)
    if options:
        raise OptionError(f"{', '.join(options)}: options of decoding, but {run} gives labels; leave them out")
    by_number = submission and classifier.task is not None and bool(classifier.task.options)
    if by_number and name is None and classifier.task is not None:
        name = classifier.task.label_field
    return LabelPredictor(classifier, name=name, probabilities=probabilities, number=by_number)


def _kind(folder: Path) -> str:
    """The kind of a run. Raises CheckpointError."""
    home = model_folder_of_run(folder)
    if not (home / SETTINGS_FILE).is_file():
        begun = any(folder.glob("seed-*")) or any(folder.glob("state-*"))
        what = "this run is not finished; the command that began it goes on" if begun else "no fine-tuned run is there"
        raise CheckpointError(f"{folder}: {what} (there is no {SETTINGS_FILE})")
    kind = RunSettings.read(home).kind
    if kind not in ("cloze", "classify", "seq2seq"):
        raise CheckpointError(f"{folder}: a run of {kind}, which predicts no labels; `openglm fill` takes it")
    return kind


def _texts(
    folder: Path, device: str, name: str | None, labels: bool, options: Mapping[str, Any] | None
) -> TextPredictor:
    if labels:
        raise OptionError("a sequence-to-sequence run writes texts: it has no labels, probabilities or submissions")
    home = folder if (folder / RUN_MODEL).is_dir() else folder.parent
    try:
        recipe = json.loads((home / "report.json").read_text(encoding="utf-8"))["recipe"]
        task = recipe.get("task")
        source = recipe["data"].get("source") or "source"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{home / 'report.json'}: does not tell how the run was asked ({error})") from error
    infiller = load(home / RUN_MODEL, device=device)
    blank = next(kind for kind in ("[sMASK]", "[gMASK]", "[MASK]") if kind in infiller.model.config.blanks)
    given = task.get("pattern") if isinstance(task, Mapping) else None
    return TextPredictor(infiller, Pattern.parse(given or f"{{{source}:shorten}}{blank}"), name=name, options=options)
