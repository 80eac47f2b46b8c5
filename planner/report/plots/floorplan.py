"""Where the nodes and GPUs of a cluster are drawn. Units are GPU cells; y grows downwards."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from planner.report.words import format_bandwidth

if TYPE_CHECKING:
    from planner.cluster import Cluster, NodeClass

__all__ = ["Box", "Floorplan", "floorplan"]

_PAD: Final = 0.16  # between a node's frame and its GPUs
_TITLE: Final = 0.38  # a node's name
_HEADING: Final = 0.5  # a class's name
_GAP: Final = 0.85  # between nodes: an arrow with its label has room
_ROW_GAP: Final = 0.62
_LETTER: Final = 0.105  # width of a letter of a node's name or a class's heading


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle: left, top, width, height."""

    x: float
    y: float
    width: float
    height: float

    @property
    def centre(self) -> tuple[float, float]:
        """Its middle."""
        return self.x + self.width / 2, self.y + self.height / 2

    def meets(self, start: tuple[float, float], end: tuple[float, float]) -> bool:
        """Whether a line segment passes through it.

        Examples
        --------
        >>> Box(1, 1, 1, 1).meets((0, 0), (3, 3)), Box(1, 1, 1, 1).meets((0, 0), (3, 0.5))
        (True, False)
        """
        # Liang and Barsky 1984: the part of the segment inside each pair of sides, as an interval of its parameter.
        low, high = 0.0, 1.0
        for at, delta, near, far in (
            (start[0], end[0] - start[0], self.x, self.x + self.width),
            (start[1], end[1] - start[1], self.y, self.y + self.height),
        ):
            if delta == 0:
                if not near < at < far:
                    return False
                continue
            enter, leave = sorted(((near - at) / delta, (far - at) / delta))
            low, high = max(low, enter), min(high, leave)
        return low < high


@dataclass(slots=True)
class Floorplan:
    """A cluster laid out, classes of nodes side by side and below each other.

    Parameters
    ----------
    width, height
        Of the whole.
    headings
        Text and place of each class's name.
    nodes, gpus
        Place of each node and each GPU by name.
    """

    width: float = 0.0
    height: float = 0.0
    headings: list[tuple[str, float, float]] = field(default_factory=list)
    nodes: dict[str, Box] = field(default_factory=dict)
    gpus: dict[str, Box] = field(default_factory=dict)

    def blocks(self, gpus: Iterable[str]) -> list[Box]:
        """Cover some GPUs with few rectangles: neighbours in a row first, then equal rows above each other."""
        by_node: dict[str, list[Box]] = {}
        for gpu in gpus:
            by_node.setdefault(gpu.rpartition("/")[0], []).append(self.gpus[gpu])
        found = []
        for cells in by_node.values():
            found += _stacked(_runs(sorted(cells, key=lambda cell: (cell.y, cell.x))))
        return found


def _runs(cells: Sequence[Box]) -> list[Box]:
    runs = [cells[0]]
    for before, cell in pairwise(cells):
        if cell.y == before.y and abs(before.x + before.width - cell.x) < 1e-9:
            runs[-1] = Box(runs[-1].x, cell.y, runs[-1].width + cell.width, cell.height)
        else:
            runs.append(cell)
    return runs


def _stacked(runs: Sequence[Box]) -> list[Box]:
    found: list[Box] = []
    for run in runs:
        above = found[-1] if found else None
        if above and (above.x, above.width) == (run.x, run.width) and abs(above.y + above.height - run.y) < 1e-9:
            found[-1] = Box(above.x, above.y, above.width, above.height + run.height)
        else:
            found.append(run)
    return found


def floorplan(cluster: Cluster, row_width: float) -> Floorplan:
    """Lay a cluster out in rows of a given width.

    Parameters
    ----------
    cluster
        What to draw.
    row_width
        Nodes and classes go to the next row beyond it, in GPU cells.
    """
    layout = Floorplan()
    several_zones = len({node_class.zone for node_class in cluster.classes}) > 1
    x = y = lowest = 0.0
    for node_class in cluster.classes:
        heading = _heading(node_class, several_zones)
        whole = max(_class_width(node_class), _LETTER * len(heading))
        if x > 0 and x + whole > row_width:
            x, y = 0.0, lowest + _ROW_GAP
        layout.headings.append((heading, x, y + _HEADING / 2))
        right, bottom = _place(layout, cluster, node_class, x, y + _HEADING, row_width)
        right = max(right, x + _LETTER * len(heading))
        layout.width, lowest = max(layout.width, right), max(lowest, bottom)
        x = right + _GAP
    layout.height = lowest
    return layout


def _heading(node_class: NodeClass, several_zones: bool) -> str:
    nodes = len(node_class.nodes)
    text = f"{nodes} {'node' if nodes == 1 else 'nodes'} of {node_class.gpus_per_node} × {node_class.device.title}"
    if several_zones:
        text += f", {node_class.zone}"
    if node_class.gpus_per_node > 1:
        text += f", {format_bandwidth(node_class.intra_link.bandwidth)} inside"
    return text


def _columns(num_gpus: int) -> int:
    if num_gpus <= 4:
        return num_gpus
    return -(-num_gpus // 2) if num_gpus <= 8 else 8


def _node_width(node_class: NodeClass) -> float:
    longest = max(len(node) for node in node_class.nodes)
    return max(float(_columns(node_class.gpus_per_node)), _LETTER * longest) + 2 * _PAD


def _class_width(node_class: NodeClass) -> float:
    return len(node_class.nodes) * (_node_width(node_class) + _GAP) - _GAP


def _place(
    layout: Floorplan, cluster: Cluster, node_class: NodeClass, left: float, top: float, row_width: float
) -> tuple[float, float]:
    """Place the nodes of one class from a corner on; returns the right and lower end."""
    columns = _columns(node_class.gpus_per_node)
    width = _node_width(node_class)
    height = -(-node_class.gpus_per_node // columns) + 2 * _PAD
    x, y, right = left, top + _TITLE, left
    for node in node_class.nodes:
        if x > left and x + width > row_width:
            x, y = left, y + height + _ROW_GAP + _TITLE
        layout.nodes[node] = Box(x, y, width, height)
        first = x + (width - columns) / 2
        for index, gpu in enumerate(cluster.gpus_of(node)):
            row, column = divmod(index, columns)
            layout.gpus[gpu] = Box(first + column, y + _PAD + row, 1.0, 1.0)
        right = max(right, x + width)
        x += width + _GAP
    return right, y + height
