"""What the tests of training share: a small corpus."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openglm.pretraining.shards import Shard
from openglm.pretraining.stream import Source
from openglm.tokenizer import BilingualTokenizer


@pytest.fixture(scope="session")
def documents(text_lines: list[str]) -> list[str]:
    return ["\n".join(text_lines[i : i + 1 + i % 9]) for i in range(0, 300, 5)]


@pytest.fixture(scope="session")
def source(tokenizer: BilingualTokenizer, documents: list[str]) -> Source:
    ids = [np.array(tokenizer.encode(text)) for text in documents]
    return Source("text", Shard.from_documents(ids, tokenizer), 1.0)


@pytest.fixture
def no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs end without a picture: drawing one takes longer than training a tiny model."""

    def draw_nothing(log: Path, output: Path, *, title: str | None = None) -> None:
        assert log.exists()

    monkeypatch.setattr("openglm.training.pretrainer.draw_curves", draw_nothing)
