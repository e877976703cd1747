"""A compiled network with int8 weights, on a CPU."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from openglm.blanks import Markers, PartA
from openglm.engine.model_runner import ModelRunner
from openglm.engine.paged_runner import PagedRunner
from openglm.layouts import lay_out
from openglm.network.config import GLMConfig
from openglm.network.model import GLMModel
from openglm.network.quantization import quantize

from ..conftest import random_model

EOS, MARKERS = 122, Markers(sop=120, eop=121)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs g++"),
]


@torch.inference_mode()
def logits_of(runner: ModelRunner, lengths: list[int]) -> list[torch.Tensor]:
    """After reading texts of these lengths, after a step of all of them, and of the first alone."""
    rng = np.random.default_rng(0)
    layouts = [
        lay_out(PartA(rng.integers(0, 100, length), np.array([length // 2])), [[]], MARKERS) for length in lengths
    ]
    handles = [runner.allocate(length + 1) for length in lengths]
    read = runner.prefill(handles, layouts)
    together = runner.decode(handles, [(7, length // 2, 2) for length in lengths])
    runner.append(handles)
    return [read, together, runner.decode(handles[:1], [(9, lengths[0] // 2, 3)])]


@pytest.mark.parametrize("architecture", ["glm", "modern"])
def test_a_compiled_int8_network_agrees(architecture: str) -> None:
    config = GLMConfig(2, 64, 4, 128, max_sequence_length=192, architecture=architecture)
    model = quantize(random_model(config, 0.2, seed=1), "int8")
    lengths = [70, 3, 41]
    compiled, alike, plain = PagedRunner(model, EOS, compile=True), PagedRunner(model, EOS), PagedRunner(model, EOS)
    alike._prefill_cache, alike._decode_cache = (
        compiled._prefill_cache,
        compiled._decode_cache,
    )  # attends as the compiled one does
    found = logits_of(compiled, lengths)
    for a, b in zip(logits_of(alike, lengths), found, strict=True):
        # Sums in another order now and then round a value to the next of 127 steps.
        assert (a - b).norm() < 0.01 * a.norm()
    for a, b in zip(logits_of(plain, lengths), found, strict=True):
        # Rounding to 8 bits at all moves this small network by 0.03.
        assert (a - b).norm() < 0.02 * a.norm()


def test_each_model_has_graphs_of_its_own() -> None:
    """More models than torch allows graphs for one piece of code."""
    config = GLMConfig(1, 32, 2, 128, max_sequence_length=64)
    with torch._dynamo.config.patch(recompile_limit=2):
        for seed in range(3):
            torch.manual_seed(seed)
            model = GLMModel(config).eval()
            runner = PagedRunner(model, EOS, compile=True)
            for a, b in zip(logits_of(PagedRunner(model, EOS), [9]), logits_of(runner, [9]), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
