"""Muon: torch's own numbers, matrices of one shape together."""

from __future__ import annotations

import pytest
import torch

from openglm.training.muon import Muon, orthogonalised


@pytest.mark.parametrize("shapes", [[(12, 8)] * 3, [(8, 12), (12, 8), (8, 12), (5, 5)], [(33, 17)]])
def test_updates_are_those_of_torch(shapes: list[tuple[int, int]]) -> None:
    ours = [torch.randn(shape, requires_grad=True) for shape in shapes]
    theirs = [weight.detach().clone().requires_grad_() for weight in ours]
    first = Muon(ours, lr=0.02, weight_decay=0.1)
    second = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for update in range(4):
        for a, b in zip(ours, theirs, strict=True):
            a.grad = torch.randn_like(a) * 10.0 ** (update - 3)
            b.grad = a.grad.clone()
        first.step()
        second.step()
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_weights_without_gradient_stay() -> None:
    with_gradient, without = (torch.randn(4, 4, requires_grad=True) for _ in range(2))
    before = without.detach().clone()
    with_gradient.grad = torch.randn(4, 4)
    optimizer = Muon([with_gradient, without], lr=0.1, weight_decay=0.5)
    optimizer.step()
    assert torch.equal(without, before)
    assert without not in optimizer.state


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 24, 8), (2, 8, 24)])
def test_orthogonalised_matrices_are_nearly_orthogonal(shape: tuple[int, ...]) -> None:
    """The iteration leaves singular values between about 0.7 and 1.2, and keeps the directions."""
    matrices = torch.randn(shape)
    found = orthogonalised(matrices).float()
    values = torch.linalg.svdvals(found)
    assert 0.5 < values.min() < values.max() < 1.3
    u, _, v = torch.linalg.svd(matrices, full_matrices=False)
    assert ((found * (u @ v)).sum((1, 2)) / min(shape[1:]) > 0.8).all()
    assert not orthogonalised(torch.zeros(1, 4, 4)).any(), "nothing to do is no division by zero"
