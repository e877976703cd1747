"""Time per token of decoding at the size of GLM-Large, beside the machine's memory ceiling.

    python benchmarks/decode.py [--context 256] [--tokens 16] [--threads 2]

Decoding one text reads every weight once per token, so the ceiling is the rate at which
this machine reads memory, measured in the same run by multiplying a vector with a matrix
far larger than any cache. The peer is what the original code does: it keeps hidden states
instead of keys and values, and projects all of them anew for every token.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from machine import describe, memory_rate
from openglm import GLMConfig, GLMModel
from openglm.blanks import Markers, Writer, lay_out
from openglm.infill.reader import Reader

LARGE = GLMConfig(num_layers=24, hidden_size=1024, num_attention_heads=16, vocab_size=50048, max_sequence_length=1024)


def decode_times(model: GLMModel, context: int, tokens: int) -> list[float]:
    """Seconds of each decoding step after a Part A of `context` tokens."""
    part_a = np.arange(100, 100 + context)
    markers = Markers(sop=50006, eop=50007)
    reader = Reader(model, [lay_out(part_a, np.empty(0, np.int64), [], markers)], 50000, expected=tokens + 4)
    writer = Writer([context // 2], markers)
    times = []
    for _ in range(tokens + 2):
        begun = time.perf_counter()
        token = int(reader.step([writer])[0].argmax())
        times.append(time.perf_counter() - begun)
        writer.write(token)
    return times[2:]


def original_times(model: GLMModel, context: int, tokens: int) -> list[float]:
    """Seconds of each step when hidden states are kept and projected anew, as the original does."""
    memory = [torch.randn(1, context, model.config.hidden_size) for _ in range(model.config.num_layers)]
    times = []
    for _ in range(tokens + 1):
        begun = time.perf_counter()
        x = torch.randn(1, 1, model.config.hidden_size)
        for number, layer in enumerate(model.transformer.layers):
            memory[number] = torch.cat([memory[number], x], dim=1)
            x = _layer_over_memory(layer, x, memory[number], model.config.num_attention_heads)
        model.logits(model.transformer.final_layernorm(x)).argmax()
        times.append(time.perf_counter() - begun)
    return times[1:]


def _layer_over_memory(layer: torch.nn.Module, x: Tensor, memory: Tensor, heads: int) -> Tensor:
    attention, mlp = layer.get_submodule("attention"), layer.get_submodule("mlp")
    states = layer.get_submodule("input_layernorm")(memory)
    projected = attention.get_submodule("query_key_value")(states)
    q, k, v = (part.view(1, part.shape[1], heads, -1).transpose(1, 2) for part in projected.chunk(3, -1))
    mixed = F.scaled_dot_product_attention(q[:, :, -1:], k, v).transpose(1, 2).reshape(1, 1, -1)
    x = x + attention.get_submodule("dense")(mixed)
    out: Tensor = x + mlp(layer.get_submodule("post_attention_layernorm")(x))
    return out


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--context", type=int, default=256, help="tokens of Part A")
    parser.add_argument("--tokens", type=int, default=16, help="steps to time")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = GLMModel(LARGE).eval()
    read = 4 * (LARGE.num_parameters - 2 * LARGE.position_rows * LARGE.hidden_size)  # one row of each position table
    rate = memory_rate()
    ours = statistics.median(decode_times(model, args.context, args.tokens))
    peer = statistics.median(original_times(model, args.context, max(4, args.tokens // 4)))
    after = memory_rate()
    ceiling = read / max(rate, after)
    print(describe("cpu", args.threads))
    print(f"GLM-Large size, float32, batch 1, context {args.context}: {read / 2**20:,.0f} MiB of weights per token")
    print(f"memory rate          {rate / 1e9:6.1f} GB/s before, {after / 1e9:.1f} after")
    print(f"memory ceiling       {ceiling * 1e3:6.1f} ms per token")
    print(f"openglm              {ours * 1e3:6.1f} ms per token, {ceiling / ours:.0%} of the ceiling")
    print(f"the original's way   {peer * 1e3:6.1f} ms per token, {peer / ours:.1f} times openglm's")


if __name__ == "__main__":
    main()
