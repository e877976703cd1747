"""Safetensors files: read tensor by tensor from a mapping, and written without holding them all.

Nothing in such a file can be executed. Knows nothing about configurations or formats of folders.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import CheckpointError
from ..files import replacing
from .checksums import remove_checksums
from .weights import FilesTogether, TensorInfo, Weights, damaged, plain_names, write_bytes

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
SHARD_BYTES = 5 * 10**9  # of one file; larger models are written as several

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
# What `write_files` writes, and so may remove.
_OURS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class SafetensorsFile(Weights):
    """The tensors of one file.

    Raises:
        CheckpointError: missing, truncated or corrupted, or a dtype no checkpoint has.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None
        file = self._opened()
        self._stored, self.left_out = plain_names(list(file.keys()), path)
        self.infos = {name: self._info(file.get_slice(stored)) for name, stored in self._stored.items()}

    def _info(self, entry: Any) -> TensorInfo:
        name = str(entry.get_dtype())
        if name not in DTYPES:
            raise CheckpointError(f"{self.path}: holds values of type {name}; convert them to F32, F16 or BF16 first")
        return TensorInfo(tuple(entry.get_shape()), DTYPES[name])

    def _opened(self) -> Any:
        if self._file is None:
            try:
                self._file = safe_open(self.path, framework="pt", device="cpu")
            except FileNotFoundError as error:
                raise CheckpointError(f"{self.path}: no such file; download or copy the weights there") from error
            except (SafetensorError, OSError) as error:
                raise damaged(self.path, error) from error
        return self._file

    def read(self, name: str) -> Tensor:
        """One tensor, a window onto the mapped file."""
        try:
            tensor: Tensor = self._opened().get_tensor(self._stored[name])
        except (SafetensorError, OSError) as error:
            raise damaged(self.path, error) from error
        return tensor

    def release(self) -> None:
        """Close the mapping."""
        self._file = None


def read_files(files: Sequence[Path]) -> Weights:
    """One file, or several shards, as one set of weights. Raises as their parts do."""
    opened = [SafetensorsFile(path) for path in files]
    return opened[0] if len(opened) == 1 else FilesTogether(files[0].parent, opened)


def shards_of(infos: Mapping[str, TensorInfo], limit: int) -> list[list[str]]:
    """Names, in their order, divided among files of at most `limit` bytes (one tensor at least)."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, info in infos.items():
        if shards[-1] and filled + info.nbytes > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += info.nbytes
    return shards


def save_file(
    state: Mapping[str, TensorInfo],
    path: Path,
    read: Callable[[str], Tensor],
    names: Sequence[str] | None = None,
) -> None:
    """Write one file tensor by tensor.

    Args:
        state: shapes and dtypes to write.
        read: gives the tensor of a name; it is asked once for each, in order.
        names: which of them (default: all).
    """
    names = list(state) if names is None else names
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in names:
        start, end = end, end + state[name].nbytes
        info = state[name]
        header[name] = {"dtype": _NAMES[info.dtype], "shape": list(info.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # tensors begin at a multiple of eight bytes
    with path.open("wb") as file:
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for name in names:
            write_bytes(file, read(name), state[name])


def write_files(
    folder: Path, infos: Mapping[str, TensorInfo], read: Callable[[str], Tensor], *, shard_bytes: int = SHARD_BYTES
) -> list[Path]:
    """Write weights as one file, or as several with an index; what was there before is replaced.

    All files are complete on disk before the first of them gets its name.

    Returns:
        The files written.
    """
    shards = shards_of(infos, shard_bytes)
    count = len(shards)
    single = count == 1
    names = [SINGLE_FILE] if single else [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    with ExitStack() as parts:
        # The stack unwinds from its end: the first shard gets its name first, the index last.
        index = None if single else parts.enter_context(replacing(folder / INDEX_FILE))
        paths = [parts.enter_context(replacing(folder / name)) for name in reversed(names)][::-1]
        for path, tensors in zip(paths, shards, strict=True):
            save_file(infos, path, read=read, names=tensors)
        if index is not None:
            _write_index(index, infos, names, shards)
        remove_checksums(folder)  # of the old files, which go from here on
    written = {*names} if single else {*names, INDEX_FILE}
    for old in folder.iterdir():
        if _OURS.fullmatch(old.name) and old.name not in written:
            old.unlink()
    return [folder / name for name in sorted(written)]


def _write_index(
    path: Path, infos: Mapping[str, TensorInfo], names: Sequence[str], shards: Sequence[Sequence[str]]
) -> None:
    content = {
        "metadata": {"total_size": sum(info.nbytes for info in infos.values())},
        "weight_map": {tensor: name for name, tensors in zip(names, shards, strict=True) for tensor in tensors},
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
