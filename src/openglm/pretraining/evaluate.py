"""Validation loss per objective and source, on a fixed set of samples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from ..batches import Arrays, Batch, split_groups
from ..data.samples import SampleMaker
from ..data.spans import Objectives
from ..data.stream import OBJECTIVE_NAMES, BatchStream, Source
from ..layouts import Layout
from ..network.model import GLMModel
from ..tensors import to_tensors
from ..tokenizer import Tokenizer
from ..training.parallel import Processes
from ..training.step import LossModule

ROWS_AT_ONCE = 16
SEED, LENGTH = 20_220, 256
# Validation asks every model for the paper's task, whatever mixture it was trained with.
PUBLISHED = Objectives(token_ratio=0.15, sentence_ratio=0.15, document_min_ratio=0.25)


def validation_batches(
    tokenizer: Tokenizer, source: Source, objective: str, *, rows: int = 64, length: int = LENGTH
) -> Iterator[Batch[Arrays]]:
    """The samples of one objective that models are compared on.

    They are the same at every call: the published objectives (15 %, minimum ratio 0.25),
    drawn from a fixed seed. `rows` is rounded up to whole batches.
    """
    stream = _stream(tokenizer, source, objective, rows, length)
    for number in range(-(-rows // ROWS_AT_ONCE)):
        yield stream.batch(number)


def validation_samples(
    tokenizer: Tokenizer, sources: Sequence[Source], *, length: int = LENGTH
) -> Iterator[tuple[str, Layout]]:
    """The first samples of each source and objective, as (`source/objective`, layout)."""
    for source in sources:
        for objective in OBJECTIVE_NAMES:
            row = next(_stream(tokenizer, source, objective, 1, length).rows_of_samples(0))
            yield from ((f"{source.name}/{objective}", layout) for layout, name in row if name == objective)


def _stream(tokenizer: Tokenizer, source: Source, objective: str, rows: int, length: int) -> BatchStream:
    maker = SampleMaker(tokenizer, PUBLISHED.only(objective))
    return BatchStream([source], maker, rows=min(rows, ROWS_AT_ONCE), length=length, seed=SEED)


@dataclass(frozen=True)
class Validation:
    """Mean losses in nats per Part B token, keyed `source/objective`.

    Attributes:
        losses: of all tokens.
        without_ends: of all but the end tokens of spans and texts, which are easier.
    """

    losses: dict[str, float]
    without_ends: dict[str, float]


class Evaluator:
    """Fixed validation samples, each process holding its share of them.

    Args:
        sources: where to draw them; several of one name are reported as one.
        rows, length: see `validation_batches`.

    Raises:
        DataError: the documents of a source are too short.
    """

    def __init__(
        self, tokenizer: Tokenizer, sources: Sequence[Source], processes: Processes, *, rows: int, length: int
    ) -> None:
        self._processes = processes
        self.names = list(dict.fromkeys(f"{s.name}/{o}" for s in sources for o in OBJECTIVE_NAMES))
        ends = (tokenizer.markers.eop, tokenizer.eos)
        batches = [
            (f"{source.name}/{objective}", objective, to_tensors(split_groups(batch, ends)))
            for source in sources
            for objective in OBJECTIVE_NAMES
            for batch in validation_batches(tokenizer, source, objective, rows=rows, length=length)
        ]
        # Where weights are spread over processes each batch needs all of them, so all make
        # equally many passes; those without a batch left repeat one and do not count it.
        missing = -len(batches) % processes.count
        shared_out = [(*batch, True) for batch in batches] + [(*batch, False) for batch in batches[:1]] * missing
        self._mine = shared_out[processes.rank :: processes.count]

    @torch.no_grad()
    def losses(self, module: LossModule) -> Validation:
        """The losses of a model in evaluation mode; all processes must ask."""
        kinds = len(OBJECTIVE_NAMES)
        sums = {name: [0.0] * 4 for name in self.names}  # sum and count, without ends and of ends
        for name, objective, batch, counts in self._mine:
            _, group_sums = module(batch.to(self._processes.device))
            # A text without whole sentences falls back to another objective: not counted here.
            number = OBJECTIVE_NAMES.index(objective)
            values = group_sums.tolist()
            if counts:
                for k, group in enumerate((number, number + kinds)):
                    sums[name][2 * k] += values[group]
                    sums[name][2 * k + 1] += batch.counts[group]
        flat = iter(self._processes.sum([value for each in sums.values() for value in each]))
        whole = {name: [next(flat) for _ in range(4)] for name in sums}
        return Validation(
            {name: (a + c) / max(1.0, b + d) for name, (a, b, c, d) in whole.items()},
            {name: a / max(1.0, b) for name, (a, b, _, _) in whole.items()},
        )


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

    The samples are those of `validation_batches`; the model keeps its mode.
    """
    alone = Processes(model.word_embeddings.weight.device)
    was_training = model.training
    model.eval()
    found = Evaluator(tokenizer, sources, alone, rows=rows, length=length).losses(LossModule(model, precision).eval())
    model.train(was_training)
    return found.losses
