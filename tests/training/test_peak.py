"""The FLOPs of a training step, against torch's own counter; the measured rate of products."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from openglm.network.attention import dense_mask
from openglm.network.config import GLMConfig
from openglm.network.model import GLMModel
from openglm.training.loss import linear_cross_entropy
from openglm.training.peak import matrix_rate, training_flops

B, S = 2, 48
CONFIG = GLMConfig(
    num_layers=3, hidden_size=32, num_attention_heads=4, vocab_size=256, max_sequence_length=S
)  # fmt: skip


def counted(backward: bool, predicted: int) -> float:
    """FLOPs of a step over B rows of S tokens, of which `predicted` in all predict."""
    model = GLMModel(CONFIG).eval()
    ids = torch.randint(0, CONFIG.vocab_size, (B, S))
    chosen = torch.zeros(B * S, dtype=torch.bool)
    chosen[torch.from_numpy(np.random.default_rng(0).permutation(B * S)[:predicted])] = True
    documents = torch.zeros(B, S, dtype=torch.long)
    mask = dense_mask(documents, documents == 1)
    # The counter knows the products of the plain kernel, not the fused one for CPUs.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        if backward:
            hidden = model.hidden_states(ids, None, mask)[chosen.view(B, S)]
            total, _ = linear_cross_entropy(hidden, model.word_embeddings.weight, ids.view(-1)[chosen])
            total.backward()
        else:
            with torch.no_grad():
                model(ids, None, mask, logits_for=chosen.view(B, S))
    return float(counter.get_total_flops())


@pytest.mark.parametrize("predicted", [1, 17, B * S])
def test_forward_is_a_third_of_the_formula(predicted: int) -> None:
    expected = training_flops(CONFIG, S, predicted / (B * S)) * B * S / 3
    assert counted(backward=False, predicted=predicted) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("predicted", [17, B * S])
def test_whole_step_is_the_formula(predicted: int) -> None:
    expected = training_flops(CONFIG, S, predicted / (B * S)) * B * S
    assert counted(backward=True, predicted=predicted) == pytest.approx(expected, rel=1e-9)


def test_rate_is_that_of_products_and_draws_nothing() -> None:
    before = torch.get_rng_state()
    rate = matrix_rate("cpu", torch.float32, seconds=0.05)
    assert torch.equal(torch.get_rng_state(), before)
    assert 1e7 < rate < 1e16  # any machine: from a very slow core to more than any device


def test_rate_counts_two_operations_per_multiplication(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that gives every product one second, the rate is its FLOPs."""
    from openglm.training import peak

    monkeypatch.setattr(peak, "_timed", lambda product, repeats, device, clock: float(repeats))
    assert matrix_rate("cpu", torch.float32) == 2.0 * peak.SMALLEST**3
