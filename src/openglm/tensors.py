"""From the host's arrays to tensors on a device."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from .batches import Arrays, Batch

T = TypeVar("T")


def to_tensors(batch: Batch[Arrays], device: torch.device | None = None) -> Batch[Tensor]:
    """A batch of numpy arrays as one of tensors, copied to `device` if one is given."""
    tensors: Batch[Tensor] = batch.map(torch.from_numpy)
    return tensors if device is None else tensors.to(device)


def each_tensor(batch: T, change: Callable[[Tensor], Tensor]) -> T:
    """A dataclass with every tensor among its fields changed; other fields stay as they are."""
    assert dataclasses.is_dataclass(batch)
    assert not isinstance(batch, type)
    values: dict[str, Any] = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    return dataclasses.replace(batch, **{name: change(v) for name, v in values.items() if isinstance(v, Tensor)})
