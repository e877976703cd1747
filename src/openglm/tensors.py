"""A batch of layouts as tensors on a device: the step from `blanks` to the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .batches import Batch


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
