"""Bounds on a path's sum under GPU budgets: shortest paths with prices on GPUs.

For prices ``q >= 0`` the least ``sum_s (v_s + q u_s) - q N`` over all paths is a bound on the least ``sum_s v_s`` over
those within the budgets N. Many price vectors are tried at once.

Legend: X price vector, K GPU type, N layer boundary, S stages from here to the end, E edge, P port, C class,
G classes that join the same ports.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.search.training.stage_graph import Edges, StageGraph

if TYPE_CHECKING:
    from planner.cost._types import Array, IntArray

__all__ = ["best_prices", "least_peak", "may_be_afforded", "potentials_SPNX", "suffixes_SPNX"]

_ROUNDS: Final = 3
# What all GPUs are worth together, in units of the least sum.
_SCALES: Final = (0.5, 1.5, 4.0, 12.0)
# The same of each of few types.
_GRID: Final = (0.0, 0.3, 1.0, 3.0, 10.0, 40.0)


def suffixes_SPNX(graph: StageGraph, edges: Edges, weight_EX: Array) -> Array:
    """Least weight of every suffix by its number of stages, and by the port that its first stage offers."""
    X, N, P = weight_EX.shape[1], graph.num_layers + 1, graph.num_ports
    most = min(graph.max_stages, graph.num_layers)
    least = np.full((most + 1, P, N, X), np.inf)
    least[0, 0, N - 1] = 0.0
    groups, of_C = graph.alike_joins
    place_E = edges.start_E * P + edges.level_E if P > 1 else edges.start_E
    order = np.argsort(place_E.astype(np.int32), kind="stable")
    place_E = (edges.level_E[order] * N if P > 1 else 0) + edges.start_E[order]
    behind_E = (of_C[edges.own_E[order]] * N if P > 1 else 0) + edges.end_E[order]
    depth_E, weight_EX = edges.depth_E[order], weight_EX[order]
    shallow = int(depth_E.min(initial=most))
    first = _first_of_each(place_E)
    for s in range(1, most + 1):
        if s > shallow:
            rows = np.flatnonzero(depth_E >= s)
            if not len(rows):
                break
            place_E, behind_E, depth_E, weight_EX = place_E[rows], behind_E[rows], depth_E[rows], weight_EX[rows]
            first = _first_of_each(place_E)
            shallow = int(depth_E.min())
        reach_FX = np.concatenate([least[s - 1, ports].min(axis=0) for ports in groups])
        reach = reach_FX[behind_E]
        reach += weight_EX
        least[s].reshape(P * N, X)[place_E[first]] = np.minimum.reduceat(reach, first, axis=0)
        if not np.isfinite(least[s]).any():
            break
    return least


def potentials_SPNX(graph: StageGraph, edges: Edges, weight_EX: Array) -> Array:
    """Least weight of what comes before a boundary behind which there are s stages, the first with a port."""
    X, N, P = weight_EX.shape[1], graph.num_layers + 1, graph.num_ports
    most = min(graph.max_stages, graph.num_layers)
    least = np.full((most + 1, P, N, X), np.inf)
    least[graph.min_stages :, :, 0] = 0.0
    groups, of_C = graph.alike_joins
    G = len(groups)
    place_E = edges.end_E * G + of_C[edges.class_E] if P > 1 else edges.end_E
    order = np.argsort(place_E.astype(np.int32), kind="stable")
    place_E = (of_C[edges.class_E[order]] * N if P > 1 else 0) + edges.end_E[order]
    before_E = (edges.level_E[order] * N if P > 1 else 0) + edges.start_E[order]
    depth_E, weight_EX = edges.depth_E[order], weight_EX[order]
    deep = int(depth_E.min(initial=most))
    first_all = _first_of_each(place_E)
    for s in range(most - 1, -1, -1):
        rows: slice | IntArray = slice(None) if s < deep else np.flatnonzero(depth_E > s)
        place = place_E[rows]
        if not len(place):
            continue
        first = first_all if s < deep else _first_of_each(place)
        reach = least[s + 1].reshape(P * N, X)[before_E[rows]]
        reach += weight_EX[rows]
        found = np.full((G * N, X), np.inf)
        found[place[first]] = np.minimum.reduceat(reach, first, axis=0)
        for ports, found_NX in zip(groups, found.reshape(G, N, X), strict=True):
            least[s, ports] = np.minimum(least[s, ports], found_NX)
    return least


def _first_of_each(sorted_E: IntArray) -> IntArray:
    """Where each value of a sorted array first stands."""
    return np.concatenate([[0], 1 + np.flatnonzero(sorted_E[1:] != sorted_E[:-1])])


def _bounds_X(graph: StageGraph, edges: Edges, price_XK: Array, scale: float) -> Array:
    weight_EX = graph.prices_C(price_XK).T[edges.class_E]
    if scale:
        weight_EX += scale * edges.total_E[:, None]
    least = suffixes_SPNX(graph, edges, weight_EX)[graph.min_stages :, :, 0].min(axis=(0, 1), initial=np.inf)
    return np.asarray(least - price_XK @ graph.counts_K)


def may_be_afforded(graph: StageGraph, edges: Edges) -> bool:
    """False where prices prove that no path is within the budgets; edges as in `Edges.relaxed_E`."""
    if not len(edges):
        return False
    return bool(_bounds_X(graph, edges, graph.directions_XK, 0.0).max() <= 1e-9)


def least_peak(graph: StageGraph, edges: Edges, low: int, high: int, precise: float) -> int | None:
    """Lowest bottleneck that may be afforded, nearly.

    Parameters
    ----------
    graph, edges
        As in `may_be_afforded`.
    low, high
        Positions in `StageGraph.peaks` to look between.
    precise
        Seconds of an iteration that do not matter.

    Returns
    -------
    int or None
        A position below which nothing can be afforded; None where nothing can at all.
    """
    if not may_be_afforded(graph, edges.take(edges.peak_E <= graph.peaks[high])):
        return None
    while low < high and (graph.microbatches - 1) * (graph.peaks[high] - graph.peaks[low]) > precise:
        middle = int(np.searchsorted(graph.peaks, (graph.peaks[low] + graph.peaks[high]) / 2, side="right")) - 1
        middle = min(max(middle, low), high - 1)
        if may_be_afforded(graph, edges.take(edges.peak_E <= graph.peaks[middle])):
            high = middle
        else:
            low = middle + 1
    return low


def best_prices(graph: StageGraph, edges: Edges, prices_K: Array | None, enough: float) -> tuple[float, Array]:
    """Search prices for the best bound on the sum.

    Parameters
    ----------
    graph, edges
        What a path may be made of (`Edges.relaxed_E` only).
    prices_K
        Where to start; None looks everywhere.
    enough
        A bound that is good enough.

    Returns
    -------
    float
        The bound; infinite where there is no path at all.
    array, shape (K,)
        Its prices.
    """
    types = len(graph.counts_K)
    nothing = np.zeros((1, types))
    if not len(edges):
        return np.inf, nothing[0]
    counts_K = np.maximum(graph.counts_K, 1)
    if prices_K is None:
        free = float(_bounds_X(graph, edges, nothing, 1.0)[0])
        if not np.isfinite(free):
            return np.inf, nothing[0]
        if types <= 2:
            price_XK = np.array(list(product(_GRID, repeat=types))) * (free / counts_K)
        else:
            price_XK = (np.array(_SCALES)[:, None, None] * free * graph.directions_XK).reshape(-1, types)
    else:
        price_XK = np.concatenate([nothing, prices_K[None]])
    price_XK = np.concatenate([nothing, price_XK]) if prices_K is None else price_XK
    value_X = _bounds_X(graph, edges, price_XK, 1.0)
    best = int(np.argmax(value_X))
    value, at = float(value_X[best]), price_XK[best]
    floor_K = max(abs(value), 1e-12) * 0.05 / counts_K if np.isfinite(value) else np.zeros(types)
    factor = 2.0
    for _ in range(_ROUNDS if prices_K is None else 2):
        if not np.isfinite(value) or value >= enough:
            break
        moves = np.concatenate([np.eye(types), -np.eye(types), np.ones((1, types)), -np.ones((1, types))])
        price_XK = np.where(moves > 0, np.maximum(at * factor, floor_K), np.where(moves < 0, at / factor, at))
        value_X = _bounds_X(graph, edges, price_XK, 1.0)
        best = int(np.argmax(value_X))
        if value_X[best] > value * (1 + 1e-6):
            value, at = float(value_X[best]), price_XK[best]
        else:
            factor = factor**0.5
    return value, at
