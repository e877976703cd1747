"""The confusion matrix: drawn for few and many labels, and never with empty boxes for names."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from openglm.finetuning.pictures import draw_confusion
from openglm.finetuning.report import confusion_section, pictured_split
from openglm.finetuning.results import RunResult
from openglm.reporting import fonts
from openglm.reporting.fonts import fonts_for, writable


def size_of(path: Path) -> tuple[int, int]:
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")


@pytest.mark.parametrize("labels", [2, 9, 60])
def test_it_is_drawn(tmp_path: Path, labels: int) -> None:
    counts = np.random.default_rng(1).integers(0, 9, (labels, labels)).tolist()
    names = [f"label {number}" for number in range(labels)]
    assert draw_confusion(counts, names, tmp_path / "c.png", title="a task, test")
    width, height = size_of(tmp_path / "c.png")
    assert 450 <= height <= 1600
    assert height < width


def test_names_that_no_font_can_write_become_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_families", lambda: [])
    assert fonts_for(["plain", "mit Umlaut ü"]) == ["DejaVu Sans"]
    assert fonts_for(["满意"]) == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of every glyph it cannot find
        assert not draw_confusion([[1, 0], [0, 1]], ["满意", "失望"], tmp_path / "c.png", title="情感")
    size_of(tmp_path / "c.png")


def test_the_report_tells_the_numbers() -> None:
    few = RunResult(0, 1, 1, 1.0, 1, 1, confusion={"dev": [[3, 1], [0, 2]]})
    text = confusion_section(few, "dev", ("满意", "失望"))
    assert "| 1 满意 | 3 | 1 |" in text
    counts = [[0] * 30 for _ in range(30)]
    counts[4][7] = 5
    counts[2][3] = 6
    many = RunResult(0, 1, 1, 1.0, 1, 1, confusion={"dev": counts})
    text = confusion_section(many, "dev", [f"l{number}" for number in range(30)])
    assert text.index("| l2 | l3 | 6 |") < text.index("| l4 | l7 | 5 |")
    assert "5 l4" in text


def test_one_unwritable_name_is_spelt_by_code_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_families", lambda: [])
    assert writable("plain ü") == "plain ü"
    assert writable("满 a") == "U+6EE1  a"


def test_any_installed_font_that_has_the_characters_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it is called: fonts with Chinese signs have many names."""
    has = {"DejaVu Sans": "abc", "Some Font": "ab", "Kai": "满意"}
    known = {family: frozenset(map(ord, signs)) for family, signs in has.items()}
    monkeypatch.setattr(fonts, "_families", lambda: ["Some Font", "Kai"])
    monkeypatch.setattr(fonts, "_signs_of", known.__getitem__)
    assert fonts_for(["满意", "a"]) == ["DejaVu Sans", "Kai"]
    assert fonts_for(["满足"]) == []


def test_the_picture_stands_once_and_its_key_below_it() -> None:
    """A run with dev and test has two tables of counts, and one picture: that of the test file."""
    run = RunResult(0, 1, 1, 1.0, 1, 1, confusion={"dev": [[3, 1], [0, 2]], "test": [[1, 1], [0, 4]]})
    assert pictured_split(run) == "test"
    with_picture = confusion_section(run, "test", ("满意", "失望"))
    assert with_picture.endswith("![Confusion matrix](confusion_matrix.png)\n\nLabels: 1 满意, 2 失望.")
    assert "confusion_matrix.png" not in confusion_section(run, "dev", ("满意", "失望"), picture=False)
