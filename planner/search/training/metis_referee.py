"""The exact search under Metis' published cost (`planner.cost.metis`): all plans instead of some.

A graph for every number of microbatches that divides the batch. A class is the fewest replicas that take a microbatch:
of one GPU type, or of two with the same TP.

Legend: C class, K GPU type, L layer, N layer boundary.

References
----------
T. Um et al., "Metis: fast automatic distributed training on heterogeneous GPUs", USENIX ATC 2024.
"""

from __future__ import annotations

import math
from functools import partial
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from planner.cost.metis import (
    MetisGpu,
    MetisJob,
    MetisProfile,
    MetisReplicas,
    MetisStage,
    metis_links,
    metis_seconds_per_byte,
)
from planner.cost.metis_own import metis_own_hop, metis_own_sync
from planner.search.training.cells import Answer, search_graphs
from planner.search.training.measured_changes import metis_without_plan
from planner.search.training.stage_graph import Hops, StageGraph

if TYPE_CHECKING:
    from planner.cost._types import Array
    from planner.search.problem import Budget

__all__ = [
    "MetisGpu",
    "MetisJob",
    "MetisProfile",
    "MetisReplicas",
    "MetisStage",
    "metis_graphs",
    "search_metis_referee",
]

_Class = tuple[MetisReplicas, ...]


def metis_graphs(job: MetisJob, *, own: bool = False) -> list[StageGraph]:
    """One stage graph for every number of microbatches that divides the batch, by the formula or by our own terms."""
    counts = [B for B in range(1, job.batch + 1) if job.batch % B == 0 and _classes(job, job.batch // B)]
    return [_graph(job, B, own=own) for B in counts]


def _classes(job: MetisJob, sequences: int) -> list[_Class]:
    """Replicas that take so many sequences, as few as do: of one type, or of two with the same TP."""
    found: list[_Class] = []
    for device, tp, share in sorted(job.profiles):
        gpu = job.gpus.get(device)
        count = math.ceil(sequences / share)
        if gpu is not None and tp <= gpu.per_node and count * tp <= gpu.count // tp * tp:
            found.append((MetisReplicas(device, tp, count, share),))
    for (a, tp, h), (b, other, k) in combinations(sorted(job.profiles), 2):
        if a == b or tp != other or a not in job.gpus or b not in job.gpus:
            continue
        if tp > min(job.gpus[a].per_node, job.gpus[b].per_node):
            continue
        for n in range(1, min(job.gpus[a].count // tp, math.ceil(sequences / h) - 1) + 1):
            rest = math.ceil((sequences - n * h) / k)
            if 1 <= rest <= job.gpus[b].count // tp:
                found.append((MetisReplicas(a, tp, n, h), MetisReplicas(b, tp, rest, k)))
    return found


def _sums(value_L: Array) -> Array:
    upto = np.concatenate([[0.0], np.cumsum(value_L)])
    order = np.arange(len(upto))
    return np.where(order[:, None] < order, upto[None, :] - upto[:, None], np.inf)


def _graph(job: MetisJob, microbatches: int, *, own: bool) -> StageGraph:
    classes, types = _classes(job, job.batch // microbatches), sorted(job.gpus)
    L, C = len(job.parameters_L), len(classes)
    N = L + 1
    order = np.arange(N)
    inside = order[:, None] < order
    share_NN = np.where(inside, (order[None, :] - order[:, None]) / L, 0.0)
    held_NN = np.where(inside, _sums(job.parameters_L), 0.0)
    times = {key: _sums(one.time_L) for key, one in job.profiles.items()}
    memory = {key: _sums(one.memory_L) for key, one in job.profiles.items()}
    peak, sync, update = np.full((C, N, N), np.inf), np.zeros((C, N, N)), np.zeros((C, N, N))
    end, use = np.zeros((C, N)), np.zeros((C, len(types)), dtype=np.int64)
    total = np.full((C, N, N), np.inf)
    for c, parts in enumerate(classes):
        tp, dp = parts[0].tp, sum(one.count for one in parts)
        fits = inside.copy()
        for one in parts:
            fits &= memory[one.device, one.tp, one.share] <= job.gpus[one.device].memory
            use[c, types.index(one.device)] += one.count * one.tp
        time = np.max([times[one.device, one.tp, one.share] for one in parts], axis=0)
        peak[c] = np.where(fits, time, np.inf)
        total[c] = peak[c]
        beyond = max(job.profiles[one.device, one.tp, one.share].beyond for one in parts)
        total[c, :, L] += microbatches * beyond
        if own:
            shares_NN = held_NN / float(job.parameters_L.sum())
            sync[c] = metis_own_sync(job, parts) * held_NN + job.optimizer / tp * shares_NN
            end[c, 1:L] = metis_own_hop(job, parts)
            continue
        links = metis_links(job, MetisStage((0, L), parts))
        sync[c] = 2.0 * (dp - 1) / dp * held_NN / tp * metis_seconds_per_byte(links.sync)
        update[c] = 2.0 * job.optimizer / tp * share_NN
        elements = max(one.share for one in parts) * job.sequence_length * job.hidden
        end[c, 1:L] = elements * metis_seconds_per_byte(links.after)
    return StageGraph(
        microbatches=microbatches,
        counts_K=np.array([job.gpus[name].count for name in types], dtype=np.int64),
        use_CK=use,
        replica_CK=np.zeros_like(use),
        degree=1,
        peak_CNN=peak,
        total_CNN=total,
        sync_CNN=sync,
        update_CNN=update,
        depth_CNN=np.where(np.isfinite(peak), job.max_stages, 0).astype(np.int64),
        end_CN=end,
        hops=Hops(peak_after=2.0, sum_after=2.0) if own else Hops(sum_after=1.0),
        constant=microbatches * job.generation,
        max_stages=min(job.max_stages, L),
        label=(microbatches, tuple(classes)),
    )


def search_metis_referee(
    job: MetisJob, budget: Budget, *, tolerance: float = 0.0, own: bool = False
) -> tuple[tuple[MetisStage, ...], int, Answer]:
    """Find the plan that is fastest by the formula, or by our own terms (`planner.cost.metis_own`).

    Returns
    -------
    tuple of MetisStage
        The plan's stages.
    int
        Its number of microbatches.
    Answer
        With the iteration's seconds and what was proved.

    Raises
    ------
    InfeasibleError
        If nothing fits; names what binds and the smallest change that would help.
    TimeLimitError
        If the time limit passed without a plan.
    """
    graphs = metis_graphs(job, own=own)
    answer = search_graphs(graphs, time_limit=budget.remaining(), tolerance=tolerance, report=budget.report)
    if answer.graph is None:
        raise metis_without_plan(job, answer, budget.time_limit, partial(metis_graphs, own=own))
    microbatches, classes = graphs[answer.graph].label
    stages = tuple(MetisStage((i, j), classes[c]) for c, i, j in answer.path)
    return stages, microbatches, answer
