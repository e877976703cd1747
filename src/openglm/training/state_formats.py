"""The two forms of a training state: one file, and a folder that several processes write.

Both hold plain values (`meta`) and tensors by name. The file is what torch.save writes, the
folder what torch.distributed.checkpoint writes, with the plain values beside it. Reading
executes nothing, and looks at the checksum of every tensor first.

Knows nothing about what the tensors are.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import pickle
import shutil
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import TrainingError
from ..files import replacing, sync_folder, write_atomically
from .parallel import Processes

FORMAT = 2
META = "meta.json"  # of a folder
INDEX = ".metadata"  # of a folder, by torch.distributed.checkpoint

Meta = dict[str, Any]
Shape = tuple[int, ...]


class UnreadableError(Exception):
    """A state that is damaged."""


@dataclass(frozen=True)
class OpenState:
    """A state that can be read.

    Attributes:
        meta: its plain values.
        shapes: of its tensors, by name.
        fill: copies tensors of these names into those given; of a tensor that is spread
            over processes each its part. All processes must call it.
    """

    meta: Meta
    shapes: dict[str, Shape]
    fill: Callable[[dict[str, Tensor]], None]


def remove(path: Path) -> None:
    """Remove a state, or what was begun of one."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# --- one file --------------------------------------------------------------------------


def write_file(path: Path, meta: Meta, tensors: Mapping[str, Tensor]) -> None:
    """Write a state as one file, whole or not at all.

    Raises:
        OSError, RuntimeError: it cannot be written; torch reports a full disk as the latter.
    """
    with replacing(path) as part:
        torch.save({"format": FORMAT, "meta": meta, "tensors": dict(tensors)}, part)


def open_file(path: Path) -> OpenState:
    """Read a state that is one file; errors as in `open_folder`."""
    with _damage():
        _check_sums(path.open("rb"))
        payload = torch.load(path, map_location="cpu", weights_only=True)
        meta = _checked(path, payload)
        tensors: dict[str, Tensor] = payload["tensors"]
        if not all(isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in tensors.items()):
            raise UnreadableError("its tensors are something else")

    def fill(targets: dict[str, Tensor]) -> None:
        with _damage():
            for name, target in targets.items():
                target.copy_(_part_for(target, tensors[name]))

    return OpenState(meta, {name: tuple(tensor.shape) for name, tensor in tensors.items()}, fill)


def _part_for(target: Any, whole: Tensor) -> Tensor:
    if not hasattr(target, "placements"):
        return whole
    from torch.distributed.tensor import distribute_tensor

    # Every process has read the whole; nothing needs to be sent.
    whole = whole.to(target.device, target.dtype)
    return distribute_tensor(whole, target.device_mesh, target.placements, src_data_rank=None)


# --- a folder --------------------------------------------------------------------------


def write_folder(path: Path, meta: Meta, tensors: Mapping[str, Tensor], processes: Processes) -> None:
    """Write a state as a folder, complete or not at all; all processes call it.

    Raises:
        OSError: it cannot be written; where one process cannot, all raise.
    """
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    part = path.with_name(f".{path.name}.part")
    with _as_os_error():
        _first_must(processes, lambda: part.mkdir(parents=True))
        save(dict(tensors), storage_writer=FileSystemWriter(part, sync_files=True))
        _first_must(processes, lambda: _complete(part, path, meta))


def _complete(part: Path, path: Path, meta: Meta) -> None:
    content = {"format": FORMAT, "meta": meta}
    sums = {"index": _sha256((part / INDEX).read_bytes()), "content": _sha256(_plain(content))}
    write_atomically(part / META, json.dumps({**content, "sums": sums}).encode())
    remove(path)
    part.rename(path)
    sync_folder(path.parent)


def _plain(values: Any) -> bytes:
    return json.dumps(values, sort_keys=True).encode()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _first_must(processes: Processes, action: Callable[[], object]) -> None:
    """Do it in the first process; if it fails there, it fails in all."""
    problem = ""
    if processes.first:
        try:
            action()
        except OSError as error:
            problem = str(error)
    problem = processes.agree(problem)
    if problem:
        raise OSError(errno.EIO, problem)


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Failures of torch.distributed.checkpoint, which are no `Exception`s, as OSError."""
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield
    except CheckpointException as error:
        reasons = dict.fromkeys(_first_line(failure[0]) for failure in error.failures.values())
        raise OSError(errno.EIO, "; ".join(reasons)) from error


def open_folder(path: Path, processes: Processes) -> OpenState:
    """Read a state that is a folder; the processes of the run need not be those that wrote it.

    Raises:
        UnreadableError: truncated, damaged, or holding what would have to be executed.
        TrainingError: of a version of openglm with another format.
    """
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    def fill(targets: dict[str, Tensor]) -> None:
        with _damage(), warnings.catch_warnings(), _as_os_error():
            warnings.simplefilter("ignore")  # a process alone is told that it is alone
            load(dict(targets), storage_reader=FileSystemReader(path))

    with _damage():
        payload = json.loads((path / META).read_text(encoding="utf-8"))
        sums = payload.pop("sums")
        if sums != {"index": _sha256((path / INDEX).read_bytes()), "content": _sha256(_plain(payload))}:
            raise UnreadableError("its index or its plain values are damaged")
        _refuse_code(path / INDEX)
        index = FileSystemReader(path).read_metadata()
        entries = index.state_dict_metadata
        if not all(isinstance(entry, TensorStorageMetadata) for entry in entries.values()):
            raise UnreadableError("it holds something other than tensors")
        stored = list((index.storage_data or {}).values())
        # Each process looks at its share of the pieces.
        for piece in stored[processes.rank :: processes.count]:
            with (path / piece.relative_path).open("rb") as file:
                file.seek(piece.offset)
                _check_sums(io.BytesIO(file.read(piece.length)))
        shapes = {name: tuple(entry.size) for name, entry in entries.items()}  # type: ignore[union-attr]
        return OpenState(_checked(path, payload), shapes, fill)


# What the index of a folder consists of. A pickle may name any function to be called.
_INDEX_MODULE = "torch.distributed.checkpoint.metadata"
_INDEX_NAMES = {
    *(
        (_INDEX_MODULE, name)
        for name in (
            "Metadata", "TensorStorageMetadata", "TensorProperties", "ChunkStorageMetadata", "MetadataIndex",
            "StorageMeta", "BytesStorageMetadata", "_MEM_FORMAT_ENCODING",
        )
    ),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    *(("torch", name) for name in ("Size", "float32", "float64", "bfloat16", "float16", "int64", "int32", "uint8")),
    *((module, name) for module in ("pathlib", "pathlib._local") for name in ("PosixPath", "WindowsPath")),
}  # fmt: skip


class _IndexReader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _INDEX_NAMES:
            raise UnreadableError(f"its index names {module}.{name}, which does not belong there")
        return super().find_class(module, name)


def _refuse_code(index: Path) -> None:
    with index.open("rb") as file:
        _IndexReader(file).load()


# --- both ------------------------------------------------------------------------------


def _checked(path: Path, payload: Any) -> Meta:
    if not isinstance(payload, dict) or payload.get("format") != FORMAT:
        raise TrainingError(
            f"{path}: not a state that this version of openglm can go on from; finish the run with the version "
            "that began it, or give another --output"
        )
    meta: Meta | None = payload.get("meta")
    if not isinstance(meta, dict):
        raise UnreadableError("it has no plain values")
    return meta


def _check_sums(file: Any) -> None:
    """torch.save writes zip archives, with a sum for every tensor that torch.load does not look at."""
    with file, zipfile.ZipFile(file) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise UnreadableError(f"{damaged} in it is damaged")


@contextmanager
def _damage() -> Iterator[None]:
    """Whatever a damaged archive, pickle or index can raise, as `UnreadableError`."""
    try:
        yield
    except (UnreadableError, TrainingError):
        raise
    except Exception as error:
        raise UnreadableError(_first_line(error)) from error


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
