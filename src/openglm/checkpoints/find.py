"""A name or path -> the folder that holds the model. Imports no torch."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import CheckpointError, ModelNotFoundError, suggest
from .formats import detect, is_complete
from .hub import cached, download, is_repository
from .published import PublishedModel, find_published, published_names

DEFAULT_NAME = "default"
EMBEDDED = Path(__file__).resolve().parent.parent / "default_model"
RUN_MODEL = "model"  # what a training run calls the folder of its model
CHECKPOINTS = Path("checkpoints")  # where FlagAI keeps models


def find_folder(name_or_path: str, *, revision: str | None = None) -> Path:
    """The folder that holds a model.

    Looks at: the embedded model; a local path, or the folder of a run that holds a model; for
    published names `./checkpoints/NAME` (where FlagAI keeps them) and the hub's cache; then
    downloads from the hub, where any repository may be named (`owner/model`).

    Args:
        name_or_path: `name@revision` asks for a branch, tag or commit on the hub.
        revision: the same, as an argument.

    Raises:
        ModelNotFoundError: nothing there; says where the files of a published model belong,
            or which known names are near.
    """
    if name_or_path == DEFAULT_NAME and revision is None:
        return EMBEDDED
    # os.path's questions, unlike Path's, have an answer for strings that cannot be paths.
    path = Path(os.path.expanduser(name_or_path))
    if revision is None and os.path.isdir(path):
        return path / RUN_MODEL if is_complete(path / RUN_MODEL) and not is_complete(path) else path
    if os.path.isfile(path):
        raise ModelNotFoundError(f"{path}: a file; give the folder it lies in")
    name, _, tag = name_or_path.partition("@")
    revision = revision or tag or None
    published = find_published(name)
    if published is None:
        return _unknown(name, revision)
    repository = name if is_repository(name) else published.hub
    folder = cached_folder(published, revision)
    if folder is not None:
        return folder
    remedy = _where_files_belong(published, name)
    if repository is None:
        raise ModelNotFoundError(f"{published.name} is not on this machine, nor on the hub. {remedy}")
    return download(repository, revision, remedy=remedy)


def cached_folder(model: PublishedModel, revision: str | None = None) -> Path | None:
    """Where a published model lies on this machine, if all its files do."""
    names = {name.split("/")[-1].lower() for name in (model.name, *model.aliases)}
    if revision is None and CHECKPOINTS.is_dir():
        for folder in sorted(CHECKPOINTS.iterdir()):
            if folder.name.lower() in names and is_complete(folder):
                return folder
    repositories = [name for name in model.aliases if is_repository(name)]
    return next((found for name in repositories if (found := cached(name, revision)) is not None), None)


def _unknown(name: str, revision: str | None) -> Path:
    """The folder of a repository that is not in the table of published models."""
    known = suggest(name, [DEFAULT_NAME, *published_names()])
    hint = f"{known} `openglm models` lists all names".strip()
    if not is_repository(name):
        raise ModelNotFoundError(f"no folder and no known model is called {name!r}. {hint}")
    return cached(name, revision) or download(name, revision, remedy=f"No folder is called that either. {hint}")


def _where_files_belong(model: PublishedModel, name: str) -> str:
    folder = CHECKPOINTS / name.split("/")[-1]
    archive = "" if model.hub else ", or its unpacked archive"
    if folder.is_dir():
        try:
            detect(folder)
        except CheckpointError as error:
            return f"{error}. Complete it, or give the path of another folder"
    return (
        f"Put config.json, the weights (pytorch_model.bin or model.safetensors){archive} and the vocabulary "
        f"({model.vocabulary_files}) into ./{folder}, or give the path of their folder"
    )
