"""The model card: front matter the hub can read, facts as they were given."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import openglm
from openglm.reporting.card import describe_environment, write_card

RECIPE: dict[str, Any] = {
    "model": {"num_layers": 6, "layernorm_epsilon": 1e-5, "blanks": ("[MASK]", "[sMASK]", "[gMASK]")},
    "run": {
        "steps": 2450,
        "stages": ({"share": 1.0, "rows": 16},),
        "weights": {"zh": 1.5},
        "compile": True,
        "note": None,
    },
}
FACTS: dict[str, Any] = {
    "recipe": RECIPE,
    "data": [
        {"name": "zh", "documents": 1234, "tokens": 14_000_000, "weight": 1.5, "sha256": "ab" * 32},
        {"name": "a | b\nc", "tokens": 7, "weight": 1.0},
    ],
    "validation": {"zh/token": 5.0173, "en/token": 4.28},
    "steps": 2450,
    "tokens_seen": 9_420_729,
    "parameters": 9_101_312,
}


def front_matter(card: str) -> dict[str, Any]:
    match = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    assert match
    values = yaml.safe_load(match.group(1))
    assert isinstance(values, dict)
    return values


def block(card: str, language: str) -> str:
    match = re.search(rf"^(`{{3,}}){language}\n(.*?)\n\1$", card, re.DOTALL | re.MULTILINE)
    assert match
    return match.group(2)


def test_front_matter(tmp_path: Path) -> None:
    card = write_card(tmp_path / "mini", **FACTS).read_text(encoding="utf-8")
    assert front_matter(card) == {
        "library_name": "openglm",
        "pipeline_tag": "fill-mask",
        "tags": ["glm", "text-infilling"],
    }
    known = {"language": ["zh", "no"], "license": "cc-by-sa-4.0", "base_model": "runs/base: 1"}
    card = write_card(tmp_path / "mini", **FACTS, **known).read_text(encoding="utf-8")
    assert {key: front_matter(card)[key] for key in known} == known  # "no" is a language, not false
    assert "`runs/base: 1`" in card


def test_facts(tmp_path: Path) -> None:
    environment = {"torch": "2.13.0", "device": "8 x H100"}
    card = write_card(tmp_path / "mini", **FACTS, environment=environment).read_text(encoding="utf-8")
    for fact in ("# mini\n", "9,101,312 parameters", "2,450 updates", "9,420,729 tokens"):
        assert fact in card
    for row in (
        "| name | documents | tokens | weight | sha256 |",
        f"| zh | 1,234 | 14,000,000 | 1.5 | {'ab' * 32} |",
        "| a \\| b c |  | 7 | 1 |  |",
        "| zh/token | 5.0173 | 151.0 |",
        "| torch | 2.13.0 |",
        "| device | 8 x H100 |",
    ):
        assert f"\n{row}\n" in card
    assert "`[MASK]`, `[sMASK]` and `[gMASK]`, trained from fresh weights" in card


def test_recipe_can_be_read_back(tmp_path: Path) -> None:
    recipe = RECIPE | {"data": {"path": Path("a/b"), "note": "```\nfence"}}
    card = write_card(tmp_path, **FACTS | {"recipe": recipe}).read_text(encoding="utf-8")
    found = yaml.safe_load(block(card, "yaml"))
    assert found["data"] == {"path": "a/b", "note": "```\nfence"}
    assert found["model"] == RECIPE["model"] | {"blanks": list(RECIPE["model"]["blanks"])}
    assert found["run"] == RECIPE["run"] | {"stages": list(RECIPE["run"]["stages"])}


def test_how_to_use_it(tmp_path: Path) -> None:
    card = write_card(tmp_path / "mini", **FACTS, blanks=["[gMASK]"]).read_text(encoding="utf-8")
    assert 'openglm fill --model mini "Once upon a time [gMASK]"' in block(card, "console")
    compile(block(card, "python"), "card", "exec")
    strange = write_card(tmp_path / 'a "b" c', **FACTS).read_text(encoding="utf-8")
    assert "openglm fill --model DIR " in strange
    compile(block(strange, "python"), "card", "exec")


def test_nothing_is_said_that_is_not_known(tmp_path: Path) -> None:
    card = write_card(tmp_path, **FACTS | {"data": [], "validation": {}}).read_text(encoding="utf-8")
    for word in ("license", "language", "## Data", "## Validation", "## Trained with", "!["):
        assert word not in card


def test_losses_that_are_not_finite_are_left_open(tmp_path: Path) -> None:
    losses = {"en/token": None, "zh/token": float("nan"), "en/document": 700.0, "zh/document": 1.0}
    card = write_card(tmp_path, **FACTS | {"validation": losses}).read_text(encoding="utf-8")
    for row in ("en/token |  |  |", "zh/token |  |  |", "en/document | 700.0000 |  |", "zh/document | 1.0000 | 2.7 |"):
        assert f"\n| {row}\n" in card


def test_picture_comes_along(tmp_path: Path) -> None:
    picture = tmp_path / "loss.png"
    picture.write_bytes(b"a picture")
    folder = tmp_path / "model"
    card = write_card(folder, **FACTS, curves=picture).read_text(encoding="utf-8")
    assert "](<curves.png>)" in card
    assert (folder / "curves.png").read_bytes() == b"a picture"
    own = folder / "own.png"
    own.write_bytes(b"another")
    assert "](<own.png>)" in write_card(folder, **FACTS, curves=own).read_text(encoding="utf-8")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "curves.png", "own.png"]


@pytest.mark.parametrize(("processes", "start"), [(1, "cpu ("), (4, "4 x ")])
def test_environment(processes: int, start: str) -> None:
    found = describe_environment("cpu", "bf16", processes=processes)
    assert found["openglm"] == openglm.__version__
    assert found["torch"] == torch.__version__
    assert found["precision"] == "bf16"
    assert found["device"].startswith(start)
