"""Attention over pages as a compiled kernel, `native.cpp`: at the speed of the memory.

It is compiled when it is first used, which takes a second or two, and kept in the user's cache
folder, from where any number of processes may take it. Where there is none, for want of a
compiler or on another processor, `paged_attention.py` does the same with operations of torch, in
up to four times the time. OPENGLM_KERNEL=off asks for that, AVX2 or AVX512 for one of the kernels.

A sequence gets the same numbers, bit for bit, in any company, and whether its tokens are read at
once or one by one.

Knows pages and pointers; nothing about how a token is chosen.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import OptionError
from ..files import replacing
from ..layouts import Layout
from ..network.attention import tokens_seen
from ..network.config import GLMConfig
from .pages import BlockTable, PagePool, page_numbers

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

log = logging.getLogger("openglm")
SOURCE = Path(__file__).with_name("native.cpp")
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC", "-w")
# By torch's name for what a processor can do.
INSTRUCTIONS = {
    "AVX512": ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx2", "-mfma", "-mf16c"),
    "AVX2": ("-mavx2", "-mfma", "-mf16c"),
}


BUILD_SECONDS = 120.0  # for the compiler; a machine on which it takes longer goes without


def compiler() -> str:
    """The C++ compiler, as torch's own compiler finds it."""
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")


def instructions() -> str | None:
    """Which of `INSTRUCTIONS` the kernel is to use; None where it is not meant to run.

    Raises:
        OptionError: OPENGLM_KERNEL names another one, or one that this processor lacks.
    """
    able = torch.backends.cpu.get_cpu_capability() if sys.platform == "linux" else ""
    known = [name for name in INSTRUCTIONS if name == able or (name, able) == ("AVX2", "AVX512")]
    wanted = os.environ.get("OPENGLM_KERNEL") or able
    if wanted in known:
        return wanted
    if wanted not in ("off", able):
        raise OptionError(f"OPENGLM_KERNEL={wanted!r}; on this machine it may be {', '.join([*known, 'off'])}")
    return None


def kernel_for(config: GLMConfig) -> str | None:
    """The instructions that the kernel for such a model uses; None where there is no kernel.

    Raises:
        OptionError: as `instructions`.
    """
    chosen = instructions()
    if chosen is None or config.head_size % 16 or _built(chosen) is None:
        return None
    return chosen


@functools.cache
def _built(chosen: str) -> ctypes.CDLL | None:
    try:
        return library(chosen)
    except (OptionError, OSError, subprocess.TimeoutExpired) as error:
        log.info("attention goes without its kernel: %s", error)
        return None


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openglm"


@functools.cache
def library(chosen: str) -> ctypes.CDLL:
    """The compiled kernels for one of `INSTRUCTIONS`.

    Raises:
        OptionError: the compiler refuses.
        OSError: there is no compiler, or what it made cannot be loaded.
        subprocess.TimeoutExpired: the compiler takes too long.
    """
    flags = (*FLAGS, *INSTRUCTIONS[chosen])
    digest = hashlib.sha256(b"\0".join([SOURCE.read_bytes(), *map(str.encode, flags)])).hexdigest()[:16]
    try:
        return _made(flags, _cache_folder() / f"native-{digest}.so")
    except (OSError, RuntimeError):  # no home, or one that cannot be written to, or not run from
        with tempfile.TemporaryDirectory() as temporary:
            return _made(flags, Path(temporary) / "native.so")


def _made(flags: Sequence[str], target: Path) -> ctypes.CDLL:
    if not target.exists():
        with replacing(target) as part:  # others may be making the same: each under a name of its own
            command = [compiler(), *flags, str(SOURCE), "-o", str(part)]
            try:
                subprocess.run(command, capture_output=True, check=True, timeout=BUILD_SECONDS)
            except subprocess.CalledProcessError as error:
                told = error.stderr.decode(errors="replace").strip().splitlines()
                raise OptionError(f"{command[0]} cannot compile {SOURCE.name}: {told[0] if told else error}") from error
    return ctypes.CDLL(str(target))


class _Rows(ctypes.Structure):
    _fields_ = (("at", ctypes.c_void_p), ("text", ctypes.c_int64), ("head", ctypes.c_int64), ("token", ctypes.c_int64))


class _Texts(ctypes.Structure):
    _fields_ = (
        ("table", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("count", "columns", "heads", "size", "threads")),
    )


def _rows(x_BNSH: Tensor) -> tuple[_Rows, Tensor]:
    """As the kernel reads it, and the tensor that must live meanwhile."""
    x = x_BNSH.float()
    if x.stride(3) != 1:
        x = x.contiguous()
    return _Rows(x.data_ptr(), x.stride(0), x.stride(1), x.stride(2)), x


class _NativeCache:
    """A cache that hands each layer to the kernel."""

    kernel: str

    def __init__(
        self, pages: PagePool, tables: Sequence[BlockTable], starts: Sequence[int], lengths: Sequence[int]
    ) -> None:
        self.pages = pages
        self._numbers = page_numbers(tables)
        self._starts, self._lengths = np.array(starts, np.int32), np.array(lengths, np.int32)
        self._texts = _Texts(
            self._numbers.ctypes.data, self._lengths.ctypes.data, self._starts.ctypes.data, *self._numbers.shape,
            pages.heads, pages.head_size, torch.get_num_threads(),
        )  # fmt: skip
        chosen = instructions()
        assert chosen is not None, "there is a kernel for this model"
        self._attend = library(chosen)[f"{self.kernel}_{str(pages.dtype).removeprefix('torch.')}"]
        self._more: tuple[Any, ...] = ()

    def attend(
        self, layer: int, q_BNSH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor, mask: Tensor | BlockMask | None
    ) -> Tensor:
        """As `Cache`; the kernel is told who sees whom, `mask` is not looked at."""
        (q, _q), (k, _k), (v, _v) = _rows(q_BNSH), _rows(k_BNSH), _rows(v_BNSH)
        B, N, S, H = q_BNSH.shape
        mixed_BSNH = torch.empty(B, S, N, H)
        self._attend(
            ctypes.byref(self._texts),
            ctypes.c_void_p(self.pages.keys[layer].data_ptr()),
            ctypes.c_void_p(self.pages.values[layer].data_ptr()),
            ctypes.byref(q), ctypes.byref(k), ctypes.byref(v),
            ctypes.c_void_p(mixed_BSNH.data_ptr()), *self._more,
        )  # fmt: skip
        return mixed_BSNH.transpose(1, 2).to(q_BNSH.dtype)

    def advance(self, tokens: int) -> None:
        """Nothing to count: `BlockTable` has the lengths."""


class NativePrefillCache(_NativeCache):
    """As `PrefillCache`."""

    kernel = "prefill"

    def __init__(self, pages: PagePool, tables: Sequence[BlockTable], layouts: Sequence[Layout]) -> None:
        lengths = [len(layout) for layout in layouts]
        super().__init__(pages, tables, [0] * len(tables), lengths)
        longest = max(lengths)
        self._seen = np.zeros((len(layouts), longest), np.int32)
        for row, layout in zip(self._seen, layouts, strict=True):
            row[: len(layout)] = tokens_seen(layout.separator, len(layout))
        self._more = (ctypes.c_void_p(self._seen.ctypes.data), ctypes.c_int64(longest))


class NativeDecodeCache(_NativeCache):
    """As `DecodeCache`."""

    kernel = "decode"

    def __init__(self, pages: PagePool, tables: Sequence[BlockTable]) -> None:
        for table in tables:
            pages.append_slot(table)
        lengths = [table.length for table in tables]
        super().__init__(pages, tables, lengths, [length + 1 for length in lengths])
