"""`pretrain`: a recipe and text in, a model folder out; the function behind `openglm pretrain`."""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints.find import EMBEDDED
from ..errors import OptionError
from ..tokenizer import load_tokenizer
from ..training.options import override
from ..training.parallel import Processes
from .corpora import open_corpora
from .model_folder import MODEL_FOLDER, export_state
from .pretrainer import Trainer, notes_on
from .recipe import CorpusOptions, Recipe, find_recipe

Paths = str | Path | Sequence[str | Path]
Corpora = Paths | Mapping[str, Paths | CorpusOptions]  # one source, or several by name


@dataclass(frozen=True)
class PretrainResult:
    """What a call of `pretrain` has left.

    Attributes:
        folder: of the run: states, log, curves.
        model: the model folder in it; None if a signal stopped the run.
        steps: updates made in all, in earlier calls too.
        finished: whether these are all that the recipe asks for.
    """

    folder: Path
    model: Path | None
    steps: int
    finished: bool


def pretrain(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    *,
    data: Corpora | None = None,
    valid: Corpora | None = None,
    tokenizer: str | Path | None = None,
    output: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    steps: int | None = None,
    max_seconds: float | None = None,
    device: str = "auto",
    track: str = "none",
) -> PretrainResult:
    """Train a model from a recipe; go on with the unfinished run in `output`, if there is one.

    Args:
        recipe: the name of one that comes with openglm (`mini`), a YAML file, nested plain values, or a `Recipe`.
        data: text files, patterns, folders, fsspec addresses, or a prepared shard; a mapping
            from names for several sources. Wins over the recipe's.
        valid: the same, to evaluate on (default: some of the training documents are kept for it).
        tokenizer: folder of the vocabulary (default: the embedded model's).
        output: folder of the run (default: the recipe's, or `runs/` and the name of its file).
        settings: values that win over the recipe's, as `{"run.compile": True}`.
        steps: stop after so many updates in all, with a model.
        max_seconds: stop after about so many seconds of training, with a model.
        device: "auto", or what torch calls a device.
        track: see `reporting.trackers`.

    Raises:
        TrainingError, DataError, OptionError, ConfigError: before any training, whatever is wrong
            with the recipe or the data; later, a run that cannot go on.

    Example:
        >>> import openglm
        >>> run = openglm.pretrain("mini", data="texts/", output="runs/mine")  # doctest: +SKIP
        >>> openglm.load(run.model).fill("The [MASK] is high.")  # doctest: +SKIP
    """
    if steps is not None and steps < 1:
        raise OptionError(f"steps (--steps) must be at least 1, not {steps}")
    if max_seconds is not None and not max_seconds > 0:
        raise OptionError(f"max_seconds (--max-seconds) must be above 0, not {max_seconds:g}")
    chosen = resolve(recipe, data=data, valid=valid, tokenizer=tokenizer, output=output, settings=settings)
    processes = Processes.join(device)
    folder = Path(str(chosen.data.output))
    vocabulary = load_tokenizer(Path(chosen.data.tokenizer or EMBEDDED))
    corpora = open_corpora(chosen.data, vocabulary, chosen.run, processes)
    if processes.first:
        for note in (*corpora.notes, *notes_on(chosen, processes.device)):
            print(f"openglm: note: {note}", file=sys.stderr)
    trainer = Trainer(
        chosen, vocabulary, corpora.train, corpora.valid, folder,
        processes=processes, track=track, measure_peak=True,
    )  # fmt: skip
    finished = trainer.run(stop_at=steps, max_seconds=max_seconds)
    processes.leave()
    model = None if trainer.loop.interrupted else folder / MODEL_FOLDER
    return PretrainResult(folder, model, trainer.done, finished)


def export(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    *,
    tokenizer: str | Path | None = None,
    output: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> PretrainResult:
    """Make a model folder of the newest state of a run, without training and without its data.

    Arguments as `pretrain`.

    Raises:
        TrainingError: no state that can be read, or one of another model.
    """
    chosen = resolve(recipe, tokenizer=tokenizer, output=output, settings=settings)
    folder = Path(str(chosen.data.output))
    done = export_state(folder, chosen, load_tokenizer(Path(chosen.data.tokenizer or EMBEDDED)))
    return PretrainResult(folder, folder / MODEL_FOLDER, done, done >= chosen.run.steps)


def resolve(
    recipe: Recipe | Mapping[str, Any] | str | Path,
    *,
    data: Corpora | None = None,
    valid: Corpora | None = None,
    tokenizer: str | Path | None = None,
    output: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe with what was given beside it; `data.output` is set.

    Raises:
        TrainingError, OptionError: as `Recipe.read`, or no folder for the run.
    """
    chosen = _with_settings(recipe, settings or {})
    changes: dict[str, Any] = {}
    if data is not None:
        changes["train"] = _by_name(data)
        if valid is None:
            changes["valid"] = {}  # the recipe's belong to the recipe's training data
    if valid is not None:
        changes["valid"] = _by_name(valid)
    if tokenizer is not None:
        changes["tokenizer"] = str(tokenizer)
    folder = output or chosen.data.output
    if folder is None:
        if not isinstance(recipe, (str, Path)):
            raise OptionError("pretraining needs a folder for the run: set output, or data.output in the recipe")
        folder = Path("runs") / Path(recipe).stem
    changes["output"] = str(folder)
    return dataclasses.replace(chosen, data=dataclasses.replace(chosen.data, **changes))


def _with_settings(recipe: Recipe | Mapping[str, Any] | str | Path, settings: Mapping[str, Any]) -> Recipe:
    if isinstance(recipe, (str, Path)):
        return Recipe.read(find_recipe(recipe), settings)
    values = recipe.to_dict() if isinstance(recipe, Recipe) else copy.deepcopy(dict(recipe))
    for name, value in settings.items():
        override(values, name, value)
    return Recipe.from_dict(values)


def _by_name(data: Corpora) -> dict[str, Any]:
    """Corpora by name; a single one is called like its folder, or "text"."""
    if isinstance(data, Mapping):
        return {name: each if isinstance(each, CorpusOptions) else _as_paths(each) for name, each in data.items()}
    paths = _as_paths(data)
    only = Path(paths[0]) if len(paths) == 1 else None
    return {only.resolve().name if only is not None and only.is_dir() else "text": paths}


def _as_paths(paths: Paths) -> list[str]:
    return [str(paths)] if isinstance(paths, (str, Path)) else [str(path) for path in paths]
