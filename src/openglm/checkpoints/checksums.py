"""Checksums of our own model folders: `checksums.json`, written with a folder and checked whenever it is read.

Of every tensor the sum of its bytes as little-endian words of 64 bits, modulo 2**64: a flipped
bit always changes it, and it takes half as long as looking for values that are not finite
numbers, which a tensor with a checksum need not be searched for. Of the vocabulary, and the weights
of a head or a prompt, SHA-256. Configurations have none: they are text that people edit, and their
values are checked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, TokenizerError
from ..files import digest_of_file, write_atomically
from .weights import TensorInfo, Weights, is_finite

CHECKSUMS_FILE = "checksums.json"
TENSORS, FILES = "tensors", "files"


def sum_of(tensor: Tensor) -> str:
    """The checksum of a tensor's bytes, 16 hexadecimal digits."""
    data = tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
    whole = len(data) // 8 * 8
    total = int(data[:whole].view(torch.int64).sum()) if whole else 0
    rest = int.from_bytes(bytes(data[whole:].tolist()), "little")
    return f"{(total + rest) % 2**64:016x}"


class SummingReader:
    """Gives tensors to be written, in the dtype to write, and notes their checksums.

    Attributes:
        sums: name -> checksum, of finite tensors.
    """

    def __init__(self, read: Callable[[str], Tensor], infos: Mapping[str, TensorInfo]) -> None:
        self._read, self._infos = read, infos
        self.sums: dict[str, str] = {}

    def __call__(self, name: str) -> Tensor:
        """One tensor. Raises as the reader behind it."""
        tensor = self._read(name).detach().to("cpu", self._infos[name].dtype)
        if is_finite(tensor):
            self.sums[name] = sum_of(tensor)
        return tensor


class CheckedWeights(Weights):
    """The same weights, each tensor compared with its checksum as it is read."""

    def __init__(self, weights: Weights, sums: Mapping[str, str]) -> None:
        self._weights, self._sums = weights, sums
        self.path, self.infos, self.left_out = weights.path, weights.infos, weights.left_out
        self.windows, self.finite = weights.windows, frozenset(sums)

    def read(self, name: str) -> Tensor:
        """One tensor.

        Raises:
            CheckpointError: also for one that is not what was written.
        """
        tensor = self._weights.read(name)
        if name in self._sums and sum_of(tensor) != self._sums[name]:
            raise CheckpointError(
                f"{self.path}: {name} is not what was written ({CHECKSUMS_FILE}); the file is damaged: fetch or copy "
                f"it again, or if it was changed on purpose, remove {CHECKSUMS_FILE}"
            )
        return tensor

    def release(self) -> None:
        """Close the mappings."""
        self._weights.release()


def remove_checksums(folder: Path) -> None:
    """Before files are replaced: half of them new, a folder must not seem damaged."""
    (folder / CHECKSUMS_FILE).unlink(missing_ok=True)


def write_checksums(folder: Path, sums: Mapping[str, str] | None = None, files: Iterable[str] = ()) -> None:
    """Write, or add to, a folder's checksums, after everything else.

    Args:
        sums: of tensors.
        files: names of files in it.
    """
    known = _read(folder)
    values = {
        TENSORS: {**known.get(TENSORS, {}), **(sums or {})},
        FILES: {**known.get(FILES, {}), **{name: digest_of_file(folder / name) for name in sorted(files)}},
    }
    write_atomically(folder / CHECKSUMS_FILE, (json.dumps(values, indent=1) + "\n").encode())


def note_file(folder: Path, name: str) -> None:
    """Keep a file's content in mind that was written anew into a folder with checksums."""
    if (folder / CHECKSUMS_FILE).is_file():
        write_checksums(folder, files=[name])


def checked(folder: Path, weights: Weights) -> Weights:
    """Weights that are compared with the folder's checksums, if it has any. Raises CheckpointError."""
    sums = _read(folder).get(TENSORS)
    return CheckedWeights(weights, sums) if sums else weights


def check_files(folder: Path) -> None:
    """Whether vocabulary, head and prompt are what was written. Raises TokenizerError, or CheckpointError."""
    for name, digest in _read(folder).get(FILES, {}).items():
        path = folder / name
        if path.is_file() and digest_of_file(path) != digest:
            kind = CheckpointError if path.suffix == ".safetensors" else TokenizerError
            raise kind(
                f"{path}: not what was written ({CHECKSUMS_FILE}); the file is damaged: fetch or copy it again, or if "
                f"it was changed on purpose, remove {CHECKSUMS_FILE}"
            )


def _read(folder: Path) -> dict[str, Any]:
    path = folder / CHECKSUMS_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not all(isinstance(each, str) for part in (TENSORS, FILES) for each in values.get(part, {}).values()):
            raise ValueError("values that are no checksums")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not readable ({error}); fetch it again, or remove it") from error
    return dict(values)
