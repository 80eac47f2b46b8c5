"""The least sum within GPU budgets, exactly: labels that grow from the last stage to the first.

A label is the end of a pipeline: where it starts, how slow a boundary before it was promised, what it spends, and the
sum of its stages. Of labels that differ in the sum only, the least is kept. A label goes where prices prove that
nothing in front of it makes a good enough whole. A beam keeps a number of labels per step; when it drops none, the
answer is exact.

Legend: L label, P pair of label and stage in front of it, X price vector, K GPU type, C class, E edge.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.search.training.lagrange import potentials_SPNX
from planner.search.training.stage_graph import Edges, Stage, StageGraph
from planner.search.training.transport import assign

if TYPE_CHECKING:
    from planner.cost._types import Array, BoolArray, IntArray

__all__ = ["ENDLESS", "Found", "least_sum"]

# A beam that drops nothing.
ENDLESS: Final = 10**9

# Stages of a flexible class in a label take 6 bits; ten classes a column.
_BITS: Final = 6
_CLASSES_A_COLUMN: Final = 10
# Wholes of a search that are looked at one by one.
_WHOLES: Final = 500
_SLACK: Final = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a search by labels found.

    Parameters
    ----------
    total
        The least sum; infinite where there is none below the limit.
    paths
        Some paths within the budgets, least sum first.
    exact
        Whether no label was dropped for want of room.
    labels
        How many were kept.
    """

    total: float
    paths: tuple[tuple[Stage, ...], ...]
    exact: bool
    labels: int


@dataclass(frozen=True, slots=True, eq=False)
class _Step:
    """Labels with the same number of stages."""

    node_L: IntArray
    level_L: IntArray
    total_L: Array
    use_LK: IntArray
    flexible_LY: IntArray
    price_XL: Array
    edge_L: IntArray
    parent_L: IntArray

    def take(self, rows: IntArray | BoolArray) -> _Step:
        fields = {name: getattr(self, name)[rows] for name in self.__dataclass_fields__ if name != "price_XL"}
        return _Step(price_XL=self.price_XL[:, rows], **fields)


def least_sum(graph: StageGraph, edges: Edges, price_XK: Array, *, peak: float, limit: float, beam: int) -> Found:
    """Find the least sum of a path within the GPU budgets.

    Parameters
    ----------
    graph, edges
        What paths may be made of, sorted by end.
    price_XK
        Prices to prune with.
    peak
        No stage may take longer.
    limit
        Sums from here on are of no interest.
    beam
        Labels kept per number of stages.
    """
    nothing = Found(total=np.inf, paths=(), exact=True, labels=0)
    if not len(edges):
        return nothing
    relaxed = edges.take(edges.relaxed_E)
    # prices on the sum, and prices alone: what these prove to be unaffordable no sum makes good
    alone_XK = graph.directions_XK
    scale_X = np.repeat([1.0, 0.0], [len(price_XK), len(alone_XK)])
    price_XK = np.concatenate([price_XK, alone_XK])
    limit_X = np.where(scale_X > 0, limit, _SLACK * 1e3)
    paid_XC = graph.prices_C(price_XK)
    weight_EX = scale_X * relaxed.total_E[:, None] + paid_XC.T[relaxed.class_E]
    ahead_SPNX = potentials_SPNX(graph, relaxed, weight_EX)
    budget_X = price_XK @ graph.counts_K
    types, flexible = len(graph.counts_K), np.flatnonzero(graph.flexible_C)
    columns = -(-len(flexible) // _CLASSES_A_COLUMN)
    mark_CY = np.zeros((len(graph.use_CK), columns), dtype=np.int64)
    for number, c in enumerate(flexible):
        mark_CY[c, number // _CLASSES_A_COLUMN] = 1 << (_BITS * (number % _CLASSES_A_COLUMN))
    width = max(graph.num_ports, *(len(levels) for levels in graph.levels_N))
    first_N = np.searchsorted(edges.end_E, np.arange(graph.num_layers + 2))
    step = _Step(
        node_L=np.array([graph.num_layers]),
        level_L=np.array([0]),
        total_L=np.zeros(1),
        use_LK=np.zeros((1, types), dtype=np.int64),
        flexible_LY=np.zeros((1, columns), dtype=np.int64),
        price_XL=np.zeros((len(price_XK), 1)),
        edge_L=np.array([-1]),
        parent_L=np.array([-1]),
    )
    history, wholes, exact, kept = [step], [], True, 0
    most = min(graph.max_stages, graph.num_layers)
    for s in range(1, most + 1):
        grown = _grow(graph, edges, step, first_N, mark_CY, paid_XC, ahead_SPNX[s], budget_X, s, peak, scale_X, limit_X)
        if grown is None:
            break
        step = _distinct(grown, width)
        if int((step.node_L > 0).sum()) > beam:
            priced = scale_X > 0
            port_L = step.level_L if graph.num_ports > 1 else np.zeros_like(step.level_L)
            promise_XL = step.price_XL[priced] + ahead_SPNX[s, port_L, step.node_L][:, priced].T
            promise_XL = promise_XL - budget_X[priced, None]
            promise_L = step.total_L + promise_XL.max(axis=0)
            promise_L = np.where(step.node_L == 0, -np.inf, promise_L)
            order = np.sort(np.argsort(promise_L, kind="stable")[: beam + int((step.node_L == 0).sum())])
            exact &= len(order) == len(step.node_L)
            step = step.take(order)
        history.append(step)
        kept += len(step.node_L)
        ends = np.flatnonzero(step.node_L == 0) if s >= graph.min_stages else np.zeros(0, dtype=np.int64)
        wholes += [(float(step.total_L[row]), s, int(row)) for row in ends]
    wholes.sort()
    paths: list[tuple[Stage, ...]] = []
    total = np.inf
    looked_at = len(wholes) if beam >= ENDLESS else _WHOLES
    known: dict[bytes, bool] = {}
    for value, s, row in wholes[:looked_at]:
        path = _walk(edges, history, s, row)
        if len(flexible):
            spent = history[s].use_LK[row].tobytes() + history[s].flexible_LY[row].tobytes()
            if spent not in known:
                known[spent] = _assignable(graph, path)
            if not known[spent]:
                continue
        if not paths:
            total = value
        paths.append(path)
        if len(paths) == 8:
            break
    if not paths and len(wholes) > looked_at:
        exact = False
    return Found(total=total, paths=tuple(paths), exact=exact, labels=kept)


def _grow(
    graph: StageGraph,
    edges: Edges,
    step: _Step,
    first_N: IntArray,
    mark_CY: IntArray,
    paid_XC: Array,
    ahead_PNX: Array,
    budget_X: Array,
    s: int,
    peak: float,
    scale_X: Array,
    limit_X: Array,
) -> _Step | None:
    """Put a stage in front of every label, where that may become a good whole."""
    open_L = np.flatnonzero((step.node_L > 0) & (first_N[step.node_L + 1] > first_N[step.node_L]))
    if not len(open_L):
        return None
    node = step.node_L[open_L]
    pairs_L = first_N[node + 1] - first_N[node]
    label = np.repeat(open_L, pairs_L)
    begin = np.cumsum(pairs_L) - pairs_L
    edge = np.arange(len(label)) - np.repeat(begin, pairs_L) + np.repeat(first_N[node], pairs_L)
    fits = graph.joined(edges.own_E[edge], step.level_L[label]) & (edges.depth_E[edge] >= s)
    label, edge = label[fits], edge[fits]
    extra = graph.extra(edges.end_E[edge], edges.own_E[edge], step.level_L[label])
    total = step.total_L[label] + edges.total_E[edge] + graph.hops.sum_after * extra
    fits = edges.peak_E[edge] + graph.hops.peak_after * extra <= peak * (1 + _SLACK)
    use = step.use_LK[label] + graph.use_CK[edges.class_E[edge]]
    fits &= (use <= graph.counts_K).all(axis=1)
    label, edge, total, use = label[fits], edge[fits], total[fits], use[fits]
    start, c = edges.start_E[edge], edges.class_E[edge]
    level = np.where(start > 0, edges.level_E[edge], 0)
    port = level if graph.num_ports > 1 else np.zeros_like(level)
    alive = np.ones(len(label), dtype=bool)
    ahead_XL = ahead_PNX[port, start].T
    for x in range(len(budget_X)):
        bound = scale_X[x] * total + step.price_XL[x, label] + paid_XC[x, c] + ahead_XL[x] - budget_X[x]
        alive &= bound < limit_X[x]
    label, edge, total, use = label[alive], edge[alive], total[alive], use[alive]
    start, c, level = start[alive], c[alive], level[alive]
    if not len(label):
        return None
    return _Step(
        node_L=start,
        level_L=level,
        total_L=total,
        use_LK=use,
        flexible_LY=step.flexible_LY[label] + mark_CY[c],
        price_XL=step.price_XL[:, label] + paid_XC[:, c],
        edge_L=edge,
        parent_L=label,
    )


def _distinct(step: _Step, width: int) -> _Step:
    """Of labels that differ in their sum only, the least."""
    where = step.node_L * width + step.level_L
    keys = [step.total_L, *step.flexible_LY.T, *step.use_LK.T, where]
    order = np.lexsort(keys)
    same = np.ones(len(order), dtype=bool)
    same[0] = False
    for key in keys[1:]:
        sorted_key = key[order]
        same[1:] &= sorted_key[1:] == sorted_key[:-1]
    return step.take(order[~same])


def _walk(edges: Edges, history: list[_Step], s: int, row: int) -> tuple[Stage, ...]:
    path = []
    while s > 0:
        e = int(history[s].edge_L[row])
        path.append((int(edges.class_E[e]), int(edges.start_E[e]), int(edges.end_E[e])))
        row, s = int(history[s].parent_L[row]), s - 1
    return tuple(path)


def _assignable(graph: StageGraph, path: tuple[Stage, ...]) -> bool:
    """Whether the replicas of flexible stages find GPUs."""
    classes = np.array([c for c, _, _ in path])
    room_K = graph.counts_K - graph.use_CK[classes].sum(axis=0)
    flexible = classes[graph.flexible_C[classes]]
    kinds, stages = np.unique(flexible, return_counts=True)
    return assign(graph.replica_CK[kinds], graph.degree * stages, room_K) is not None
