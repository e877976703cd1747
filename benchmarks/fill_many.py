"""Texts per second: many short texts with one blank each, at the size of GLM-Large.

    python benchmarks/fill_many.py [--texts 500] [--threads 2]

Weights and tokens are random. The engine fills all texts at once, in float32 and int8; the
peer fills them one at a time in float32 as openglm's first release did: read the text, then
one token per pass, every matrix product by torch's own linear. It is timed on a few texts.
In float32 both must write the same tokens.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time

import numpy as np
import torch

from decode import EOS, LARGE, MARKERS
from machine import describe, markdown_table
from openglm import GLMModel
from openglm.blanks import Writer, lay_out
from openglm.engine.decoding import Answers, Ends, Row
from openglm.engine.engine import Engine
from openglm.engine.jobs import move_on
from openglm.engine.memory import Memory, memory_for
from openglm.engine.options import FillOptions
from openglm.evaluation.speed import matrix_rate, weight_sizes
from openglm.network import products
from openglm.network.cache import KVCache
from openglm.network.quantization import quantize

MOST = 4  # tokens of a fill
Text = tuple[np.ndarray, int]  # Part A and where its blank is


def random_texts(count: int) -> list[Text]:
    """Texts of 24 to 40 tokens."""
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(count):
        length = int(rng.integers(24, 41))
        texts.append((rng.integers(0, 50000, length), int(rng.integers(1, length - 1))))
    return texts


def banned_tokens(model: GLMModel) -> torch.Tensor:
    """[V] bool: special tokens that do not end a fill."""
    banned = torch.zeros(model.config.vocab_size, dtype=torch.bool)
    banned[50000:] = True
    banned[[MARKERS.eop, EOS]] = False
    return banned


def fill_all(memory: Memory, texts: list[Text]) -> tuple[float, list[list[int]]]:
    """Seconds for all texts through the engine, and the fills."""
    options, ends = FillOptions(), Ends((MARKERS.eop, EOS), banned_tokens(memory.model))
    engine = Engine(memory, move_on)
    begun = time.perf_counter()
    jobs = [
        Answers(
            lay_out(part_a, [blank], [[]], MARKERS),
            [Row(Writer([blank], MARKERS), [(0, MOST)], np.random.default_rng(0))],
            options,
            ends,
        )
        for part_a, blank in texts
    ]
    fills = [job.rows[0].writer.fills[0] for job in engine.run(jobs)]
    return time.perf_counter() - begun, fills


@torch.inference_mode()
def fill_one(model: GLMModel, text: Text) -> list[int]:
    """One text as the first release filled it."""
    part_a, blank = text
    banned = banned_tokens(model)
    cache, writer = KVCache(len(part_a) + 32), Writer([blank], MARKERS)
    layout = lay_out(part_a, [], [], MARKERS)
    positions = torch.from_numpy(np.stack([layout.position_ids, layout.block_position_ids]))[None]
    model.hidden_states(torch.from_numpy(layout.input_ids)[None], positions, cache=cache)
    while len(writer.fills[0]) < MOST:
        inputs = torch.tensor([writer.next_input()])
        logits = model.logits(model.hidden_states(inputs[:, :1], inputs[:, 1:, None], cache=cache)[:, -1])[0]
        token = int(logits.masked_fill(banned, -torch.inf).argmax())
        if token in (MARKERS.eop, EOS):
            break
        writer.write(token)
    return writer.fills[0]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--single", type=int, default=12, help="texts filled one at a time")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=LARGE.num_layers, help="fewer, to try the script")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = GLMModel(dataclasses.replace(LARGE, num_layers=args.layers, initializer_range=0.05)).eval()
    texts = random_texts(args.texts)
    print(describe("cpu", args.threads))
    few, products.FEW = products.FEW, 0
    times, alone = [], []
    for text in texts[: args.single]:
        begun = time.perf_counter()
        alone.append(fill_one(model, text))
        times.append(time.perf_counter() - begun)
    products.FEW = few
    single = 1 / statistics.median(times)
    rows = [["one at a time, float32", f"{single:.2f}", "1.0", ""]]
    numbers, _ = weight_sizes(model)
    projection = model.config.vocab_size * model.config.hidden_size
    for kind in ("float32", "int8", "int8 compiled"):
        if kind == "int8":
            model = quantize(model, kind)
        ceiling = matrix_rate(model)
        memory = memory_for(model, EOS, compile=kind == "int8 compiled")
        fill_all(memory, texts[:8])
        seconds, fills = fill_all(memory, texts)
        if kind == "float32":
            assert fills[: args.single] == alone, "the engine writes other tokens"
        steps = sum(min(len(fill) + 1, MOST) for fill in fills)
        read = sum(len(part_a) for part_a, _ in texts) + steps
        work = 2.0 * (read * (numbers - projection) + steps * projection)
        rate = len(texts) / seconds
        rows.append([f"{len(texts)} at once, {kind}", f"{rate:.2f}", f"{rate / single:.1f}",
                     f"{work / seconds / 1e9:.0f} of {ceiling / 1e9:.0f} Gop/s"])  # fmt: skip
    print(markdown_table(["", "texts/s", "times", "matrix products"], rows))


if __name__ == "__main__":
    main()
