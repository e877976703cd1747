"""TensorBoard files, written where the numbers are made.

tensorboardX's own writer hands events to a thread; on a full disk the thread dies and whoever
writes next waits for ever. Here a file that cannot be written is said once and left out from
then on: the log of the run holds the same figures.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..extras import library

FLUSH_SECONDS = 30.0


class Board:
    """Writes one event file.

    Args:
        folder: of event files; made if need be.
        purge_step: TensorBoard hides what earlier files say about this step and later ones.
        say: shows a line to the user.

    Raises:
        MissingLibraryError: tensorboardX is not installed.
    """

    def __init__(self, folder: Path, *, purge_step: int | None, say: Callable[[str], None]) -> None:
        purpose = "writing files for TensorBoard"
        writer = library("tensorboardX.event_file_writer", extra="train", purpose=purpose)
        self._summary = library("tensorboardX.summary", extra="train", purpose=purpose)
        self._event = library("tensorboardX.proto.event_pb2", extra="train", purpose=purpose)
        self._folder, self._say, self._flushed = folder, say, time.monotonic()
        self._file: Any = None
        self._failed = False

        def start() -> None:
            folder.mkdir(parents=True, exist_ok=True)
            # Files are named by the second; two starts within one must not overwrite each other.
            self._file = writer.EventsWriter(str(folder / "events"), f".{time.time_ns()}")

        self._guarded(start)
        if purge_step is not None:
            log = self._event.SessionLog(status=self._event.SessionLog.START)
            self._write(self._event.Event(session_log=log), purge_step)

    def scalar(self, name: str, value: float, step: int) -> None:
        """A number of one step."""
        self._write(self._event.Event(summary=self._summary.scalar(name, value)), step)

    def text(self, name: str, text: str, step: int) -> None:
        """A text, read as Markdown, of one step."""
        self._write(self._event.Event(summary=self._summary.text(name, text)), step)

    def flush(self) -> None:
        """Make what was written visible to others."""
        self._flushed = time.monotonic()
        self._guarded(lambda: self._file.flush())

    def close(self) -> None:
        """Write out and close."""
        self._guarded(lambda: self._file.close())
        self._failed = True  # closed for good

    def _write(self, event: Any, step: int) -> None:
        event.wall_time, event.step = time.time(), step
        self._guarded(lambda: self._file.write_event(event))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def _guarded(self, action: Callable[[], object]) -> None:
        if self._failed:
            return
        try:
            action()
        except OSError as error:
            self._failed = True
            problem = error.strerror or error
            self._say(f"note: {self._folder}: cannot be written ({problem}); the run goes on without TensorBoard")
