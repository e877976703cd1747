"""What a network computes for a fixed input, with one of its parts in memory at a time.

For comparing checkpoints: the network itself may be larger than memory.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..attention import prefix_mask
from ..config import GLMConfig
from ..model import GLMModel
from .weights import Passing, Weights

LENGTH = 24  # tokens of Part A and one span of Part B
ROWS_AT_ONCE = 8192  # of the vocabulary
_TABLE = "word_embeddings.weight"


@torch.inference_mode()
def probe_logits(config: GLMConfig, weights: Weights) -> Tensor:
    """Logits in float32, [1, S, V] with S at most `LENGTH`. Raises CheckpointError as `Weights.read`."""
    length = min(LENGTH, config.max_sequence_length)
    separator, number = (length + 1) // 2, torch.arange(length)
    ids = (number * 7919 % config.vocab_size)[None]
    positions = torch.stack([number.clamp(max=separator - 1), (number - separator + 1).clamp(min=0)])[None]

    with torch.device("meta"):
        transformer = GLMModel(config).eval().transformer
    read = Passing(weights)
    for path, module in transformer.named_modules():
        names = [name for name, _ in module.named_parameters(recurse=False)]
        if names:
            module.register_forward_pre_hook(partial(_fetch, read, f"transformer.{path}", names))
            module.register_forward_hook(partial(_drop, names))
    words = read(_TABLE)[ids].float()
    hidden = transformer(words, positions, prefix_mask(torch.tensor([separator]), length), None)
    table = read(_TABLE)
    parts = [table[start : start + ROWS_AT_ONCE] for start in range(0, len(table), ROWS_AT_ONCE)]
    logits = torch.cat([F.linear(hidden, rows.float()) for rows in parts], -1)
    del table, parts
    weights.release()
    return logits


def _fetch(read: Passing, path: str, names: list[str], module: nn.Module, _: Any) -> None:
    for name in names:
        setattr(module, name, nn.Parameter(read(f"{path}.{name}").float(), requires_grad=False))


def _drop(names: list[str], module: nn.Module, *_: Any) -> None:
    for name in names:
        setattr(module, name, nn.Parameter(getattr(module, name).to("meta"), requires_grad=False))
