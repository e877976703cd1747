"""Damage that leaves a file readable is found: a flipped bit, a tensor of another model, another vocabulary."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import torch

from openglm.checkpoints.checksums import CHECKSUMS_FILE, note_file, sum_of
from openglm.checkpoints.convert import convert
from openglm.checkpoints.native import load_model, open_native, save_model
from openglm.checkpoints.resolve import open_model
from openglm.errors import CheckpointError, ConfigError, TokenizerError
from openglm.network.config import GLMConfig
from openglm.network.model import GLMModel
from openglm.tokenizer import BilingualTokenizer


@pytest.fixture
def folder(tmp_path: Path, tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> Path:
    save_model(tmp_path / "model", tiny_model, tokenizer, shard_bytes=60_000)
    return tmp_path / "model"


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position // 8] ^= 1 << position % 8
    path.write_bytes(content)


def load(folder: Path) -> None:
    open_model(str(folder), device="cpu", dtype=torch.float32)


def test_every_flipped_bit_of_the_weights_is_found(folder: Path) -> None:
    rng = random.Random(4)
    shards = sorted(folder.glob("*.safetensors"))
    assert len(shards) > 1
    load(folder)
    for number in range(60):
        path = shards[number % len(shards)]
        content = path.read_bytes()
        header = 8 + int.from_bytes(content[:8], "little")
        flip(path, rng.randrange(8 * header, 8 * len(content)))
        with pytest.raises(CheckpointError, match="not what was written"):
            load(folder)
        path.write_bytes(content)
    load(folder)


def test_flipped_bits_anywhere_change_nothing_or_are_found(folder: Path, tiny_model: GLMModel) -> None:
    """In the header, too: whatever still loads is the network that was written."""
    rng = random.Random(5)
    path = sorted(folder.glob("*.safetensors"))[0]
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    for _ in range(60):
        flip(path, rng.randrange(8 * header))
        try:
            loaded = load_model(folder)
        except CheckpointError:
            pass
        else:
            for name, tensor in tiny_model.state_dict().items():
                assert torch.equal(loaded.state_dict()[name], tensor)
        path.write_bytes(content)


def test_another_vocabulary_is_found(folder: Path) -> None:
    path = folder / "tokenizer.model"
    content = path.read_bytes()
    path.write_bytes(content + b"\x12\x00")  # an empty field more
    with pytest.raises((TokenizerError, CheckpointError)):
        load(folder)


@pytest.mark.parametrize("name", ["head.safetensors", "prompt.safetensors"])
def test_damage_beside_the_network_is_found(
    folder: Path, tiny_model: GLMModel, tokenizer: BilingualTokenizer, name: str
) -> None:
    (folder / name).write_bytes(b"weights")
    save_model(folder, tiny_model, tokenizer)
    load(folder)
    flip(folder / name, 3)
    with pytest.raises(CheckpointError, match=f"{name}: not what was written"):
        load(folder)
    note_file(folder, name)
    load(folder)


def test_what_is_changed_on_purpose_can_be_used(folder: Path, tiny_model: GLMModel) -> None:
    path = sorted(folder.glob("*.safetensors"))[-1]
    flip(path, 8 * (path.stat().st_size - 4))
    with pytest.raises(CheckpointError, match=r"remove checksums\.json"):
        load(folder)
    (folder / CHECKSUMS_FILE).unlink()
    load(folder)


@pytest.mark.parametrize("content", ["", "[]", '{"tensors": 3}', '{"tensors": {"a": 1}}', "[" * 9999])
def test_damaged_checksums(folder: Path, content: str) -> None:
    (folder / CHECKSUMS_FILE).write_text(content)
    with pytest.raises(CheckpointError, match=r"checksums\.json"):
        load(folder)


def test_converted_folders_have_them(folder: Path, tmp_path: Path) -> None:
    convert(folder, tmp_path / "half", to="openglm", dtype=torch.bfloat16)
    values = json.loads((tmp_path / "half" / CHECKSUMS_FILE).read_text())
    assert set(values["files"]) >= {"tokenizer.model"}
    flip(tmp_path / "half" / "model.safetensors", 8 * ((tmp_path / "half" / "model.safetensors").stat().st_size - 9))
    with pytest.raises(CheckpointError, match="not what was written"):
        load(tmp_path / "half")


def test_values_that_are_no_numbers_are_still_looked_for(
    tmp_path: Path, tiny_config: GLMConfig, tokenizer: BilingualTokenizer
) -> None:
    model = GLMModel(tiny_config)
    with torch.no_grad():
        model.word_embeddings.weight[3, 3] = float("nan")
    save_model(tmp_path, model, tokenizer)
    with pytest.raises(CheckpointError, match="not finite"):
        load(tmp_path)


def test_sums() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for shape in ((0,), (3,), (5, 7)):
            tensor = torch.randn(shape).to(dtype)
            words = tensor.reshape(-1).view(torch.uint8).numpy().tobytes()
            expected = sum(int.from_bytes(words[i : i + 8], "little") for i in range(0, len(words), 8)) % 2**64
            assert sum_of(tensor) == f"{expected:016x}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_layers", 10**12),
        ("num_layers", 9_999),
        ("hidden_size", 10**18),
        ("vocab_size", 2_000_000_000),
        ("max_sequence_length", 10**15),
        ("num_attention_heads", 10**300),
        ("vocab_size", "x" * 100_000),
    ],
)
def test_sizes_are_checked_before_anything_is_built(folder: Path, name: str, value: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        open_native(folder)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "table",
    [{"a": 3}, {"a": ["x"]}, {"a": "x", "b": None}, {"a": "../x"}, {"a": "n" * 300}, {"a": "x\0y"}, {}, [], "x"],
)
def test_wrong_indexes(folder: Path, table: object) -> None:
    for each in folder.glob("model-*"):
        each.rename(each.with_name(f"other-{each.name}"))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    with pytest.raises(CheckpointError, match=r"index\.json") as caught:
        open_native(folder)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["mp_rank_{}_model_states.pt", "pytorch_model_{}.bin", "model-{}.safetensors"])
def test_numbers_of_pieces_without_end(tmp_path: Path, name: str) -> None:
    for number in ("99999999999999999999", "9" * 200):
        (tmp_path / name.format(number)).write_bytes(b"")
        (tmp_path / "config.json").write_text("{}")
        with pytest.raises((CheckpointError, ConfigError)) as caught:
            open_model(str(tmp_path), device="cpu", dtype=torch.float32)
        assert len(str(caught.value)) < 2000
        (tmp_path / name.format(number)).unlink()
