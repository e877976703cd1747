"""Every error that openglm raises on purpose.

Each message names the input that is wrong and says what to do about it. All of them
derive from `OpenGLMError`, so one `except` catches what a caller can mend; the command
line turns them into one line on standard error and exit code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OpenGLMError(Exception):
    """Base class of all errors raised on purpose by openglm."""


class InputError(OpenGLMError, ValueError):
    """The text or file given cannot be used as it is (no blank, invalid UTF-8, empty file)."""


class ContextLengthError(InputError):
    """The text, or the answer asked for, does not fit into the model's context."""


class OptionError(OpenGLMError, ValueError):
    """An option has a value outside its range, or two options exclude each other."""


class UnsupportedBlankError(InputError):
    """The text holds a kind of blank that the model was not trained with."""


class ConfigError(OpenGLMError, ValueError):
    """A model configuration is incomplete or contradicts itself."""


class CheckpointError(OpenGLMError):
    """A weights file is missing, truncated, corrupted or disagrees with its configuration."""


class OutputError(OpenGLMError, OSError):
    """A file cannot be written: a full disk, a read-only place, or something there that is no regular file."""

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message)
        self.strerror = reason


class ModelNotFoundError(OpenGLMError):
    """No model of this name or path could be found."""


class TokenizerError(OpenGLMError, ValueError):
    """A vocabulary file is missing or unusable, or a token id is out of range."""


class DataError(OpenGLMError):
    """A corpus or prepared shard cannot be read or does not fit the tokenizer."""


class MissingLibraryError(OpenGLMError, ImportError):
    """A library that comes with an extra (`pip install 'openglm[train]'`) is not installed."""


class TrainingError(OpenGLMError):
    """A training run cannot go on (non-finite loss, unusable checkpoint, bad recipe)."""


def brief(value: object, most: int = 80) -> str:
    """A value for a message: its `repr`, shortened in the middle to about `most` characters."""
    text = repr(value) if not isinstance(value, int) or value.bit_length() < 500 else "a number of many digits"
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 4 :]}"


def suggest(name: str, known: Iterable[str]) -> str:
    """A `did you mean ...?` clause with the nearest known names, or an empty string."""
    candidates = {k.lower(): k for k in known}
    near = difflib.get_close_matches(name.lower(), list(candidates), n=3, cutoff=0.5)
    if not near:
        return ""
    return " Did you mean " + " or ".join(repr(candidates[n]) for n in near) + "?"
