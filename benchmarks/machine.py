"""What the benchmarks share: timing, memory, what this machine can do at best, and tables.

Knows nothing about openglm.
"""

from __future__ import annotations

import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

MIB = 2**20


def describe(device: str, threads: int) -> str:
    """Versions and hardware in one line."""
    if device == "cuda":
        return f"torch {torch.__version__}, {torch.cuda.get_device_name()}"
    return f"torch {torch.__version__}, {threads} threads, {platform.machine()}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table, one line per row."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


# --- Time -----------------------------------------------------------------------------------


def seconds_of(
    work: Callable[[], object], device: str = "cpu", clock: Callable[[], float] = time.perf_counter
) -> float:
    """Time of one call, until the device has finished it; on the wall, or by another clock."""
    if device == "cuda":
        torch.cuda.synchronize()
    begun = clock()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - begun


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median wall time of one call, after one that is not counted."""
    work()
    return statistics.median(seconds_of(work) for _ in range(repeats))


# --- Memory ---------------------------------------------------------------------------------


def memory_now(device: str) -> int:
    """Bytes in use: tensors on a GPU, else the resident memory of this process."""
    return torch.cuda.memory_allocated() if device == "cuda" else _resident("VmRSS")


def memory_peak(device: str) -> int:
    """The most bytes there ever were of `memory_now`."""
    return torch.cuda.max_memory_allocated() if device == "cuda" else _resident("VmHWM")


def _resident(field: str) -> int:
    # ru_maxrss would do, but on Linux a new process starts with that of its parent.
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:  # not Linux
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    found = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/proc/self/status has no {field}")
    return 1024 * int(found[1])
