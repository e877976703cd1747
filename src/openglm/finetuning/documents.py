"""Fine-tuning on documents of one's own: filling blanks (infilling), or going on writing (lm).

The samples are those of pretraining, drawn by the same samplers: rows of documents that do not
see each other, blanked out under the mixture of `spans`. For "lm" that is the document objective
alone: the end of a text is written behind `[gMASK]`. Where no dev file is named, the last
documents are kept for it.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from torch import Tensor

from ..batches import Batch
from ..checkpoints.checkpoint import Checkpoint
from ..data.addresses import expand
from ..data.corpus import documents
from ..data.samples import OBJECTIVE_NAMES, SampleMaker
from ..data.shards import Shard, is_shard
from ..data.stream import BatchStream, Source
from ..errors import DataError
from ..network.model import GLMModel
from ..tensors import to_tensors
from ..tokenizer import Tokenizer
from ..training.step import LossModule
from .jobs import SPLITS, Evaluation, Plan, TuningJob, digest_of
from .recipe import FinetuneRecipe

HELD = 0.1  # share of the documents kept for evaluation where no dev file is named
EVALUATION_SEED, EVALUATION_BATCHES = 20_220, 16


class DocumentPlan(Plan):
    """Documents of one's own."""

    def __init__(self, recipe: FinetuneRecipe, checkpoint: Checkpoint, tokenizer: Tokenizer, max_tokens: int) -> None:
        super().__init__(recipe, checkpoint, tokenizer, max_tokens)
        if not recipe.data.train:
            raise DataError("no training data: name files of text")
        self.shards: dict[str, Shard] = {
            split: self._read(getattr(recipe.data, split)) for split in SPLITS if getattr(recipe.data, split)
        }
        if "dev" not in self.shards:
            self._hold_out()
        for split, shard in self.shards.items():
            address = ", ".join(Path(path).name for path in getattr(recipe.data, split)) or "kept from train"
            tokens = len(shard.tokens)
            self.data.append({"name": split, "documents": len(shard), "tokens": tokens, "address": address})
        self.digest = digest_of([np.asarray(self.shards["train"].tokens).tobytes()])
        self.length = recipe.run.length or self.config.max_sequence_length
        if self.length > self.config.max_sequence_length:
            raise DataError(
                f"run.length {self.length} exceeds the model's context of {self.config.max_sequence_length} tokens"
            )
        self.maker = SampleMaker(tokenizer, recipe.objectives)

    def _read(self, paths: tuple[str, ...]) -> Shard:
        if len(paths) == 1 and is_shard(Path(paths[0])):
            shard = Shard.open(Path(paths[0]), self.tokenizer)
            shard.verify()
            return shard
        field = self.recipe.data.field
        texts = (text for file in expand(paths) for text in documents(file, field=field))
        return Shard.from_documents(
            [np.asarray(self.tokenizer.encode(text), np.int64) for text in texts], self.tokenizer
        )

    def _hold_out(self) -> None:
        whole = self.shards["train"]
        kept = min(math.ceil(HELD * len(whole)), len(whole) - 1)
        if kept < 1:
            self.notes.append("one document is too few to keep any for evaluation; name a dev file")
            return
        self.shards["train"], self.shards["dev"] = whole.split(kept)
        self.notes.append(f"the last {kept} of {len(whole)} documents are kept to choose the best weights by")

    def has(self, split: str) -> bool:
        """Whether there are documents of this split."""
        return split in self.shards

    def job(self, model: GLMModel, seed: int, precision: str) -> TuningJob:
        """The documents with a network."""
        return DocumentJob(self, model, seed, precision)


class DocumentJob(TuningJob):
    """Documents with a network."""

    groups = OBJECTIVE_NAMES

    def __init__(self, plan: DocumentPlan, model: GLMModel, seed: int, precision: str) -> None:
        run = plan.recipe.run
        self.plan, self.model, self.holder = plan, model, model
        self.module = LossModule(model, precision)
        rows = run.batch_size // run.accumulate
        self._stream = self._draw("train", rows, seed)
        self.batches = max(1, math.ceil(len(plan.shards["train"].tokens) / (rows * plan.length)))
        self._fixed: dict[str, list[Batch[Tensor]]] = {}

    def _draw(self, split: str, rows: int, seed: int) -> BatchStream:
        source = Source(split, self.plan.shards[split], 1.0)
        return BatchStream([source], self.plan.maker, rows=rows, length=self.plan.length, seed=seed)

    def batch(self, number: int) -> Batch[Tensor]:
        """Micro-batch `number`."""
        return to_tensors(self._stream.batch(number))

    def describe(self, number: int) -> str:
        """How large it is."""
        return f"{self._stream.rows} rows of {self._stream.length} tokens"

    def evaluate(self, split: str) -> Evaluation | None:
        """Mean loss on samples of a file that are the same at every look, in all and per objective."""
        if not self.plan.has(split):
            return None
        device = self.model.word_embeddings.weight.device
        sums, counts = [0.0] * len(self.groups), [0] * len(self.groups)
        for batch in self._samples(split):
            _, found = self.module(batch.to(device))
            sums = [a + b for a, b in zip(sums, found.tolist(), strict=True)]
            counts = [a + b for a, b in zip(counts, batch.counts, strict=True)]
        each = zip(self.groups, sums, counts, strict=True)
        rows = [{"objective": name, "loss": s / n, "targets": n} for name, s, n in each if n]
        return Evaluation(sum(sums) / max(1, sum(counts)), {}, rows)

    def _samples(self, split: str) -> list[Batch[Tensor]]:
        if split not in self._fixed:
            tokens = len(self.plan.shards[split].tokens)
            rows = max(1, min(8, math.ceil(tokens / self.plan.length)))
            count = max(1, min(EVALUATION_BATCHES, math.ceil(tokens / (rows * self.plan.length))))
            stream = self._draw(split, rows, EVALUATION_SEED)
            self._fixed[split] = [to_tensors(stream.batch(number)) for number in range(count)]
        return self._fixed[split]
