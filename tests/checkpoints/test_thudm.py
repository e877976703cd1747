"""Folders of the original research code: any number of ranks, and what is refused with which words."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from openglm.checkpoints.formats import THUDM, detect
from openglm.checkpoints.ranks import divide
from openglm.checkpoints.resolve import open_checkpoint
from openglm.errors import CheckpointError, ConfigError
from openglm.network.model import GLMModel

HEADS = 4


def write(folder: Path, model: GLMModel, ranks: int = 1, **beside: Any) -> Path:
    """As the original trainer leaves it, and a configuration that tells the number of heads."""
    home = folder / "1000"
    home.mkdir(parents=True)
    for rank in range(ranks):
        state = {name: divide(name, tensor, ranks)[rank].clone() for name, tensor in model.state_dict().items()}
        torch.save({"module": state, "iteration": 1000, **beside}, home / f"mp_rank_{rank:02d}_model_states.pt")
    (folder / "latest_checkpointed_iteration.txt").write_text("1000", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({"num_attention_heads": HEADS}), encoding="utf-8")
    return folder


def network(folder: Path) -> GLMModel:
    return open_checkpoint(folder).network(device="cpu", dtype=torch.float32)


def assert_same(model: GLMModel, other: GLMModel) -> None:
    assert list(model.state_dict()) == list(other.state_dict())
    for name, tensor in other.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_any_number_of_ranks(tmp_path: Path, tiny_model: GLMModel, ranks: int) -> None:
    folder = write(tmp_path / "glm", tiny_model, ranks)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.format == THUDM
    sizes = ("num_layers", "hidden_size", "num_attention_heads", "vocab_size", "max_sequence_length", "gelu")
    for name in sizes:
        assert getattr(checkpoint.config, name) == getattr(tiny_model.config, name)
    assert_same(network(folder), tiny_model)


@pytest.mark.parametrize("tag", ["1000", "1000\n", "  1000 \n\n"])
@pytest.mark.parametrize("tracker", ["latest_checkpointed_iteration.txt", "latest"])
def test_trackers(tmp_path: Path, tiny_model: GLMModel, tracker: str, tag: str) -> None:
    folder = write(tmp_path / "glm", tiny_model)
    (folder / "latest_checkpointed_iteration.txt").unlink()
    (folder / tracker).write_text(tag, encoding="utf-8")
    assert_same(network(folder), tiny_model)


def test_the_folder_with_the_weights_itself(tmp_path: Path, tiny_model: GLMModel) -> None:
    folder = write(tmp_path / "glm", tiny_model, 2)
    shutil.copy(folder / "config.json", folder / "1000")
    assert_same(network(folder / "1000"), tiny_model)


@pytest.mark.parametrize("tag", ["", "..", "../other", "/etc", "a/b", "1000\n2000", "x" * 5000])
def test_trackers_that_name_no_folder_beside_them(tmp_path: Path, tiny_model: GLMModel, tag: str) -> None:
    folder = write(tmp_path / "glm", tiny_model)
    (folder / "latest_checkpointed_iteration.txt").write_text(tag, encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"latest_checkpointed_iteration\.txt"):
        detect(folder)


def test_trackers_that_name_an_empty_folder(tmp_path: Path, tiny_model: GLMModel) -> None:
    folder = write(tmp_path / "glm", tiny_model)
    (folder / "latest_checkpointed_iteration.txt").write_text("2000", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"names 2000, but there are no mp_rank_00_model_states\.pt"):
        open_checkpoint(folder)
    (folder / "latest_checkpointed_iteration.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match="not readable as text"):
        open_checkpoint(folder)


def test_a_rank_in_the_middle_is_missing(tmp_path: Path, tiny_model: GLMModel) -> None:
    folder = write(tmp_path / "glm", tiny_model, 4)
    (folder / "1000" / "mp_rank_01_model_states.pt").unlink()
    with pytest.raises(CheckpointError, match=r"pieces are missing.*mp_rank_01_model_states\.pt"):
        open_checkpoint(folder)


def test_the_last_rank_is_missing(tmp_path: Path, tiny_model: GLMModel) -> None:
    """Whether the files say how many there should be or not."""
    for number, beside in enumerate(({}, {"mp_world_size": 4})):
        folder = write(tmp_path / str(number), tiny_model, 4, **beside)
        (folder / "1000" / "mp_rank_03_model_states.pt").unlink()
        expected = r"missing among 4.*mp_rank_03_model_states\.pt" if beside else "hold 72 of 96 rows"
        with pytest.raises(CheckpointError, match=expected):
            open_checkpoint(folder)


def test_ranks_of_different_iterations(tmp_path: Path, tiny_model: GLMModel) -> None:
    folder = write(tmp_path / "glm", tiny_model, 2)
    path = folder / "1000" / "mp_rank_01_model_states.pt"
    torch.save({**torch.load(path, weights_only=True), "iteration": 900}, path)
    with pytest.raises(CheckpointError, match=r"mp_rank_01.*disagree on iteration \(900, in .* 1000\)"):
        open_checkpoint(folder)


def test_nobody_knows_the_heads(tmp_path: Path, tiny_model: GLMModel) -> None:
    folder = write(tmp_path / "glm", tiny_model)
    (folder / "config.json").unlink()
    with pytest.raises(ConfigError, match=r'no published model has 2 layers, width 32.*"num_attention_heads": N'):
        open_checkpoint(folder)
    (folder / "config.json").write_text('{"num_attention_heads": 5}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.json.*5 does not divide"):
        open_checkpoint(folder)


def test_other_tensors_than_a_glm_has(tmp_path: Path, tiny_model: GLMModel) -> None:
    folder = write(tmp_path / "glm", tiny_model)
    path = folder / "1000" / "mp_rank_00_model_states.pt"
    content = torch.load(path, weights_only=True)
    state = content["module"]
    state["surplus"] = torch.zeros(1)
    del state["transformer.layers.1.mlp.dense_h_to_4h.bias"]
    state["transformer.layers.0.attention.dense.weight"] = torch.zeros(2, 2)
    torch.save(content, path)
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(folder)
    for words in ("missing transformer.layers.1.mlp.dense_h_to_4h.bias", "unexpected surplus", "[2, 2]", "[32, 32]"):
        assert words in str(error.value)
    del state["word_embeddings.weight"]
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"missing word_embeddings\.weight"):
        open_checkpoint(folder)


class _Harmful:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("should-not-exist",)


def test_nothing_in_the_files_is_executed(
    tmp_path: Path, tiny_model: GLMModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / "glm", tiny_model, 1, optimizer=_Harmful())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=rf"refused.*{os.mkdir.__module__}\.mkdir"):
        open_checkpoint(folder)
    assert not (tmp_path / "should-not-exist").exists()
