"""The Pareto frontier: throughput against TTFT, TPOT and cost, for the plans of several methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, Literal

from planner.errors import InputError
from planner.report.frontier import PlanCurve, envelope, merged, pareto
from planner.report.plots.placed import INK, MUTED, need_matplotlib, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from planner.workload import Slo

__all__ = ["plot_frontier"]

# "Muted" of P. Tol, "Colour schemes", SRON/EPS/TN/09-002, 2021.
_HUES: Final = (
    "#332288", "#CC6677", "#117733", "#DDAA33", "#882255", "#44AA99", "#AA4499", "#88CCEE", "#999933",
)  # fmt: skip
_MARKS: Final = "osD^vPXhp"
_DASHES: Final[tuple[Literal["-", "--"], ...]] = ("-", "--")
_FAR: Final = 2.5  # times the highest point: an SLO beyond it is told, not drawn
_BAND: Final = "#d2d2d2"

Points = list[tuple[float, float]]


def plot_frontier(curves: Sequence[PlanCurve], slo: Slo, *, title: str = "") -> Figure:
    """Draw what the plans of several methods trade.

    Left and middle: a plan under growing load, to its goodput, marked at the end. Right: its replicas, the cheapest per
    request first, marked with all of them. The broad grey line is the Pareto frontier of all plans together; dashed
    lines are the SLO.

    Raises
    ------
    InputError
        If matplotlib is missing, or there is no plan.
    """
    need_matplotlib()
    if not curves:
        raise InputError("no method found a plan, so there is nothing to draw")
    from matplotlib.lines import Line2D

    kept = merged(curves)
    wide = 12.0
    per_row = max(1, min(6, int(wide / (0.6 + 0.085 * max(len(curve.name) for curve in kept)))))
    rows = -(-(len(kept) + 1) // per_row)
    legend, head = 0.24 * rows + 0.1, 0.72 if title else 0.4
    tall = 3.9 + legend + head
    picture = new_figure(wide, tall)
    grid = picture.add_gridspec(
        1, 3, left=0.55 / wide, right=1 - 0.15 / wide, top=1 - head / tall, bottom=(legend + 0.5) / tall, wspace=0.22
    )
    priced = all(curve.cost_unit == "USD/h" for curve in kept)
    panels: list[tuple[str, float | None, Callable[[PlanCurve], Points]]] = [
        (f"TTFT (p{slo.percentile * 100:g}), s", slo.ttft, lambda c: [(p.rate, p.ttft) for p in c.loads]),
        ("TPOT, ms", None if slo.tpot is None else slo.tpot * 1e3, lambda c: [(p.rate, p.tpot * 1e3) for p in c.loads]),
        ("cost, USD per hour" if priced else "GPUs", None, lambda c: [(p.rate, p.cost) for p in c.costs]),
    ]
    looks = [(_HUES[i % len(_HUES)], _MARKS[i % len(_MARKS)], _DASHES[i // len(_HUES) % 2]) for i in range(len(kept))]
    most = max(curve.loads[-1].rate for curve in kept)
    for column, (label, limit, points_of) in enumerate(panels):
        axes = picture.add_subplot(grid[0, column])
        costs = column == 2
        by_curve = [points_of(curve) for curve in kept]
        _frontier(axes, pareto([p for each in by_curve for p in each]) if costs else envelope(by_curve), steps=costs)
        for points, (hue, mark, dash) in zip(by_curve, looks, strict=True):
            x, y = _outline(points) if costs else ([p[0] for p in points], [p[1] for p in points])
            axes.plot(x, y, color=hue, linewidth=1.4, linestyle=dash, zorder=3)
            axes.plot(x[-1:], y[-1:], color=hue, marker=mark, markersize=7.5, markeredgecolor="white", zorder=4)
        highest = max(y for points in by_curve for _, y in points)
        if limit is not None and limit > _FAR * highest:  # it would press the curves to the floor
            axes.annotate(
                f"SLO {limit:g}, far above", (0, 1), (3, -2), xycoords="axes fraction", textcoords="offset points",
                ha="left", va="top", fontsize=8, color=MUTED,
            )  # fmt: skip
            limit = None
        if limit is not None:
            axes.axhline(limit, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=2)
            axes.annotate(
                "SLO", (0, limit), (3, 2), xycoords=("axes fraction", "data"), textcoords="offset points", ha="left",
                va="bottom", fontsize=8, color=MUTED,
            )  # fmt: skip
        axes.set_xlim(0, most * 1.06)
        axes.set_ylim(0, max(highest, limit or 0.0) * 1.12)
        axes.set_xlabel("requests/s within the SLO" if costs else "requests/s", fontsize=9, color=INK)
        axes.set_title(label, fontsize=10, color=INK, loc="left")
        axes.tick_params(colors=INK, labelsize=8.5, length=3)
        axes.grid(color="#eeeeee", linewidth=0.8, zorder=0)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    handles = [Line2D([], [], color=_BAND, linewidth=6, label="Pareto frontier of all", solid_capstyle="butt")] + [
        Line2D(
            [], [], color=hue, marker=mark, markersize=6.5, markeredgecolor="white", linewidth=1.4, linestyle=dash,
            label=curve.name,
        )
        for curve, (hue, mark, dash) in zip(kept, looks, strict=True)
    ]  # fmt: skip
    picture.legend(handles=handles, loc="lower center", ncols=per_row, fontsize=9, frameon=False, labelcolor=INK)
    if title:
        picture.text(0.15 / wide, 1 - 0.1 / tall, title, ha="left", va="top", fontsize=11, color=INK)
    return picture


def _outline(points: Points) -> tuple[list[float], list[float]]:
    """Stairs from no throughput on: replicas are rented whole."""
    x, y = [0.0], [points[0][1]]
    for (rate, cost), (_, following) in zip(points, [*points[1:], points[-1]], strict=True):
        x += [rate, rate]
        y += [cost, following]
    return x, y


def _frontier(axes: Axes, front: Points, *, steps: bool) -> None:
    """Draw the frontier under everything else."""
    x, y = _outline(front) if steps else ([p[0] for p in front], [p[1] for p in front])
    axes.plot(x, y, color=_BAND, linewidth=7, solid_capstyle="round", solid_joinstyle="round", zorder=1)
