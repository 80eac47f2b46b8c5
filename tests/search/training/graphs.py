"""Random stage graphs small enough to try every path, and the plain loops that do."""

from __future__ import annotations

import math
from itertools import combinations, product

import numpy as np

from planner.search.training.stage_graph import Hops, Stage, StageGraph

__all__ = ["best_of_every_path", "random_graph", "random_graphs", "within_budget"]

HOPS = (
    Hops(),
    Hops(sum_after=1.0),
    Hops(peak_before=1.0, peak_after=1.0, sum_before=1.0, sum_after=1.0, last=2.0),
    Hops(peak_after=1.0, sum_after=1.0),
)


def random_graph(rng: np.random.Generator, *, batch: int, size: int, types: int, layers: int, seed: int) -> StageGraph:
    """One number of microbatches of a job: tight memory, mixed stages, up to 8 GPUs."""
    world = np.random.default_rng(seed)  # what the cluster and the model are, whatever the microbatch
    counts_K = world.integers(1, 5 if types == 2 else 4, types)
    while counts_K.sum() > 8:
        counts_K = world.integers(1, 4, types)
    layer_L = world.uniform(0.5, 1.5, layers)
    speed_K = world.uniform(1.0, 4.0, types)
    memory_K = world.uniform(0.35, 2.5, types)
    parameters_L = world.uniform(0.2, 1.0, layers)
    link_K = world.choice([0.02, 0.1, 0.3, 0.6], types)
    hops, mixed = HOPS[world.integers(len(HOPS))], layers <= 4
    degree = int(rng.integers(1, 5))
    m = math.ceil(batch / (degree * size))
    singles = [(k, tp) for k in range(types) for tp in (1, 2) if tp * degree <= counts_K[k]]
    single_of = {
        one: np.array([one[1] if k == one[0] else 0 for k in range(types)]) for one in product(range(types), (1, 2))
    }
    rows = [(False, degree * single_of[one], [one]) for one in singles]
    if mixed and degree > 1:
        for a, b in combinations(range(types), 2):
            for p, q in product((1, 2), repeat=2):
                rows.append((True, single_of[a, p] + single_of[b, q], [(a, p), (b, q)]))
    N, C = layers + 1, len(rows)
    peak, sync, update = np.full((C, N, N), np.inf), np.zeros((C, N, N)), np.zeros((C, N, N))
    depth, end = np.zeros((C, N, N), dtype=np.int64), np.zeros((C, N))
    for c, (_, _, parts) in enumerate(rows):
        for i, j in combinations(range(N), 2):
            peak[c, i, j] = max(size * layer_L[i:j].sum() / speed_K[k] / tp**0.8 for k, tp in parts)
            slow, split = max(link_K[k] for k, _ in parts), min(tp for _, tp in parts)
            sync[c, i, j] = parameters_L[i:j].sum() * 4 * slow * (degree - 1) / degree / split
            update[c, i, j] = max(parameters_L[i] * 0.3 / speed_K[k] for k, _ in parts)
            fits = layers
            for k, tp in parts:
                state, each = parameters_L[i:j].sum() * 0.8 / tp, 0.1 * size * (j - i) / tp
                fits = min(fits, math.floor((memory_K[k] * tp**0.2 - state) / each))
            depth[c, i, j] = max(fits, 0)
        end[c] = size * max(link_K[k] / tp for k, tp in parts)
    return StageGraph(
        microbatches=m,
        counts_K=counts_K,
        use_CK=np.array([np.zeros(types) if flexible else use for flexible, use, _ in rows], dtype=np.int64).reshape(
            C, types
        ),
        replica_CK=np.array(
            [use if flexible else np.zeros(types) for flexible, use, _ in rows], dtype=np.int64
        ).reshape(C, types),
        degree=degree,
        peak_CNN=np.where(depth > 0, peak, np.inf),
        total_CNN=np.where(depth > 0, peak, np.inf) * 1.0,
        sync_CNN=sync,
        update_CNN=update,
        depth_CNN=depth,
        end_CN=end,
        hops=hops,
        constant=float(world.choice([0.0, 0.2])),
        max_stages=layers,
        label=(size, degree),
    )


def random_graphs(seed: int) -> list[StageGraph]:
    """A job with several microbatch sizes and data-parallel degrees."""
    rng = np.random.default_rng(seed)
    types, layers, batch = int(rng.integers(2, 4)), int(rng.integers(2, 9)), int(rng.integers(2, 13))
    if types == 3:
        layers = min(layers, 4 if rng.random() < 0.5 else 5)
    return [
        random_graph(rng, batch=batch, size=size, types=types, layers=layers, seed=seed)
        for size in (1, 2)
        for _ in range(2)
    ]


def within_budget(graph: StageGraph, path: tuple[Stage, ...]) -> bool:
    """Whether the cluster has the GPUs, trying every split of mixed stages."""
    choices = []
    for c, _, _ in path:
        if not graph.flexible_C[c]:
            choices.append([graph.use_CK[c]])
            continue
        a, b = np.flatnonzero(graph.replica_CK[c])
        splits = []
        for n in range(graph.degree + 1):
            use = np.zeros(len(graph.counts_K), dtype=np.int64)
            use[a], use[b] = n * graph.replica_CK[c, a], (graph.degree - n) * graph.replica_CK[c, b]
            splits.append(use)
        choices.append(splits)
    reached = {tuple(int(n) for n in graph.counts_K)}
    for splits in choices:
        reached = {
            tuple(int(n - u) for n, u in zip(left, use, strict=True))
            for left in reached
            for use in splits
            if all(n >= u for n, u in zip(left, use, strict=True))
        }
    return bool(reached)


def best_of_every_path(graphs: list[StageGraph]) -> tuple[float, int]:
    """Least seconds over every path of every graph, in plain loops, and how many paths there are."""
    best, tried = math.inf, 0
    for graph in graphs:
        L, C = graph.num_layers, len(graph.use_CK)

        def grow(path: tuple[Stage, ...], start: int, graph: StageGraph = graph, L: int = L, C: int = C) -> None:
            nonlocal best, tried
            if start == L:
                depth = len(path)
                if any(graph.depth_CNN[stage] < depth - s for s, stage in enumerate(path)):
                    return
                tried += 1
                seconds = _seconds(graph, path)
                if seconds < best and within_budget(graph, path):
                    best = seconds
                return
            for c in range(C):
                for end in range(start + 1, L + 1):
                    if graph.depth_CNN[c, start, end] > 0 and len(path) < graph.max_stages:
                        used = sum((graph.use_CK[k] for k, _, _ in path), graph.use_CK[c])
                        if (used <= graph.counts_K).all():
                            grow((*path, (c, start, end)), end)

        grow((), 0)
    return best, tried


def _seconds(graph: StageGraph, path: tuple[Stage, ...]) -> float:
    """The iteration in scalars."""
    z, v, hops = [], [], graph.hops
    for s, (c, i, j) in enumerate(path):
        before = max(graph.end_CN[c, i], graph.end_CN[path[s - 1][0], i]) if s else 0.0
        after = max(graph.end_CN[c, j], graph.end_CN[path[s + 1][0], j]) if s + 1 < len(path) else 0.0
        if s and s + 1 == len(path):
            before *= hops.last
        z.append(graph.peak_CNN[c, i, j] + hops.peak_before * before + hops.peak_after * after)
        v.append(graph.total_CNN[c, i, j] + hops.sum_before * before + hops.sum_after * after)
    sync = max(graph.sync_CNN[stage] for stage in path)
    update = max(graph.update_CNN[stage] for stage in path)
    return float((graph.microbatches - 1) * max(z) + sum(v) + sync + update + graph.constant)
