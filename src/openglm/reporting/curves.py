"""The log of a run as a picture: losses, tokens seen, learning rate.

Knows the entries of `log.jsonl` (see `training.report`) and nothing about how they came about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import TrainingError
from ..extras import library
from ..files import replacing
from .fonts import PLAIN, fonts_for, writable
from .report import LOSS, read_log

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Annotation

Points = NDArray[np.float64]  # [n, 2]: update and value, both finite, updates rising

# Okabe and Ito's colours, which people of every kind of colour vision can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")  # of sources
INK, PALE = "#333333", "#D9D9D9"
LEFT, NAMES_AT = 0.075, 1.035  # left edge in the picture; names of curves in widths of the panel
KEY_COLUMNS = 3
SMOOTHING = 0.02  # width of the smoothing, as a share of the curve


@dataclass
class Curves:
    """What is in a log, by name.

    Attributes:
        training: objective (or "loss", if the log tells no objectives apart) -> points.
        validation: such as "source/objective" -> points.
        rate: learning rate.
        tokens: tokens seen.
    """

    training: dict[str, Points] = field(default_factory=dict)
    validation: dict[str, Points] = field(default_factory=dict)
    rate: Points = field(default_factory=lambda: np.empty((0, 2)))
    tokens: Points = field(default_factory=lambda: np.empty((0, 2)))

    @property
    def losses(self) -> list[Points]:
        """All curves of losses."""
        return [*self.training.values(), *self.validation.values()]

    @property
    def steps(self) -> tuple[float, float]:
        """The first and the last update that any loss belongs to."""
        return min(float(points[0, 0]) for points in self.losses), max(float(points[-1, 0]) for points in self.losses)


def read_curves(log: Path) -> Curves:
    """The curves in a log; values that are null or not finite are left out.

    Raises:
        DataError: an unreadable log.
        TrainingError: no losses in it.
    """
    entries = [entry for entry in read_log(log) if _is_number(entry.get("step"))]
    training: dict[str, list[tuple[float, float]]] = {}
    validation: dict[str, list[tuple[float, float]]] = {}
    rate, tokens = [], [(0.0, 0.0)]
    for entry in entries:
        step = float(entry["step"])
        for key, value in entry.items():
            if (key == "loss" or key.startswith(LOSS)) and _is_number(value):
                training.setdefault(key.removeprefix(LOSS), []).append((step, value))
        held_out = entry.get("validation")
        for key, value in held_out.items() if isinstance(held_out, dict) else ():
            if _is_number(value):
                validation.setdefault(key, []).append((step, value))
        if _is_number(entry.get("lr")):
            rate.append((step, entry["lr"]))
        if _is_number(entry.get("tokens_seen")):
            tokens.append((step, entry["tokens_seen"]))
    if len(training) > 1:
        training.pop("loss", None)  # the mean of the others
    if not training and not validation:
        raise TrainingError(f"{log}: holds no losses yet; curves can be drawn after the first entries of a run")
    return Curves(
        {name: _points(values) for name, values in training.items()},
        {name: _points(values) for name, values in validation.items()},
        _points(rate),
        _points(tokens),
    )


def draw_curves(log: Path, output: Path, *, title: str | None = None, log_x: bool = False) -> None:
    """Draw the losses and the learning rate of a run as a PNG, 1200 pixels wide.

    Training losses are lines, smoothed, with the raw values faintly behind them; losses on
    held-out data are points joined by lines. An objective has one colour in both.

    Args:
        log: the run's `log.jsonl`.
        output: where to write; replaced as a whole.
        title: over the picture (default: none).
        log_x: a logarithmic axis of updates, on which a steady improvement is a straight line;
            the end of a schedule is easier to see on a linear one.

    Raises:
        DataError: an unreadable log.
        TrainingError: no losses in it.
        MissingLibraryError: matplotlib is not installed.
    """
    library("matplotlib", extra="train", purpose="drawing curves")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = read_curves(log)
    figure = Figure(figsize=(12, 7.5), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    with replacing(output) as part:
        _draw(figure, curves, title, log_x)
        figure.savefig(part, format="png")


def _draw(figure: Figure, curves: Curves, title: str | None, log_x: bool) -> None:
    from matplotlib.text import Text
    from matplotlib.ticker import MaxNLocator

    has_rate = len(curves.rate) > 0
    grid = figure.add_gridspec(2 if has_rate else 1, 1, height_ratios=[5, 1] if has_rate else [1])
    losses = figure.add_subplot(grid[0])
    below = 0.08 + 0.035 * _draw_key(losses, curves)
    figure.subplots_adjust(left=LEFT, right=0.8, top=0.87 if title else 0.91, bottom=below, hspace=0.1)
    _plain(losses)
    first, last = curves.steps
    if log_x:
        losses.set_xscale("log")
        losses.minorticks_off()
    losses.set_xlim(max(first, 1) if log_x else 0, (1.06 if log_x else 1.01) * max(last, first + 1, 2))
    names = _draw_losses(losses, curves)
    losses.set_ylabel("loss, nats per token", color=INK)
    _draw_tokens(losses, curves.tokens, log_x)
    bottom = losses
    if has_rate:
        bottom = figure.add_subplot(grid[1], sharex=losses)
        _plain(bottom)
        bottom.minorticks_off()
        losses.tick_params(labelbottom=False)
        bottom.plot(*curves.rate.T, color=INK, linewidth=1.4, marker="o" if len(curves.rate) == 1 else None)
        bottom.set_ylim(0, 1.15 * max(float(curves.rate[:, 1].max()), 1e-12))
        bottom.locator_params(axis="y", nbins=3)
        bottom.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        bottom.set_ylabel("learning rate", color=INK)
        figure.align_ylabels()
    bottom.set_xlabel("updates", color=INK)
    bottom.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    if not log_x:
        bottom.xaxis.set_major_locator(MaxNLocator(nbins=10, integer=True))
    if title:
        figure.text(LEFT, 0.955, writable(title), color=INK, fontsize=14, family=_fonts(title))
    widest = max(Text.get_window_extent(name).width for name in names) / figure.bbox.width  # without their pointers
    figure.subplots_adjust(right=max(0.5, (0.995 - widest + (NAMES_AT - 1) * LEFT) / NAMES_AT))


def _draw_losses(axes: Axes, curves: Curves) -> list[Annotation]:
    """Returns the names at the ends of the curves."""
    colours = _colours(curves)
    labels: list[tuple[float, str, str, str]] = []  # height, text, colour, weight
    for name, points in curves.training.items():
        colour = colours[name]
        if len(points) == 1:
            axes.plot(*points.T, "o", color=colour, markersize=5)
            level = float(points[0, 1])
        else:
            smooth = _smoothed(points)
            axes.plot(*points.T, color=colour, alpha=0.22, linewidth=1)
            axes.plot(*smooth.T, color=colour, linewidth=2.2)
            level = float(smooth[-1, 1])
        labels.append((level, f"{name} {level:.2f}", colour, "bold"))
    sources = _sources(curves.validation)
    for name, points in curves.validation.items():
        colour, marker = colours[_objective(name)], MARKERS[sources.index(_source(name)) % len(MARKERS)]
        axes.plot(
            *points.T, color=colour, linewidth=1, linestyle=(0, (4, 2)), marker=marker, markersize=6,
            markerfacecolor="white", markeredgewidth=1.4, zorder=4,
        )  # fmt: skip
        labels.append((float(points[-1, 1]), f"{name} {points[-1, 1]:.2f}", colour, "normal"))
    _set_range(axes, curves)
    return _name_ends(axes, labels)


def _set_range(axes: Axes, curves: Curves) -> None:
    """From the lowest value to just above what the run begins with, a spike left aside."""
    values = np.concatenate([points[:, 1] for points in curves.losses])
    starts = [float(points[0, 1]) for points in curves.losses]
    low, high = float(values.min()), max(float(np.quantile(values, 0.995)), max(starts))
    margin = 0.05 * (high - low) or 0.5
    axes.set_ylim(low - margin, high + margin)


def _name_ends(axes: Axes, labels: Sequence[tuple[float, str, str, str]]) -> list[Annotation]:
    """Names at the right end of their curves, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    gap = 0.042 * (high - low)
    ordered = sorted(labels)
    heights = [min(max(height, low), high) for height, *_ in ordered]
    # Pools of labels that touch, each spread evenly about its mean height.
    pools: list[list[float]] = []
    for height in heights:
        pools.append([height])
        while len(pools) > 1 and _bottom(pools[-1], gap) < _top(pools[-2], gap) + gap:
            upper = pools.pop()
            pools[-1] += upper
    placed = [_bottom(pool, gap) + i * gap for pool in pools for i in range(len(pool))]
    shift = max(0.0, low - placed[0])  # the lowest pool may have been spread past the axis
    return [
        axes.annotate(
            writable(text), xy=(1, min(max(height, low), high)), xycoords=("axes fraction", "data"),
            xytext=(NAMES_AT, level + shift), textcoords=("axes fraction", "data"), color=colour, fontsize=10.5,
            weight=weight, va="center", family=_fonts(text), annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "relpos": (0, 0.5), "shrinkB": 4},
        )
        for (height, text, colour, weight), level in zip(ordered, placed, strict=True)
    ]  # fmt: skip


def _bottom(pool: Sequence[float], gap: float) -> float:
    return sum(pool) / len(pool) - gap * (len(pool) - 1) / 2


def _top(pool: Sequence[float], gap: float) -> float:
    return sum(pool) / len(pool) + gap * (len(pool) - 1) / 2


def _draw_key(axes: Axes, curves: Curves) -> int:
    """What kinds of line there are; which is which stands at their ends. Returns its lines."""
    from matplotlib.lines import Line2D

    kinds, sources = [], _sources(curves.validation)
    if any(len(points) > 1 for points in curves.training.values()):
        kinds.append(Line2D([], [], color=INK, linewidth=2.2, label="training, smoothed"))
    for number, source in enumerate(sources):
        marker = MARKERS[number % len(MARKERS)]
        kinds.append(
            Line2D(
                [], [], color=INK, linewidth=1, linestyle=(0, (4, 2)), marker=marker, markerfacecolor="white",
                markeredgewidth=1.4, label=f"validation, {source}" if source else "validation",
            )
        )  # fmt: skip
    figure = axes.get_figure(root=True)
    assert figure is not None
    legend = axes.legend(  # under the picture, where no curve can be behind it
        handles=kinds, loc="lower left", bbox_to_anchor=(LEFT, 0.0), bbox_transform=figure.transFigure,
        ncols=KEY_COLUMNS, labelcolor=INK, fontsize=10.5, edgecolor="none", borderaxespad=0.2,
    )  # fmt: skip
    for text in legend.get_texts():
        text.set_fontfamily(_fonts(text.get_text()))
        text.set_text(writable(text.get_text()))
    return -(-len(kinds) // KEY_COLUMNS)


def _draw_tokens(axes: Axes, tokens: Points, log_x: bool) -> None:
    """Tokens seen, along the upper edge, at the updates by which they had been seen."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator

    if len(tokens) < 2 or tokens[-1, 1] <= 0:
        return
    most = float(tokens[-1, 1])
    if log_x:
        decade = 10.0 ** math.floor(math.log10(most))
        round_numbers = [m * decade / d for d in (1000, 100, 10, 1) for m in (1, 2, 5)]
    else:
        round_numbers = list(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]).tick_values(0, most))
    left, right = axes.get_xlim()
    places = {v: float(np.interp(v, tokens[:, 1], tokens[:, 0])) for v in round_numbers if 0 <= v <= most}
    shown = {v: place for v, place in places.items() if left <= place <= right}
    upper = axes.secondary_xaxis("top")
    upper.xaxis.set_major_locator(FixedLocator(list(shown.values())))
    upper.xaxis.set_minor_locator(NullLocator())
    upper.xaxis.set_major_formatter(FixedFormatter([_short(v) for v in shown]))
    upper.tick_params(labelcolor=INK, labelsize=9.5, length=3, color=PALE)
    upper.spines["top"].set_visible(False)
    upper.set_xlabel("tokens seen", color=INK)


def _plain(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(PALE)
    axes.tick_params(labelcolor=INK, labelsize=9.5, color=PALE)
    axes.grid(axis="y", color=PALE, linewidth=0.6)
    axes.set_axisbelow(True)


def _smoothed(points: Points) -> Points:
    """A centred Gaussian mean over the entries, narrow at the steep beginning so that it follows it.

    Long curves are smoothed at as many places as the picture can show.
    """
    n = len(points)
    places = np.unique(np.concatenate([np.arange(min(n, 100)), np.linspace(0, n - 1, min(n, 1000)).round()]))
    out = []
    for place in places.astype(np.int64).tolist():
        width = min(max(1.0, SMOOTHING * n), 0.3 + 0.15 * place)
        first = max(0, place - math.ceil(3 * width))
        near = points[first : place + math.ceil(3 * width) + 1, 1]
        weights = np.exp(-0.5 * ((np.arange(len(near)) + first - place) / width) ** 2)
        out.append((points[place, 0], float(weights @ near / weights.sum())))
    return np.array(out)


def _colours(curves: Curves) -> dict[str, str]:
    names = dict.fromkeys([*curves.training, *map(_objective, curves.validation)])
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}


def _objective(name: str) -> str:
    return name.rpartition("/")[2]


def _source(name: str) -> str:
    return name.rpartition("/")[0]


def _sources(names: Sequence[str] | dict[str, Points]) -> list[str]:
    return list(dict.fromkeys(map(_source, names)))


def _fonts(text: str) -> list[str]:
    return fonts_for([text]) or [PLAIN]


def _short(number: float) -> str:
    for size, sign in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:g}{sign}"
    return f"{number:g}"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _points(values: Sequence[tuple[float, float]]) -> Points:
    """Sorted by update; of several values for one the last counts."""
    return np.array(sorted(dict(values).items()), np.float64).reshape(-1, 2)
