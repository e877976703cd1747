"""How much work training is, and how fast this machine multiplies matrices.

    share of peak = tokens/s x training_flops / matrix_rate

The ceiling is measured where the training runs, not taken from a data sheet, so the share
tells how much of what this machine really gives the training takes. Knows sizes and devices;
nothing about batches or optimizers.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from ..network.config import GLMConfig

SMALLEST, LARGEST = 256, 8192  # rows of the matrices that are tried
ROUNDS = 5  # measurements; the median is reported


def training_flops(config: GLMConfig, length: int, predicted_share: float) -> float:
    """FLOPs of one training step per token of its batch, padding included.

    A multiplication and the addition that follows count as two. Forward, per token:

    - every weight of the matrices of a layer once: query, key and value 3 D², output D²,
      feed-forward 8 D², together 2 x 12 D² per layer
    - attention: S keys times D for the scores and S values times D for the mixture, 4 S D per
      layer. Counted dense, as if every token of a row looked at every other: kernels that skip
      what documents hide from each other do less, and their share of peak looks larger for it.
    - the output projection: 2 D V, for the predicted tokens only

    Backward computes two products (for the input and for the weight) for each of these, so a
    step is three times its forward pass. Not counted: embeddings, norms, activations, the
    update itself, anything computed twice to save memory.

    Args:
        length: S, tokens of a row.
        predicted_share: share of the tokens that predict (Part B), between 0 and 1.
    """
    D, V, layers = config.hidden_size, config.vocab_size, config.num_layers
    forward = layers * (2 * 12 * D * D + 4 * length * D) + predicted_share * 2 * D * V
    return 3.0 * forward


def matrix_rate(
    device: torch.device | str,
    dtype: torch.dtype,
    *,
    seconds: float = 0.5,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """FLOP/s of large square matrix products on this device, measured now.

    The matrices grow until one product takes a good part of the time or reaches `LARGEST`
    rows; the result is the median of several measurements. Uses the threads and precision
    settings in force, and leaves all random generators alone.

    Args:
        dtype: of the matrices, what the training computes in.
        seconds: about how long to measure.
        clock: gives seconds; on the wall, unless other work shares the processors.
    """
    device = torch.device(device)
    size = SMALLEST
    product = _product(size, device, dtype)
    _timed(product, 1, device, clock)  # the first one also loads libraries
    while size < LARGEST and _timed(product, 1, device, clock) < seconds / (16 * ROUNDS):
        size *= 2
        product = _product(size, device, dtype)
        _timed(product, 1, device, clock)
    once = _timed(product, 1, device, clock)
    repeats = max(1, int(seconds / ROUNDS / max(once, 1e-9)))
    return 2.0 * size**3 * repeats / statistics.median(_timed(product, repeats, device, clock) for _ in range(ROUNDS))


def _product(size: int, device: torch.device, dtype: torch.dtype) -> Callable[[], None]:
    # Random numbers, because the clock of some devices depends on the bits that flip.
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2))
    out = torch.empty_like(a)

    def product() -> None:
        torch.mm(a, b, out=out)

    return product


@torch.no_grad()
def _timed(product: Callable[[], None], repeats: int, device: torch.device, clock: Callable[[], float]) -> float:
    _synchronise(device)
    begin = clock()
    for _ in range(repeats):
        product()
    _synchronise(device)
    return clock() - begin


def _synchronise(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
