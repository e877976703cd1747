"""How fast a model fills on this machine, beside what the machine allows.

Three ceilings are measured in the same run: the rate at which memory is read, and the rates
of matrix products in the model's type. Decoding reads every weight and every cached key and
value once per step, so its ceiling is the memory's; reading a text multiplies matrices.

Knows models and their runners; nothing about how results are shown.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..blanks import Markers, PartA
from ..engine.model_runner import ModelRunner
from ..engine.runners import runner_for
from ..errors import OptionError
from ..layouts import Layout, lay_out
from ..network.model import GLMModel
from ..network.quantization import KERNELS, Int8Linear, Plain, activation_limit
from ..training.peak import matrix_rate

WARM_UP = 2  # passes that are not counted


@dataclass(frozen=True)
class Measured:
    """One measurement.

    Attributes:
        name: what was done.
        milliseconds: median of one pass.
        tokens_per_second: in all texts together.
        rate: bytes or operations per second that this comes to.
        ceiling: of the machine, in the same unit.
        unit: "B/s" or "op/s".
    """

    name: str
    milliseconds: float
    tokens_per_second: float
    rate: float
    ceiling: float
    unit: str

    @property
    def share(self) -> float:
        """Of the ceiling."""
        return self.rate / self.ceiling

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "share": self.share}


def median_seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median wall time of one call, until the device has finished it."""
    times = []
    for _ in range(WARM_UP + repeats):
        _wait(device)
        begun = time.perf_counter()
        work()
        _wait(device)
        times.append(time.perf_counter() - begun)
    return statistics.median(times[WARM_UP:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory_rate(device: torch.device) -> float:
    """Bytes per second read by a sum over memory far larger than any cache: half a GiB, 4 GiB on a GPU."""
    values = torch.ones(2**30 if device.type == "cuda" else 2**27, device=device)
    return 4 * values.numel() / median_seconds(values.sum, device, 7)


def operation_rate(model: GLMModel) -> float:
    """Operations per second of large products in the model's type: of int8 the best of kernels and sizes."""
    weight = model.word_embeddings.weight
    if not any(isinstance(module, Int8Linear) for module in model.modules()):
        return matrix_rate(weight.device, weight.dtype)
    rates = []
    for rows, width in ((512, 4096), (2048, 4096)):
        for product, x in _int8_products(rows, width):
            seconds = median_seconds(lambda product=product, x=x: product(x), weight.device, 5)  # type: ignore[misc]
            rates.append(2 * rows * width**2 / seconds)
    return max(rates)


def _int8_products(rows: int, width: int) -> Iterator[tuple[Callable[[torch.Tensor], Any], torch.Tensor]]:
    limit = activation_limit()
    table = torch.randint(-127, 128, (width, width), dtype=torch.int8)
    x = torch.randint(-limit, limit + 1, (rows, width)) / limit
    for kernel in KERNELS:
        if kernel.available() and kernel is not Plain:
            yield kernel(table, torch.ones(width), limit), x


def weight_sizes(model: GLMModel) -> tuple[int, int]:
    """Numbers and bytes in the matrices that every token is multiplied with, the projection to words included."""
    numbers = size = 0
    for module in model.modules():
        if isinstance(module, Int8Linear):
            numbers += module.in_features * module.out_features
            size += module.in_features * module.out_features
        elif isinstance(module, nn.Linear):
            numbers += module.weight.numel()
            size += module.weight.numel() * module.weight.element_size()
    if model.word_embeddings.weight.is_floating_point():
        table = model.word_embeddings.weight
        numbers, size = numbers + table.numel(), size + table.numel() * table.element_size()
    return numbers, size


@torch.inference_mode()
def measure(
    model: GLMModel,
    *,
    contexts: Sequence[int] = (256,),
    batches: Sequence[int] = (1, 16),
    tokens: int = 24,
    markers: Markers,
    eos: int,
    runner: ModelRunner | None = None,
) -> Iterator[Measured]:
    """Time reading and decoding.

    Args:
        contexts: tokens of Part A.
        batches: texts decoded at once.
        tokens: steps to time.
        runner: of the model; by default what `Infiller` would use.

    Yields:
        For each context: reading one text; then decoding, for each number of texts.

    Raises:
        OptionError: a context that the model does not hold.
    """
    config = model.config
    for context in contexts:
        if not 0 < context < config.max_sequence_length or context + tokens < 1:
            raise OptionError(f"a context of {context} tokens; this model reads 1 to {config.max_sequence_length - 1}")
    runner = runner or runner_for(model, eos)
    reading, multiplying = memory_rate(runner.device), operation_rate(model)
    numbers, size = weight_sizes(model)
    projection = config.vocab_size * config.hidden_size
    rng = np.random.default_rng(0)
    for context in contexts:
        layouts = [
            lay_out(PartA(rng.integers(0, min(markers.sop, eos), context), np.array([context // 2])), [[]], markers)
            for _ in range(max(batches))
        ]
        work = 2.0 * (context * (numbers - projection) + projection)
        work += 4.0 * context**2 * config.hidden_size * config.num_layers
        seconds = median_seconds(lambda one=layouts[:1]: _prefill_and_free(runner, one), runner.device, 5)  # type: ignore[misc]
        yield Measured(f"read {context} tokens", 1e3 * seconds, context / seconds, work / seconds, multiplying, "op/s")
        for batch in batches:
            handles = _prefilled(runner, layouts[:batch])
            seconds = _decode_seconds(runner, handles, context, min(tokens, config.max_sequence_length - 2))
            for handle in handles:
                runner.free(handle)
            moved = size + batch * context * runner.bytes_per_token()
            yield Measured(
                f"decode {batch} x 1 token after {context}",
                1e3 * seconds, batch / seconds, moved / seconds, reading, "B/s",
            )  # fmt: skip


def _prefill_and_free(runner: ModelRunner, layouts: Sequence[Layout]) -> None:
    for handle in _prefilled(runner, layouts):
        runner.free(handle)


def _prefilled(runner: ModelRunner, layouts: Sequence[Layout]) -> list[Any]:
    handles = [runner.allocate(len(layout)) for layout in layouts]
    runner.prefill(handles, layouts)
    return handles


def _decode_seconds(runner: ModelRunner, handles: Sequence[Any], context: int, tokens: int) -> float:
    """Median time of a step, the choice of the most probable token included."""
    times = []
    for number in range(WARM_UP + tokens):
        begun = time.perf_counter()
        logits = runner.decode(handles, [(number + 1, context // 2, min(number + 2, context))] * len(handles))
        runner.append(handles)
        logits.argmax(-1).tolist()
        times.append(time.perf_counter() - begun)
    return statistics.median(times[WARM_UP:])
