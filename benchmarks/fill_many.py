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
from openglm.blanks import PartA
from openglm.engine.decoding import SamplingJob, SamplingSequence
from openglm.engine.engine import Engine
from openglm.engine.model_runner import ModelRunner
from openglm.engine.options import FillOptions
from openglm.engine.runners import runner_for
from openglm.engine.stop_tokens import StopTokens
from openglm.evaluation.speed import operation_rate, weight_sizes
from openglm.layouts import PartBState, lay_out
from openglm.network import cpu_linear
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


def fill_all(runner: ModelRunner, texts: list[Text]) -> tuple[float, list[list[int]]]:
    """Seconds for all texts through the engine, and the fills."""
    options = FillOptions()
    stop_tokens = StopTokens((MARKERS.eop, EOS), banned_tokens(runner.model))
    engine = Engine(runner)
    begun = time.perf_counter()
    jobs = [
        SamplingJob(
            lay_out(PartA(part_a, np.array([blank])), [[]], MARKERS),
            [SamplingSequence(PartBState([blank], MARKERS), [(0, MOST)], np.random.default_rng(0))],
            options,
            stop_tokens,
        )
        for part_a, blank in texts
    ]
    fills = [job.seqs[0].part_b.fills[0] for job in engine.run(jobs)]
    return time.perf_counter() - begun, fills


@torch.inference_mode()
def fill_one(model: GLMModel, text: Text) -> list[int]:
    """One text as the first release filled it."""
    part_a, blank = text
    banned = banned_tokens(model)
    cache, part_b = KVCache(len(part_a) + 32), PartBState([blank], MARKERS)
    layout = lay_out(PartA(part_a), [], MARKERS)
    positions = torch.from_numpy(np.stack([layout.position_ids, layout.block_position_ids]))[None]
    model.hidden_states(torch.from_numpy(layout.input_ids)[None], positions, cache=cache)
    while len(part_b.fills[0]) < MOST:
        inputs = torch.tensor([part_b.next_input()])
        logits = model.logits(model.hidden_states(inputs[:, :1], inputs[:, 1:, None], cache=cache)[:, -1])[0]
        token = int(logits.masked_fill(banned, -torch.inf).argmax())
        if token in (MARKERS.eop, EOS):
            break
        part_b.write(token)
    return part_b.fills[0]


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
    few, cpu_linear.FEW = cpu_linear.FEW, 0
    times, alone = [], []
    for text in texts[: args.single]:
        begun = time.perf_counter()
        alone.append(fill_one(model, text))
        times.append(time.perf_counter() - begun)
    cpu_linear.FEW = few
    single = 1 / statistics.median(times)
    rows = [["one at a time, float32", f"{single:.2f}", "1.0", ""]]
    numbers, _ = weight_sizes(model)
    projection = model.config.vocab_size * model.config.hidden_size
    for kind in ("float32", "int8", "int8 compiled"):
        if kind == "int8":
            model = quantize(model, kind)
        ceiling = operation_rate(model)
        runner = runner_for(model, EOS, compile=kind == "int8 compiled")
        fill_all(runner, texts[:8])
        seconds, fills = fill_all(runner, texts)
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
