"""Fine-tuning from a source text to a target text: the target fills a blank behind the source.

    Part A    [CLS] source [sMASK] <eos>      Part B    <sop> target      targets    target <eop>

Loss: cross-entropy with label smoothing, (1 - e) CE + e mean over the vocabulary of -log p, the
mean over target tokens (section 7.5 of the published code's description). Losses reported on
dev and test files are plain cross-entropy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..batches import Batch, group_by_length, pad
from ..blanks import BlankedText
from ..checkpoints.checkpoint import Checkpoint
from ..errors import ContextLengthError, DataError
from ..infill.infiller import Infiller
from ..layouts import Layout, fills_of, lay_out
from ..network.model import GLMModel
from ..tasks.examples import Example, read_examples
from ..tasks.pattern import Pattern
from ..tensors import to_tensors
from ..tokenizer import Tokenizer
from ..training.loss import linear_cross_entropy
from ..training.step import predicting_states
from .jobs import SPLITS, Epochs, Evaluation, Measure, Plan, TuningJob, digest_of
from .recipe import FinetuneRecipe
from .tasks import note_overlap

TOKENS_AT_ONCE = 8192
EXAMPLE = 60  # signs of a source that the model card shows
PREFERRED = ("[sMASK]", "[gMASK]", "[MASK]")  # the blank of a target, the first that the model knows


@dataclass(frozen=True)
class Pair:
    """One example.

    Attributes:
        layout: source and target, laid out.
        blanked: the source with its blank, as text; shortened, if it was.
        target: what belongs there.
        number: of its line.
        cut: tokens of the source left out.
    """

    layout: Layout
    blanked: BlankedText
    target: str
    number: int
    cut: int


class SmoothedLoss(nn.Module):
    """A network with label-smoothed cross-entropy; without smoothing in evaluation mode."""

    def __init__(self, model: GLMModel, smoothing: float, precision: str) -> None:
        super().__init__()
        self.model, self.smoothing, self.precision = model, smoothing, precision

    def forward(self, batch: Batch[Tensor]) -> tuple[Tensor, Tensor]:
        """The sum of the losses in nats (differentiable), and the cross-entropy in each group, [G]."""
        hidden_MD = predicting_states(self.model, batch, self.precision, many_shapes=True)
        table = self.model.word_embeddings.weight
        dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
        targets = batch.chosen_targets
        total, losses = linear_cross_entropy(hidden_MD, table, targets, dtype=dtype)
        if self.training and self.smoothing:
            # mean over v of -log p(v) = CE + logit(target) - mean logit: no logit but the target's is needed.
            gap = (hidden_MD.float() * (table[targets] - table.mean(0)).float()).sum()
            total = total + self.smoothing * gap
        return total, losses.new_zeros(len(batch.counts)).index_add_(0, batch.groups, losses)


class Seq2SeqPlan(Plan):
    """Pairs of texts."""

    def __init__(self, recipe: FinetuneRecipe, checkpoint: Checkpoint, tokenizer: Tokenizer, max_tokens: int) -> None:
        super().__init__(recipe, checkpoint, tokenizer, max_tokens)
        blank = next(kind for kind in PREFERRED if kind in self.config.blanks)
        values = recipe.task if isinstance(recipe.task, Mapping) else {}
        pattern = values.get("pattern") or f"{{{recipe.data.source}:shorten}}{blank}"
        if not isinstance(pattern, str) or "patterns" in values:
            raise DataError("sequence-to-sequence examples are asked by one pattern; give one text as `pattern`")
        self.pattern, self.text_pattern = Pattern.parse(pattern), pattern
        if not recipe.data.train:
            raise DataError("no training data: name a file of examples")
        self.pairs = {
            split: self._read(split, read_examples(getattr(recipe.data, split)))
            for split in SPLITS
            if getattr(recipe.data, split)
        }
        for split, pairs in self.pairs.items():
            cut = [pair.cut for pair in pairs if pair.cut]
            if cut:
                self.notes.append(f"{split}: {len(cut)} of {len(pairs)} sources shortened by {sum(cut)} tokens in all")
            address = ", ".join(Path(path).name for path in getattr(recipe.data, split))
            self.data.append({"name": split, "documents": len(pairs), "address": address})
        self.example = example_of(self.pairs["train"][0].blanked)
        keys = {split: [str(pair.blanked).encode() for pair in pairs] for split, pairs in self.pairs.items()}
        note_overlap(self.notes, keys)
        self.digest = digest_of(pair.layout.input_ids.tobytes() for pair in self.pairs["train"])

    def _read(self, split: str, examples: Sequence[Example]) -> list[Pair]:
        if not examples:
            raise DataError(f"{split}: there are no examples in it")
        return [self._pair(example) for example in examples]

    def _pair(self, example: Example) -> Pair:
        tokenizer, longest = self.tokenizer, self.config.max_sequence_length - 1
        values = {name: example.text(name) for name in self.pattern.fields}
        target = example.text(self.recipe.data.target)
        try:
            filled = self.pattern.fill(values, tokenizer, self.max_tokens)
        except (DataError, ContextLengthError) as error:
            raise type(error)(f"{example.where}: {error}") from error
        part_a = filled.part_a(tokenizer)
        if len(part_a.blank_positions) != 1:
            raise DataError("the pattern of sequence-to-sequence examples needs exactly one blank")
        kind = filled.blanked.kinds[0]
        if kind.value not in self.config.blanks:
            raise DataError(f"this model was trained without {kind}; it fills {', '.join(self.config.blanks)}")
        ids = tokenizer.encode(tokenizer.answer_in_place(filled.blanked.literals[0], target))
        if not ids:
            raise DataError(f"{example.where}: the field {self.recipe.data.target!r} is empty")
        if len(ids) > longest:
            raise DataError(
                f"{example.where}: a target of {len(ids)} tokens; a blank of this model holds at most {longest}: "
                "shorten it, or leave the example out"
            )
        layout = lay_out(part_a, [ids], tokenizer.markers)
        blanked = filled.blanked
        if filled.cut:  # what was cut off in training is not there when the model writes either
            blanked = BlankedText(tuple(tokenizer.decode(literal) for literal in filled.literals), blanked.kinds)
        return Pair(layout, blanked, target, example.number, filled.cut)

    def has(self, split: str) -> bool:
        """Whether there are pairs of this split."""
        return split in self.pairs

    def job(self, model: GLMModel, seed: int, precision: str) -> TuningJob:
        """The pairs with a network."""
        return Seq2SeqJob(self, model, seed, precision)


def example_of(blanked: BlankedText) -> str:
    """A source with its blank, its longer parts shortened, as one may type it."""
    parts = [part if len(part) <= EXAMPLE else f"{part[: EXAMPLE - 1]}…" for part in blanked.literals]
    return " ".join(str(BlankedText(tuple(parts), blanked.kinds)).split())


class Seq2SeqJob(TuningJob):
    """Pairs with a network."""

    groups = ("targets",)

    def __init__(self, plan: Seq2SeqPlan, model: GLMModel, seed: int, precision: str) -> None:
        run = plan.recipe.run
        self.plan, self.model, self.holder = plan, model, model
        self.module = SmoothedLoss(model, plan.recipe.objective.label_smoothing, precision)
        self._layouts = {
            split: [_behind(model.prompt_ids, pair.layout, plan.tokenizer) for pair in pairs]
            for split, pairs in plan.pairs.items()
        }
        self._epochs = Epochs(len(plan.pairs["train"]), run.batch_size // run.accumulate, seed)
        self.batches = self._epochs.batches

    def batch(self, number: int) -> Batch[Tensor]:
        """The pairs of micro-batch `number`."""
        layouts = [self._layouts["train"][i] for i in self._epochs(number)]
        return to_tensors(pad(layouts, self.plan.tokenizer.eos))

    def describe(self, number: int) -> str:
        """How large it is."""
        lengths = [len(self._layouts["train"][i]) for i in self._epochs(number)]
        return f"{len(lengths)} pairs of up to {max(lengths)} tokens"

    def evaluate(self, split: str) -> Evaluation | None:
        """Mean loss per target token on a file."""
        if split not in self._layouts:
            return None
        layouts = self._layouts[split]
        pad_id = self.plan.tokenizer.eos
        batches = (to_tensors(pad([layouts[i] for i in group], pad_id)) for group in by_length(layouts))
        return Evaluation(mean_loss(self.module, batches, self.model.word_embeddings.weight.device))

    def evaluate_fully(self, split: str, measure: Measure | None) -> Evaluation | None:
        """Loss, and what the network writes for each source, measured."""
        found = self.evaluate(split)
        if found is None or measure is None:
            return found
        pairs = self.plan.pairs[split]
        longest = max(len(pair.layout) - pair.layout.separator for pair in self.plan.pairs["train"])
        options: dict[str, Any] = {"max_new_tokens": min(2 * longest, self.model.config.max_sequence_length - 1)}
        # A shortened source that is tokenized again may come out a token longer.
        options |= {"truncate": "start", **measure.options}
        infiller = Infiller(self.model, self.plan.tokenizer)
        written = [filled.blanks[0].text.strip() for filled in infiller.fill([p.blanked for p in pairs], **options)]
        rows = [
            {"number": pair.number, "source": str(pair.blanked), "target": pair.target, "written": text}
            for pair, text in zip(pairs, written, strict=True)
        ]
        return Evaluation(found.loss, dict(measure.metric(written, [pair.target for pair in pairs])), rows)


def _behind(prompt_ids: Sequence[int], layout: Layout, tokenizer: Tokenizer) -> Layout:
    """The layout with a prompt in front of its Part A."""
    if not len(prompt_ids):
        return layout
    return lay_out(layout.part_a.behind(prompt_ids), [fill for _, fill in fills_of(layout)], tokenizer.markers)


def by_length(layouts: Sequence[Layout]) -> list[list[int]]:
    """Indices of layouts of similar length, as many together as `TOKENS_AT_ONCE` allows."""
    return list(group_by_length([len(layout) for layout in layouts], TOKENS_AT_ONCE))


@torch.no_grad()
def mean_loss(module: nn.Module, batches: Any, device: torch.device) -> float:
    """Mean loss in nats over all targets of some batches."""
    total, count = 0.0, 0
    for batch in batches:
        _, sums = module(batch.to(device))
        total += float(sums.sum())
        count += sum(batch.counts)
    return total / max(1, count)
