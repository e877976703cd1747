"""What a figure depends on, as short digests: a task's content, its data, the weights of a model.

A result that is there already is only taken for the same if all of them are.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import digest_of_file

LENGTH = 16  # hex digits
_FOR_PEOPLE = ("name", "title", "language", "source", "published")  # change no figure


def digest_of_content(content: Any) -> str:
    """Of a frozen dataclass (a task, a row of the catalogue), but for what only people read."""
    values = {
        each.name: getattr(content, each.name)
        for each in dataclasses.fields(content)
        if each.compare and each.name not in _FOR_PEOPLE
    }
    return hashlib.sha256(repr(_plain(values)).encode()).hexdigest()[:LENGTH]


def digest_of_files(paths: Sequence[Path]) -> str:
    """Of the content of files, in order."""
    return hashlib.sha256(" ".join(map(digest_of_file, paths)).encode()).hexdigest()[:LENGTH]


def digest_of_weights(tensors: Iterable[tuple[str, Tensor]], *more: str) -> str:
    """Of tensors with their names, every bit of them, and of text that belongs to them (a vocabulary)."""
    digest = hashlib.sha256("\0".join(more).encode())
    for name, tensor in tensors:
        values = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(f"{name} {values.dtype} {tuple(tensor.shape)}".encode())
        if len(values):
            digest.update(values.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:LENGTH]


def _plain(value: Any) -> Any:
    """The same value with the same `repr` wherever it comes from."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [[each.name, _plain(getattr(value, each.name))] for each in dataclasses.fields(value) if each.compare]
    if isinstance(value, Mapping):
        return [[str(key), _plain(each)] for key, each in value.items()]
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return str(value)
