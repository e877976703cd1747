"""Fine-tuning the modern architecture: every method trains it, and what it leaves can be used."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from openglm.checkpoints.native import save_model
from openglm.finetuning import load_classifier, run
from openglm.network.config import GLMConfig
from openglm.tokenizer import BilingualTokenizer

from ..conftest import random_model
from .conftest import Make

METHODS: dict[str, Mapping[str, Any]] = {
    "full": {},
    "lora": {"name": "lora", "lora_dropout": 0.1},
    "prompt": {"name": "prompt", "tokens": 3, "layers": 1},
    "bias": {"name": "bias"},
    "layers": {"name": "layers", "layers": 1},
}


@pytest.fixture
def modern(tmp_path: Path, tiny_config: GLMConfig, tokenizer: BilingualTokenizer) -> str:
    names = ("num_layers", "hidden_size", "num_attention_heads", "vocab_size", "max_sequence_length")
    config = GLMConfig(**{name: getattr(tiny_config, name) for name in names}, architecture="modern")
    save_model(tmp_path / "modern", random_model(config, 0.2), tokenizer)
    return str(tmp_path / "modern")


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize(
    ("kind", "method"),
    [*product(["cloze"], METHODS), *product(["classify"], [name for name in METHODS if name != "prompt"])],
)
def test_every_method_trains_it(make: Make, modern: str, tmp_path: Path, kind: str, method: str) -> None:
    recipe = dataclasses.replace(make(kind, method=METHODS[method]), model=modern)
    result = run(recipe, device="cpu", quiet=True)
    assert result.finished
    before = result.untuned.get("dev", {})  # a fresh head says nothing yet
    assert result.runs[0].loss["dev"] != before.get("loss")
    answer = load_classifier(tmp_path / "run/model").predict({"sentence": "Did the old teacher walk to the river?"})
    assert answer.label in ("yes", "no")
