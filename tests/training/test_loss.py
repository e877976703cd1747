"""The cross-entropy that never holds all logits, and the losses of a packed batch."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch.nn import functional as F

from openglm.batches import split_groups
from openglm.data.samples import SampleMaker
from openglm.data.spans import Objectives
from openglm.data.stream import OBJECTIVE_NAMES, BatchStream, Source
from openglm.network.attention import dense_mask
from openglm.network.model import GLMModel
from openglm.tensors import to_tensors
from openglm.tokenizer import BilingualTokenizer
from openglm.training.loss import ROWS_AT_ONCE, ROWS_KEPT, linear_cross_entropy
from openglm.training.step import LossModule, forward_losses


@pytest.mark.parametrize("count", [1, 7, ROWS_AT_ONCE, 2 * ROWS_AT_ONCE + 3])
@pytest.mark.parametrize("scale", [1.0, 0.37])
def test_loss_and_gradients_are_exact(count: int, scale: float) -> None:
    hidden = torch.randn(count, 24, requires_grad=True)
    weight = torch.randn(101, 24, requires_grad=True)
    targets = torch.randint(0, 101, (count,))
    expected = F.cross_entropy(hidden @ weight.t(), targets, reduction="none")
    expected_gradients = torch.autograd.grad(expected.sum() * scale, (hidden, weight))
    total, losses = linear_cross_entropy(hidden, weight, targets)
    gradients = torch.autograd.grad(total * scale, (hidden, weight))
    torch.testing.assert_close(losses, expected.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(total, expected.sum(), rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert not losses.requires_grad


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs g++")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [0, 1, ROWS_KEPT + ROWS_AT_ONCE + 3])
def test_the_fused_loss_is_the_same(count: int, dtype: torch.dtype) -> None:
    hidden = torch.randn(count, 24, requires_grad=True)
    weight = torch.randn(101, 24, requires_grad=True)
    targets = torch.randint(0, 101, (count,))
    found = []
    for fused in (False, True):
        total, losses = linear_cross_entropy(hidden, weight, targets, dtype=dtype, fused=fused)
        found.append((total, losses, *torch.autograd.grad(total * 0.37, (hidden, weight))))
    close = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.02, "atol": 0.02}
    for plain, fused_one in zip(*found, strict=True):
        torch.testing.assert_close(fused_one, plain, **close)


def test_loss_of_extreme_scores() -> None:
    """Finite where the naive exponential would overflow."""
    hidden, weight = torch.tensor([[1000.0, 0.0]]), torch.eye(2)
    total, _ = linear_cross_entropy(hidden, weight, torch.tensor([1]))
    assert total.item() == pytest.approx(1000.0)


def test_loss_without_targets() -> None:
    hidden, weight = torch.randn(0, 8, requires_grad=True), torch.randn(5, 8, requires_grad=True)
    total, losses = linear_cross_entropy(hidden, weight, torch.empty(0, dtype=torch.long))
    total.backward()  # type: ignore[no-untyped-call]
    assert total.item() == 0
    assert losses.shape == (0,)
    assert weight.grad is not None
    assert not weight.grad.any()


@pytest.fixture(scope="module")
def stream(source: Source, tokenizer: BilingualTokenizer) -> BatchStream:
    maker = SampleMaker(tokenizer, Objectives())
    return BatchStream([source], maker, rows=4, length=64, short_probability=0.2, seed=3)


def test_losses_of_a_batch_are_those_of_the_logits(stream: BatchStream, tiny_model: GLMModel) -> None:
    batch = stream.batch(0)
    total, losses, objectives = forward_losses(tiny_model, batch, "fp32")
    mask = dense_mask(torch.from_numpy(batch.documents), torch.from_numpy(batch.in_part_a))
    logits = tiny_model(torch.from_numpy(batch.input_ids), torch.from_numpy(batch.position_ids), mask)
    chosen = torch.from_numpy(batch.loss_mask)
    expected = F.cross_entropy(logits[chosen], torch.from_numpy(batch.targets)[chosen], reduction="none")
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(total, expected.sum(), rtol=1e-4, atol=1e-3)
    assert objectives.tolist() == batch.groups.tolist()


def test_sums_of_groups(stream: BatchStream, tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> None:
    """By objective, and with the end tokens apart if that is asked for."""
    training = stream.batch(1)
    _, losses, objectives = forward_losses(tiny_model, training, "fp32")
    targets = torch.from_numpy(training.targets[training.loss_mask])
    ends = (tokenizer.markers.eop, tokenizer.eos)
    is_end = torch.isin(targets, torch.tensor(ends))
    assert 0 < is_end.sum() < len(targets)
    module = LossModule(tiny_model, "fp32")
    plain, split = to_tensors(training), to_tensors(split_groups(training, ends))
    for batch, groups in ((plain, objectives), (split, objectives + 3 * is_end)):
        total, sums = module(batch)
        expected = [losses[groups == number] for number in range(len(batch.counts))]
        assert batch.counts == tuple(len(each) for each in expected)
        torch.testing.assert_close(sums, torch.stack([each.sum() for each in expected]), rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(total, losses.sum())
    assert len(plain.counts) == len(OBJECTIVE_NAMES)
    assert plain.positions == 4 * 64
    assert plain.tokens == int((training.documents >= 0).sum())
