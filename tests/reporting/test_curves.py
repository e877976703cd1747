"""The picture of a run: what is read from the log, and what is drawn of it."""

from __future__ import annotations

import json
import math
import struct
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openglm.errors import DataError, MissingLibraryError, TrainingError
from openglm.reporting.curves import COLOURS, Curves, _draw, _smoothed, draw_curves, read_curves

ENTRIES: list[dict[str, Any]] = [
    {"step": 10, "lr": 1e-3, "loss": 8.0, "loss/token": 7.5, "loss/document": 8.5, "norm": 1.0},
    {"step": 20, "lr": 2e-3, "loss": None, "loss/token": math.nan, "loss/document": 7.5},
    {"step": 20, "note": "skipped", "message": "the gradient is not finite"},
    {"step": 20, "tokens_seen": 4000, "validation": {"en/token": 7.0, "zh/token": None, "en/document": 7.5}},
    {"step": 30, "lr": 1e-3, "loss": 6.0, "loss/token": 5.5, "loss/document": 6.5},
    {"step": 40, "lr": 0.0, "loss": 5.8, "loss/token": 5.3, "loss/document": 6.4},
    {"step": 40, "tokens_seen": 8000, "validation": {"en/token": 6.0, "zh/token": 6.1, "en/document": 6.5}},
    {"step": 40, "fills": ["a【b→c】"]},
]


def written(folder: Path, entries: list[dict[str, Any]]) -> Path:
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return path


def size(picture: Path) -> tuple[int, int]:
    """Width and height of a PNG."""
    content = picture.read_bytes()
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", content[16:24])
    return width, height


def figure_of(curves: Curves, **options: Any) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7.5), dpi=100)
    FigureCanvasAgg(figure)
    _draw(figure, curves, **{"title": None, "log_x": False} | options)
    return figure


def test_what_is_read(tmp_path: Path) -> None:
    curves = read_curves(written(tmp_path, ENTRIES))
    assert list(curves.training) == ["token", "document"]  # their mean is not a curve of its own
    assert curves.training["token"].tolist() == [[10, 7.5], [30, 5.5], [40, 5.3]]
    assert curves.training["document"].tolist() == [[10, 8.5], [20, 7.5], [30, 6.5], [40, 6.4]]
    assert curves.validation["en/token"].tolist() == [[20, 7.0], [40, 6.0]]
    assert curves.validation["zh/token"].tolist() == [[40, 6.1]]
    assert curves.rate[:, 1].tolist() == [1e-3, 2e-3, 1e-3, 0.0]
    assert curves.tokens.tolist() == [[0, 0], [20, 4000], [40, 8000]]
    only_total = read_curves(written(tmp_path, [{"step": 1, "loss": 3.0}]))
    assert only_total.training["loss"].tolist() == [[1, 3.0]]


def test_what_is_drawn(tmp_path: Path) -> None:
    curves = read_curves(written(tmp_path, ENTRIES))
    losses, rate = figure_of(curves).axes
    drawn = {(line.get_color(), tuple(line.get_ydata())) for line in losses.lines}
    blue, vermilion = COLOURS[:2]
    assert (blue, (7.5, 5.5, 5.3)) in drawn
    assert (vermilion, (8.5, 7.5, 6.5, 6.4)) in drawn
    assert (blue, (7.0, 6.0)) in drawn  # validation, in the colour of its objective
    assert (vermilion, (7.5, 6.5)) in drawn
    assert rate.lines[0].get_ydata().tolist() == [1e-3, 2e-3, 1e-3, 0.0]
    names = {text.get_text(): text.get_color() for text in losses.texts}
    assert names["en/token 6.00"] == names["zh/token 6.10"] == blue
    assert len(names) == 5
    key = [text.get_text() for text in losses.get_legend().get_texts()]
    assert key == ["training, smoothed", "validation, en", "validation, zh"]


def test_names_do_not_overlap_nor_leave_the_picture() -> None:
    from matplotlib.text import Text

    line = np.array([[10.0, 5.0], [20.0, 3.0]])
    names = [f"source-with-a-long-name-{i}/objective" for i in range(9)]
    validation = {name: np.add(line, [0, 0.001 * i]) for i, name in enumerate(names)}
    curves = Curves(training={"objective": line}, validation=validation)
    figure = figure_of(curves)
    figure.canvas.draw()
    boxes = sorted((Text.get_window_extent(text) for text in figure.axes[0].texts), key=lambda box: box.y0)
    assert len(boxes) == 10
    for lower, upper in pairwise(boxes):
        assert lower.y1 <= upper.y0 + 1  # pixels
    for box in boxes:
        assert box.x1 <= figure.bbox.width
        assert box.y0 >= 0
        assert box.y1 <= figure.bbox.height


def test_tokens_seen_stand_at_their_updates() -> None:
    steps = np.arange(1.0, 101)
    tokens = np.stack([np.append(0, steps), np.append(0, 1e6 * steps)], 1)
    curves = Curves(training={"loss": np.stack([steps, 5 - steps / 50], 1)}, tokens=tokens)
    upper = figure_of(curves).axes[0].child_axes[0]
    places = dict(zip((t.get_text() for t in upper.get_xticklabels()), upper.get_xticks(), strict=True))
    assert places["20M"] == pytest.approx(20)
    assert places["100M"] == pytest.approx(100)


def test_smoothing() -> None:
    steps = np.arange(5000.0)
    level = np.stack([steps, np.full(5000, 3.0)], 1)
    assert _smoothed(level)[:, 1] == pytest.approx(3.0)
    slope = np.stack([steps, 10 - steps / 1000], 1)
    smooth = _smoothed(slope)
    assert smooth[0] == pytest.approx(slope[0], abs=1e-4)
    assert smooth[-1, 0] == 4999
    inside = (smooth[:, 0] > 500) & (smooth[:, 0] < 4500)
    assert smooth[inside, 1] == pytest.approx(10 - smooth[inside, 0] / 1000)  # lags nowhere
    noise = np.stack([steps, np.random.default_rng(0).normal(size=5000)], 1)
    assert _smoothed(noise)[500:, 1].std() < 0.2
    assert len(smooth) < 1200


@pytest.mark.parametrize("log_x", [False, True])
@pytest.mark.parametrize(
    "entries",
    [
        ENTRIES,
        ENTRIES[:1],
        [entry for entry in ENTRIES if "validation" not in entry],
        [ENTRIES[3]],
        [{"step": 5, "loss": 2.0}, {"step": 6, "loss": 2.0}],
        [{"step": 0, "loss": 2.0, "lr": 0.0}],
    ],
    ids=["all", "one entry", "no validation", "only validation", "level", "step 0"],
)
def test_pictures_of_all_kinds_of_logs(tmp_path: Path, entries: list[dict[str, Any]], log_x: bool) -> None:
    draw_curves(written(tmp_path, entries), tmp_path / "curves.png", title="运行 mini", log_x=log_x)
    assert size(tmp_path / "curves.png") == (1200, 750)


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingLibraryError, match=r"matplotlib.*pip install 'openglm\[train\]'"):
        draw_curves(written(tmp_path, ENTRIES), tmp_path / "curves.png")


def test_logs_without_a_curve(tmp_path: Path) -> None:
    output = tmp_path / "curves.png"
    output.write_bytes(b"the picture before")
    with pytest.raises(TrainingError, match=r"log\.jsonl: holds no losses"):
        draw_curves(written(tmp_path, []), output)
    with pytest.raises(TrainingError, match=r"log\.jsonl: holds no losses"):
        draw_curves(written(tmp_path, [{"step": 1, "loss": None}]), output)
    with pytest.raises(DataError, match=r"absent\.jsonl"):
        draw_curves(tmp_path / "absent.jsonl", output)
    (tmp_path / "log.jsonl").write_bytes(b"\x89PNG\n\x00\n")
    with pytest.raises(DataError, match=r"log\.jsonl, line 1"):
        draw_curves(tmp_path / "log.jsonl", output)
    assert output.read_bytes() == b"the picture before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curves.png", "log.jsonl"]


@pytest.mark.parametrize("sources", [1, 4])
def test_the_key_covers_no_curve(tmp_path: Path, sources: int) -> None:
    validation = {f"source {i}/token": np.array([[1.0, 9.0], [9.0, 9.0]]) for i in range(sources)}
    figure = figure_of(Curves(training={"token": np.array([[1.0, 9.0], [10.0, 1.0]])}, validation=validation))
    figure.canvas.draw()
    box = figure.axes[0].get_legend().get_window_extent()
    for axes in figure.axes:
        assert not box.overlaps(axes.get_window_extent())
        assert not box.overlaps(axes.xaxis.get_tightbbox())
    assert box.y0 >= 0
