"""Kernels of our own for attention on a CPU, `kernels.cpp`: how they are built, and attention under a mask.

They are compiled when they are first used, which takes a second or two, and kept in the user's
cache folder, from where any number of processes may take them. Where there are none, for want of a
compiler or on another processor, operations of torch do the same. OPENGLM_KERNEL=off asks for
that, AVX2 or AVX512 for one of the kernels.

A token gets the same numbers, bit for bit, in any company, and whether it is read with others or
after them: what `engine/native.py` attends to in pages and what is attended to here are the same sums.

Knows tensors and pointers; nothing about texts.
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
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import OptionError
from ..files import replacing
from .config import GLMConfig

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from .model import GLMModel

log = logging.getLogger("openglm")
SOURCE = Path(__file__).with_name("kernels.cpp")
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


class Rows(ctypes.Structure):
    """Queries, keys or values; `text`, `head` and `token` are strides."""

    _fields_ = (("at", ctypes.c_void_p), ("text", ctypes.c_int64), ("head", ctypes.c_int64), ("token", ctypes.c_int64))


class KernelTexts(ctypes.Structure):
    """What is attended to."""

    _fields_ = (
        ("table", ctypes.c_void_p),
        ("lengths", ctypes.c_void_p),
        ("starts", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("count", "columns", "heads", "size", "threads")),
    )


def rows_of(x_BNSH: Tensor) -> tuple[Rows, Tensor]:
    """A tensor as the kernels read it, and the one that must live meanwhile."""
    x = x_BNSH.float()
    if x.stride(3) != 1:
        x = x.contiguous()
    return Rows(x.data_ptr(), x.stride(0), x.stride(1), x.stride(2)), x


def kernel(name: str, dtype: torch.dtype) -> ctypes._NamedFuncPointer:
    """One of the kernels, for keys and values of a type; `kernel_for` must have said that there are some."""
    chosen = instructions()
    assert chosen is not None, "there is a kernel for this model"
    return library(chosen)[f"{name}_{str(dtype).removeprefix('torch.')}"]


def pages_dtype(model: GLMModel) -> torch.dtype:
    """What keys and values are kept in: float32 for a model of that type, else half precision."""
    return torch.float32 if model.word_embeddings.weight.dtype == torch.float32 else torch.float16


class MaskedAttention:
    """A cache that keeps nothing: attention under a mask as the engine's, so that both agree to the last bit."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._masked = kernel("masked", dtype)

    def attend(
        self, layer: int, q_BNSH: Tensor, k_BNSH: Tensor, v_BNSH: Tensor, mask: Tensor | BlockMask | None
    ) -> Tensor:
        """As `Cache`; `mask` is [B, 1, S, S] bool."""
        assert isinstance(mask, Tensor), "a dense mask"
        (q, _q), (k, _k), (v, _v) = rows_of(q_BNSH), rows_of(k_BNSH), rows_of(v_BNSH)
        B, N, S, H = q_BNSH.shape
        sees = mask.expand(B, 1, S, S).contiguous()
        texts = KernelTexts(None, None, None, B, 0, N, H, torch.get_num_threads())
        mixed_BSNH = torch.empty(B, S, N, H)
        self._masked(
            ctypes.byref(texts), ctypes.c_int64(S), ctypes.byref(q), ctypes.byref(k), ctypes.byref(v),
            ctypes.c_void_p(sees.data_ptr()), ctypes.c_void_p(mixed_BSNH.data_ptr()),
        )  # fmt: skip
        return mixed_BSNH.transpose(1, 2).to(q_BNSH.dtype)

    def advance(self, tokens: int) -> None:
        """Nothing to count."""


def exact_attention(model: GLMModel) -> MaskedAttention | None:
    """What a network whose products are exact attends with, so that scoring agrees with filling; None for others."""
    if model.quantized != "int8" or model.word_embeddings.weight.device.type != "cpu" or torch.is_grad_enabled():
        return None
    return MaskedAttention(pages_dtype(model)) if kernel_for(model.config) else None
