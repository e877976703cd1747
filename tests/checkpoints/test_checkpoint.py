"""Model folders: what is written is read back, what is damaged is named, a crash leaves old or new."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from openglm.checkpoints.checksums import CHECKSUMS_FILE
from openglm.checkpoints.native import CONFIG_FILE, WEIGHTS_FILE, is_native, load_model, read_config, save_model
from openglm.errors import CheckpointError, ConfigError
from openglm.files import replacing, write_atomically
from openglm.network.model import GLMModel
from openglm.tokenizer import BilingualTokenizer, load_tokenizer


@pytest.fixture
def folder(tmp_path: Path, tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> Path:
    save_model(tmp_path / "model", tiny_model, tokenizer)
    return tmp_path / "model"


def test_round_trip(folder: Path, tiny_model: GLMModel, tokenizer: BilingualTokenizer) -> None:
    model = load_model(folder)
    assert model.config == tiny_model.config
    assert not model.training
    assert set(model.state_dict()) == set(tiny_model.state_dict())
    for name, tensor in tiny_model.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    ids = torch.randint(0, 500, (2, 9))
    assert torch.equal(model(ids), tiny_model(ids))
    assert load_tokenizer(folder).identity == tokenizer.identity
    assert is_native(folder)
    assert {path.name for path in folder.iterdir()} == {CHECKSUMS_FILE, CONFIG_FILE, WEIGHTS_FILE, *tokenizer.files()}


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16])
def test_stored_in_half_precision(
    tmp_path: Path, tiny_model: GLMModel, tokenizer: BilingualTokenizer, stored: torch.dtype
) -> None:
    save_model(tmp_path, tiny_model, tokenizer, dtype=stored)
    assert {tensor.dtype for tensor in load_file(tmp_path / WEIGHTS_FILE).values()} == {stored}
    for wanted in (torch.float32, torch.bfloat16):
        model = load_model(tmp_path, dtype=wanted)
        for name, tensor in tiny_model.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor.to(stored).to(wanted))
    assert next(tiny_model.parameters()).dtype == torch.float32, "saving changes nothing"


def test_loaded_model_can_be_trained(folder: Path) -> None:
    model = load_model(folder)
    model(torch.zeros(1, 3, dtype=torch.long)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("kept", [0, 7, 100, 0.5, 0.999, -1])
def test_truncated_weights(folder: Path, kept: float) -> None:
    path = folder / WEIGHTS_FILE
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*(truncated|corrupted)"):
        load_model(folder)


@pytest.mark.parametrize("content", [b"<html>404</html>" * 10, b"\xff" * 200, b"version https://git-lfs.github.com/"])
def test_something_else_instead_of_weights(folder: Path, content: bytes) -> None:
    (folder / WEIGHTS_FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_model(folder)


@pytest.mark.parametrize("name", [WEIGHTS_FILE, CONFIG_FILE])
def test_missing_file(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        load_model(folder)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere"):
        load_model(tmp_path / "nowhere")
    assert not is_native(tmp_path / "nowhere")


def change_config(folder: Path, **values: Any) -> None:
    path = folder / CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def test_configuration_with_other_sizes_names_tensor_and_shapes(folder: Path) -> None:
    change_config(folder, vocab_size=768)
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    message = str(caught.value)
    assert "word_embeddings.weight" in message
    assert "[640, 32]" in message
    assert "[768, 32]" in message
    assert WEIGHTS_FILE in message


def test_configuration_with_other_positions(folder: Path) -> None:
    change_config(folder, max_sequence_length=128)
    with pytest.raises(CheckpointError, match=r"block_position_embeddings.weight has shape \[65, 32\].*\[129, 32\]"):
        load_model(folder)


@pytest.mark.parametrize(("layers", "word"), [(3, "missing"), (1, "unexpected")])
def test_configuration_with_other_layers(folder: Path, layers: int, word: str) -> None:
    change_config(folder, num_layers=layers)
    name = f"transformer.layers.{max(1, layers - 1)}.input_layernorm.weight"
    with pytest.raises(CheckpointError, match=f"{word} {name}"):
        load_model(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "null", '"text"', "\x80"])
def test_configuration_that_is_no_object(folder: Path, content: str) -> None:
    (folder / CONFIG_FILE).write_bytes(content.encode("latin-1"))
    with pytest.raises((CheckpointError, ConfigError), match=r"config\.json"):
        read_config(folder)
    assert not is_native(folder)


@pytest.mark.parametrize(
    ("values", "hint"),
    [({"hidden_sizes": 3}, "hidden_size"), ({"num_layers": 0}, "num_layers"), ({"gelu": "relu"}, "gelu")],
)
def test_configuration_with_wrong_values_names_the_file(folder: Path, values: dict[str, Any], hint: str) -> None:
    change_config(folder, **values)
    with pytest.raises(ConfigError, match=rf"config\.json.*{hint}"):
        load_model(folder)


def test_another_format_is_not_native(folder: Path) -> None:
    change_config(folder, format="other")
    assert not is_native(folder)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_numbers(folder: Path, value: float) -> None:
    weights = load_file(folder / WEIGHTS_FILE)
    name = "transformer.layers.1.mlp.dense_h_to_4h.weight"
    weights[name][3, 4] = value
    save_file(weights, folder / WEIGHTS_FILE)
    (folder / CHECKSUMS_FILE).unlink()
    with pytest.raises(CheckpointError, match=name):
        load_model(folder)


def test_failed_save_leaves_the_old_model(
    folder: Path, tiny_model: GLMModel, tokenizer: BilingualTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(state: Any, path: Path, **_: Any) -> None:
        path.write_bytes(b"half of it")
        raise OSError("disk full")

    monkeypatch.setattr("openglm.checkpoints.safetensors_files.save_file", fail)
    other = GLMModel(dataclasses.replace(tiny_model.config, num_layers=1))
    with pytest.raises(OSError, match="disk full"):
        save_model(folder, other, tokenizer)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# --- files ---------------------------------------------------------------------------


def test_writing_replaces(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.bin"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_written_files_have_ordinary_permissions(tmp_path: Path) -> None:
    (tmp_path / "ordinary").write_bytes(b"")
    write_atomically(tmp_path / "written", b"")
    assert (tmp_path / "written").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failed_writing_leaves_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def write() -> None:
        with replacing(path) as part:
            part.write_bytes(b"half of the n")
            raise error

    with pytest.raises(error):
        write()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.bin"]


def test_old_file_stands_until_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    with replacing(path) as part:
        part.write_bytes(b"new")
        assert path.read_bytes() == b"old"
        assert part.parent == path.parent, "a rename must not cross file systems"
    assert path.read_bytes() == b"new"


def test_the_new_file_takes_the_place_of_the_old(tmp_path: Path) -> None:
    """A rename, not a second round of writing: whoever still holds the old file keeps it whole."""
    path, held = tmp_path / "file.bin", tmp_path / "held"
    path.write_bytes(b"old")
    os.link(path, held)
    write_atomically(path, b"new")
    assert held.read_bytes() == b"old"


def test_content_is_synced_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")
    seen: list[bytes] = []
    sync = os.fsync

    def record(descriptor: int) -> None:
        seen.append(path.read_bytes())
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    write_atomically(path, b"new")
    assert seen
    assert seen[0] == b"old", "the first sync comes before anyone can see the new file"


WRITER = """
    import sys
    from pathlib import Path
    from openglm.files import replacing

    path, chunk, chunks = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    number = 0
    while True:
        number = number % 255 + 1
        with replacing(path) as part, part.open("wb") as out:
            for _ in range(chunks):
                out.write(bytes([number]) * chunk)
                out.flush()
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    """Killed at any moment, a file is one that was written to its end, old or new."""
    path, chunk, chunks = tmp_path / "file.bin", 8192, 200
    rng = random.Random(8)
    caught_writing = 0
    for _ in range(8):
        before = path.read_bytes() if path.exists() else b""
        arguments = [sys.executable, "-c", textwrap.dedent(WRITER), str(path), str(chunk), str(chunks)]
        with subprocess.Popen(arguments) as writer:
            while not path.exists() or path.read_bytes() == before:
                assert writer.poll() is None, "the writer stopped by itself"
                time.sleep(0.002)
            time.sleep(rng.random() * 0.05)
            writer.send_signal(signal.SIGKILL)
        content = path.read_bytes()
        assert len(content) == chunk * chunks
        assert content == content[:1] * len(content)
        left = [p for p in tmp_path.iterdir() if p != path]
        caught_writing += bool(left)
        for part in left:
            part.unlink()
    assert caught_writing, "no kill came in the middle of writing; this test showed nothing"
