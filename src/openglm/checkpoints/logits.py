"""What a network computes for a fixed input, with one of its parts in memory at a time.

For comparing checkpoints: the network itself may be larger than memory.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..network.attention import prefix_mask
from ..network.config import GLMConfig
from ..network.model import GLMModel
from .weights import StreamingReader, Weights

LENGTH = 24  # tokens of Part A and one span of Part B
ROWS_AT_ONCE = 2048  # of the vocabulary
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
    read = StreamingReader(weights)
    # One room for all tensors in turn that must be converted: rooms made anew leave a heap full of holes.
    room = torch.empty(max(tensor.numel() for tensor in transformer.parameters()))
    for path, module in transformer.named_modules():
        names = [name for name, _ in module.named_parameters(recurse=False)]
        if names:
            module.register_forward_pre_hook(partial(_fetch, read, f"transformer.{path}", names, room))
            module.register_forward_hook(partial(_drop, names))
    words = read(_TABLE)[ids].float()
    hidden = transformer(words, positions, prefix_mask(torch.tensor([separator]), length), None)
    table = read(_TABLE)
    logits = torch.cat([F.linear(hidden, rows.float()) for rows in torch.split(table, ROWS_AT_ONCE)], -1)
    del table
    weights.release()
    return logits


def _fetch(read: StreamingReader, path: str, names: list[str], room: Tensor, module: nn.Module, _: Any) -> None:
    for name in names:
        values = read(f"{path}.{name}")
        if values.dtype != room.dtype:
            # The small ones beside the weight (biases) get a room of their own.
            large = values.dim() > 1
            values = room[: values.numel()].view(values.shape).copy_(values) if large else values.float()
        setattr(module, name, nn.Parameter(values, requires_grad=False))


def _drop(names: list[str], module: nn.Module, *_: Any) -> None:
    for name in names:
        setattr(module, name, nn.Parameter(getattr(module, name).to("meta"), requires_grad=False))
