"""Adapters as folders: in PEFT's format both ways, as they were written before, and on what base."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import openglm
from openglm.errors import CheckpointError, OptionError
from openglm.finetuning.adapter_files import base_digest, load_adapter, read_adapter, save_adapter
from openglm.finetuning.adapters import LoraOptions, adapter_parameters, add_adapter, merge
from openglm.network.model import GLMModel

IDS = torch.tensor([[5, 9, 12, 40, 7]])
OPTIONS = LoraOptions(rank=3, alpha=6.0)


@pytest.fixture
def adapted(tiny_model: GLMModel) -> GLMModel:
    """A network whose adapter says something."""
    model = copy.deepcopy(tiny_model)
    add_adapter(model, OPTIONS)
    with torch.no_grad():
        for name, parameter in adapter_parameters(model).items():
            if name.endswith("lora_b"):
                parameter.normal_(std=0.3)
    return model.eval()


def test_saving_and_loading_gives_the_same(adapted: GLMModel, tiny_model: GLMModel, tmp_path: Path) -> None:
    save_adapter(tmp_path, adapted, LoraOptions(rank=3, alpha=6.0), base_model="some/model")
    other = copy.deepcopy(tiny_model)
    options = load_adapter(other, tmp_path)
    assert options == LoraOptions(rank=3, alpha=6.0)
    assert torch.equal(other.eval()(IDS), adapted(IDS))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == "some/model"
    assert (
        sum(path.stat().st_size for path in tmp_path.iterdir())
        < 4 * sum(p.numel() for p in adapter_parameters(adapted).values()) + 4096
    )


def test_an_adapter_of_another_network_is_refused(adapted: GLMModel, tiny_model: GLMModel, tmp_path: Path) -> None:
    import dataclasses

    save_adapter(tmp_path, adapted, LoraOptions(rank=3, alpha=6.0), base_model="some/model")
    other = GLMModel(dataclasses.replace(tiny_model.config, hidden_size=16))
    with pytest.raises(CheckpointError, match=r"of another network: .*lora_a .* belongs to 'some/model'"):
        load_adapter(other, tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_adapter(copy.deepcopy(tiny_model), tmp_path)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="not the settings of an adapter"):
        load_adapter(copy.deepcopy(tiny_model), tmp_path)


def test_a_folder_written_before_still_loads(adapted: GLMModel, tiny_model: GLMModel, tmp_path: Path) -> None:
    """openglm 0.1 wrote names of its own."""
    from safetensors.torch import save_file

    tensors = {name: value.detach().contiguous() for name, value in adapter_parameters(adapted).items()}
    save_file(tensors, tmp_path / "adapter.safetensors")
    values = {
        "format": "openglm-lora", "base_model": "some/model", "rank": 3, "alpha": 6.0, "dropout": 0.0,
        "targets": ["query_key_value", "dense", "mlp"],
    }  # fmt: skip
    (tmp_path / "adapter.json").write_text(json.dumps(values))
    other = copy.deepcopy(tiny_model)
    assert load_adapter(other, tmp_path) == OPTIONS
    assert torch.equal(other.eval()(IDS), adapted(IDS))
    assert read_adapter(tmp_path) == (OPTIONS, "some/model")


def test_it_goes_on_what_load_gives(base: Path, tiny_model: GLMModel, adapted: GLMModel, tmp_path: Path) -> None:
    save_adapter(tmp_path, adapted, OPTIONS, base_model=str(base))
    infiller = openglm.load(base, dtype="float32")
    load_adapter(infiller, tmp_path)
    assert torch.equal(infiller.model(IDS), adapted(IDS))
    filled = infiller.fill("the old [MASK]", max_new_tokens=4)
    merge(infiller.model)
    assert infiller.fill("the old [MASK]", max_new_tokens=4).text == filled.text
    rounded = openglm.load(base, quantize="int8")
    with pytest.raises(OptionError, match=r"rounded to int8; load the model with .*dtype=\"float32\""):
        load_adapter(rounded, tmp_path)


def test_another_base_is_refused(adapted: GLMModel, tiny_model: GLMModel, tmp_path: Path) -> None:
    """Of the same shape, but trained further: the difference was learnt for other weights."""
    save_adapter(tmp_path, adapted, OPTIONS, base_model="some/model")
    other = copy.deepcopy(tiny_model)
    with torch.no_grad():
        other.transformer.layers[1].mlp.dense_h_to_4h.weight.sub_(0.01)
    with pytest.raises(CheckpointError, match=r"trained on another base .*'some/model'"):
        load_adapter(other, tmp_path)
    merged = copy.deepcopy(adapted)
    merge(merged)
    with pytest.raises(CheckpointError, match="trained on another base"):
        load_adapter(merged, tmp_path)
    assert not adapter_parameters(merged)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_base_is_the_same_in_every_type(tiny_model: GLMModel, adapted: GLMModel, dtype: torch.dtype) -> None:
    small = copy.deepcopy(tiny_model)
    with torch.no_grad():
        small.word_embeddings.weight[:4].mul_(1e-12)  # which float16 takes for zero
    assert base_digest(copy.deepcopy(small).to(dtype)) == base_digest(small)
    assert base_digest(adapted) == base_digest(tiny_model), "an adapter is not part of the base"


def test_without_an_adapter_there_is_nothing_to_save(tiny_model: GLMModel, tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="no adapter to save"):
        save_adapter(tmp_path, tiny_model, LoraOptions(), base_model="x")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "use_dora: True is another kind"),
        ({"bias": "all"}, "bias: 'all' is another kind"),
        ({"modules_to_save": ["final_layernorm"]}, "another kind"),
        ({"peft_type": "IA3"}, "a IA3 adapter; only LoRA"),
        ({"r": "x"}, "not the settings of an adapter"),
        ({"r": 0}, "not the settings of an adapter"),
        ({"target_modules": None}, "not the settings of an adapter"),
    ],
)
def test_other_kinds_are_named(
    adapted: GLMModel, tiny_model: GLMModel, tmp_path: Path, change: Mapping[str, Any], message: str
) -> None:
    save_adapter(tmp_path, adapted, OPTIONS, base_model="some/model")
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=message):
        load_adapter(copy.deepcopy(tiny_model), tmp_path)


# --- with PEFT itself -----------------------------------------------------------------------


def test_peft_reads_ours(adapted: GLMModel, tiny_model: GLMModel, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    save_adapter(tmp_path, adapted, OPTIONS, base_model="some/model")
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(tiny_model), tmp_path).eval()
    with torch.no_grad():
        assert (adapted(IDS) - tiny_model(IDS)).abs().max() > 0.1
        for ids in (IDS, IDS.repeat(9, 4)):  # few rows are multiplied in another way than many
            assert torch.equal(theirs(ids), adapted(ids))


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["query_key_value"]},
        {"target_modules": "all-linear"},
        {"target_modules": r".*\.mlp\.dense_h_to_4h"},
        {"target_modules": ["dense", "dense_4h_to_h"], "use_rslora": True},
        {"target_modules": ["query_key_value", "dense"], "rank_pattern": {"dense": 2}, "alpha_pattern": {"dense": 5}},
        {"target_modules": ["dense"], "layers_to_transform": [1], "layers_pattern": "layers"},
    ],
    ids=str,
)
def test_ours_reads_what_peft_has_trained(tiny_model: GLMModel, tmp_path: Path, config: Mapping[str, Any]) -> None:
    peft = pytest.importorskip("peft")
    theirs = peft.get_peft_model(copy.deepcopy(tiny_model), peft.LoraConfig(r=4, lora_alpha=8, **config))
    optimizer = torch.optim.AdamW([p for p in theirs.parameters() if p.requires_grad], lr=0.05)
    for _ in range(3):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(theirs(IDS)[0], IDS[0].roll(1)).backward()
        optimizer.step()
    theirs.eval().save_pretrained(tmp_path)
    ours = copy.deepcopy(tiny_model)
    load_adapter(ours, tmp_path)
    with torch.no_grad():
        assert (theirs(IDS) - tiny_model(IDS)).abs().max() > 0.1
        assert torch.equal(ours.eval()(IDS), theirs(IDS))


@pytest.mark.parametrize(
    "config", [{"target_modules": ["word_embeddings"]}, {"use_dora": True, "target_modules": ["dense"]}]
)
def test_what_peft_does_otherwise_is_refused(tiny_model: GLMModel, tmp_path: Path, config: Mapping[str, Any]) -> None:
    peft = pytest.importorskip("peft")
    theirs = peft.get_peft_model(copy.deepcopy(tiny_model), peft.LoraConfig(r=4, **config))
    theirs.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"another network|another kind"):
        load_adapter(copy.deepcopy(tiny_model), tmp_path)
