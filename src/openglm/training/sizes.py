"""What would not fit into this machine, said before anything is built.

Knows bytes and numbers; nothing about networks or batches.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from ..errors import TrainingError


def physical_memory() -> int | None:
    """Bytes of memory of this machine; None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def check_memory(needs: Iterable[tuple[str, int, str]], memory: int | None = None) -> None:
    """Refuse what is larger than the memory of the machine.

    Args:
        needs: (what, bytes, what to set lower) of things that exist at one time.
        memory: bytes there are (default: of this machine).

    Raises:
        TrainingError: the first of them that does not fit.
    """
    there = memory or physical_memory()
    for what, size, remedy in needs:
        if there is not None and size > there:
            raise TrainingError(
                f"{what} would take {_gib(size)}, and this machine has {_gib(there)} of memory; set {remedy} lower"
            )


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB"
