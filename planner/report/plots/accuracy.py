"""Predicted against measured, one panel for each figure."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.errors import InputError
from planner.profiling.accuracy import FIGURES, UNITS, Accuracy, Comparison, score
from planner.report.plots.placed import INK, MUTED, need_matplotlib, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_accuracy"]

_TITLES: Final = {
    "ttft": "TTFT",
    "tpot": "TPOT",
    "e2e": "TTFT + OSL·TPOT",
    "throughput": "Throughput",
    "iteration_time": "Iteration time",
    "tflops": "FLOP/s per GPU",
    "peak_memory": "Peak memory",
}
# "Muted" of P. Tol, "Colour schemes", SRON/EPS/TN/09-002, 2021.
_HUES: Final = (
    "#332288", "#CC6677", "#44AA99", "#DDCC77", "#882255", "#88CCEE", "#117733", "#AA4499", "#999933",
)  # fmt: skip
_MARKS: Final = "osD^vP*X"
_ROOM: Final = 1.25  # beyond the outermost point

_MOST_KEYS: Final = 18  # of more groups than these, models share a hue

Key = tuple[str, ...]


def plot_accuracy(results: Sequence[Accuracy]) -> Figure:
    """Draw the predictions of some truth files against what was measured, on logarithmic axes.

    Each point is one row. The line is where both agree; the grey band is what the median prediction states as its
    90 % error. A hue and a mark stand for each model, GPU type and engine, or without the model where these are many.

    Raises
    ------
    InputError
        If matplotlib is missing, or no row was predicted.
    """
    need_matplotlib()
    comparisons = [one for accuracy in results for one in accuracy.comparisons]
    if not comparisons:
        raise InputError("no row was predicted, so there is nothing to draw")
    figures = [name for name in FIGURES if any(one.figure == name for one in comparisons)]
    groups = {one: _key(one) for one in comparisons}
    if len(set(groups.values())) > _MOST_KEYS:
        groups = {one: key[1:] for one, key in groups.items()}
    keys = sorted(set(groups.values()))
    looks = {key: (_HUES[i % len(_HUES)], _MARKS[i // len(_HUES) % len(_MARKS)]) for i, key in enumerate(keys)}
    columns = min(len(figures), 3)
    lines = -(-len(figures) // columns)
    wide = 4.3 * columns
    per_row = max(1, int(wide / 3.4))
    legend = 0.23 * -(-len(keys) // per_row) + 0.35
    tall = 4.3 * lines + legend
    picture = new_figure(max(wide, 4.8), tall)
    grid = picture.add_gridspec(
        lines, columns, left=0.75 / wide, right=1 - 0.2 / wide, top=1 - 0.5 / tall, bottom=(legend + 0.6) / tall,
        hspace=0.36, wspace=0.32,
    )  # fmt: skip
    for place, name in enumerate(figures):
        axes = picture.add_subplot(grid[place // columns, place % columns])
        _panel(axes, [one for one in comparisons if one.figure == name], groups, looks)
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=hue, marker=mark, linestyle="none", markersize=5, label=" · ".join(key))
        for key, (hue, mark) in looks.items()
    ]
    picture.legend(
        handles=handles, loc="lower center", ncols=per_row, fontsize=8, frameon=False, labelcolor=INK,
        handletextpad=0.2, columnspacing=1.2,
    )  # fmt: skip
    return picture


def _key(one: Comparison) -> Key:
    return one.model, one.device, one.engine


def _panel(
    axes: Axes, comparisons: Sequence[Comparison], groups: dict[Comparison, Key], looks: dict[Key, tuple[str, str]]
) -> None:
    name = comparisons[0].figure
    both = [value for one in comparisons for value in (one.measured, one.predicted)]
    ends = np.array([min(both) / _ROOM, max(both) * _ROOM])
    error = median(one.error for one in comparisons)
    # the truth is expected within predicted (1 ± error): seen from the truth, predictions lie between these
    low = ends / (1 + error)
    high = ends / (1 - error) if error < 1 else np.full(2, ends[1] * 1e3)
    axes.fill_between(ends, low, high, color="#e6e6e6", linewidth=0, zorder=1)
    axes.plot(ends, ends, color=MUTED, linewidth=1, zorder=2)
    for key, (hue, mark) in looks.items():
        mine = [one for one in comparisons if groups[one] == key]
        axes.plot(
            [one.measured for one in mine], [one.predicted for one in mine], color=hue, marker=mark, linestyle="none",
            markersize=3.6, markeredgewidth=0, alpha=0.75, zorder=3,
        )  # fmt: skip
    axes.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    axes.set_aspect("equal")
    axes.set_xlabel(f"measured, {UNITS[name]}", fontsize=9, color=INK)
    axes.set_ylabel(f"predicted, {UNITS[name]}", fontsize=9, color=INK)
    scored = score(comparisons)
    rows = f"{scored.n:,} row{'' if scored.n == 1 else 's'}"
    axes.set_title(
        f"{_TITLES[name]}: {scored.mean_ape:.0%} mean, {scored.median_ape:.0%} median\n{rows}, band ± {error:.0%}",
        fontsize=9.5, color=INK, loc="left",
    )  # fmt: skip
    axes.tick_params(which="both", colors=INK, labelsize=8)
    _few_ticks(axes, ends)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _few_ticks(axes: Axes, ends: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    """Label decades, and 2 and 5 between them where there are few; no powers of ten where plain numbers are short."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    decades = float(np.log10(ends[1] / ends[0]))
    subs = (1.0, 2.0, 5.0) if decades < 2.5 else (1.0,)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(base=10, subs=subs, numticks=12))
        axis.set_major_formatter(FuncFormatter(lambda value, _: _short(value)))
        axis.set_minor_formatter(NullFormatter())


def _short(value: float) -> str:
    """A tick's label.

    Examples
    --------
    >>> _short(0.05), _short(2000.0), _short(5e10)
    ('0.05', '2k', '50G')
    """
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor * (1 - 1e-9):
            return f"{value / factor:g}{prefix}"
    return f"{value:g}"
