"""Weights in torch's pickled files: opened without executing anything, written tensor by tensor.

A pickle may name any Python object and call it. Here only what torch itself allows for
weights is let through, and what rebuilds an array of numbers: the original research code
keeps the state of numpy's generator beside the weights. Knows nothing about configurations
or formats of folders.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError
from .weights import TensorInfo, Weights, damaged, plain_names, write_bytes

_GLOBAL = re.compile(r"GLOBAL ([\w.<>]+)")
_ALIGNMENT = 64  # torch begins tensors at multiples of this, so that they can be mapped


@cache
def _arrays_of_numbers() -> list[Any]:
    """What a pickled numpy array of numbers names, under the names of all numpy releases."""
    rebuild = np.empty(0).__reduce__()[0]
    kinds = ("bool", "u1", "i4", "u4", "i8", "u8", "f4", "f8")
    return [
        (rebuild, "numpy.core.multiarray._reconstruct"),
        (rebuild, "numpy._core.multiarray._reconstruct"),
        np.ndarray,
        np.dtype,
        *(type(np.dtype(kind)) for kind in kinds),
    ]


def load_pickle(path: Path) -> Any:
    """The content of a file that `torch.save` wrote; tensors lie in the mapped file.

    Files from before torch 1.6 are no archives: they cannot be mapped and are read whole.

    Raises:
        CheckpointError: missing, truncated, or no such file; or it names Python objects that
            are no weights, which are not let through (the message lists them).
    """
    try:
        with torch.serialization.safe_globals(_arrays_of_numbers()):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_archive(path))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; download or copy the weights there") from error
    except Exception as error:  # damaged bytes make the unpickler fail in every way there is
        names = _refused(path, str(error))
        if names:
            raise CheckpointError(
                f"{path}: refused, because reading it would run code: besides weights it holds {', '.join(names)}. "
                "If you trust its source, load it there with torch.load and save the table of weights alone"
            ) from error
        raise damaged(path, error) from error


def _is_archive(path: Path) -> bool:
    """Whether a file is what torch writes since 1.6, and can be mapped."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:
        return False


def _refused(path: Path, message: str) -> list[str]:
    """The objects in a pickle that are not let through."""
    try:
        with torch.serialization.safe_globals(_arrays_of_numbers()):
            names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except Exception:  # no archive, or a damaged one: then the message has the first of them
        names = _GLOBAL.findall(message)[:1]
    return sorted(names)


class PickleFile(Weights):
    """The tensors of one file, wrapped in `module` or not.

    Attributes:
        notes: whole numbers and strings found beside the weights (iteration, number of ranks).

    Raises:
        CheckpointError: as `load_pickle`, or the file holds no table of weights.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mapped = _is_archive(path)
        self._state: Mapping[str, Tensor] | None = None
        content = load_pickle(path)
        self._state = self._table(content)
        self._stored, self.left_out = plain_names(list(self._state), path)
        self.infos = {
            name: TensorInfo(tuple(self._state[stored].shape), self._state[stored].dtype)
            for name, stored in self._stored.items()
        }
        beside = content if isinstance(content.get("module"), Mapping) else {}
        self.notes = {str(key): value for key, value in beside.items() if isinstance(value, (int, str))}

    def _table(self, content: Any) -> Mapping[str, Tensor]:
        if isinstance(content, Mapping) and isinstance(content.get("module"), Mapping):
            content = content["module"]
        if not isinstance(content, Mapping) or not content:
            raise CheckpointError(f"{self.path}: holds no table of weights")
        other = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
        if other:
            raise CheckpointError(f"{self.path}: holds no table of weights: {', '.join(other[:4])} are no tensors")
        return content

    def read(self, name: str) -> Tensor:
        """One tensor, a window onto the mapped file."""
        if self._state is None:
            self._state = self._table(load_pickle(self.path))
        return self._state[self._stored[name]].detach()

    def release(self) -> None:
        """Close the mapping."""
        if self._mapped:
            self._state = None


# --- writing -------------------------------------------------------------------------


class _Storage:
    """Stands for the contents of a tensor while the table of weights is pickled."""

    def __init__(self, key: str, info: TensorInfo) -> None:
        self.key, self.info = key, info


class _Slot:
    """Stands for a tensor while the table of weights is pickled."""

    def __init__(self, storage: _Storage) -> None:
        self.storage = storage


# torch's pickles name storages by these classes.
_STORAGES = {
    torch.float64: torch.DoubleStorage,
    torch.float32: torch.FloatStorage,
    torch.float16: torch.HalfStorage,
    torch.bfloat16: torch.BFloat16Storage,
}


class _Pickler(pickle.Pickler):
    def reducer_override(self, obj: Any) -> Any:
        if not isinstance(obj, _Slot):
            return NotImplemented
        shape = obj.storage.info.shape
        strides = torch.empty(shape, device="meta").stride()
        return torch._utils._rebuild_tensor_v2, (obj.storage, 0, shape, strides, False, OrderedDict())

    def persistent_id(self, obj: Any) -> Any:
        if not isinstance(obj, _Storage):
            return None
        count = obj.info.nbytes // obj.info.dtype.itemsize
        return ("storage", _STORAGES[obj.info.dtype], obj.key, "cpu", count)


class PickleWriter:
    """Writes a file that `torch.load` reads, one tensor at a time.

    `torch.save` wants all tensors in memory; this writes the same archive from a description
    of them, and then their contents in the order of the description.

    Args:
        path: the file.
        infos: name -> shape and dtype (of floating point numbers).
        wrap: the table of weights -> the object to store (default: the table itself).
    """

    def __init__(
        self, path: Path, infos: Mapping[str, TensorInfo], wrap: Callable[[dict[str, Any]], Any] | None = None
    ) -> None:
        self._waiting = list(infos.items())[::-1]
        self._number = 0
        self._file = path.open("wb")
        self._archive = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)
        table = {name: _Slot(_Storage(str(i), info)) for i, (name, info) in enumerate(infos.items())}
        try:
            with self._entry("data.pkl", 0) as file:
                _Pickler(file, protocol=2).dump(wrap(table) if wrap else table)
            with self._entry("byteorder", 6) as file:
                file.write(b"little")
        except BaseException:
            self._abandon()
            raise

    def _entry(self, name: str, size: int) -> IO[bytes]:
        entry = zipfile.ZipInfo(f"archive/{name}")
        entry.file_size = size
        large = size * 1.05 > zipfile.ZIP64_LIMIT  # then zipfile adds a field of 20 bytes
        start = self._archive.fp.tell() + 30 + len(entry.filename) + 4 + (20 if large else 0)  # type: ignore[union-attr]
        padding = -start % _ALIGNMENT
        entry.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
        return self._archive.open(entry, "w", force_zip64=large)

    def write(self, name: str, tensor: Tensor) -> None:
        """The contents of the next tensor.

        Raises:
            ValueError: not the next one of the description, or of another shape.
        """
        expected, info = self._waiting.pop()
        if name != expected:
            raise ValueError(f"{name} where {expected} was announced")
        with self._entry(f"data/{self._number}", info.nbytes) as file:
            write_bytes(file, tensor, info)
        self._number += 1

    def __enter__(self) -> PickleWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._abandon()
            return
        if self._waiting:
            raise ValueError(f"{self._waiting[-1][0]} was announced but not written")
        with self._file:
            with self._entry("version", 2) as file:
                file.write(b"3\n")
            self._archive.close()

    def _abandon(self) -> None:
        """After an error: nothing more is written, not even the end of the archive, which may fail again."""
        self._archive.fp = None
        with suppress(OSError):
            self._file.close()
