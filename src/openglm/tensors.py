"""A batch of layouts as tensors on a device: the step from `blanks` to the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from .batches import Batch

T = TypeVar("T")


@dataclass(frozen=True)
class BatchTensors:
    """The arrays of `blanks.Batch` as tensors; names, shapes and meanings are the same."""

    input_ids: Tensor
    targets: Tensor
    loss_mask: Tensor
    position_ids: Tensor
    documents: Tensor
    in_part_a: Tensor

    @classmethod
    def of(cls, batch: Batch, device: torch.device) -> BatchTensors:
        """Copy a batch to `device`."""
        return cls(**{name: torch.from_numpy(getattr(batch, name)).to(device) for name in cls.__annotations__})


def each_tensor(batch: T, change: Callable[[Tensor], Tensor]) -> T:
    """A dataclass with every tensor among its fields changed; other fields stay as they are."""
    assert dataclasses.is_dataclass(batch)
    assert not isinstance(batch, type)
    values: dict[str, Any] = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    return dataclasses.replace(batch, **{name: change(v) for name, v in values.items() if isinstance(v, Tensor)})
