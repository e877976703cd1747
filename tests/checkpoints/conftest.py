"""Small model folders in every format, and no network."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
import torch
from huggingface_hub import constants

from openglm.network.model import GLMModel


@pytest.fixture(autouse=True)
def no_hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache, and nobody to download from."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def pieces(text_lines: list[str]) -> bytes:
    """A SentencePiece model of 300 pieces, of the kind of the published Chinese one."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text_lines),
        model_writer=model,
        vocab_size=300,
        model_type="bpe",
        normalization_rule_name="nmt_nfkc",
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def flagai_values(model: GLMModel) -> dict[str, object]:
    """A FlagAI configuration for a model."""
    names = ("num_layers", "hidden_size", "num_attention_heads", "vocab_size", "max_sequence_length")
    values: dict[str, object] = {name: getattr(model.config, name) for name in names}
    return {**values, "block_position_encoding": True, "relative_encoding": False, "attention_scale": 1.0}


@pytest.fixture
def flagai(tmp_path: Path, tiny_model: GLMModel, pieces: bytes) -> Path:
    """A FlagAI folder with the weights of the tiny model and a small vocabulary."""
    folder = tmp_path / "flagai"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(flagai_values(tiny_model)), encoding="utf-8")
    torch.save(tiny_model.state_dict(), folder / "pytorch_model.bin")
    (folder / "cog-pretrain.model").write_bytes(pieces)
    return folder


@pytest.fixture
def rewrite() -> Callable[..., None]:
    """Changes values in a JSON file."""

    def change(path: Path, **changes: object) -> None:
        values = json.loads(path.read_text(encoding="utf-8")) | changes
        path.write_text(json.dumps(values), encoding="utf-8")

    return change
