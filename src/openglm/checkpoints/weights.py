"""Tensors of a checkpoint, one at a time, whatever files they lie in.

`Weights` is what every format gives and every format is written from: names as the network
has them, shapes and dtypes known at once, contents read on demand, so that nobody holds a
model that only passes through. Knows names and shapes; nothing about folders or configurations.
"""

from __future__ import annotations

import ctypes
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from ..errors import CheckpointError

# What wrappers around the network put in front of its names.
PREFIXES = ("module.", "model.", "glm.")
# Parts of fine-tuned checkpoints that are not the network itself.
EXTRA_PREFIXES = ("prompt_spell.", "pool_layer.", "multichoice_head.")
# Pages of a mapped file count as this process's memory until the mapping goes. It is closed and
# made again after so many bytes, or this share of all of them: making it again takes time too.
MAPPED_AT_ONCE = 32 * 2**20
MAPPED_SHARE = 24
SHOWN = 8


@dataclass(frozen=True)
class TensorInfo:
    """Shape and dtype of a tensor that need not be in memory."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of its contents."""
        return prod(self.shape) * self.dtype.itemsize


class Weights(ABC):
    """Named tensors that are read on demand.

    Attributes:
        path: the file or folder that messages name.
        infos: plain name (`word_embeddings.weight`) -> shape and dtype.
        left_out: names found beside the network's, which nobody reads.
        windows: whether tensors are windows onto mapped files rather than copies.
        finite: names of tensors known to hold finite numbers once they have been read.
    """

    path: Path
    infos: Mapping[str, TensorInfo]
    left_out: tuple[str, ...] = ()
    windows: bool = True
    finite: frozenset[str] = frozenset()

    @abstractmethod
    def read(self, name: str) -> Tensor:
        """One tensor on the CPU; it may be a window onto a mapped file.

        Raises:
            CheckpointError: the file is damaged, or pieces of a tensor disagree.
        """

    @abstractmethod
    def release(self) -> None:
        """Give back mapped memory; what is read later is mapped again."""


class StreamingReader:
    """Reads tensors that only pass through: in bounded memory, if the caller keeps none of them."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._limit = max(MAPPED_AT_ONCE, sum(info.nbytes for info in weights.infos.values()) // MAPPED_SHARE)
        self._touched = 0

    def __call__(self, name: str) -> Tensor:
        """One tensor. Raises as `Weights.read`."""
        if self._touched >= self._limit:
            self._weights.release()
            trim_heap()
            self._touched = 0
        self._touched += self._weights.infos[name].nbytes
        return self._weights.read(name)


@cache
def _trimmer() -> Callable[[int], int] | None:
    """glibc's `malloc_trim`; None where there is another allocator."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


def trim_heap() -> None:
    """Give back what freed tensors leave behind: the allocator keeps room of up to 32 MiB each on its heap."""
    trim = _trimmer()
    if trim is not None:
        trim(0)


class FilesTogether(Weights):
    """Files that hold different tensors of one network (shards).

    Raises:
        CheckpointError: two of them hold a tensor of the same name.
    """

    def __init__(self, path: Path, files: Sequence[Weights]) -> None:
        self.path = path
        self._files = files
        self._home: dict[str, Weights] = {}
        for file in files:
            for name in file.infos:
                if name in self._home:
                    raise CheckpointError(
                        f"{file.path}: {name} is in {self._home[name].path.name} too; "
                        "keep the files of one checkpoint only in the folder"
                    )
                self._home[name] = file
        self.infos = {name: file.infos[name] for name, file in self._home.items()}
        self.left_out = tuple(name for file in files for name in file.left_out)

    def read(self, name: str) -> Tensor:
        """One tensor, from the file that has it."""
        return self._home[name].read(name)

    def release(self) -> None:
        """Close the mappings of all files."""
        for file in self._files:
            file.release()


class CastWeights(Weights):
    """The same weights in another dtype."""

    windows = False

    def __init__(self, weights: Weights, dtype: torch.dtype) -> None:
        self._weights, self._dtype = weights, dtype
        self.path, self.left_out = weights.path, weights.left_out
        self.infos = {name: TensorInfo(info.shape, dtype) for name, info in weights.infos.items()}

    def read(self, name: str) -> Tensor:
        """One tensor, rounded.

        Raises:
            CheckpointError: also for values too large for the dtype.
        """
        exact = self._weights.read(name)
        rounded = exact.to(self._dtype)
        if not is_finite(rounded) and is_finite(exact):
            raise CheckpointError(
                f"{self.path}: {name} holds values too large for {str(self._dtype).removeprefix('torch.')}; "
                "store it as bfloat16 or float32"
            )
        return rounded

    def release(self) -> None:
        """Close the mappings."""
        self._weights.release()


class WithRowCopied(Weights):
    """The same weights with one row of the word embedding copied onto another."""

    NAME = "word_embeddings.weight"

    def __init__(self, weights: Weights, source: int, target: int) -> None:
        self._weights, self._source, self._target = weights, source, target
        self.path, self.infos, self.left_out = weights.path, weights.infos, weights.left_out

    def read(self, name: str) -> Tensor:
        """One tensor; the word embedding is a changed copy."""
        tensor = self._weights.read(name)
        if name == self.NAME:
            tensor = tensor.clone()
            tensor[self._target] = tensor[self._source]
        return tensor

    def release(self) -> None:
        """Close the mappings."""
        self._weights.release()


def is_finite(tensor: Tensor) -> bool:
    """Whether all values are numbers; takes no memory of the tensor's size."""
    smallest, largest = torch.aminmax(tensor)
    return bool(torch.isfinite(smallest) and torch.isfinite(largest))


def plain_names(names: Sequence[str], path: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """Plain name -> name in the file; and the names of parts that are not the network.

    Raises:
        CheckpointError: two names differ by a prefix only.
    """
    plain: dict[str, str] = {}
    extra = []
    for stored in names:
        name = stored
        while name.startswith(PREFIXES):
            name = name.partition(".")[2]
        if name.startswith(EXTRA_PREFIXES):
            extra.append(name)
        elif name in plain:
            raise CheckpointError(f"{path}: {plain[name]} and {stored} are the same tensor {name} twice")
        else:
            plain[name] = stored
    return plain, tuple(extra)


def check_tensors(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], source: Path, *, against: str
) -> None:
    """Compare names and shapes of stored tensors with what a configuration asks for.

    Args:
        against: the source of the expectations, for the message.

    Raises:
        CheckpointError: lists the missing, unexpected and misshapen tensors.
    """
    problems = [f"missing {name}" for name in expected if name not in found]
    problems += [f"unexpected {name}" for name in found if name not in expected]
    problems += [
        f"{name} has shape {list(shape)}, the configuration asks for {list(expected[name])}"
        for name, shape in found.items()
        if name in expected and tuple(shape) != tuple(expected[name])
    ]
    if problems:
        shown = "; ".join(problems[:SHOWN]) + (f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else "")
        raise CheckpointError(f"{source}: the weights do not fit {against}: {shown}")


def damaged(path: Path, reason: object) -> CheckpointError:
    """The error for a weights file that cannot be read: what it is instead, and what to do."""
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip().lower()
    except OSError as error:
        return CheckpointError(f"{path}: cannot be read ({error.strerror or error})")
    if start.startswith(b"version https://git-lfs"):
        return CheckpointError(f"{path}: a Git LFS pointer instead of weights; run `git lfs pull` where it came from")
    if start.startswith((b"<html", b"<!doctype", b"<?xml")):
        return CheckpointError(f"{path}: a web page instead of weights; download it again")
    first = str(reason).strip().split("\n")[0]
    return CheckpointError(
        f"{path}: truncated or corrupted, or not a plain weights file ({first}); fetch or copy it again"
    )


def write_bytes(file: IO[bytes], tensor: Tensor, info: TensorInfo) -> None:
    """Write the contents of a tensor, in row-major order and in the dtype of `info`.

    Raises:
        ValueError: the tensor is not of the announced shape.
    """
    if tuple(tensor.shape) != info.shape:
        raise ValueError(f"a tensor of shape {list(tensor.shape)} where {list(info.shape)} was announced")
    flat = tensor.detach().to("cpu", info.dtype).contiguous().reshape(-1)
    file.write(flat.view(torch.uint8).numpy().data)
