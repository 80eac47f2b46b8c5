"""A training job on Sailor's measurements, as stage graphs: its simulator's prices, all plans instead of some.

A graph for every microbatch size and number of microbatches, with the smallest data-parallel degree that reaches it:
more replicas would only spend more GPUs and sync longer. A class is a TP degree for one GPU type or for each of two.

Legend: C class, K GPU type, L layer, N layer boundary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.sailor import SailorReplica, SailorStage, sailor_memory, sailor_price, sailor_transfer
from planner.cost.sailor_tables import SIMULATED_MEMORY
from planner.errors import InputError
from planner.search.training.cells import Answer, search_graphs
from planner.search.training.class_graph import (
    ClassCosts,
    PairClass,
    class_graph,
    interval_sums,
    pair_classes,
    replica_counts,
)
from planner.search.training.measured_changes import sailor_without_plan
from planner.search.training.stage_graph import Hops, StageGraph

if TYPE_CHECKING:
    from planner.cluster import Cluster
    from planner.cost._types import Array, IntArray
    from planner.cost.sailor_tables import SailorTables
    from planner.search.problem import Budget

__all__ = ["SailorJob", "SailorPlan", "check_measured", "sailor_graphs", "sailor_job_of", "search_sailor"]

# Every stage pays for both its boundaries; the last one twice for its only one.
_HOPS: Final = Hops(peak_before=1.0, peak_after=1.0, sum_before=1.0, sum_after=1.0, last=2.0)
_GPUS_PER_NODE: Final = 4
_MAX_STAGES: Final = 12


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
    max_stages: int = _MAX_STAGES
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


def sailor_job_of(
    tables: SailorTables, cluster: Cluster, *, batch: int, sequence_length: int, max_stages: int | None = None
) -> SailorJob:
    """Make a job of tables and a cluster.

    Raises
    ------
    InputError
        If the sequences are not those that were measured, a GPU type was not, or nodes differ in size or zone.
    """
    if tables.sequence_length and sequence_length != tables.sequence_length:
        raise InputError(
            f"asks for sequences of {sequence_length:,} tokens",
            field="--seq-len",
            expected=f"{tables.sequence_length:,}, at which {tables.model} was measured",
        )
    sizes = sorted({one.gpus_per_node for one in cluster.classes})
    if len(sizes) > 1 or sizes[0] & (sizes[0] - 1):
        raise InputError(f"has nodes of {sizes} GPUs", where=cluster.name, expected="one size, a power of two")
    if len({one.zone for one in cluster.classes}) > 1:
        raise InputError(
            "spans several zones", where=cluster.name, expected="one zone: that is where links were fitted"
        )
    gpus: dict[str, int] = {}
    for one in cluster.classes:
        if not any(device == one.device.name for device, _, _ in tables.times):
            raise InputError(
                f"{tables.model} was not measured on {one.device.name}",
                where=cluster.name,
                expected=f"GPUs of {', '.join(sorted({device for device, _, _ in tables.times}))}",
            )
        gpus[one.device.name] = gpus.get(one.device.name, 0) + one.num_gpus
    return SailorJob(
        tables=tables,
        gpus=gpus,
        memory={
            one.device.name: SIMULATED_MEMORY.get(one.device.name, one.device.memory.value) for one in cluster.classes
        },
        batch=batch,
        gpus_per_node=sizes[0],
        max_stages=max_stages or _MAX_STAGES,
    )


def check_measured(job: SailorJob) -> None:
    """Refuse a job whose GPU types were not measured, or have no size.

    Raises
    ------
    InputError
        Names the type.
    """
    for name in sorted(job.gpus):
        if name not in job.memory:
            raise InputError(f"has no memory size for {name}")
        if not any(device == name for device, _, _ in job.tables.times):
            raise InputError(f"{job.tables.model} was not measured on {name}")


def sailor_graphs(job: SailorJob) -> list[StageGraph]:
    """All stage graphs of a job.

    Raises
    ------
    InputError
        If nothing was measured for a GPU type.
    """
    types = sorted(job.gpus)
    check_measured(job)
    sizes = sorted({m for device, _, m in job.tables.times if device in types and m <= job.batch})
    whole = sum(job.gpus.values())
    graphs = []
    for size in sizes:
        classes = pair_classes(types, _degrees(job, types, size))
        if not classes:
            continue
        costs = _costs(job, classes, size)
        least = {math.ceil(job.batch / (size * d)): d for d in range(whole, 0, -1)}
        for microbatches, degree in sorted(least.items()):
            graphs.append(
                class_graph(
                    job.gpus,
                    classes,
                    costs,
                    size=size,
                    microbatches=microbatches,
                    degree=degree,
                    max_stages=job.max_stages,
                )
            )
    return graphs


def _costs(job: SailorJob, classes: Sequence[PairClass], size: int) -> ClassCosts:
    N = job.tables.num_layers + 1

    def update(one: PairClass) -> Array:
        first_L = np.max([job.tables.layer_times(*pair, size)[:, 2] for pair in one], axis=0)
        return np.vstack([np.repeat(first_L[:, None], N, axis=1), np.zeros((1, N))])

    @cache
    def shared(types: tuple[str, ...], rings: int, degree: int) -> Array:
        return _sync(job, tuple((name, rings) for name in types), degree)

    def sync(one: PairClass, degree: int) -> Array:
        return shared(tuple(name for name, _ in one), min(min(tp for _, tp in one), 4), degree)

    return ClassCosts(
        time_CNN=_times(job, classes, size),
        depth_CNN=_depth(job, classes, size),
        end_CN=_ends(job, classes, size),
        sync=sync,
        update=update,
        hops=_HOPS,
    )


def _degrees(job: SailorJob, types: Sequence[str], size: int) -> dict[str, list[int]]:
    return {
        name: [
            tp
            for tp in (1, 2, 4, 8)
            if tp <= job.gpus_per_node and (name, tp, size) in job.tables.times and tp in job.tables.sizes
        ]
        for name in types
    }


def _times(job: SailorJob, classes: Sequence[PairClass], size: int) -> Array:
    one = {
        pair: interval_sums(job.tables.layer_times(*pair, size)[:, :2].sum(axis=1))
        for pair in {p for c in classes for p in c}
    }
    return np.stack([np.max([one[pair] for pair in c], axis=0) for c in classes])


def _depth(job: SailorJob, classes: Sequence[PairClass], size: int) -> IntArray:
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
        room = job.memory[pair[0]] - reserve - np.where(np.isfinite(s := interval_sums(state_L)), s, 0.0)
        active = np.where(np.isfinite(a := interval_sums(active_L)), a, 0.0)
        limit = float(job.max_stages)
        most = np.where(active > 0, room / np.maximum(active, 1e-9), np.where(room >= 0, limit, 0.0))
        found[pair] = np.where(np.isfinite(s), np.floor(most * (1 + 1e-12)).clip(0, limit), 0).astype(np.int64)
    return np.stack([np.min([found[pair] for pair in c], axis=0) for c in classes])


def _ends(job: SailorJob, classes: Sequence[PairClass], size: int) -> Array:
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


def _sync(job: SailorJob, one: PairClass, degree: int) -> Array:
    """Gradient all-reduce of every interval of layers, in buckets as `planner.cost.sailor` counts them."""
    bytes_NN = np.where(np.isfinite(s := interval_sums(job.tables.sizes[1].parameters_L)), s, 0.0)
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
        If nothing fits; names the smallest change that would help.
    TimeLimitError
        If the time limit passed without a plan.
    """
    graphs = sailor_graphs(job)
    answer = search_graphs(graphs, time_limit=budget.remaining(), tolerance=tolerance, report=budget.report)
    if answer.graph is None:
        raise sailor_without_plan(job, answer, budget.time_limit, sailor_graphs)
    graph = graphs[answer.graph]
    types = sorted(job.gpus)
    size, _, classes = graph.label
    stages = []
    for (c, start, end), counts in zip(answer.path, replica_counts(graph, types, answer.path), strict=True):
        members = dict(classes[c])
        stages.append(SailorStage((start, end), tuple(SailorReplica(g, members[g], n) for g, n in counts.items())))
    price = sailor_price(job.tables, stages, microbatch=size, batch=job.batch, zone=job.zone)
    return SailorPlan(stages=tuple(stages), microbatch=size, seconds=price.seconds, answer=answer)
