"""Speed and memory of one training step, beside transformers and the machine's product rate.

    python benchmarks/training_step.py [--objective mixture] [--json out.json]
    python benchmarks/training_step.py --size modern --rows 16 --length 256 --dropout 0 --compile
    python benchmarks/training_step.py --device cuda --compile

A step is everything after the data: forward, backward, clipping, AdamW. Batches come from the
real sampler, over documents of random ids. The peer is a `BertForMaskedLM` of the same shape,
batch and length, 15 % of its tokens masked, with torch's fused AdamW. Both take turns with
large matrix products, so that a slow spell of the machine hits all three; the rate of those
products is the ceiling. Every position of a batch counts the same, padding included.

Operations are counted as `openglm.training.peak` says: logits for Part B here, and for every
position in the peer; attention as if everything were seen; nothing for what activation
checkpointing computes again.

Memory is the growth from before a model exists to the highest point of two steps, each
measured in a process of its own: resident memory, or what a GPU has allocated.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import statistics
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch

from baselines import BUILD, OBJECTIVES, OURS, PEER, Settings, missing_peer, packed_batches
from machine import MIB, describe, markdown_table, memory_now, memory_peak, seconds_of
from openglm import GLMConfig
from openglm.errors import OpenGLMError
from openglm.training.peak import matrix_rate

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SHAPES = {
    "smoke": GLMConfig(num_layers=2, hidden_size=64, num_attention_heads=4, vocab_size=16384),
    "mini": GLMConfig(num_layers=6, hidden_size=256, num_attention_heads=4, vocab_size=16128),
    "modern": GLMConfig(8, 320, 5, 16128, architecture="modern"),
    "base": GLMConfig(num_layers=12, hidden_size=768, num_attention_heads=12, vocab_size=50048),
    "large": GLMConfig(num_layers=24, hidden_size=1024, num_attention_heads=16, vocab_size=50048),
}
# What an option is unless given: on a CPU, on a GPU, and with --smoke.
Defaults = dict[str, Any]
CPU: Defaults = {"size": "base", "rows": 4, "length": 512, "dropout": 0.1, "rounds": 5, "precision": ["fp32", "bf16"]}
GPU: Defaults = {"size": "large", "rows": 32, "length": 512, "dropout": 0.0, "rounds": 20, "precision": ["bf16"]}
SMOKE: Defaults = {"size": "smoke", "rows": 2, "length": 64, "rounds": 2}
CEILING_SECONDS = {"smoke": 0.02, "mini": 1.0, "modern": 1.0, "base": 2.0, "large": 2.0}  # of products per round


@dataclass
class Timing:
    """Steps of one contestant in one precision, round by round."""

    name: str
    precision: str
    seconds: list[float] = field(default_factory=list)
    operations: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float:
        """Median of the operations per second."""
        return statistics.median(n / s for n, s in zip(self.operations, self.seconds, strict=True))


@dataclass(frozen=True)
class Memory:
    """Growth of memory during training, in bytes."""

    name: str
    precision: str
    checkpointing: bool
    bytes: int
    parameters: int


@dataclass
class Results:
    """All that was measured.

    Attributes:
        timings: of steps.
        ceilings: precision -> operations per second of large products, round by round.
        memories: of the baselines.
        skipped: what could not be measured, and why.
    """

    timings: list[Timing] = field(default_factory=list)
    ceilings: dict[str, list[float]] = field(default_factory=dict)
    memories: list[Memory] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


# --- Measurements ---------------------------------------------------------------------------


def prepare(settings: Settings) -> None:
    """Threads and seed of this process."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(0)


def time_steps(settings: Settings, names: Sequence[str], arguments: argparse.Namespace, results: Results) -> None:
    """Steps of all baselines and products, in turn, after a round that is not counted."""
    prepare(settings)
    rounds: int = arguments.rounds
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    baselines = {name: BUILD[name](settings, rounds + 1) for name in names}
    timings = {key: Timing(*key) for key in product(names, arguments.precision)}
    results.ceilings = {precision: [] for precision in arguments.precision}
    for number in range(rounds + 1):
        for precision in arguments.precision:
            for name, contestant in baselines.items():
                seconds = seconds_of(partial(contestant.step, precision, number), settings.device, clock)
                if number:  # the first round compiles, and fills caches
                    timings[name, precision].seconds.append(seconds)
                    timings[name, precision].operations.append(contestant.operations(number))
            if number:
                share = CEILING_SECONDS[arguments.size]
                results.ceilings[precision].append(
                    matrix_rate(settings.device, DTYPES[precision], seconds=share, clock=clock)
                )
        print(f"round {number} of {rounds} done", file=sys.stderr)
    results.timings = list(timings.values())


def measure_memory(settings: Settings, name: str, precision: str, checkpointing: bool) -> Memory:
    """Memory of two steps; to be called in a fresh process."""
    prepare(settings)
    BUILD[name](settings.smallest, 1, checkpointing).step(precision, 0)
    gc.collect()
    before = memory_now(settings.device)
    contestant = BUILD[name](settings, 2, checkpointing)
    for number in range(2):  # the optimizer has its state from the first step on
        contestant.step(precision, number)
    parameters = sum(parameter.numel() for parameter in contestant.model.parameters())
    return Memory(name, precision, checkpointing, memory_peak(settings.device) - before, parameters)


def measure_all_memory(settings: Settings, names: Sequence[str], precisions: Sequence[str], results: Results) -> None:
    """Every contestant and precision, without and with activation checkpointing."""
    for name, precision, checkpointing in product(names, precisions, (False, True)):
        what = f"memory of {name}, {precision}, {'with' if checkpointing else 'without'} checkpointing"
        print(what, file=sys.stderr)
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as fresh:
            task = fresh.submit(measure_memory, settings, name, precision, checkpointing)
            try:
                results.memories.append(task.result())
            except (BrokenProcessPool, torch.OutOfMemoryError) as error:
                results.skipped.append(f"{what}: {error}")


# --- Report ---------------------------------------------------------------------------------


def heading(settings: Settings, rounds: int) -> str:
    """What is measured, in words."""
    config = settings.config
    batches = packed_batches(settings, rounds + 1)
    in_part_b = np.mean([batch.loss_mask.mean() for batch in batches])
    used = np.mean([batch.used for batch in batches])
    return (
        f"{describe(settings.device, settings.threads)}\n"
        f"{config.num_layers} layers, width {config.hidden_size}, {config.num_attention_heads} heads, "
        f"vocabulary {config.vocab_size:,}: {config.num_parameters / 1e6:,.1f}M parameters; "
        f"dropout {config.output_dropout_prob:g}{', layers compiled' if settings.compiled else ''}\n"
        f"batches of {settings.rows} x {settings.length}, objective {settings.objective}: "
        f"{in_part_b:.0%} of the positions in Part B, {1 - used:.1%} padding; medians of {rounds} rounds"
    )


def step_table(results: Results, positions: int) -> str:
    """Speed of each contestant beside the peer's and that of products, in the same precision."""
    lines = []
    for precision, rates in results.ceilings.items():
        timings = {timing.name: timing for timing in results.timings if timing.precision == precision}
        ceiling = statistics.median(rates)
        for name, timing in timings.items():
            ratio = f"{timings[PEER].median / timing.median:.2f}" if PEER in timings else ""
            work = f"{statistics.mean(timing.operations) / positions / 1e9:.3f}"
            speed = [f"{timing.median:.3f}", f"{positions / timing.median:,.0f}", ratio, work]
            lines.append([name, precision, *speed, f"{timing.rate / 1e12:.3g}", f"{timing.rate / ceiling:.0%}"])
        lines.append(["matrix products", precision, "", "", "", "", f"{ceiling / 1e12:.3g}", "100%"])
    header = ["step", "precision", "seconds", "positions/s", "times the peer", "GFLOP per position", "TFLOP/s"]
    return markdown_table([*header, "of the product rate"], lines)


def memory_table(memories: Sequence[Memory]) -> str:
    """Peak memory, also per parameter."""
    lines = []
    for memory in memories:
        size, per_parameter = f"{memory.bytes / MIB:,.0f}", f"{memory.bytes / memory.parameters:.1f}"
        lines.append([memory.name, memory.precision, "on" if memory.checkpointing else "off", size, per_parameter])
    return markdown_table(["memory", "precision", "checkpointing", "peak MiB", "bytes per parameter"], lines)


def report(heading: str, results: Results, positions: int) -> str:
    """Everything as Markdown."""
    parts = [heading, step_table(results, positions)]
    if results.memories:
        parts.append(memory_table(results.memories))
    parts += [f"Not measured: {reason}" for reason in results.skipped]
    return "\n\n".join(parts)


def as_json(settings: Settings, rounds: int, results: Results) -> str:
    """Everything that was measured, round by round, in seconds, operations and bytes."""
    described = {"machine": describe(settings.device, settings.threads), "rounds": rounds}
    return json.dumps({**described, "settings": asdict(settings), **asdict(results)}, indent=2) + "\n"


# --- Command line ---------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    """Options, with the defaults of the device."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--size",
        choices=sorted(SHAPES),
        help="shape of the model (base; on a GPU large); mini and modern are the embedded models before and after",
    )
    parser.add_argument("--rows", type=int, help="rows of a batch (4; on a GPU 32)")
    parser.add_argument("--length", type=int, help="length of a row (512)")
    parser.add_argument("--dropout", type=float, help="0.1; on a GPU 0, which FlexAttention needs")
    parser.add_argument("--precision", nargs="+", choices=sorted(DTYPES), help="both; on a GPU bf16")
    parser.add_argument("--rounds", type=int, help="steps to time of each (5; on a GPU 20)")
    parser.add_argument("--objective", choices=sorted(OBJECTIVES), default="token")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--compile", action="store_true", help="compile every layer, also the peer's; ours as `run.compile` does"
    )
    parser.add_argument(
        "--cpu-time", action="store_true", help="seconds of the processor, where other work shares it; one thread only"
    )
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="measure openglm alone")
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="measure time alone")
    parser.add_argument("--smoke", action="store_true", help="a tiny model, to see that everything runs")
    parser.add_argument("--json", type=Path, help="also write the numbers to this file")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no CUDA device here")
    if arguments.cpu_time and (arguments.device != "cpu" or arguments.threads != 1):
        parser.error("--cpu-time goes with --device cpu --threads 1")
    defaults = (GPU if arguments.device == "cuda" else CPU) | (SMOKE if arguments.smoke else {})
    for name, value in defaults.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    if min(arguments.rows, arguments.length, arguments.rounds, arguments.threads) < 1:
        parser.error("--rows, --length, --rounds and --threads must be at least 1")
    if arguments.json is not None and not arguments.json.parent.is_dir():
        parser.error(f"--json {arguments.json}: there is no folder {arguments.json.parent}")
    return arguments


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The configuration that was asked for.

    Raises:
        ConfigError: a dropout out of range.
    """
    shape, dropout = SHAPES[arguments.size], arguments.dropout
    config = replace(
        shape,
        max_sequence_length=max(shape.max_sequence_length, arguments.length),
        embedding_dropout_prob=dropout,
        attention_dropout_prob=dropout,
        output_dropout_prob=dropout,
    )
    return Settings(
        config=config,
        rows=arguments.rows,
        length=arguments.length,
        objective=arguments.objective,
        device=arguments.device,
        threads=arguments.threads,
        compiled=arguments.compile,
    )


def main() -> int:
    """Measure, print, perhaps write; 2 for bad input."""
    arguments = parse_arguments()
    names, results = [OURS], Results()
    try:
        settings = settings_of(arguments)
        reason = missing_peer() if arguments.peer else ""
        if reason:
            results.skipped.append(reason)
        elif arguments.peer:
            names.append(PEER)
        text = heading(settings, arguments.rounds)
        if arguments.memory:  # first, while this process itself holds nothing
            measure_all_memory(settings, names, arguments.precision, results)
        time_steps(settings, names, arguments, results)
    except OpenGLMError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(report(text, results, settings.positions))
    if arguments.json is not None:
        arguments.json.write_text(as_json(settings, arguments.rounds, results), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
