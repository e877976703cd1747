"""Standard streams that may be closed, full or gone: named errors for output, silence for messages."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import IO, Any

from ..files import cannot_write

NAME = "standard output"


class GuardedOutput:
    """Standard output whose errors are an OutputError; a reader that went away stays a BrokenPipeError."""

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text. Raises OutputError."""
        if self._stream is None:
            raise cannot_write(NAME, "it is closed; open it, or give --output")
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            raise
        except OSError as error:
            raise cannot_write(NAME, error) from error

    def flush(self) -> None:
        """Flush. Raises OutputError."""
        try:
            if self._stream is not None:
                self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise cannot_write(NAME, error) from error

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class GuardedMessages:
    """Standard error; what cannot be said is not said."""

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write text, if possible."""
        with suppress(OSError, ValueError, AttributeError):
            return self._stream.write(text)  # type: ignore[union-attr]
        return 0

    def flush(self) -> None:
        """Flush, if possible."""
        with suppress(OSError, ValueError, AttributeError):
            self._stream.flush()  # type: ignore[union-attr]

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def guarded() -> Iterator[None]:
    """Replace both streams by guarded ones meanwhile."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    with redirect_stdout(GuardedOutput(sys.stdout)), redirect_stderr(GuardedMessages(sys.stderr)):
        yield


def take_closed_numbers() -> None:
    """Keep the numbers of closed standard streams from going to files, which would get what is meant for people."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def abandon() -> None:
    """Nothing more can be written: let what is left in the buffers of both streams go nowhere."""
    for stream in (sys.__stdout__, sys.__stderr__):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # type: ignore[union-attr]
