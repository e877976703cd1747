"""LoRA: what it computes, what is trained, what is saved."""

from __future__ import annotations

import copy

import pytest
import torch

from openglm.errors import OptionError
from openglm.finetuning.adapters import (
    LoraLinear,
    LoraOptions,
    adapter_parameters,
    add_adapter,
    merge,
)
from openglm.network.layers import Linear
from openglm.network.model import GLMModel

IDS = torch.tensor([[5, 9, 12, 40, 7]])


@pytest.fixture
def adapted(tiny_model: GLMModel) -> GLMModel:
    """A network whose adapter says something."""
    model = copy.deepcopy(tiny_model)
    add_adapter(model, LoraOptions(rank=3, alpha=6.0))
    with torch.no_grad():
        for name, parameter in adapter_parameters(model).items():
            if name.endswith("lora_b"):
                parameter.normal_(std=0.3)
    return model.eval()


def test_a_fresh_adapter_changes_nothing(tiny_model: GLMModel) -> None:
    model = copy.deepcopy(tiny_model)
    add_adapter(model, LoraOptions())
    assert torch.equal(model(IDS), tiny_model(IDS))


def test_a_layer_adds_the_scaled_product() -> None:
    base = Linear(4, 3)
    torch.nn.init.normal_(base.weight)
    torch.nn.init.normal_(base.bias)
    layer = LoraLinear(base, 2, 2.5)
    torch.nn.init.normal_(layer.lora_b)
    x = torch.randn(7, 4)
    weight = base.weight + 2.5 * layer.lora_b @ layer.lora_a
    assert torch.allclose(layer(x), x @ weight.T + base.bias, atol=1e-6)


@pytest.mark.parametrize(
    ("targets", "layers"), [(("query_key_value",), 1), (("dense",), 1), (("mlp",), 2), (("dense", "mlp"), 3)]
)
def test_targets_choose_layers(tiny_model: GLMModel, targets: tuple[str, ...], layers: int) -> None:
    model = copy.deepcopy(tiny_model)
    add_adapter(model, LoraOptions(targets=targets))
    found = [name for name, module in model.named_modules() if isinstance(module, LoraLinear)]
    assert len(found) == layers * model.config.num_layers
    assert set(model.state_dict()) - set(tiny_model.state_dict()) == set(adapter_parameters(model))


def test_merging_gives_the_same(adapted: GLMModel, tiny_model: GLMModel) -> None:
    before = adapted(IDS)
    assert (before - tiny_model(IDS)).abs().max() > 0.1
    merge(adapted)
    assert not adapter_parameters(adapted)
    assert list(adapted.state_dict()) == list(tiny_model.state_dict())
    assert torch.allclose(adapted(IDS), before, atol=1e-4)


def test_what_makes_no_sense_is_refused(adapted: GLMModel) -> None:
    with pytest.raises(OptionError, match="has an adapter already"):
        add_adapter(adapted, LoraOptions())
    for wrong in ({"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}, {"targets": ("head",)}, {"targets": ()}):
        with pytest.raises(OptionError):
            LoraOptions(**wrong)  # type: ignore[arg-type]
