"""A name or path -> the folder that holds the model. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from ..errors import ModelNotFoundError, suggest
from .published import PublishedModel, find_published, published_names

DEFAULT_NAME = "default"
EMBEDDED = Path(__file__).resolve().parent.parent / "default_model"


def find_folder(name_or_path: str) -> Path:
    """The folder that holds a model.

    Looks at: the embedded model, a local path, and for published names `./checkpoints/NAME`
    (where FlagAI keeps them).

    Raises:
        ModelNotFoundError: nothing there; says where the files of a published model belong,
            or which known names are near.
    """
    if name_or_path == DEFAULT_NAME:
        return EMBEDDED
    path = Path(name_or_path).expanduser()
    if path.is_dir():
        return path
    published = find_published(name_or_path)
    if published is None:
        known = suggest(name_or_path, [DEFAULT_NAME, *published_names()])
        raise ModelNotFoundError(
            f"no folder and no known model is called {name_or_path!r}.{known} `openglm models` lists all names"
        )
    folder = cached_folder(published)
    if folder is not None:
        return folder
    raise ModelNotFoundError(
        f"the files of {published.name} are not on this machine: put config.json, the weights "
        "(pytorch_model.bin) and the vocabulary file into "
        f"./checkpoints/{published.aliases[0].split('/')[-1]}, or give the path of their folder"
    )


def cached_folder(model: PublishedModel) -> Path | None:
    """Where a published model lies on this machine, if it does."""
    root = Path("checkpoints")
    if not root.is_dir():
        return None
    names = {name.split("/")[-1].lower() for name in (model.name, *model.aliases)}
    found = (d for d in sorted(root.iterdir()) if d.name.lower() in names and (d / "config.json").is_file())
    return next(found, None)
