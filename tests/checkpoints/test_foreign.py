"""FlagAI's and the hub's folders: what loads, and what is refused with which words."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import openglm
from openglm.checkpoints.resolve import open_checkpoint
from openglm.checkpoints.safetensors_files import write_files
from openglm.checkpoints.weights import TensorInfo
from openglm.errors import CheckpointError, ConfigError, TokenizerError
from openglm.network.model import GLMModel

from .conftest import flagai_values

Rewrite = Callable[..., None]


def loaded(folder: Path) -> GLMModel:
    return openglm.load(folder, device="cpu").model


def assert_same(model: GLMModel, other: GLMModel) -> None:
    assert set(model.state_dict()) == set(other.state_dict())
    for name, tensor in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


@pytest.mark.parametrize("wrapper", ["flat", "module", "prefix", "both", "hub", "wrapped twice"])
def test_every_wrapper_loads(flagai: Path, tiny_model: GLMModel, wrapper: str) -> None:
    prefixes = {"prefix": "model.", "both": "model.", "hub": "glm.", "wrapped twice": "module.model."}
    prefix = prefixes.get(wrapper, "")
    state = {f"{prefix}{name}": tensor for name, tensor in tiny_model.state_dict().items()}
    torch.save({"module": state} if wrapper in ("module", "both") else state, flagai / "pytorch_model.bin")
    assert_same(loaded(flagai), tiny_model)


def test_a_tensor_under_two_prefixes_is_refused(flagai: Path, tiny_model: GLMModel) -> None:
    state = dict(tiny_model.state_dict())
    state["glm.word_embeddings.weight"] = state["word_embeddings.weight"]
    torch.save(state, flagai / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"word_embeddings.weight and glm.word_embeddings.weight"):
        loaded(flagai)


def test_files_from_before_archives_load(flagai: Path, tiny_model: GLMModel) -> None:
    torch.save(tiny_model.state_dict(), flagai / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert_same(loaded(flagai), tiny_model)


@pytest.mark.parametrize("kind", ["bin", "safetensors"])
@pytest.mark.parametrize("indexed", [True, False])
def test_shards_load(flagai: Path, tiny_model: GLMModel, rewrite: Rewrite, kind: str, indexed: bool) -> None:
    (flagai / "pytorch_model.bin").unlink()
    rewrite(flagai / "config.json", model_type="glm")
    state = tiny_model.state_dict()
    if kind == "safetensors":
        infos = {f"glm.{name}": TensorInfo(tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()}
        write_files(flagai, infos, lambda name: state[name.removeprefix("glm.")], shard_bytes=40_000)
    else:
        names = list(state)
        index = {}
        for number in range(3):
            file = f"pytorch_model-{number + 1:05}-of-00003.bin"
            torch.save({name: state[name] for name in names[number::3]}, flagai / file)
            index |= dict.fromkeys(names[number::3], file)
        (flagai / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}), encoding="utf-8")
    assert len(list(flagai.glob(f"*-of-*.{kind}"))) >= 3
    if not indexed:
        next(flagai.glob("*.index.json")).unlink()
    assert_same(loaded(flagai), tiny_model)
    next(flagai.glob("*00002-of-*")).unlink()
    with pytest.raises(CheckpointError, match="00002-of" if indexed else "these are missing: 2;"):
        loaded(flagai)


@pytest.mark.parametrize("content", ["[]", "3", "null", "{not json", "[" * 100_000])
def test_configuration_that_is_none(flagai: Path, content: str) -> None:
    (flagai / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        openglm.load(flagai)


def test_hub_folders_compute_gelu_with_erf(flagai: Path, rewrite: Rewrite) -> None:
    assert open_checkpoint(flagai).config.gelu == "tanh"
    assert open_checkpoint(flagai).format == "flagai"
    rewrite(flagai / "config.json", model_type="glm")
    assert open_checkpoint(flagai).config.gelu == "erf"
    assert open_checkpoint(flagai).format == "huggingface"


def test_disagreeing_tensors_are_all_listed(flagai: Path, tiny_model: GLMModel) -> None:
    state = dict(tiny_model.state_dict())
    del state["transformer.final_layernorm.bias"]
    state["surplus"] = torch.zeros(1)
    state["word_embeddings.weight"] = torch.zeros(3, 32)
    torch.save(state, flagai / "pytorch_model.bin")
    with pytest.raises(CheckpointError) as error:
        loaded(flagai)
    rows = tiny_model.config.vocab_size
    for words in ("missing transformer.final_layernorm.bias", "unexpected surplus", "[3, 32]", f"[{rows}, 32]"):
        assert words in str(error.value)


def test_parts_of_a_task_are_left_out_aloud(flagai: Path, tiny_model: GLMModel) -> None:
    torch.save({**tiny_model.state_dict(), "pool_layer.dense.weight": torch.zeros(2)}, flagai / "pytorch_model.bin")
    with pytest.warns(UserWarning, match=r"pool_layer\.dense\.weight"):
        assert_same(loaded(flagai), tiny_model)


def test_quantised_weights_are_refused(flagai: Path, tiny_model: GLMModel) -> None:
    state = {**tiny_model.state_dict()}
    state["word_embeddings.weight"] = state["word_embeddings.weight"].to(torch.int8)
    torch.save(state, flagai / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="quantised"):
        loaded(flagai)


def test_weights_that_are_not_numbers(flagai: Path, tiny_model: GLMModel) -> None:
    state = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    state["transformer.layers.1.mlp.dense_h_to_4h.weight"][3, 4] = float("nan")
    torch.save(state, flagai / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"layers\.1\.mlp\.dense_h_to_4h\.weight.*not finite"):
        loaded(flagai)


@pytest.mark.parametrize("part", ["start", "middle", "end", "all"])
def test_truncated_weights(flagai: Path, part: str) -> None:
    path = flagai / "pytorch_model.bin"
    content = path.read_bytes()
    size = {"start": 100, "middle": len(content) // 2, "end": len(content) - 10, "all": 0}[part]
    path.write_bytes(content[:size])
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin.*truncated or corrupted"):
        loaded(flagai)


def test_what_lies_there_instead_is_named(flagai: Path) -> None:
    path = flagai / "pytorch_model.bin"
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    with pytest.raises(CheckpointError, match="git lfs pull"):
        loaded(flagai)
    path.write_bytes(b"<!DOCTYPE html><html>404</html>")
    with pytest.raises(CheckpointError, match="web page"):
        loaded(flagai)


class _Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("should-not-exist",)


@pytest.mark.parametrize("archive", [True, False])
def test_nothing_in_the_file_is_executed(flagai: Path, monkeypatch: pytest.MonkeyPatch, archive: bool) -> None:
    path = flagai / "pytorch_model.bin"
    torch.save({"word_embeddings.weight": _Harmful()}, path, _use_new_zipfile_serialization=archive)
    monkeypatch.chdir(flagai)
    with pytest.raises(CheckpointError, match=rf"refused.*{os.mkdir.__module__}\.mkdir"):
        loaded(flagai)
    assert not (flagai / "should-not-exist").exists()


def test_another_architecture_is_refused(flagai: Path) -> None:
    (flagai / "config.json").write_text('{"model_type": "glm", "hidden_size": 8}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"num_layers.*GLM of 2022"):
        openglm.load(flagai)


@pytest.mark.parametrize(
    ("values", "words"), [({"relative_encoding": True}, "relative_encoding"), ({"num_attention_heads": 5}, "divide")]
)
def test_impossible_configurations_name_the_file(
    flagai: Path, rewrite: Rewrite, values: dict[str, object], words: str
) -> None:
    rewrite(flagai / "config.json", **values)
    with pytest.raises(ConfigError, match=rf"config\.json.*{words}"):
        openglm.load(flagai)


def test_missing_vocabulary(flagai: Path) -> None:
    (flagai / "cog-pretrain.model").unlink()
    with pytest.raises(TokenizerError, match=r"no vocabulary file; put cog-pretrain\.model"):
        openglm.load(flagai)


def test_not_a_model_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        openglm.load(tmp_path)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match="no weights there"):
        openglm.load(tmp_path)


@pytest.mark.parametrize("ranks", [2, 4])
def test_model_parallel_pieces(tmp_path: Path, tiny_model: GLMModel, pieces: bytes, ranks: int) -> None:
    """Cut by hand, not by the package's own rule."""
    head = tiny_model.config.hidden_size // ranks
    for rank in range(ranks):
        part = slice(rank * head, (rank + 1) * head)
        state = {}
        for name, tensor in tiny_model.state_dict().items():
            if "query_key_value" in name:
                tensor = torch.cat([tensor[start * 32 : (start + 1) * 32][part] for start in range(3)])
            elif name.startswith("word_embeddings") or "dense_h_to_4h" in name:
                tensor = tensor.tensor_split(ranks)[rank]
            elif name.endswith("attention.dense.weight"):
                tensor = tensor[:, part]
            elif name.endswith("dense_4h_to_h.weight"):
                tensor = tensor.tensor_split(ranks, dim=1)[rank]
            state[name] = tensor.clone()
        torch.save(state, tmp_path / f"pytorch_model_{rank:02d}.bin")
    (tmp_path / "config.json").write_text(json.dumps(flagai_values(tiny_model)), encoding="utf-8")
    (tmp_path / "cog-pretrain.model").write_bytes(pieces)
    assert_same(loaded(tmp_path), tiny_model)
    (tmp_path / "pytorch_model_00.bin").unlink()
    with pytest.raises(CheckpointError, match=r"pieces are missing.*pytorch_model_00\.bin"):
        loaded(tmp_path)


def test_last_piece_missing(flagai: Path, tiny_model: GLMModel) -> None:
    half = {name: tensor[: len(tensor) // 2] for name, tensor in tiny_model.state_dict().items()}
    torch.save(half, flagai / "pytorch_model_00.bin")
    (flagai / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match="do not fit"):
        loaded(flagai)


def test_hub_folder_fills(reference: Path) -> None:
    result = openglm.load(reference / "hf-tiny").fill("北京是[MASK]。", max_new_tokens=4)
    assert result.text.startswith("北京是")
    assert result.text.endswith("。")


def test_published_folder_is_found_under_any_of_its_names(
    reference: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(reference / "hf-tiny", tmp_path / "checkpoints" / "glm-large-chinese")
    monkeypatch.chdir(tmp_path)
    for name in ("glm-LARGE-ch", "THUDM/glm-large-chinese", "glm-large-chinese"):
        assert openglm.load(name).model.config.hidden_size == 40
