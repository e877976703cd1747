"""Models from the hub: what is in the local cache, and what is downloaded into it.

`huggingface_hub` is imported only when a model is asked for that is not on this machine
otherwise. It goes on where a connection broke, keeps what has arrived, shows progress on a
terminal, and heeds `HF_HOME`, `HF_ENDPOINT`, `HF_HUB_OFFLINE` and `HF_TOKEN`. Imports no torch.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import ModelNotFoundError
from .formats import is_complete
from .published import VOCABULARY_FILES

MAIN = "main"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_DESCRIPTIONS = (
    "config.json",
    "tokenizer_config.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "generation_config.json",
    "checksums.json",
)
_VOCABULARIES = ("tokenizer.model", "cog-pretrain.model", "spiece.model", "vocab.json", "merges.txt", "vocab.txt")
# In this order: a repository with weights in several forms is downloaded in the first of them.
_WEIGHTS = (
    re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?"),
    re.compile(r"pytorch_model(-\d+-of-\d+)?\.bin(\.index\.json)?"),
)


def is_repository(name: str) -> bool:
    """Whether a name could be one of a repository (`owner/model`)."""
    return _REPOSITORY.fullmatch(name) is not None


def cached(repository: str, revision: str | None = None) -> Path | None:
    """Where a repository lies in the hub's cache, if all that is needed is there."""
    from huggingface_hub import constants

    home = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
    wanted = revision or MAIN
    reference = home / "refs" / wanted
    try:
        commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else wanted
    except (OSError, ValueError):
        return None
    folder = home / "snapshots" / commit
    return folder if is_complete(folder) and _has_vocabulary(folder) else None


def _has_vocabulary(folder: Path) -> bool:
    """Whether a vocabulary is there with all its files: a download may have stopped before it."""
    choices = [("tokenizer.model",), *(names for kind in VOCABULARY_FILES.values() for names in kind)]
    return any(all((folder / name).is_file() for name in names) for names in choices)


def needed(files: Iterable[str]) -> list[str]:
    """Of a repository's files, those that a model is loaded from."""
    names = list(files)
    chosen = [name for name in names if name in _DESCRIPTIONS or name in _VOCABULARIES]
    for pattern in _WEIGHTS:
        weights = [name for name in names if pattern.fullmatch(name)]
        if any(not name.endswith(".json") for name in weights):
            return chosen + weights
    return chosen


def download(repository: str, revision: str | None = None, *, remedy: str = "") -> Path:
    """Download what a model is loaded from into the hub's cache; what has arrived whole is kept.

    Args:
        remedy: what else to do, for the messages.

    Raises:
        ModelNotFoundError: no network, no such repository or revision, or no model in it.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        files = [entry.rfilename for entry in HfApi().model_info(repository, revision=revision).siblings or []]
        wanted = needed(files)
        if not {"config.json"} < set(wanted):
            raise ModelNotFoundError(f"{repository}: the hub has no model there that openglm knows. {remedy}".rstrip())
        progress = _progress_on_terminals()
        folder = Path(snapshot_download(repository, revision=revision, allow_patterns=wanted, tqdm_class=progress))
    except ModelNotFoundError:
        raise
    except RevisionNotFoundError as error:
        raise ModelNotFoundError(
            f"{repository}: the hub has no revision {revision!r} of it; give a branch, a tag or a commit"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelNotFoundError(
            f"{repository}: the hub has no such repository, or it is not public (then set HF_TOKEN). {remedy}".rstrip()
        ) from error
    except Exception as error:  # of the network, of the disk, in whichever library the hub's client uses
        raise ModelNotFoundError(
            f"{repository} is not on this machine and cannot be downloaded ({_reason(error)}); files that have "
            f"arrived whole are kept for the next attempt. {remedy}".rstrip()
        ) from error
    if not is_complete(folder):
        raise ModelNotFoundError(f"{repository}: the hub has no complete model there. {remedy}".rstrip())
    return folder


def _progress_on_terminals() -> Any:
    """The client's progress bar, silent where standard error is no terminal."""
    from huggingface_hub.utils.tqdm import tqdm

    class DownloadBar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            if not sys.stderr.isatty():
                kwargs["disable"] = True
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]

    return DownloadBar


def _reason(error: BaseException) -> str:
    """The innermost cause in one line: the client wraps what went wrong."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__
