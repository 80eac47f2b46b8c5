"""Stage graphs whose classes are a TP degree for one GPU type, or for each of two: what costs on measured layers share.

A stage on one type takes the data-parallel degree times TP of its GPUs; one on two types shares its replicas among them
in any way, and waits for the slower.

Legend: C class, K GPU type, L layer, N layer boundary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import TYPE_CHECKING

import numpy as np

from planner.search.training.stage_graph import Hops, StageGraph
from planner.search.training.transport import assign

if TYPE_CHECKING:
    from planner.cost._types import Array, IntArray
    from planner.search.training.stage_graph import Stage

__all__ = ["ClassCosts", "PairClass", "class_graph", "interval_sums", "pair_classes", "replica_counts"]

PairClass = tuple[tuple[str, int], ...]
"""GPU type and TP, of one type or of two."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassCosts:
    """What the classes of a graph cost.

    Parameters
    ----------
    time_CNN
        Seconds of a microbatch on the layers between two boundaries, without hops.
    depth_CNN
        Most stages from this one to the end, by memory.
    end_CN
        Seconds of a boundary as far as the class decides it.
    sync, update
        Seconds of gradients and optimizer by class, and for gradients by degree: shape (N, N).
    hops
        How boundaries count.
    """

    time_CNN: Array
    depth_CNN: IntArray
    end_CN: Array
    sync: Callable[[PairClass, int], Array]
    update: Callable[[PairClass], Array]
    hops: Hops


def interval_sums(value_L: Array) -> Array:
    """Sum of every interval of layers; infinite where it is empty."""
    upto = np.concatenate([[0.0], np.cumsum(value_L)])
    sums = upto[None, :] - upto[:, None]
    order = np.arange(len(upto))
    return np.where(order[:, None] < order, sums, np.inf)


def pair_classes(types: Sequence[str], degrees: Mapping[str, Sequence[int]]) -> list[PairClass]:
    """Classes of every type alone and of every two types, by the TP degrees that each may have."""
    single: list[PairClass] = [((name, tp),) for name in types for tp in degrees[name]]
    for a, b in combinations(types, 2):
        single += [((a, p), (b, q)) for p, q in product(degrees[a], degrees[b])]
    return single


def class_graph(
    gpus: Mapping[str, int],
    classes: Sequence[PairClass],
    costs: ClassCosts,
    *,
    size: int,
    microbatches: int,
    degree: int,
    max_stages: int,
) -> StageGraph:
    """Build the graph of one microbatch size and data-parallel degree.

    Parameters
    ----------
    gpus
        By type.
    classes, costs
        The classes, and what they cost.
    size, microbatches, degree
        Sequences of a microbatch on a replica, microbatches, replicas.
    max_stages
        Most stages.
    """
    types = sorted(gpus)
    rows, use, replica = [], [], []
    mixed = [
        one
        for one in classes
        if len(one) > 1
        and degree > 1
        and all(tp <= gpus[name] for name, tp in one)
        and sum(gpus[name] // tp for name, tp in one) >= degree
    ]
    within = {pair for one in mixed for pair in one}  # alone they may be too many, and still bound a mixed stage
    for c, one in enumerate(classes):
        each = np.array([dict(one).get(name, 0) for name in types], dtype=np.int64)
        if one not in mixed and (len(one) > 1 or (one[0] not in within and degree * one[0][1] > gpus[one[0][0]])):
            continue
        rows.append(c)
        use.append(degree * each if len(one) == 1 else 0 * each)
        replica.append(each if len(one) > 1 else 0 * each)
    N, K = costs.end_CN.shape[1], len(types)
    update = np.zeros((len(rows), N, N))
    sync = np.zeros((len(rows), N, N))
    for r, c in enumerate(rows):
        update[r], sync[r] = costs.update(classes[c]), costs.sync(classes[c], degree)
    depth = costs.depth_CNN[rows].reshape(len(rows), N, N)
    time = np.where(depth > 0, costs.time_CNN[rows].reshape(len(rows), N, N), np.inf)
    return StageGraph(
        microbatches=microbatches,
        counts_K=np.array([gpus[name] for name in types], dtype=np.int64),
        use_CK=np.array(use, dtype=np.int64).reshape(len(rows), K),
        replica_CK=np.array(replica, dtype=np.int64).reshape(len(rows), K),
        degree=degree,
        peak_CNN=time,
        total_CNN=time,
        sync_CNN=sync,
        update_CNN=update,
        depth_CNN=depth,
        end_CN=costs.end_CN[rows].reshape(len(rows), N),
        hops=costs.hops,
        max_stages=max_stages,
        # a mixed stage is no faster, syncs no sooner and holds no more than its cheaper type alone
        bounding_C=np.array([len(classes[c]) == 1 for c in rows], dtype=bool),
        label=(size, degree, tuple(classes[c] for c in rows)),
    )


def replica_counts(graph: StageGraph, types: Sequence[str], path: Sequence[Stage]) -> list[dict[str, int]]:
    """How many replicas of each type every stage of a path has."""
    _, degree, classes = graph.label
    flexible = [s for s, (c, _, _) in enumerate(path) if graph.flexible_C[c]]
    room_K = graph.counts_K - sum((graph.use_CK[c] for c, _, _ in path), np.zeros(len(types), dtype=np.int64))
    replicas = np.full(len(flexible), degree, dtype=np.int64)
    split = assign(graph.replica_CK[[path[s][0] for s in flexible]], replicas, room_K)
    found = []
    for s, (c, _, _) in enumerate(path):
        if s in flexible and split is not None:
            row = split[flexible.index(s)]
            found.append({name: int(n) for name, n in sorted(zip(types, row, strict=True)) if n})
        else:
            found.append(dict.fromkeys(sorted(dict(classes[c])), int(degree)))
    return found
