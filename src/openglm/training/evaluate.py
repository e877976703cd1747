"""Validation loss per objective and source, on a fixed set of samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from ..model import GLMModel
from ..pretraining.spans import Objectives, SampleMaker
from ..pretraining.stream import OBJECTIVE_NAMES, BatchStream, Source, TrainingBatch
from ..tokenizer import Tokenizer
from .step import forward_losses

ROWS_AT_ONCE = 16
SEED, LENGTH = 20_220, 256
# Validation asks every model for the paper's task, whatever mixture it was trained with.
PUBLISHED = Objectives(token_ratio=0.15, sentence_ratio=0.15, document_min_ratio=0.25)


def validation_batches(
    tokenizer: Tokenizer, source: Source, objective: str, *, rows: int = 64, length: int = LENGTH
) -> Iterator[TrainingBatch]:
    """The samples of one objective that models are compared on.

    They are the same at every call: the published objectives (15 %, minimum ratio 0.25),
    drawn from a fixed seed. `rows` is rounded up to whole batches.
    """
    maker = SampleMaker(tokenizer, PUBLISHED.only(objective))
    stream = BatchStream([source], maker, rows=min(rows, ROWS_AT_ONCE), length=length, seed=SEED)
    for step in range(-(-rows // ROWS_AT_ONCE)):
        yield stream.batch(step)


@torch.no_grad()
def validation_losses(
    model: GLMModel,
    tokenizer: Tokenizer,
    sources: Sequence[Source],
    *,
    rows: int = 64,
    length: int = LENGTH,
    precision: str = "bf16",
) -> dict[str, float]:
    """Mean loss in nats per Part B token, keyed `source/objective`.

    The samples are those of `validation_batches`.
    """
    was_training = model.training
    model.eval()
    out: dict[str, float] = {}
    for source in sources:
        for objective in OBJECTIVE_NAMES:
            total, count = 0.0, 0
            for batch in validation_batches(tokenizer, source, objective, rows=rows, length=length):
                losses, objectives = forward_losses(model, batch, precision)[1:]
                kept = losses[objectives == OBJECTIVE_NAMES.index(objective)]
                total, count = total + float(kept.sum()), count + len(kept)
            out[f"{source.name}/{objective}"] = total / max(1, count)
    model.train(was_training)
    return out
