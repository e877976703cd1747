"""Model-parallel pieces: one rule for cutting each tensor, and for putting it together.

The rule is that of the original code's re-partition tool: vocabulary rows and the feed-forward
width are cut into consecutive parts, queries, keys and values each for themselves, the two
projections back into the residual stream along their inputs; the rest is in every piece.
Knows nothing about files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError, OptionError
from .weights import SHOWN, TensorInfo, Weights

# Copies of a tensor may drift apart by rounding in training, but not by more than this share
# of its largest value.
DRIFT = 0.01


class Cut(Enum):
    """How a tensor is divided among ranks."""

    WHOLE = "in every piece"
    ROWS = "dimension 0"
    THIRDS = "dimension 0, in each third"
    COLUMNS = "dimension 1"

    @property
    def dim(self) -> int:
        """The dimension that is divided."""
        return 1 if self is Cut.COLUMNS else 0


_CUTS = {
    "word_embeddings.weight": Cut.ROWS,
    "attention.query_key_value.weight": Cut.THIRDS,
    "attention.query_key_value.bias": Cut.THIRDS,
    "mlp.dense_h_to_4h.weight": Cut.ROWS,
    "mlp.dense_h_to_4h.bias": Cut.ROWS,
    "attention.dense.weight": Cut.COLUMNS,
    "mlp.dense_4h_to_h.weight": Cut.COLUMNS,
}


def cut_of(name: str) -> Cut:
    """The rule for a tensor of the network."""
    return next((cut for end, cut in _CUTS.items() if name.endswith(end)), Cut.WHOLE)


def check_divisible(infos: Mapping[str, TensorInfo], heads: int, ranks: int) -> None:
    """Whether a network can be cut into so many pieces.

    Raises:
        OptionError: its heads or its vocabulary cannot be divided by the number of pieces.
    """
    rows = infos["word_embeddings.weight"].shape[0]
    if ranks < 1 or heads % ranks or rows % ranks:
        raise OptionError(
            f"--model-parallel {ranks}: must be at least 1 and divide the {heads} heads and the {rows} rows of the "
            "vocabulary of this model"
        )


def piece_info(name: str, info: TensorInfo, ranks: int) -> TensorInfo:
    """Shape and dtype of one rank's part of a tensor."""
    shape, cut = list(info.shape), cut_of(name)
    if cut is not Cut.WHOLE:
        shape[cut.dim] //= ranks
    return TensorInfo(tuple(shape), info.dtype)


def divide(name: str, tensor: Tensor, ranks: int) -> list[Tensor]:
    """The parts of a tensor, one per rank."""
    cut = cut_of(name)
    if cut is Cut.WHOLE or ranks == 1:
        return [tensor] * ranks
    if cut is not Cut.THIRDS:
        return list(tensor.chunk(ranks, cut.dim))
    thirds = [third.chunk(ranks) for third in tensor.chunk(3)]
    return [torch.cat(parts) for parts in zip(*thirds, strict=True)]


def join(name: str, parts: Sequence[Tensor]) -> Tensor:
    """The tensor whose parts these are; of copies, the first.

    Raises:
        CheckpointError: copies that differ by more than rounding.
    """
    cut = cut_of(name)
    if len(parts) == 1:
        return parts[0]
    if cut is Cut.WHOLE:
        first = parts[0].float()
        allowed = DRIFT * float(first.abs().max())
        for rank, other in enumerate(parts[1:], 1):
            if not float((other.float() - first).abs().max()) <= allowed:
                raise CheckpointError(
                    f"ranks 0 and {rank} disagree on {name}: they are pieces of different checkpoints"
                )
        return parts[0].clone()
    if cut is not Cut.THIRDS:
        return torch.cat(list(parts), cut.dim)
    thirds = [part.chunk(3) for part in parts]
    return torch.cat([third for number in range(3) for third in (part[number] for part in thirds)])


class RanksJoined(Weights):
    """The pieces of all ranks as one network, put together tensor by tensor.

    Raises:
        CheckpointError: ranks that hold different tensors, or pieces of different shapes.
    """

    windows = False

    def __init__(self, path: Path, ranks: Sequence[Weights]) -> None:
        self.path = path
        self._ranks = ranks
        first = ranks[0]
        for other in ranks[1:]:
            problems = [f"{name} is missing" for name in first.infos if name not in other.infos]
            problems += [f"{name} is not in {first.path.name}" for name in other.infos if name not in first.infos]
            problems += [
                f"{name} has shape {list(info.shape)}, in {first.path.name} {list(first.infos[name].shape)}"
                for name, info in other.infos.items()
                if name in first.infos and info != first.infos[name]
            ]
            if problems:
                more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
                raise CheckpointError(
                    f"{other.path}: ranks disagree, so these are pieces of different checkpoints: "
                    f"{'; '.join(problems[:SHOWN])}{more}"
                )
        self.infos = {name: _whole_info(name, info, len(ranks)) for name, info in first.infos.items()}
        self.left_out = first.left_out

    def read(self, name: str) -> Tensor:
        """One tensor, put together from all ranks."""
        try:
            return join(name, [rank.read(name) for rank in self._ranks])
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from error

    def release(self) -> None:
        """Close the mappings of all ranks."""
        for rank in self._ranks:
            rank.release()


def _whole_info(name: str, info: TensorInfo, ranks: int) -> TensorInfo:
    shape, cut = list(info.shape), cut_of(name)
    if cut is not Cut.WHOLE and cut.dim < len(shape):
        shape[cut.dim] *= ranks
    return TensorInfo(tuple(shape), info.dtype)
