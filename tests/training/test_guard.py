"""Which updates the guard leaves out, and when it gives up."""

from __future__ import annotations

import math

import numpy as np
import pytest

from openglm.errors import TrainingError
from openglm.training.guard import DEVIATIONS, IN_A_ROW, WINDOW, Guard


def steady(guard: Guard, loss: float = 3.0, updates: int = WINDOW, spread: float = 0.1) -> np.random.Generator:
    rng = np.random.default_rng(5)
    for _ in range(updates):
        assert guard.judge(loss + spread * rng.normal(), 1.0) == ""
    return rng


@pytest.mark.parametrize(("loss", "norm"), [(math.nan, 1.0), (math.inf, 1.0), (3.0, math.nan), (3.0, math.inf)])
@pytest.mark.parametrize("spike", [0.0, 2.0])
def test_what_is_not_finite_is_left_out(loss: float, norm: float, spike: float) -> None:
    guard = Guard(spike)
    assert "finite" in guard.judge(loss, norm)
    assert guard.left_out == 1
    assert guard.judge(3.0, 1.0) == ""
    assert guard.left_out == 0


def test_a_spike_is_left_out_and_not_remembered() -> None:
    guard = Guard(2.0)
    steady(guard)
    assert guard.judge(4.9, 1.0) == "", "not far enough above the mean"
    before = guard.state()["losses"]
    for _ in range(3):
        reason = guard.judge(5.3, 1.0)
        assert "5.300" in reason
        assert f"{np.mean(before):.3f}" in reason
    assert guard.state()["losses"] == before
    assert guard.judge(0.1, 1.0) == "", "a loss may fall as far as it likes"


def test_noise_widens_the_limit() -> None:
    """Where losses scatter, what stands out must stand out of the scatter."""
    guard = Guard(2.0)
    steady(guard, spread=1.0)
    assert guard.judge(3.0 + 0.5 * DEVIATIONS, 1.0) == ""
    assert guard.judge(3.0 + 2.0 * DEVIATIONS, 1.0) != ""


def test_no_verdict_on_little_evidence() -> None:
    guard = Guard(2.0)
    steady(guard, updates=WINDOW - 1)
    assert guard.judge(50.0, 1.0) == ""


def test_off_means_off() -> None:
    guard = Guard(0.0)
    steady(guard)
    assert guard.judge(1e6, 1.0) == ""


@pytest.mark.parametrize("seed", range(5))
def test_a_normal_run_never_triggers(seed: int) -> None:
    """A warm-up that rises first, the steep descent, thousands of noisy updates, and a harder second stage."""
    rng = np.random.default_rng(seed)
    guard = Guard(2.0)
    update = np.arange(4000)
    losses = 2.5 + 7.5 * np.exp(-update / 300) + 0.3 * np.exp(-(((update - 20) / 10) ** 2))
    losses += np.where(update > 3000, 0.8, 0.0) + 0.3 * rng.normal(size=len(update))
    assert not [number for number, loss in enumerate(losses) if guard.judge(float(loss), 1.0)]


def test_giving_up_says_what_to_do() -> None:
    guard = Guard(2.0)
    steady(guard)
    for number in range(IN_A_ROW - 1):
        guard.check(200 + number, guard.judge(9.0, 1.0), "state-00000150.pt in RUN")
    reason = guard.judge(9.0, 1.0)
    with pytest.raises(TrainingError) as caught:
        guard.check(200 + IN_A_ROW - 1, reason, "state-00000150.pt in RUN")
    for part in ("updates 200 to 219", "9.000", "learning_rate", "state-00000150.pt"):
        assert part in str(caught.value)


def test_its_state_is_all_there_is() -> None:
    first = Guard(2.0)
    rng = steady(first)
    first.judge(9.0, 1.0)
    second = Guard(2.0)
    second.restore(first.state())
    for loss in [*(3.0 + 0.1 * rng.normal(size=20)), 9.0, math.nan, 5.05]:
        assert first.judge(float(loss), 1.0) == second.judge(float(loss), 1.0)
        assert first.state() == second.state()
