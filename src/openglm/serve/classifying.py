"""/v1/classify: labels for texts, where a fine-tuned run or a task is served."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from starlette.responses import JSONResponse, Response

from ..checkpoints.beside import HEAD, SETTINGS_FILE, RunSettings, model_folder_of_run, parts_of
from ..finetuning.classifier import Answer, Classifier, load_classifier
from ..infill.infiller import Infiller
from ..tasks.task_files import load_task
from .classify_schemas import ClassifyRequest
from .errors import bad_request
from .schemas import Json
from .service import Service


@dataclass(frozen=True)
class Served:
    """What a server answers with.

    Attributes:
        classifier: says labels; None where there is none.
        fills: whether `infiller` is there to fill, not only for its network: below a classification head there is
            one that no longer writes.
    """

    infiller: Infiller
    classifier: Classifier | None = None
    fills: bool = True


def open_served(model: str, task: str | None, device: str, load: Callable[[], Infiller]) -> Served:
    """A model, with the labels of the run that it is, or of a task.

    Args:
        model: name or folder; task: name or file of a task that is asked of it.
        load: opens the model as it is to be served.

    Raises:
        DataError: no such task. Otherwise as `load_classifier` and `load`.
    """
    folder = model_folder_of_run(Path(model)) if Path(model).is_dir() else None
    kind = RunSettings.read(folder).kind if folder is not None and (folder / SETTINGS_FILE).is_file() else None
    asked = None if task is None else load_task(task)  # a wrong name is told before a model is loaded
    if folder is not None and HEAD in parts_of(folder) and asked is None:
        classifier = load_classifier(folder, device=device)
        return Served(Infiller(classifier.model, classifier.tokenizer), classifier, fills=False)
    infiller = load()
    if asked is not None:
        return Served(infiller, Classifier(infiller.model, infiller.tokenizer, task=asked))
    if folder is None or kind != "cloze":
        return Served(infiller)
    classifier = load_classifier(folder)
    classifier.model = infiller.model  # the same weights, as they are served
    return Served(infiller, classifier)


async def classify(service: Service, body: ClassifyRequest) -> Response:
    """Say labels of one example or of several."""
    classifier = service.classifier
    if classifier is None:
        raise bad_request(
            "no labels are served here; start the server with --model RUN or --task NAME", code="not_supported"
        )
    examples = [body.text] if body.text is not None else body.texts or []
    size = sum(len(each) if isinstance(each, str) else sum(len(str(v)) for v in each.values()) for each in examples)
    answers = await service.worker.score(lambda: classifier.predict(examples), size)
    name: Json = {"model": service.settings.name}
    if body.text is not None:
        return JSONResponse({**name, **_record(answers[0])})
    return JSONResponse({**name, "results": [_record(answer) for answer in answers]})


def _record(answer: Answer) -> Json:
    return {"label": answer.label, "probabilities": dict(answer.probabilities)}
