"""Progress on standard error, while somebody is watching."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any


class Bar:
    """A progress bar; silent where standard error is not a terminal.

    Args:
        name: what is being done.
        total: items of it.
        unit: what they are.
    """

    def __init__(self, name: str, total: int, unit: str) -> None:
        from tqdm import tqdm

        self._bar: Any = tqdm(
            desc=name, total=total, unit=f" {unit}", leave=False, file=sys.stderr, disable=not sys.stderr.isatty()
        )

    def add(self, count: int) -> None:
        """So many more are done."""
        self._bar.update(count)

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
