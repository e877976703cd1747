"""A tiny model folder and tiny data for the tests of fine-tuning."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from openglm.checkpoints.native import save_model
from openglm.finetuning import FinetuneRecipe
from openglm.network.config import GLMConfig
from openglm.network.model import GLMModel
from openglm.tokenizer import BilingualTokenizer

TASK = {
    "pattern": "{sentence:shorten} That is [MASK].",
    "verbalizer": {"yes": ["found", "the river"], "no": "sold"},
}


@pytest.fixture(scope="session")
def base(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_config: GLMConfig,
    tiny_model: GLMModel,
    tokenizer: BilingualTokenizer,
) -> Path:
    """The folder of a tiny model with random weights."""
    folder = tmp_path_factory.mktemp("model")
    save_model(folder, tiny_model, tokenizer)
    return folder


def write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def examples(lines: Sequence[str], start: int = 0, count: int = 8) -> list[dict[str, Any]]:
    """Sentences with labels that can be read off their first words."""
    chosen = [line for line in lines if line.startswith("Did")][start : start + count]
    return [{"sentence": line, "label": "yes" if number % 2 else "no"} for number, line in enumerate(chosen)]


@pytest.fixture
def files(tmp_path: Path, text_lines: list[str]) -> dict[str, str]:
    """Eight examples to train on, six others for dev, four for test."""
    return {
        "train": write_lines(tmp_path / "train.jsonl", examples(text_lines)),
        "dev": write_lines(tmp_path / "dev.jsonl", examples(text_lines, 8, 6)),
        "test": write_lines(tmp_path / "test.jsonl", examples(text_lines, 14, 4)),
    }


Make = Callable[..., FinetuneRecipe]


@pytest.fixture
def make(base: Path, files: dict[str, str], tmp_path: Path) -> Make:
    """Recipes for the tiny model; sections given are merged into small defaults."""

    def recipe(kind: str = "cloze", **sections: Any) -> FinetuneRecipe:
        values: dict[str, Any] = {
            "kind": kind,
            "model": str(base),
            "output": str(tmp_path / "run"),
            "data": dict(files),
            "run": {"batch_size": 4, "steps": 6, "evaluations": 3, "log_every": 1},
            "optimizer": {"learning_rate": 0.005},
        }
        if kind == "cloze":
            values["task"] = TASK
        for name, given in sections.items():
            merge = isinstance(given, Mapping) and isinstance(values.get(name), dict) and name != "task"
            values[name] = {**values[name], **given} if merge else given
        return FinetuneRecipe.from_dict(values)

    return recipe


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take longer than everything else in a tiny run."""
    import openglm.finetuning.report as report

    monkeypatch.setattr(report, "draw_curves", lambda *args, **options: None)
    monkeypatch.setattr(report, "draw_confusion", lambda *args, **options: True)
