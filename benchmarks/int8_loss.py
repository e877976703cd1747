"""What rounding weights to int8 costs: loss of a model on validation shards, before and after.

    python benchmarks/int8_loss.py --shards DIR [--model default] [--rows 64]

Nats per Part B token for each language and objective, on the samples by which training
validates itself (fixed seed). `DIR` holds `zh-valid` and `en-valid`, prepared with the model's
tokenizer (`openglm data prepare`).
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from torch import Tensor

from machine import markdown_table
from openglm import GLMModel
from openglm.batches import Batch
from openglm.checkpoints.resolve import open_model
from openglm.data.shards import Shard
from openglm.data.stream import OBJECTIVE_NAMES, Source
from openglm.network.attention import dense_mask
from openglm.network.quantization import quantize
from openglm.pretraining.evaluate import validation_batches
from openglm.tensors import to_tensors


@torch.inference_mode()
def loss_sum(model: GLMModel, batch: Batch[Tensor]) -> float:
    """Sum of the losses of a batch."""
    mask = dense_mask(batch.documents, batch.in_part_a)
    logits = model(batch.input_ids, batch.position_ids, mask, logits_for=batch.loss_mask)
    return float(torch.nn.functional.cross_entropy(logits, batch.targets[batch.loss_mask], reduction="sum"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--shards", type=Path, required=True, help="folder of zh-valid and en-valid")
    parser.add_argument("--model", default="default")
    parser.add_argument("--rows", type=int, default=64, help="rows of samples per language and objective")
    args = parser.parse_args()
    model, tokenizer = open_model(args.model, device="cpu", dtype=torch.float32)
    rounded = quantize(copy.deepcopy(model), "int8")
    rows: list[list[str]] = []
    totals = [0.0, 0.0, 0.0]
    for language in ("zh", "en"):
        shard = Shard.open(args.shards / f"{language}-valid", tokenizer)
        for objective in OBJECTIVE_NAMES:
            sums = [0.0, 0.0, 0.0]
            for arrays in validation_batches(tokenizer, Source(language, shard, 1.0), objective, rows=args.rows):
                batch = to_tensors(arrays)
                found = (loss_sum(model, batch), loss_sum(rounded, batch), float(batch.loss_mask.sum()))
                sums = [a + b for a, b in zip(sums, found, strict=True)]
            rows.append(_row(f"{language} {objective}", sums))
            totals = [a + b for a, b in zip(totals, sums, strict=True)]
    rows.append(_row("all", totals))
    print(markdown_table(["", "tokens", "float32", "int8", "change"], rows))


def _row(name: str, sums: list[float]) -> list[str]:
    plain, int8, count = sums
    return [name, f"{count:,.0f}", f"{plain / count:.4f}", f"{int8 / count:.4f}", f"{100 * (int8 / plain - 1):+.2f} %"]


if __name__ == "__main__":
    main()
