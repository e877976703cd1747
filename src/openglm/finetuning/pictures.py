"""A confusion matrix as a picture.

Knows counts and names. Names that no installed font can write are given as numbers, with a
note where to look them up, never as empty boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..extras import library
from ..files import replacing
from ..reporting.fonts import PLAIN, fonts_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WITH_COUNTS = 20  # labels up to which every cell says its count
INK, PALE = "#333333", "#D9D9D9"
KEY = "no font here has the labels' characters: they are numbered as below the picture in report.md"


def draw_confusion(counts: Sequence[Sequence[int]], labels: Sequence[str], output: Path, *, title: str = "") -> bool:
    """Draw counts as a PNG; rows are the true labels, columns the predicted ones.

    Args:
        counts: [L, L].
        output: where to write; replaced as a whole.

    Returns:
        Whether the names of the labels could be written; if not, their numbers (from 1) stand there.

    Raises:
        MissingLibraryError: matplotlib is not installed.
    """
    library("matplotlib", extra="train", purpose="drawing a confusion matrix")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    whole = bool(fonts_for(labels))
    names = list(labels) if whole else [str(number) for number in range(1, len(labels) + 1)]
    fonts = fonts_for([*names, title]) or fonts_for(names) or [PLAIN]
    size = min(16.0, max(4.5, 0.45 * len(labels) + 2.5))
    figure = Figure(figsize=(size + 0.8, size), dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw(axes, np.asarray(counts, np.float64), names, fonts)
    if title and fonts_for([title]):
        axes.set_title(title, color=INK, family=fonts)
    if not whole:
        figure.supxlabel(KEY, color=INK, fontsize=9)
    with replacing(output) as part:
        figure.savefig(part, format="png")
    return whole


def _draw(axes: Axes, counts: np.ndarray, names: Sequence[str], fonts: list[str]) -> None:
    sums = counts.sum(1, keepdims=True)
    shares = np.divide(counts, sums, out=np.zeros_like(counts), where=sums > 0)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    many = len(names) > 8
    places = range(len(names))
    axes.set_xticks(places, names, rotation=90 if many else 0, family=fonts, fontsize=7 if len(names) > 40 else 9.5)
    axes.set_yticks(places, names, family=fonts, fontsize=7 if len(names) > 40 else 9.5)
    axes.set_xlabel("predicted", color=INK)
    axes.set_ylabel("true", color=INK)
    axes.tick_params(labelcolor=INK, color=PALE)
    for side in axes.spines.values():
        side.set_color(PALE)
    if len(names) > WITH_COUNTS:
        return
    for row in places:
        for column in places:
            colour = "white" if shares[row, column] > 0.55 else INK
            axes.text(column, row, f"{int(counts[row, column])}", ha="center", va="center", color=colour, fontsize=10)
