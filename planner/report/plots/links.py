"""Arrows from each stage to the next one."""

from __future__ import annotations

from collections.abc import Sequence
from math import dist, inf
from typing import TYPE_CHECKING, Final

from planner.report.plots.floorplan import Box, Floorplan
from planner.report.plots.placed import INK, PlacedGroup
from planner.report.words import format_bandwidth

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from planner.cluster import Cluster

__all__ = ["draw_links"]

_MOST_LABELS: Final = 24
_INSIDE: Final = 0.04  # how far an arrow reaches into a block

Point = tuple[float, float]


def draw_links(axes: Axes, layout: Floorplan, groups: Sequence[PlacedGroup], cluster: Cluster, cell: float) -> None:
    """Draw an arrow from each stage to the next of its pipeline, between the two blocks that are closest.

    Arrows between nodes carry the bandwidth of their link; there are none inside a node, whose link its heading tells.
    """
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.patheffects import withStroke

    by_stage: dict[tuple[str, int], list[str]] = {}
    for group in groups:
        by_stage.setdefault((group.pipeline, group.stage), []).extend(group.devices)
    hops = [(key, (key[0], key[1] + 1)) for key in by_stage if (key[0], key[1] + 1) in by_stage]
    few = len(hops) <= _MOST_LABELS
    for here, there in hops:
        pairs = [(a, b) for a in layout.blocks(by_stage[here]) for b in layout.blocks(by_stage[there])]
        a, b = min(pairs, key=lambda pair: dist(pair[0].centre, pair[1].centre))
        start, end, bend = _route(layout, a, b)
        arrow = FancyArrowPatch(
            start, end, arrowstyle="-|>", mutation_scale=15 * cell, color=INK, linewidth=(1.8 if few else 1.2) * cell,
            alpha=1.0 if few else 0.6, shrinkA=0, shrinkB=0, zorder=5, connectionstyle=f"arc3,rad={bend:.6f}",
        )  # fmt: skip
        arrow.set_path_effects(
            [withStroke(linewidth=4.2 * cell, foreground="white", alpha=0.8)]
        )  # seen on dark colours
        arrow.set_gid(f"link:{here[0]}:{here[1]}")
        axes.add_patch(arrow)
        gpu_a, gpu_b = _gpu_at(layout, by_stage[here], a), _gpu_at(layout, by_stage[there], b)
        if few and cluster.node_of(gpu_a) != cluster.node_of(gpu_b):
            nodes = (layout.nodes[cluster.node_of(gpu_a)], layout.nodes[cluster.node_of(gpu_b)])
            axes.text(
                *_label_place(start, end, bend, nodes),
                format_bandwidth(cluster.link(gpu_a, gpu_b).bandwidth).replace(" ", "\n"),
                fontsize=9.5 * cell, color=INK, ha="center", va="center", zorder=6, linespacing=0.95,
                bbox={"boxstyle": "round,pad=0.15", "facecolor": "white", "edgecolor": "#c8c8c8", "linewidth": 0.5},
            )  # fmt: skip


def _label_place(start: Point, end: Point, bend: float, nodes: tuple[Box, Box]) -> Point:
    """Where an arrow's label hides nothing: an arc's middle, the gap between two rows or two neighbours."""
    upper, lower = sorted(nodes, key=lambda box: box.y)
    if not bend and lower.y > upper.y + upper.height:
        y = upper.y + upper.height + 0.25  # above the heading and the name of what stands below
        return start[0] + (end[0] - start[0]) * (y - start[1]) / (end[1] - start[1]), y
    # The middle of an arc is half as far from its chord as its control point.
    x = (start[0] + end[0] - bend * (end[1] - start[1])) / 2
    return x, (start[1] + end[1] + bend * (end[0] - start[0])) / 2


def _gpu_at(layout: Floorplan, gpus: Sequence[str], block: Box) -> str:
    return min(gpus, key=lambda gpu: dist(layout.gpus[gpu].centre, block.centre))


def _route(layout: Floorplan, a: Box, b: Box) -> tuple[Point, Point, float]:
    """Start, end and bend of an arrow that keeps clear of the labels in the blocks' middles, and of other GPUs."""
    across = _overlap(a.y, a.height, b.y, b.height)
    along = _overlap(a.x, a.width, b.x, b.width)
    if along and abs(_gap(a.y, a.height, b.y, b.height)) < 1e-9:  # one directly above the other
        x = along[1] - 0.3
        return (x, _edge(a.y, a.height, b.y, 0.25)), (x, _edge(b.y, b.height, a.y, 0.25)), 0.0
    if across and abs(_gap(a.x, a.width, b.x, b.width)) < 1e-9:  # side by side
        y = across[1] - 0.1
        return (_edge(a.x, a.width, b.x, 0.25), y), (_edge(b.x, b.width, a.x, 0.25), y), 0.0
    start, end = _towards(a, b.centre), _towards(b, a.centre)
    others = [box for box in layout.gpus.values() if not (_holds(a, box) or _holds(b, box))]
    if across and any(box.meets(start, end) for box in others):  # around what stands between them
        under = any(_stands_on(box, block) for box in others for block in (a, b))
        start = (a.centre[0], a.y + a.height - _INSIDE if under else a.y + _INSIDE)
        end = (b.centre[0], b.y + b.height - _INSIDE if under else b.y + _INSIDE)
        reach = end[0] - start[0]
        bend = min(1.0 / abs(reach), 0.6) * (1 if reach > 0 else -1)
        return start, end, bend if under else -bend
    return start, end, 0.0


def _overlap(at_a: float, length_a: float, at_b: float, length_b: float) -> tuple[float, float] | None:
    low, high = max(at_a, at_b), min(at_a + length_a, at_b + length_b)
    return (low, high) if high > low else None


def _gap(at_a: float, length_a: float, at_b: float, length_b: float) -> float:
    return max(at_a, at_b) - min(at_a + length_a, at_b + length_b)


def _edge(at: float, length: float, other: float, inside: float) -> float:
    """Coordinate a little inside the end of an interval that faces another."""
    return at + length - inside if other > at else at + inside


def _stands_on(upper: Box, lower: Box) -> bool:
    """Whether one is directly above the other, in the same node."""
    touch = abs(upper.y + upper.height - lower.y) < 1e-9
    return touch and _overlap(upper.x, upper.width, lower.x, lower.width) is not None


def _holds(outer: Box, inner: Box) -> bool:
    x, y = inner.centre
    return outer.x < x < outer.x + outer.width and outer.y < y < outer.y + outer.height


def _towards(box: Box, point: Point) -> Point:
    """A point a little inside a box's edge, in the direction of another point."""
    x, y = box.centre
    dx, dy = point[0] - x, point[1] - y
    scale = min((box.width / 2 - _INSIDE) / abs(dx) if dx else inf, (box.height / 2 - _INSIDE) / abs(dy) if dy else inf)
    return x + dx * scale, y + dy * scale
