"""Reading and decoding at the size of GLM-Large, beside the machine's ceilings and two peers.

    python benchmarks/decode.py [--kinds int8 "int8 compiled"] [--context 256] [--rounds 3] [--threads 2]

Weights are random: speed does not depend on them. Each line of openglm stands beside the
ceiling measured just before, memory for decoding and matrix products for reading. All take turns
in several rounds, as a machine shared with others is now faster and now slower; the medians are
shown. The compiled lines need a C++ compiler.
Peers: CTranslate2 (a GPT-2 of equal shape; `pip install '.[benchmarks]'`), and what the
original GLM code does, which keeps hidden states instead of keys and values and projects
all of them anew for every token.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from machine import describe, markdown_table
from openglm import GLMConfig, GLMModel
from openglm.blanks import Markers
from openglm.engine.model_runner import ModelRunner
from openglm.engine.runners import runner_for
from openglm.evaluation.speed import Measured, measure
from openglm.network.quantization import quantize

LARGE = GLMConfig(num_layers=24, hidden_size=1024, num_attention_heads=16, vocab_size=50048, max_sequence_length=1024)
MARKERS, EOS = Markers(sop=50006, eop=50007), 50000


# --- The original's way -----------------------------------------------------------------------


def original_seconds(model: GLMModel, context: int, tokens: int) -> float:
    """Median seconds of a step when hidden states are kept and projected anew, as the original does."""
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
    return statistics.median(times[1:])


def _layer_over_memory(layer: torch.nn.Module, x: Tensor, memory: Tensor, heads: int) -> Tensor:
    attention, mlp = layer.get_submodule("attention"), layer.get_submodule("mlp")
    states = layer.get_submodule("input_layernorm")(memory)
    projected = attention.get_submodule("query_key_value")(states)
    q, k, v = (part.view(1, part.shape[1], heads, -1).transpose(1, 2) for part in projected.chunk(3, -1))
    mixed = F.scaled_dot_product_attention(q[:, :, -1:], k, v).transpose(1, 2).reshape(1, 1, -1)
    x = x + attention.get_submodule("dense")(mixed)
    out: Tensor = x + mlp(layer.get_submodule("post_attention_layernorm")(x))
    return out


# --- CTranslate2 ------------------------------------------------------------------------------


def save_gpt2(folder: Path, config: GLMConfig) -> None:
    """Write a GPT-2 with random weights as CTranslate2 reads it."""
    from ctranslate2.specs import common_spec, transformer_spec

    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        config.num_layers, config.num_attention_heads, activation=common_spec.Activation.GELUTanh
    )
    rng = np.random.default_rng(0)
    D = config.hidden_size

    def normal(*shape: int) -> np.ndarray:
        return (0.02 * rng.standard_normal(shape, np.float32)).astype(np.float32)

    def linear(part: object, out: int, into: int) -> None:
        part.weight, part.bias = normal(out, into), np.zeros(out, np.float32)  # type: ignore[attr-defined]

    def norm(part: object) -> None:
        part.gamma, part.beta = np.ones(D, np.float32), np.zeros(D, np.float32)  # type: ignore[attr-defined]

    decoder = spec.decoder
    decoder.embeddings.weight = normal(config.vocab_size, D)
    decoder.projection.weight = decoder.embeddings.weight
    decoder.position_encodings.encodings = normal(config.max_sequence_length, D)
    decoder.scale_embeddings = False
    norm(decoder.layer_norm)
    for layer in decoder.layer:
        for part in (layer.self_attention.layer_norm, layer.ffn.layer_norm):
            norm(part)
        linear(layer.self_attention.linear[0], 3 * D, D)
        linear(layer.self_attention.linear[1], D, D)
        linear(layer.ffn.linear_0, 4 * D, D)
        linear(layer.ffn.linear_1, D, 4 * D)
    spec.register_vocabulary([f"t{i}" for i in range(config.vocab_size)])
    spec.config.unk_token = spec.config.bos_token = spec.config.eos_token = "t0"
    spec.validate()
    spec.optimize()
    folder.mkdir()
    spec.save(str(folder))


def ctranslate2_seconds(folder: Path, kind: str, context: int, tokens: int, batch: int, threads: int) -> float:
    """Seconds per step after a prompt of `context` tokens: the time of `tokens` steps less that of one."""
    import ctranslate2

    generator = ctranslate2.Generator(
        str(folder), device="cpu", compute_type=kind, intra_threads=threads, inter_threads=1
    )
    prompts = [[f"t{1 + (7 * i + row) % 40000}" for i in range(context)] for row in range(batch)]

    def run(length: int) -> float:
        begun = time.perf_counter()
        results = generator.generate_batch(
            prompts, max_length=length, min_length=length, include_prompt_in_result=False, end_token="t0",
            max_batch_size=batch,
        )  # fmt: skip
        seconds = time.perf_counter() - begun
        assert all(len(result.sequences[0]) >= length - 1 for result in results)
        return seconds

    run(2)
    return (run(1 + tokens) - run(1)) / tokens


# --- The run ----------------------------------------------------------------------------------


KINDS = ("float32", "float32 compiled", "bfloat16", "int8", "int8 compiled")


def runners(config: GLMConfig, kinds: Sequence[str]) -> dict[str, ModelRunner]:
    """Models of one shape in several types, each with its runner."""
    models: dict[str, GLMModel] = {}
    for dtype in dict.fromkeys(kind.split()[0] for kind in kinds):
        torch.manual_seed(0)
        model = GLMModel(config).eval()
        models[dtype] = quantize(model, dtype) if dtype == "int8" else model.to(getattr(torch, dtype))
    return {kind: runner_for(models[kind.split()[0]], EOS, compile=kind.endswith("compiled")) for kind in kinds}


def line(kind: str, runs: list[Measured]) -> list[str]:
    """The middle one of several measurements beside the median ceiling, as a line of the table."""
    found = sorted(runs, key=lambda run: run.milliseconds)[len(runs) // 2]
    ceiling = statistics.median(run.ceiling for run in runs)
    return [
        f"{kind}, {found.name}", f"{found.milliseconds:.1f}", f"{found.tokens_per_second:.0f}",
        f"{found.rate / 1e9:.1f} of {ceiling / 1e9:.1f} G{found.unit}", f"{found.rate / ceiling:.0%}",
    ]  # fmt: skip


@torch.inference_mode()
def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--context", type=int, default=256, help="tokens of Part A")
    parser.add_argument("--tokens", type=int, default=12, help="steps to time")
    parser.add_argument("--rounds", type=int, default=3, help="rounds in which all take turns")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--layers", type=int, default=LARGE.num_layers, help="fewer, to try the script")
    parser.add_argument("--no-peers", action="store_true", help="openglm alone")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    config = dataclasses.replace(LARGE, num_layers=args.layers)
    print(describe("cpu", args.threads))
    print(f"shape of GLM-Large ({args.layers} layers), {config.num_parameters / 1e6:.0f} M parameters\n")
    ours = runners(config, args.kinds)
    runs, peers = defaultdict[tuple[str, str], list[Measured]](list), defaultdict(list)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "gpt2"
        if not args.no_peers:
            save_gpt2(folder, config)
        for _ in range(args.rounds):
            for kind, runner in ours.items():
                for context, batches in ((args.context, args.batches), (512, [1])):
                    for found in measure(
                        runner.model, contexts=[context], batches=batches, tokens=args.tokens, markers=MARKERS,
                        eos=EOS, runner=runner,
                    ):  # fmt: skip
                        runs[kind, found.name].append(found)
            if args.no_peers:
                continue
            for kind in dict.fromkeys(runner.model.quantized or "float32" for runner in ours.values()):
                for batch in args.batches:
                    seconds = ctranslate2_seconds(folder, kind, args.context, args.tokens, batch, args.threads)
                    peers[f"CTranslate2 {kind}, decode {batch} x 1", batch].append(seconds)
            if "float32" not in ours:
                continue
            seconds = original_seconds(ours["float32"].model, args.context, max(4, args.tokens // 4))
            peers["the original's way, float32, decode 1 x 1", 1].append(seconds)
    rows = [line(kind, found) for (kind, _), found in runs.items()]
    print(markdown_table(["openglm", "ms", "tokens/s", "rate of ceiling", "share"], rows))
    if peers:
        print()
        middle = [(name, batch, statistics.median(seconds)) for (name, batch), seconds in peers.items()]
        lines = [[name, f"{1e3 * seconds:.1f}", f"{batch / seconds:.0f}"] for name, batch, seconds in middle]
        print(markdown_table(["peer", "ms", "tokens/s"], lines))


if __name__ == "__main__":
    main()
