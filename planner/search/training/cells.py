"""Best-first branch and bound over cells: graphs with intervals of the bottleneck, of gradient sync and of updates.

A cell's bound is ``(m - 1) z_lo + max(h, z_lo) + g_lo + u_lo``, with h the least sum of stages that stay below the
upper ends, by prices on GPUs (`planner.search.training.lagrange`) or exactly, by labels
(`planner.search.training.labels`). A cell whose bound does not beat the best plan is closed; another is split where its
interval is worth most. Every split ends: bottlenecks, syncs and updates are finitely many.

Legend: K GPU type, E edge, C class, N layer boundary.
"""

from __future__ import annotations

import heapq
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.search.training.labels import ENDLESS, least_sum
from planner.search.training.lagrange import best_prices, least_peak, may_be_afforded
from planner.search.training.stage_graph import Edges, Stage, StageGraph

if TYPE_CHECKING:
    from planner.cost._types import Array

__all__ = ["Answer", "Outline", "Sheaf", "search_graphs"]

# Labels per step while cells are wide, and once they are narrow.
_BEAM_WIDE, _BEAM_NARROW = 150, 6000
# An interval worth less than this share of the bound is narrow.
_NARROW: Final = 0.15
# Precision of a first look.
_PRECISE: Final = 0.005
_SLACK: Final = 1e-12
# Cells looked at in any case once the bound is near.
_PATIENCE: Final = 200
# Graphs that are searched for a good plan as soon as they are opened.
_DIVES: Final = 24


@dataclass(frozen=True, slots=True)
class Outline:
    """A graph that is made only when it may win.

    Parameters
    ----------
    bound
        Seconds that none of its plans undercuts.
    build
        Makes it.
    """

    bound: float
    build: Callable[[], StageGraph]


@dataclass(frozen=True, slots=True)
class Sheaf:
    """Several outlines that are told apart only when one of them may win.

    Parameters
    ----------
    bound
        Seconds that none of their plans undercuts.
    spread
        Makes them.
    """

    bound: float
    spread: Callable[[], list[Outline]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a search found and proved.

    Parameters
    ----------
    graph, path
        Position of the best plan's graph, and its stages; None and empty where there is no plan.
    seconds
        Of its iteration; infinite where there is none.
    bound
        What no plan undercuts.
    closed
        Whether nothing is left open above the tolerance.
    elapsed
        Seconds that the search took, and until the best plan was found.
    counts
        Graphs, cells, label searches, labels.
    """

    graph: int | None
    path: tuple[Stage, ...]
    seconds: float
    bound: float
    closed: bool
    elapsed: tuple[float, float]
    counts: dict[str, int]

    @property
    def gap(self) -> float:
        """Relative distance of plan and bound."""
        return (self.seconds - self.bound) / self.bound if self.bound > 0 else math.inf


@dataclass(frozen=True, slots=True)
class _Cell:
    """Intervals as positions in a graph's sorted values, ends included."""

    graph: int
    peak: tuple[int, int]
    sync: tuple[int, int]
    update: tuple[int, int]
    bound: float
    prices_K: tuple[float, ...] | None = None


@dataclass(slots=True)
class _Values:
    """Sorted values of a graph."""

    peak: Array
    sync: Array
    update: Array


@dataclass(slots=True)
class _Search:
    given: list[StageGraph | Outline | Sheaf]
    referee: Callable[[StageGraph, tuple[Stage, ...]], float] | None
    tolerance: float
    late: Callable[[], bool]
    started: float
    seconds: float = math.inf
    graph: int | None = None
    path: tuple[Stage, ...] = ()
    found_at: float = 0.0
    near_at: int = -1  # cells until the bound came near
    lowest: float = math.inf  # least bound of what was closed without being exact
    values: dict[int, _Values] = field(default_factory=dict)
    graphs: dict[int, StageGraph] = field(default_factory=dict)
    priced: dict[tuple[int, tuple[Stage, ...]], float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: {"graphs": 0, "cells": 0, "label_searches": 0, "labels": 0})

    @property
    def enough(self) -> float:
        """Bound at which a cell is closed."""
        return self.seconds / (1.0 + self.tolerance) if math.isfinite(self.seconds) else math.inf

    def content(self, bound: float, distance: float) -> bool:
        """Whether a bound is near, and has been for long enough."""
        if distance <= 0 or not math.isfinite(self.seconds) or bound * (1 + distance) < self.seconds:
            return False
        if self.near_at < 0:
            self.near_at = self.counts["cells"]
        return self.counts["cells"] > 2 * self.near_at + _PATIENCE

    def graph_at(self, g: int) -> StageGraph:
        """A graph, made when it is first asked for."""
        if g not in self.graphs:
            given = self.given[g]
            if isinstance(given, Sheaf):
                raise TypeError("a sheaf is not a graph")
            self.graphs[g] = given.build() if isinstance(given, Outline) else given
        return self.graphs[g]

    def forget(self, g: int) -> None:
        """Let go of a graph that is closed; it can be made again."""
        if isinstance(self.given[g], Outline) and g != self.graph:
            self.graphs.pop(g, None)
            self.values.pop(g, None)

    def of(self, g: int) -> _Values:
        if g not in self.values:
            edges = self.graph_at(g).edges
            self.values[g] = _Values(self.graph_at(g).peaks, np.unique(edges.sync_E), np.unique(edges.update_E))
        return self.values[g]

    def offer(self, g: int, paths: Sequence[tuple[Stage, ...]]) -> None:
        graph = self.graph_at(g)
        for path in paths:
            seconds, _, _ = graph.price(path)
            if self.referee is not None and seconds < self.seconds * (1 - _SLACK):
                if (g, path) not in self.priced:
                    self.priced[g, path] = self.referee(graph, path)
                seconds = max(seconds, self.priced[g, path])
            if seconds < self.seconds * (1 - _SLACK):
                self.seconds, self.graph, self.path = seconds, g, path
                self.found_at = time.monotonic() - self.started

    def close(self, bound: float) -> None:
        if bound < self.enough:
            self.lowest = min(self.lowest, bound)


def search_graphs(
    graphs: Sequence[StageGraph | Outline | Sheaf],
    *,
    time_limit: float = math.inf,
    tolerance: float = 0.0,
    content: float = 0.0,
    report: Callable[[str, float], None] | None = None,
    referee: Callable[[StageGraph, tuple[Stage, ...]], float] | None = None,
    late: Callable[[], bool] | None = None,
) -> Answer:
    """Find the shortest iteration over all paths of all graphs.

    Parameters
    ----------
    graphs
        One per number of microbatches (and whatever else the caller tells apart), or outlines of them.
    time_limit
        Seconds after which the best plan so far is returned with the bound proven so far.
    tolerance
        A plan this much (relative) above the bound is good enough; 0 closes everything.
    content
        From this distance (relative) on, the search goes on about as long again, by cells; 0: to the end.
    report
        Told what is done, and its share.
    referee
        Seconds of a plan where a graph's price is only a bound on it.
    late
        Whether time is up, instead of `time_limit`.
    """
    started = time.monotonic()
    late = late or (lambda: time.monotonic() >= started + time_limit)
    search = _Search(list(graphs), referee, max(tolerance, _SLACK), late, started)
    heap: list[tuple[float, int, _Cell]] = []
    for g, graph in enumerate(graphs):
        bound = graph.bound if isinstance(graph, Outline | Sheaf) else _cheap_bound(graph)
        if math.isfinite(bound):
            heap.append((bound, g, _Cell(g, (0, -1), (0, -1), (0, -1), bound)))
    heapq.heapify(heap)
    ticket = len(graphs)
    dived: set[int] = set()
    first = heap[0][0] if heap else math.inf
    while heap and heap[0][0] < search.enough:
        if search.late() or search.content(heap[0][0], content):
            break
        bound, _, cell = heapq.heappop(heap)
        if report is not None and math.isfinite(search.seconds):
            report("closing cells", min(1.0, (bound - first) / max(search.enough - first, 1e-300)))
        if isinstance(sheaf := search.given[cell.graph], Sheaf):
            cells = []
            for outline in sheaf.spread():
                cells.append(replace(cell, graph=len(search.given), bound=max(bound, outline.bound)))
                search.given.append(outline)
        elif cell.peak[1] < 0:
            cells = list(_open(search, cell))
            if not any(child.bound < search.enough for child in cells):
                search.forget(cell.graph)
        else:
            if len(dived) < _DIVES and cell.graph not in dived:
                dived.add(cell.graph)
                _dive(search, cell)
            cells = _split(search, cell)
        for child in cells:
            if child.bound < search.enough:
                ticket += 1
                heapq.heappush(heap, (child.bound, ticket, child))
            else:
                search.close(child.bound)
    for bound, _, _ in heap:
        search.close(bound)
    if report is not None:
        report("closing cells", 1.0)
    closed = not heap or heap[0][0] >= search.enough
    lower = min(search.lowest, search.enough)  # intervals were cut, and cells closed, where they could not beat that
    lower = search.seconds if tolerance <= 0 and lower >= search.enough else lower
    return Answer(
        graph=search.graph,
        path=search.path,
        seconds=search.seconds,
        bound=lower,
        closed=closed,
        elapsed=(time.monotonic() - started, search.found_at),
        counts=search.counts,
    )


def _cheap_bound(graph: StageGraph) -> float:
    """Bound from GPU-seconds alone: every layer on the class that takes least of the cluster for it.

    A stage takes at least as long in the bottleneck as its layers one by one.
    """
    N = graph.num_layers + 1
    one_CL = graph.peak_CNN[:, np.arange(N - 1), np.arange(1, N)]
    sum_CL = graph.total_CNN[:, np.arange(N - 1), np.arange(1, N)]
    if not len(one_CL) or not np.isfinite(one_CL.min(axis=0)).all():
        return math.inf if not len(one_CL) or not len(graph.edges) else graph.constant
    weight_XK = graph.directions_XK
    paid_XC = graph.prices_C(weight_XK)
    possible_CL = np.isfinite(one_CL)
    spent_XCL = np.where(possible_CL, paid_XC[:, :, None] * np.where(possible_CL, one_CL, 0.0), np.inf)
    spent_X = spent_XCL.min(axis=1).sum(axis=1)
    have_X = weight_XK @ graph.counts_K
    peak = float(np.max(np.divide(spent_X, have_X, out=np.zeros_like(spent_X), where=have_X > 0)))
    peak = max(peak, float(one_CL.min(axis=0).max()))
    total = float(sum_CL.min(axis=0).sum())
    allowed = np.isfinite(graph.sync_CNN) & np.isfinite(graph.peak_CNN)
    sync = float(graph.sync_CNN[allowed].min()) if allowed.any() else 0.0
    same = bool((graph.peak_CNN[allowed] <= graph.total_CNN[allowed] * (1 + 1e-12)).all())
    least = max(total, peak) if same else total
    return (graph.microbatches - 1) * peak + least + sync + graph.constant


def _allowed(search: _Search, cell: _Cell) -> Edges:
    values, edges = search.of(cell.graph), search.graph_at(cell.graph).edges
    rows = (
        (edges.peak_E <= values.peak[cell.peak[1]])
        & (edges.sync_E <= values.sync[cell.sync[1]])
        & (edges.update_E <= values.update[cell.update[1]])
    )
    return edges.take(rows)


def _open(search: _Search, cell: _Cell) -> Iterator[_Cell]:
    """A graph's first cell: all bottlenecks from the least that GPUs can pay for."""
    search.counts["graphs"] += 1
    graph, values = search.graph_at(cell.graph), search.of(cell.graph)
    if not len(graph.edges):
        return
    whole = replace(
        cell,
        peak=(0, len(values.peak) - 1),
        sync=(0, len(values.sync) - 1),
        update=(0, len(values.update) - 1),
    )
    fixed = _fixed(search, whole)
    if math.isfinite(search.enough) and graph.microbatches > 1:
        most = (search.enough - fixed) / (graph.microbatches - 1) + values.peak[0]
        high = int(np.searchsorted(values.peak, most, side="right")) - 1
        if high < 0:
            return
        whole = replace(whole, peak=(0, high))
    edges = _allowed(search, whole)
    edges = edges.take(edges.relaxed_E)
    low = least_peak(graph, edges, *whole.peak, _PRECISE * max(cell.bound, 1e-300))
    if low is None:
        return
    tightened = _bounded(search, replace(whole, peak=(low, whole.peak[1])))
    if tightened is not None:
        if search.counts["graphs"] <= 2 and tightened.bound < search.enough:
            _dive(search, tightened)
        yield tightened


def _middle(array: Array, low: int, high: int) -> int:
    """Last position in the lower half of an interval, by value."""
    middle = int(np.searchsorted(array, (array[low] + array[high]) / 2, side="right")) - 1
    return min(max(middle, low), high - 1)


def _fixed(search: _Search, cell: _Cell) -> float:
    """Seconds that every plan of a cell takes besides the sum of its stages."""
    graph, values = search.graph_at(cell.graph), search.of(cell.graph)
    return (
        (graph.microbatches - 1) * float(values.peak[cell.peak[0]])
        + float(values.sync[cell.sync[0]])
        + float(values.update[cell.update[0]])
        + graph.constant
    )


def _bounded(search: _Search, cell: _Cell) -> _Cell | None:
    """Cut a cell by the best plan and bound it by prices; None where nothing is left."""
    search.counts["cells"] += 1
    graph, values = search.graph_at(cell.graph), search.of(cell.graph)
    fixed = _fixed(search, cell)
    m, (low, high) = graph.microbatches, cell.peak
    if math.isfinite(search.enough) and m > 1:
        most = values.peak[low] + (search.enough - fixed) / (m - 1)
        high = min(high, int(np.searchsorted(values.peak, most, side="right")) - 1)
        if high < low:
            search.close(fixed)
            return None
        cell = replace(cell, peak=(low, high))
    edges = _allowed(search, cell)
    edges = edges.take(edges.relaxed_E)
    prices = None if cell.prices_K is None else np.array(cell.prices_K)
    least, prices = best_prices(graph, edges, prices, search.enough - fixed)
    if not math.isfinite(least):
        return None
    bound = max(cell.bound, fixed + max(least, 0.0))
    return replace(cell, bound=bound, prices_K=tuple(float(p) for p in prices))


def _labels(search: _Search, cell: _Cell, beam: int, limit: float) -> tuple[float, bool]:
    """Search a cell by labels; return the least sum, and whether that is exact."""
    graph = search.graph_at(cell.graph)
    prices = np.array(cell.prices_K)
    price_XK = prices * np.array([1.0, 0.0, 0.5, 2.0])[:, None]
    peak = float(search.of(cell.graph).peak[cell.peak[1]])
    found = least_sum(graph, _allowed(search, cell), price_XK, peak=peak, limit=limit, beam=beam)
    search.counts["label_searches"] += 1
    search.counts["labels"] += found.labels
    search.offer(cell.graph, found.paths)
    return found.total, found.exact


def _dive(search: _Search, cell: _Cell) -> None:
    """Look for a good plan of a graph: the shortest bottleneck that labels reach, at some limits of gradient sync."""
    graph, values = search.graph_at(cell.graph), search.of(cell.graph)
    rounds = max(graph.microbatches - 1, 1)
    precise = _PRECISE * cell.bound
    least, worth = _fixed(search, cell), float(values.sync[-1])
    ported = graph.joins_CP is not None
    for share in (1.0, 0.5, 0.25, 0.12, 0.06, 0.03):
        sync = (0, max(0, int(np.searchsorted(values.sync, share * values.sync[-1], side="right")) - 1))
        if share < 1.0 and worth - float(values.sync[sync[1]]) <= (precise if ported else 0.0):
            continue
        worth = float(values.sync[sync[1]])
        low, high = cell.peak
        high = min(high, int(np.searchsorted(values.peak, 4 * values.peak[low])))
        if ported and math.isfinite(search.enough):  # a longer bottleneck cannot win
            most = float(values.peak[low]) + (search.enough - cell.bound) / rounds
            high = min(high, int(np.searchsorted(values.peak, most, side="right")) - 1)
        while low < high and not search.late() and rounds * (values.peak[high] - values.peak[low]) > precise:
            middle = _middle(values.peak, low, high)
            part = replace(cell, peak=(cell.peak[0], middle), sync=sync)
            if ported:  # bounds take longer than labels there
                edges = _allowed(search, part)
                possible = may_be_afforded(graph, edges.take(edges.relaxed_E))
            else:
                cut = _bounded(search, replace(part, bound=0.0))
                possible = cut is not None and cut.peak[1] == middle
                part = part if cut is None else cut
            if not possible:
                low = middle + 1
                continue
            total, _ = _labels(search, part, _BEAM_WIDE, search.enough - least if ported else math.inf)
            if math.isfinite(total):
                high = middle
            else:
                low = middle + 1


def _split(search: _Search, cell: _Cell) -> list[_Cell]:
    """Close a cell by labels, or cut it in two."""
    graph, values = search.graph_at(cell.graph), search.of(cell.graph)
    again = _bounded(search, cell)
    if again is None:
        return []
    cell = again
    if cell.bound >= search.enough:
        return [cell]
    fixed = _fixed(search, cell)
    m = graph.microbatches
    spans = {
        "peak": max(m - 1, 1) * float(values.peak[cell.peak[1]] - values.peak[cell.peak[0]]),
        "sync": float(values.sync[cell.sync[1]] - values.sync[cell.sync[0]]),
        "update": float(values.update[cell.update[1]] - values.update[cell.update[0]]),
    }
    narrow = sum(spans.values()) <= _NARROW * cell.bound
    single = all(pair[0] == pair[1] for pair in (cell.peak, cell.sync, cell.update))
    if narrow or single:
        limit = search.enough - fixed
        beam = ENDLESS if single else _BEAM_NARROW
        total, exact = _labels(search, cell, beam, limit)
        if exact:
            bound = fixed + min(total, limit)
            if single and math.isfinite(total):  # found and offered: nothing else is in the cell
                if search.referee is not None:  # the bound stays below what the plan really takes
                    search.close(bound)
                return [replace(cell, bound=max(cell.bound, bound))] if bound >= search.enough else []
            cell = replace(cell, bound=max(cell.bound, bound))
            if cell.bound >= search.enough or not math.isfinite(total):
                return [cell] if cell.bound >= search.enough else [replace(cell, bound=search.enough)]
    which = max(spans, key=lambda name: spans[name])
    if spans[which] <= 0:
        which = next(name for name in spans if getattr(cell, name)[0] < getattr(cell, name)[1])
    low, high = getattr(cell, which)
    array: Array = getattr(values, which)
    middle = _middle(array, low, high)
    children = []
    for part in ((low, middle), (middle + 1, high)):
        changed = {which: part}
        child = _bounded(search, replace(cell, **changed))  # type: ignore[arg-type]
        if child is not None:
            children.append(child)
    return children
