"""A training job on Sailor's measurements, as stage graphs: its simulator's prices, all plans instead of some.

A graph for every microbatch size and number of microbatches, with the smallest data-parallel degree that reaches it:
more replicas would only spend more GPUs and sync longer. A class is a TP degree for one GPU type or for each of two.

Legend: C class, K GPU type, L layer, N layer boundary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.sailor import SailorReplica, SailorStage, sailor_memory, sailor_price, sailor_transfer
from planner.errors import InfeasibleError, InputError
from planner.search.training.cells import Answer, search_graphs
from planner.search.training.stage_graph import Hops, StageGraph
from planner.search.training.transport import assign

if TYPE_CHECKING:
    from planner.cost._types import Array, IntArray
    from planner.cost.sailor_tables import SailorTables
    from planner.search.problem import Budget

__all__ = ["SailorJob", "SailorPlan", "sailor_graphs", "search_sailor"]

# Every stage pays for both its boundaries; the last one twice for its only one.
_HOPS: Final = Hops(peak_before=1.0, peak_after=1.0, sum_before=1.0, sum_after=1.0, last=2.0)
_GPUS_PER_NODE: Final = 4
# `sailor_memory` of one layer tells what its parts are: states, activations, reserve.
_Class = tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SailorJob:
    """What to train, and where.

    Parameters
    ----------
    tables
        Measurements of the model.
    gpus, memory
        GPUs by type, and bytes of one GPU of each type.
    batch
        Sequences of an iteration.
    zone
        Cloud zone that all GPUs are in.
    max_stages
        Most stages.
    gpus_per_node
        A power of two; TP stays inside a node.
    """

    tables: SailorTables
    gpus: Mapping[str, int]
    memory: Mapping[str, float]
    batch: int
    zone: str = "us-central1-a"
    max_stages: int = 12
    gpus_per_node: int = _GPUS_PER_NODE


@dataclass(frozen=True, slots=True, kw_only=True)
class SailorPlan:
    """A plan as Sailor writes it, its price, and what the search proved.

    Parameters
    ----------
    stages, microbatch
        The plan.
    seconds
        Of an iteration, by `planner.cost.sailor.sailor_price`.
    answer
        Of the search.
    """

    stages: tuple[SailorStage, ...]
    microbatch: int
    seconds: float
    answer: Answer


def sailor_graphs(job: SailorJob) -> list[StageGraph]:
    """All stage graphs of a job.

    Raises
    ------
    InputError
        If nothing was measured for a GPU type.
    """
    types = sorted(job.gpus)
    for name in types:
        if name not in job.memory:
            raise InputError(f"has no memory size for {name}")
        if not any(device == name for device, _, _ in job.tables.times):
            raise InputError(f"{job.tables.model} was not measured on {name}")
    sizes = sorted({m for device, _, m in job.tables.times if device in types and m <= job.batch})
    whole = sum(job.gpus.values())
    graphs = []
    for size in sizes:
        base = _classes(job, types, size)
        if not base:
            continue
        fastest = _times(job, base, size)
        depth = _depth(job, base, size)
        ends = _ends(job, base, size)
        least = {math.ceil(job.batch / (size * d)): d for d in range(whole, 0, -1)}
        for microbatches, degree in sorted(least.items()):
            graphs.append(_graph(job, types, base, fastest, depth, ends, size, microbatches, degree))
    return graphs


def _classes(job: SailorJob, types: Sequence[str], size: int) -> list[_Class]:
    degrees = {
        name: [
            tp
            for tp in (1, 2, 4, 8)
            if tp <= job.gpus_per_node and (name, tp, size) in job.tables.times and tp in job.tables.sizes
        ]
        for name in types
    }
    single: list[_Class] = [((name, tp),) for name in types for tp in degrees[name]]
    for a, b in combinations(types, 2):
        single += [((a, p), (b, q)) for p, q in product(degrees[a], degrees[b])]
    return single


def _sums(value_L: Array) -> Array:
    """Sum of every interval of layers; infinite where it is empty."""
    upto = np.concatenate([[0.0], np.cumsum(value_L)])
    sums = upto[None, :] - upto[:, None]
    order = np.arange(len(upto))
    return np.where(order[:, None] < order, sums, np.inf)


def _times(job: SailorJob, classes: Sequence[_Class], size: int) -> Array:
    one = {
        pair: _sums(job.tables.layer_times(*pair, size)[:, :2].sum(axis=1)) for pair in {p for c in classes for p in c}
    }
    return np.stack([np.max([one[pair] for pair in c], axis=0) for c in classes])


def _depth(job: SailorJob, classes: Sequence[_Class], size: int) -> IntArray:
    """Most stages from each one to the end, by the memory of its tightest GPU."""
    L = job.tables.num_layers

    def held(pair: tuple[str, int], stages: int, layers: tuple[int, int]) -> float:
        stage = SailorStage(layers, (SailorReplica(*pair, 1),))
        return sailor_memory(job.tables, [stage] * stages, microbatch=size)[0][pair]

    found = {}
    for pair in sorted({p for c in classes for p in c}):
        reserve = held(pair, 1, (0, 0))
        state_L = np.zeros(L)
        active_L = np.zeros(L)
        for layer in range(L):
            once, twice = held(pair, 1, (layer, layer + 1)), held(pair, 2, (layer, layer + 1))
            active_L[layer], state_L[layer] = twice - once, 2 * once - twice - reserve
        room = job.memory[pair[0]] - reserve - np.where(np.isfinite(s := _sums(state_L)), s, 0.0)
        active = np.where(np.isfinite(a := _sums(active_L)), a, 0.0)
        limit = float(job.max_stages)
        most = np.where(active > 0, room / np.maximum(active, 1e-9), np.where(room >= 0, limit, 0.0))
        found[pair] = np.where(np.isfinite(s), np.floor(most * (1 + 1e-12)).clip(0, limit), 0).astype(np.int64)
    return np.stack([np.min([found[pair] for pair in c], axis=0) for c in classes])


def _ends(job: SailorJob, classes: Sequence[_Class], size: int) -> Array:
    message_L = job.tables.sizes[1].output_L * size
    end = np.zeros((len(classes), job.tables.num_layers + 1))
    known: dict[tuple[str, int, float], float] = {}
    for c, one in enumerate(classes):
        for n in range(1, job.tables.num_layers):
            for name, tp in one:
                key = name, tp, float(message_L[n - 1])
                if key not in known:
                    known[key] = sailor_transfer(job.tables, *key, job.zone)
                end[c, n] = max(end[c, n], known[key])
    return end


def _sync(job: SailorJob, one: _Class, degree: int) -> Array:
    """Gradient all-reduce of every interval of layers, in buckets as `planner.cost.sailor` counts them."""
    bytes_NN = np.where(np.isfinite(s := _sums(job.tables.sizes[1].parameters_L)), s, 0.0)
    bytes_NN = bytes_NN / min(min(tp for _, tp in one), 4)
    if degree == 1:
        return np.zeros_like(bytes_NN)
    fits = [job.tables.zone_links[a, 1, b, 1, job.zone] for a, _ in one for b, _ in one]

    def seconds(part: Array) -> Array:
        gigabytes, x = part / 1e9, np.log2(np.maximum(part, 1e-3) / 1e6)
        return np.asarray(
            np.max([gigabytes / np.polyval([fit.square, fit.linear, fit.constant], x) for fit in fits], axis=0)
        )

    buckets = np.floor(bytes_NN / 5e8)
    rest = bytes_NN - buckets * 5e8
    full = float(seconds(np.array([5e8 / degree]))[0])
    last = np.where(rest > 0, seconds(rest / degree), 0.0)
    return np.asarray(2.0 * (degree - 1) * (buckets * full + last))


def _graph(
    job: SailorJob,
    types: Sequence[str],
    classes: Sequence[_Class],
    time_CNN: Array,
    depth_CNN: IntArray,
    end_CN: Array,
    size: int,
    microbatches: int,
    degree: int,
) -> StageGraph:
    rows, use, replica = [], [], []
    mixed = [
        one
        for one in classes
        if len(one) > 1
        and degree > 1
        and all(tp <= job.gpus[name] for name, tp in one)
        and sum(job.gpus[name] // tp for name, tp in one) >= degree
    ]
    within = {pair for one in mixed for pair in one}  # alone they may be too many, and still bound a mixed stage
    for c, one in enumerate(classes):
        each = np.array([dict(one).get(name, 0) for name in types], dtype=np.int64)
        if one not in mixed and (len(one) > 1 or (one[0] not in within and degree * one[0][1] > job.gpus[one[0][0]])):
            continue
        rows.append(c)
        use.append(degree * each if len(one) == 1 else 0 * each)
        replica.append(each if len(one) > 1 else 0 * each)
    K, N = len(types), job.tables.num_layers + 1
    update = np.zeros((len(rows), N, N))
    sync = np.zeros((len(rows), N, N))
    shared: dict[tuple[tuple[str, ...], int], Array] = {}
    for r, c in enumerate(rows):
        one = classes[c]
        first_L = np.max([job.tables.layer_times(*pair, size)[:, 2] for pair in one], axis=0)
        update[r, : N - 1] = first_L[:, None]
        key = tuple(name for name, _ in one), min(min(tp for _, tp in one), 4)
        if key not in shared:
            shared[key] = _sync(job, one, degree)
        sync[r] = shared[key]
    depth = depth_CNN[rows].reshape(len(rows), N, N)
    time = np.where(depth > 0, time_CNN[rows].reshape(len(rows), N, N), np.inf)
    return StageGraph(
        microbatches=microbatches,
        counts_K=np.array([job.gpus[name] for name in types], dtype=np.int64),
        use_CK=np.array(use, dtype=np.int64).reshape(len(rows), K),
        replica_CK=np.array(replica, dtype=np.int64).reshape(len(rows), K),
        degree=degree,
        peak_CNN=time,
        total_CNN=time,
        sync_CNN=sync,
        update_CNN=update,
        depth_CNN=depth,
        end_CN=end_CN[rows].reshape(len(rows), N),
        hops=_HOPS,
        max_stages=job.max_stages,
        # a mixed stage is no faster, syncs no sooner and holds no more than its cheaper type alone
        bounding_C=np.array([len(classes[c]) == 1 for c in rows], dtype=bool),
        label=(size, degree, tuple(classes[c] for c in rows)),
    )


def search_sailor(job: SailorJob, budget: Budget, *, tolerance: float = 1e-3) -> SailorPlan:
    """Find the plan that Sailor's simulator would call fastest.

    Parameters
    ----------
    job
        What to train, and where.
    budget
        Time limit and progress callback.
    tolerance
        Relative distance to the bound at which the search may end.

    Raises
    ------
    InfeasibleError
        If nothing fits.
    """
    graphs = sailor_graphs(job)
    answer = search_graphs(graphs, time_limit=budget.remaining(), tolerance=tolerance, report=budget.report)
    if answer.graph is None:
        raise InfeasibleError(f"{job.tables.model} does not fit {dict(job.gpus)}, or no plan was found in time")
    graph = graphs[answer.graph]
    types = sorted(job.gpus)
    size, degree, classes = graph.label
    flexible = [s for s, (c, _, _) in enumerate(answer.path) if graph.flexible_C[c]]
    room_K = graph.counts_K - sum((graph.use_CK[c] for c, _, _ in answer.path), np.zeros(len(types), dtype=np.int64))
    replicas = np.full(len(flexible), degree, dtype=np.int64)
    split = assign(graph.replica_CK[[answer.path[s][0] for s in flexible]], replicas, room_K)
    stages = []
    for s, (c, start, end) in enumerate(answer.path):
        members = dict(classes[c])
        if s in flexible and split is not None:
            counts = {name: int(n) for name, n in zip(types, split[flexible.index(s)], strict=True) if n}
        else:
            counts = dict.fromkeys(members, int(degree))
        replicas_of = tuple(SailorReplica(name, members[name], n) for name, n in sorted(counts.items()))
        stages.append(SailorStage((start, end), replicas_of))
    price = sailor_price(job.tables, stages, microbatch=size, batch=job.batch, zone=job.zone)
    return SailorPlan(stages=tuple(stages), microbatch=size, seconds=price.seconds, answer=answer)
