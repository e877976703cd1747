"""Libraries that only some work needs: each comes with an extra of the distribution.

One place says how a missing one is reported, so that every command names the same remedy.
Knows nothing about what the libraries do.
"""

from __future__ import annotations

import importlib
from typing import Any

from .errors import MissingLibraryError


def library(module: str, *, extra: str, purpose: str) -> Any:
    """Import a library that comes with an extra.

    Args:
        module: what is imported, "package.module".
        extra: name of the extra of pyproject.toml that brings it.
        purpose: what needs it, the subject of the message.

    Raises:
        MissingLibraryError: it is not installed; the message says how to install it.

    Example:
        >>> library("json", extra="train", purpose="reading").loads("[1]")
        [1]
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingLibraryError(
            f"{purpose} needs the library {package}, which is not installed: pip install 'openglm[{extra}]'"
        ) from error
