"""FlagAI's and the hub's folders: what loads, and what is refused with which words."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

import openglm
from openglm.checkpoints.foreign import load_foreign, read_foreign_config
from openglm.errors import CheckpointError, ConfigError, ModelNotFoundError, TokenizerError
from openglm.model import GLMModel


@pytest.fixture
def folder(tmp_path: Path, tiny_model: GLMModel) -> Path:
    """A FlagAI folder with the weights of the tiny model and no vocabulary."""
    config = tiny_model.config
    values = {
        "num_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "num_attention_heads": config.num_attention_heads,
        "vocab_size": config.vocab_size,
        "max_sequence_length": config.max_sequence_length,
        "block_position_encoding": True,
        "relative_encoding": False,
    }
    (tmp_path / "config.json").write_text(json.dumps(values), encoding="utf-8")
    torch.save(tiny_model.state_dict(), tmp_path / "pytorch_model.bin")
    return tmp_path


def rewrite(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps(values), encoding="utf-8")


@pytest.mark.parametrize("wrapper", ["flat", "module", "prefix", "both", "hub"])
def test_every_wrapper_loads(folder: Path, tiny_model: GLMModel, wrapper: str) -> None:
    state = dict(tiny_model.state_dict())
    if wrapper in ("prefix", "both"):
        state = {f"model.{name}": tensor for name, tensor in state.items()}
    if wrapper == "hub":
        state = {f"glm.{name}": tensor for name, tensor in state.items()}
    torch.save({"module": state} if wrapper in ("module", "both") else state, folder / "pytorch_model.bin")
    loaded = load_foreign(folder, device="cpu", dtype=torch.float32)
    for name, tensor in tiny_model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_files_from_before_archives_load(folder: Path, tiny_model: GLMModel) -> None:
    torch.save(tiny_model.state_dict(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    loaded = load_foreign(folder, device="cpu", dtype=torch.float32)
    assert torch.equal(loaded.word_embeddings.weight, tiny_model.word_embeddings.weight)


@pytest.mark.parametrize("content", ["[]", "3", "null", "{not json"])
def test_configuration_that_is_none(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises((ConfigError, CheckpointError), match=r"config\.json"):
        openglm.load(folder)


def test_hub_folders_compute_gelu_with_erf(folder: Path) -> None:
    assert read_foreign_config(folder).gelu == "tanh"
    rewrite(folder, model_type="glm")
    assert read_foreign_config(folder).gelu == "erf"


def test_disagreeing_tensors_are_all_listed(folder: Path, tiny_model: GLMModel) -> None:
    state = dict(tiny_model.state_dict())
    del state["transformer.final_layernorm.bias"]
    state["surplus"] = torch.zeros(1)
    state["word_embeddings.weight"] = torch.zeros(3, 32)
    torch.save(state, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError) as error:
        load_foreign(folder, device="cpu", dtype=torch.float32)
    rows = tiny_model.config.vocab_size
    for words in ("missing transformer.final_layernorm.bias", "unexpected surplus", "[3, 32]", f"[{rows}, 32]"):
        assert words in str(error.value)


def test_truncated_weights(folder: Path) -> None:
    path = folder / "pytorch_model.bin"
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(CheckpointError, match="truncated, corrupted"):
        load_foreign(folder, device="cpu", dtype=torch.float32)


class _Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("should-not-exist",)


def test_nothing_in_the_file_is_executed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save({"word_embeddings.weight": _Harmful()}, folder / "pytorch_model.bin")
    monkeypatch.chdir(folder)
    with pytest.raises(CheckpointError):
        load_foreign(folder, device="cpu", dtype=torch.float32)
    assert not (folder / "should-not-exist").exists()


def test_another_architecture_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "glm", "hidden_size": 8}', encoding="utf-8")
    with pytest.raises(ConfigError, match="num_layers"):
        openglm.load(folder)


def test_missing_vocabulary(folder: Path) -> None:
    with pytest.raises(TokenizerError, match="no vocabulary file"):
        openglm.load(folder)


def test_not_a_model_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        openglm.load(tmp_path)


def test_unknown_names_get_suggestions() -> None:
    with pytest.raises(ModelNotFoundError, match="GLM-large-ch"):
        openglm.load("GLM-large-chs")


def test_published_names_say_where_files_belong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match=r"checkpoints/GLM-large-ch"):
        openglm.load("THUDM/glm-large-chinese")


def test_hub_folder_fills(reference: Path) -> None:
    result = openglm.load(reference / "hf-tiny").fill("北京是[MASK]。", max_new_tokens=4)
    assert result.text.startswith("北京是")
    assert result.text.endswith("。")


def test_published_folder_is_found_under_any_of_its_names(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(reference / "hf-tiny", tmp_path / "checkpoints" / "glm-large-chinese")
    monkeypatch.chdir(tmp_path)
    assert openglm.load("glm-LARGE-ch").model.config.hidden_size == 40
