"""Attention over pages as a compiled kernel, `native.cpp`: at the speed of the memory.

It is compiled when it is first asked for, which takes a second, and kept in the user's cache
folder. Where there is none, `paged_attention.py` does the same with operations of torch, in up to four
times the time.

Knows pages and pointers; nothing about how a token is chosen.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
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

SOURCE = Path(__file__).with_name("native.cpp")
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC", "-w")
# By torch's name for what a processor can do.
INSTRUCTIONS = {
    "AVX512": ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx2", "-mfma", "-mf16c"),
    "AVX2": ("-mavx2", "-mfma", "-mf16c"),
}


def compiler() -> str:
    """The C++ compiler, as torch's own compiler finds it."""
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")


def instructions() -> Sequence[str] | None:
    """Flags for this processor; None where the kernel is not meant to run."""
    return INSTRUCTIONS.get(torch.backends.cpu.get_cpu_capability()) if sys.platform == "linux" else None


def supports(config: GLMConfig) -> bool:
    """Whether there is a kernel for such a model on this machine."""
    return instructions() is not None and config.hidden_size // config.num_attention_heads % 16 == 0


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openglm"


@functools.cache
def library() -> ctypes.CDLL:
    """The compiled kernels.

    Raises:
        OptionError: the compiler refuses.
    """
    command = [compiler(), *FLAGS, *(instructions() or ())]
    try:
        version = subprocess.run([command[0], "--version"], capture_output=True, check=True).stdout
        made_of = [SOURCE.read_bytes(), version, *map(str.encode, command)]
        digest = hashlib.sha256(b"\0".join(made_of)).hexdigest()[:16]
        try:
            return _built(command, _cache_folder() / f"native-{digest}.so")
        except OSError:  # a home that cannot be written to, or not run from
            with tempfile.TemporaryDirectory() as temporary:
                return _built(command, Path(temporary) / "native.so")
    except subprocess.CalledProcessError as error:
        told = error.stderr.decode(errors="replace").strip().splitlines()
        raise OptionError(
            f"compile: {command[0]} cannot compile {SOURCE.name}: {told[0] if told else error}"
        ) from error


def _built(command: Sequence[str], target: Path) -> ctypes.CDLL:
    if not target.exists():
        with replacing(target) as part:  # others may be making the same
            subprocess.run([*command, str(SOURCE), "-o", str(part)], capture_output=True, check=True)
    return ctypes.CDLL(str(target))


class _Rows(ctypes.Structure):
    _fields_ = (("at", ctypes.c_void_p), ("text", ctypes.c_int64), ("head", ctypes.c_int64), ("token", ctypes.c_int64))


class _Texts(ctypes.Structure):
    _fields_ = (
        ("table", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
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

    def __init__(self, pages: PagePool, tables: Sequence[BlockTable], lengths: Sequence[int]) -> None:
        self.pages = pages
        self._numbers = page_numbers(tables)
        self._lengths = np.array(lengths, np.int32)
        self._texts = _Texts(
            self._numbers.ctypes.data, self._lengths.ctypes.data, *self._numbers.shape,
            pages.heads, pages.head_size, torch.get_num_threads(),
        )  # fmt: skip
        self._attend = library()[f"{self.kernel}_{str(pages.dtype).removeprefix('torch.')}"]
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
        super().__init__(pages, tables, lengths)
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
        super().__init__(pages, tables, [table.length + 1 for table in tables])
