"""The distribution `openglm-flagai`: these tests run where it is installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest


def _is_ours() -> bool:
    spec = importlib.util.find_spec("flagai")
    if spec is None or spec.origin is None:
        return False
    return (Path(spec.origin).parent / "_coverage.py").is_file()


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Modules that import flagai are collected only where it is ours; `test_installed` says so."""
    return True if collection_path.name.startswith("test_flagai") and not _is_ours() else None


@pytest.fixture(scope="session")
def infill_runs(reference: Path) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = json.loads((reference / "flagai-tiny/infill.json").read_text(encoding="utf-8"))["runs"]
    assert len(runs) == 66
    return runs


@pytest.fixture(scope="session")
def small_chinese_model(text_lines: list[str]) -> bytes:
    """A SentencePiece vocabulary of the published Chinese kind (no byte pieces), trained here."""
    import io

    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text_lines),
        model_writer=written,
        vocab_size=500,
        model_type="bpe",
        character_coverage=1.0,
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
    )
    return written.getvalue()
