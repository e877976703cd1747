"""Stop strings in text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopWatch:
    """Lets text through up to the first stop string.

    Text that may be the beginning of one is held back until it is certain.

    Args:
        stops: none of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._held = stops, ""

    def push(self, text: str) -> tuple[str, str | None]:
        """Add text; what is certain of it, and the stop string that was reached, if one was."""
        text = self._held + text
        found = [(at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self._held = ""
            at, stop = min(found)
            return text[:at], stop
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        certain = text[: len(text) - keep]
        self._held = text[len(certain) :]
        return certain, None

    def finish(self) -> str:
        """What was held back: no stop string follows."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that `stop` begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
