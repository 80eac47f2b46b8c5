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

__all__ = ["best_prices", "directions", "may_be_afforded", "potentials_SXNP", "suffixes_SXNP"]

_ROUNDS: Final = 3


def suffixes_SXNP(graph: StageGraph, edges: Edges, weight_XE: Array) -> Array:
    """Least weight of every suffix by its number of stages, and by the port that its first stage offers."""
    X, N, P = len(weight_XE), graph.num_layers + 1, graph.num_ports
    most = min(graph.max_stages, graph.num_layers)
    least = np.full((most + 1, X, N, P), np.inf)
    least[0, :, N - 1, 0] = 0.0
    place_E = edges.start_E * P + (edges.level_E if P > 1 else 0)
    order = np.argsort(place_E, kind="stable")
    place_E, end_E, depth_E, weight_XE = place_E[order], edges.end_E[order], edges.depth_E[order], weight_XE[:, order]
    behind_E = end_E * len(graph.use_CK) + edges.own_E[order] if P > 1 else end_E
    shallow = int(depth_E.min(initial=most))
    first = _first_of_each(place_E)
    for s in range(1, most + 1):
        if s > shallow:
            rows = np.flatnonzero(depth_E >= s)
            if not len(rows):
                break
            place_E, behind_E, depth_E, weight_XE = place_E[rows], behind_E[rows], depth_E[rows], weight_XE[:, rows]
            first = _first_of_each(place_E)
            shallow = int(depth_E.min())
        reach_XF = _behind(graph, least[s - 1])
        reach = weight_XE + reach_XF[:, behind_E]
        least[s].reshape(X, N * P)[:, place_E[first]] = np.minimum.reduceat(reach, first, axis=1)
        if not np.isfinite(least[s]).any():
            break
    return least


def _behind(graph: StageGraph, least_XNP: Array) -> Array:
    """Least suffix that each class may have behind it at each boundary, shape (X, boundaries x classes)."""
    X, N, _ = least_XNP.shape
    if graph.joins_CP is None:
        return least_XNP.reshape(X, N)
    groups, of_C = graph.alike_joins
    least_XNG = np.stack([least_XNP[:, :, ports].min(axis=2, initial=np.inf) for ports in groups], axis=2)
    return np.asarray(least_XNG[:, :, of_C].reshape(X, -1))


def potentials_SXNP(graph: StageGraph, edges: Edges, weight_XE: Array) -> Array:
    """Least weight of what comes before a boundary behind which there are s stages, the first with a port."""
    X, N, P = len(weight_XE), graph.num_layers + 1, graph.num_ports
    most = min(graph.max_stages, graph.num_layers)
    least = np.full((most + 1, X, N, P), np.inf)
    least[:, :, 0, :] = 0.0
    groups, of_C = graph.alike_joins if P > 1 else ([np.zeros(1, dtype=np.int64)], np.zeros(len(graph.use_CK)))
    G = len(groups)
    place_E = edges.end_E * G + (of_C[edges.class_E] if P > 1 else 0)
    order = np.argsort(place_E, kind="stable")
    place_E, depth_E, weight_XE = place_E[order], edges.depth_E[order], weight_XE[:, order]
    before_E = edges.start_E[order] * P + (edges.level_E[order] if P > 1 else 0)
    deep = int(depth_E.min(initial=most))
    first_all = _first_of_each(place_E)
    for s in range(most - 1, -1, -1):
        rows: slice | IntArray = slice(None) if s < deep else np.flatnonzero(depth_E > s)
        place = place_E[rows]
        if not len(place):
            continue
        first = first_all if s < deep else _first_of_each(place)
        reach = weight_XE[:, rows] + least[s + 1].reshape(X, N * P)[:, before_E[rows]]
        found = np.full((X, N * G), np.inf)
        found[:, place[first]] = np.minimum.reduceat(reach, first, axis=1)
        found = found.reshape(X, N, G)
        for g, ports in enumerate(groups):
            least[s][:, :, ports] = np.minimum(least[s][:, :, ports], found[:, :, g : g + 1])
    return least


def _first_of_each(sorted_E: IntArray) -> IntArray:
    """Where each value of a sorted array first stands."""
    return np.concatenate([[0], 1 + np.flatnonzero(sorted_E[1:] != sorted_E[:-1])])


def _bounds_X(graph: StageGraph, edges: Edges, price_XK: Array, scale: float) -> Array:
    weight_XE = scale * edges.total_E + graph.prices_C(price_XK)[:, edges.class_E]
    least = suffixes_SXNP(graph, edges, weight_XE)[1:, :, 0].min(axis=(0, 2))
    return np.asarray(least - price_XK @ graph.counts_K)


def directions(types: int) -> Array:
    """Price vectors that point evenly everywhere."""
    steps = {1: 1, 2: 8, 3: 4}.get(types, 3)
    grid = [one for one in product(range(steps + 1), repeat=types) if sum(one) == steps]
    return np.asarray(grid, dtype=float) / steps


def may_be_afforded(graph: StageGraph, edges: Edges) -> bool:
    """False where prices prove that no path is within the budgets; edges as in `Edges.relaxed_E`."""
    if not len(edges):
        return False
    price_XK = directions(len(graph.counts_K)) / np.maximum(graph.counts_K, 1)
    return bool(_bounds_X(graph, edges, price_XK, 0.0).max() <= 1e-9)


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
        scales = {1: (0.0, 0.3, 1.0, 3.0, 10.0, 40.0), 2: (0.0, 0.3, 1.0, 3.0, 10.0, 40.0), 3: (0.0, 0.5, 2.0, 10.0)}
        steps = scales.get(types, (0.0, 1.0, 6.0))
        price_XK = np.array(list(product(steps, repeat=types))) * (free / counts_K)
    else:
        price_XK = np.concatenate([nothing, prices_K[None]])
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
