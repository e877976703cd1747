"""Logits of the original implementations on the same weights, to 5e-5."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from openglm.errors import OptionError
from openglm.network.attention import prefix_mask
from openglm.network.cache import KVCache
from openglm.network.config import GLMConfig
from openglm.network.model import GLMModel

from .reference import MODELS, TOLERANCE, Recorded, load

MEMORY_STEPS = 5
MASKED_BY_SEPARATOR = {"full_bidir", "blocks_padded", "blocks_equal_len", "causal_scalar0"}
EXPECTED_CASES = {
    "flagai-tiny": MASKED_BY_SEPARATOR | {"mask4d"},
    "flagai-small/noblock": {"full_bidir_1d", "prefix_1d"},
    "hf-tiny": {"gen_prefill", "train", "train_pad"},
    **dict.fromkeys(
        ("flagai-small/scale1", "flagai-small/scale8", "flagai-small/scale05", "thudm-tiny-mp1"),
        MASKED_BY_SEPARATOR | {"mask4d", "scalar_sep5"},
    ),
}
WITH_MEMORY = [name for name in MODELS if name not in ("flagai-small/noblock", "hf-tiny")]


@pytest.fixture(scope="module")
def recorded(request: pytest.FixtureRequest, reference: Path) -> Recorded:
    return load(reference, request.param)


def mask_of(recorded: Recorded, case: str) -> Tensor:
    """Separators -> the rule; a full 0/1 mask as it stands."""
    ids, _, mask = recorded.inputs(case)
    if mask.ndim < 2:
        return prefix_mask(mask.reshape(-1).expand(len(ids)), ids.shape[1])
    return mask.bool()


def assert_logits(recorded: Recorded, case: str, logits: Tensor, read: Tensor) -> None:
    """Compare what was recorded of a case at the positions `read`, [B, S] bool."""
    outputs = recorded.outputs
    assert read.any()
    if f"{case}.logits" in outputs:
        assert logits.shape == outputs[f"{case}.logits"].shape
        assert (logits - outputs[f"{case}.logits"])[read].abs().max() < TOLERANCE
        return
    columns = logits[..., outputs["logit_columns"]]
    assert (columns - outputs[f"{case}.logits_columns"])[read].abs().max() < TOLERANCE
    assert (logits.logsumexp(-1) - outputs[f"{case}.logsumexp"])[read].abs().max() < TOLERANCE
    top = logits.topk(5).values
    assert (top - outputs[f"{case}.top5_values"])[read].abs().max() < TOLERANCE
    at_top = logits.gather(-1, outputs[f"{case}.top5_ids"])
    assert (at_top - outputs[f"{case}.top5_values"])[read].abs().max() < TOLERANCE
    at_best = logits.gather(-1, outputs[f"{case}.argmax"][..., None])[..., 0]
    assert (logits.amax(-1) - at_best)[read].max() < TOLERANCE


@pytest.mark.parametrize("recorded", MODELS, indirect=True)
def test_logits(recorded: Recorded, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params["recorded"]
    cases = {case for case in recorded.cases if not case.startswith("mem_")}
    assert cases == EXPECTED_CASES[name]
    for case in cases:
        ids, positions, _ = recorded.inputs(case)
        mask = mask_of(recorded, case)
        logits = recorded.model(ids, positions, mask)
        # Rows that may attend to nothing are padding; nobody reads them, and the original's
        # answer there (attend to all alike) is an accident of its arithmetic.
        read = mask.expand(len(ids), 1, *mask.shape[2:]).any(-1)[:, 0]
        if case in MASKED_BY_SEPARATOR:
            assert read.all()
        assert_logits(recorded, case, logits, read)


@pytest.mark.parametrize("recorded", WITH_MEMORY, indirect=True)
def test_step_by_step(recorded: Recorded) -> None:
    """The original recomputes its memory at every step; cached keys and values say the same."""
    cache = KVCache()
    steps = ["mem_context", *(f"mem_step{number}" for number in range(MEMORY_STEPS))]
    assert set(steps) <= set(recorded.cases)
    for step in steps:
        ids, positions, _ = recorded.inputs(step)
        mask = mask_of(recorded, step) if step == "mem_context" else None  # all of the memory is visible
        logits = recorded.model(ids, positions, mask, cache=cache)
        assert_logits(recorded, step, logits, torch.ones_like(ids, dtype=torch.bool))
    assert cache.length == recorded.outputs["mem_final.hidden_0"].shape[1]


@pytest.mark.parametrize("recorded", ["thudm-tiny-mp1"], indirect=True)
def test_memory_is_the_input_of_each_layer(recorded: Recorded) -> None:
    """Residual streams before LayerNorm, after the last step, layer by layer."""
    streams: list[Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: streams.append(inputs[0]))
        for layer in recorded.model.transformer.layers
    ]
    hooks.append(
        recorded.model.transformer.final_layernorm.register_forward_pre_hook(
            lambda _, inputs: streams.append(inputs[0])
        )
    )
    steps = ["mem_context", *(f"mem_step{number}" for number in range(MEMORY_STEPS))]
    ids = torch.cat([recorded.inputs(step)[0] for step in steps], dim=-1)
    positions = torch.cat([recorded.inputs(step)[1] for step in steps], dim=-1)
    separator = recorded.inputs("mem_context")[2]
    recorded.model(ids, positions, prefix_mask(separator, ids.shape[1]))
    for hook in hooks:
        hook.remove()
    expected = [recorded.outputs[f"mem_final.hidden_{i}"] for i in range(len(streams))]
    assert len(expected) == recorded.model.config.num_layers + 1
    for ours, theirs in zip(streams, expected, strict=True):
        assert (ours - theirs).abs().max() < TOLERANCE


@pytest.mark.parametrize("recorded", ["hf-tiny"], indirect=True)
def test_loss(recorded: Recorded) -> None:
    """The hub's loss: the mean over all labels that are not -100."""
    for case in ("train", "train_pad"):
        ids, positions, _ = recorded.inputs(case)
        labels = recorded.outputs[f"{case}.labels"]
        logits = recorded.model(ids, positions, mask_of(recorded, case), logits_for=labels != -100)
        loss = torch.nn.functional.cross_entropy(logits, labels[labels != -100])
        assert loss.item() == pytest.approx(recorded.outputs[f"{case}.loss"].item(), abs=TOLERANCE)


@pytest.mark.parametrize("recorded", ["hf-tiny"], indirect=True)
def test_form_of_gelu_matters(recorded: Recorded) -> None:
    """With the other GELU the logits are off by about 1e-3, so the comparison can tell."""
    values = {**recorded.model.config.to_dict(), "gelu": "tanh"}
    other = GLMModel(GLMConfig.from_dict(values)).eval().requires_grad_(False)
    other.load_state_dict(recorded.model.state_dict())
    ids, positions, _ = recorded.inputs("train")
    mask = mask_of(recorded, "train")
    difference = (other(ids, positions, mask) - recorded.model(ids, positions, mask)).abs().max()
    assert 10 * TOLERANCE < difference < 0.05


@pytest.mark.parametrize("recorded", ["flagai-small/scale1"], indirect=True)
def test_default_inputs(recorded: Recorded) -> None:
    """Without positions and mask a text is a lone Part A: the recorded `full_bidir`."""
    ids, positions, _ = recorded.inputs("full_bidir")
    if positions[0, 1].any():
        pytest.fail("full_bidir is expected to have no Part B")
    assert positions[0, 0].tolist() == list(range(ids.shape[1]))
    assert_logits(recorded, "full_bidir", recorded.model(ids), torch.ones_like(ids, dtype=torch.bool))
    with pytest.raises(OptionError, match="boolean"):
        recorded.model(ids, positions, torch.ones(1, 1, 17, 17))
