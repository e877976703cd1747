"""A plain classification head: the baseline that a cloze question has to beat.

    logits = W2 dropout(tanh(W1 h))      h: final hidden state at [CLS], a text without blanks

As the published code does it (section 7.2 of its description). Knows networks, tensors and
files; nothing about text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..batches import Batch, pad
from ..blanks import Ids, Markers, PartA
from ..checkpoints import beside
from ..checkpoints.checksums import note_file
from ..errors import CheckpointError
from ..files import write_atomically
from ..layouts import lay_out
from ..network.attention import dense_mask
from ..network.model import GLMModel
from ..tensors import to_tensors

FORMAT = "openglm-head"


class HeadModel(nn.Module):
    """A network with a classification head of L labels; fresh heads draw from torch's generator."""

    def __init__(self, model: GLMModel, labels: int, dropout: float = 0.1) -> None:
        super().__init__()
        width = model.config.hidden_size
        self.model = model
        self.pool_layer = nn.Linear(width, width)
        self.final_layer = nn.Linear(width, labels)
        self.dropout = nn.Dropout(dropout)
        for layer in (self.pool_layer, self.final_layer):
            nn.init.normal_(layer.weight, std=model.config.initializer_range)
            nn.init.zeros_(layer.bias)
            layer.to(model.word_embeddings.weight.device)

    @property
    def head(self) -> dict[str, Tensor]:
        """The tensors of the head by name."""
        return {name: value for name, value in self.state_dict().items() if not name.startswith("model.")}

    def forward(self, batch: TextBatch) -> Tensor:
        """Logits, [B, L]."""
        rows = batch.rows
        mask = dense_mask(rows.documents, rows.in_part_a)
        hidden_BSD = self.model.hidden_states(rows.input_ids, rows.position_ids, mask)
        pooled = torch.tanh(self.pool_layer(self.dropout(hidden_BSD[:, 0])))
        logits: Tensor = self.final_layer(self.dropout(pooled))
        return logits


@dataclass(frozen=True)
class TextBatch:
    """Texts without blanks, B rows of S tokens, and the label of each.

    Attributes:
        rows: the texts, one per row.
        gold: [B] int64, weights: [B] float32.
    """

    rows: Batch[Tensor]
    gold: Tensor
    weights: Tensor

    @classmethod
    def of(cls, texts: Sequence[Ids], gold: Sequence[int], weights: Sequence[float], markers: Markers) -> TextBatch:
        """Pad token ids, `[CLS]` and end included, to one batch."""
        return cls(
            rows=to_tensors(pad([lay_out(PartA(text), [], markers) for text in texts], markers.eop)),
            gold=torch.tensor(list(gold), dtype=torch.int64),
            weights=torch.tensor(np.array(weights, np.float32)),
        )

    @property
    def counts(self) -> tuple[int, ...]:
        """One loss per text."""
        return (len(self.gold),)

    @property
    def tokens(self) -> int:
        """Positions that are not padding."""
        return self.rows.tokens

    @property
    def positions(self) -> int:
        """B S."""
        return self.rows.positions

    def to(self, device: torch.device) -> TextBatch:
        """On another device."""
        return TextBatch(self.rows.to(device), self.gold.to(device), self.weights.to(device))

    def pin_memory(self) -> TextBatch:
        """In memory from which a GPU copies on its own."""
        return TextBatch(self.rows.pin_memory(), self.gold.pin_memory(), self.weights.pin_memory())


class HeadLoss(nn.Module):
    """The head's model with its loss: what the training loop calls."""

    def __init__(self, model: HeadModel, precision: str) -> None:
        super().__init__()
        self.model, self.precision = model, precision

    def forward(self, batch: TextBatch) -> tuple[Tensor, Tensor]:
        """The sum of the losses in nats (differentiable), and the same in its one group, [1]."""
        with torch.autocast(batch.rows.input_ids.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            logits = self.model(batch)
        total = (F.cross_entropy(logits.float(), batch.gold, reduction="none") * batch.weights).sum()
        return total, total.detach().reshape(1)


def save_head(folder: Path, model: HeadModel, settings: dict[str, Any]) -> None:
    """Write the head beside the network it belongs to, each file complete or not at all.

    Args:
        settings: plain values, `labels` among them.
    """
    from safetensors.torch import save

    tensors = {name: value.detach().cpu().contiguous() for name, value in model.head.items()}
    write_atomically(folder / beside.HEAD_WEIGHTS, save(tensors))
    note_file(folder, beside.HEAD_WEIGHTS)
    beside.write_settings(folder / beside.HEAD_FILE, FORMAT, settings)


def load_head(model: GLMModel, folder: Path) -> tuple[HeadModel, dict[str, Any]]:
    """The network with its saved head, in evaluation mode, and the settings saved with it.

    Raises:
        CheckpointError: missing or damaged files, or a head of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / beside.HEAD_FILE
    try:
        settings = beside.read_settings(path, FORMAT)
        count = len(settings["labels"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not the settings of a head ({error})") from error
    out = HeadModel(model, count)
    path = folder / beside.HEAD_WEIGHTS
    try:
        tensors = load_file(path)
        found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if found != {name: tuple(tensor.shape) for name, tensor in out.head.items()}:
            raise ValueError(f"its tensors are {found}")
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path}: does not fit this network ({error})") from error
    out.load_state_dict(tensors, strict=False)
    return out.eval(), settings
