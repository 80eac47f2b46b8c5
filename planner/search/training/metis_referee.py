"""Plans under Metis' published cost, with every stage priced, both links read and memory counted per GPU.

``T = (B - 1) max t + sum t + B f + max u + max d + sum p + B g`` for B microbatches of the whole batch: ``t`` the
layers of a stage on its slowest replica; ``f`` what the last stage's profile has beyond its layers; ``u = 2 opt / tp``
times the stage's share of the layers; ``d = 2 (dp - 1) / dp`` of its parameters over the data-parallel group's slowest
link; ``p`` its output, in elements, over the link to the next stage; ``g`` the generation of a microbatch. Bandwidths
count 1.048576e9 bytes/s per GB/s, as the formula does. A GPU holds the sum of its layers' memory.

A stage's TP groups stay inside nodes; its gradients cross nodes where it has more GPUs than one. Stages are taken to
be on different nodes where there are several.

Legend: C class, K GPU type, L layer, N layer boundary.

References
----------
T. Um et al., "Metis: fast automatic distributed training on heterogeneous GPUs", USENIX ATC 2024.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.errors import InfeasibleError
from planner.search.training.cells import Answer, search_graphs
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

_GIGA: Final = 1e3 * 2.0**20 / 1e9  # bytes/s that count as one byte/s of bandwidth


@dataclass(frozen=True, slots=True, eq=False)
class MetisProfile:
    """One profile: seconds and bytes of each layer, and seconds of forward and backward beyond the layers."""

    time_L: Array
    memory_L: Array
    beyond: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MetisGpu:
    """GPUs of one type: how many, how many a node, bytes of each, bandwidths in bytes/s."""

    count: int
    per_node: int
    memory: float
    intra: float
    inter: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MetisJob:
    """What to train, and where.

    Parameters
    ----------
    gpus
        By type.
    profiles
        By (type, TP, microbatch of a replica).
    parameters_L
        Bytes of each layer, not split.
    optimizer, generation
        Seconds of the whole model's update at TP 1, and of making a microbatch.
    batch, sequence_length, hidden
        Sequences of an iteration, their tokens, and the width of activations.
    """

    gpus: Mapping[str, MetisGpu]
    profiles: Mapping[tuple[str, int, int], MetisProfile]
    parameters_L: Array
    optimizer: float
    generation: float
    batch: int
    sequence_length: int
    hidden: int
    max_stages: int = 16


@dataclass(frozen=True, slots=True, order=True)
class MetisReplicas:
    """Replicas of a stage that are alike: GPU type, TP, how many, sequences of a microbatch on each."""

    device: str
    tp: int
    count: int
    share: int


@dataclass(frozen=True, slots=True)
class MetisStage:
    """``[first, end)`` of the layers and the replicas that hold them."""

    layers: tuple[int, int]
    replicas: tuple[MetisReplicas, ...]


_Class = tuple[MetisReplicas, ...]


def metis_graphs(job: MetisJob) -> list[StageGraph]:
    """One stage graph for every number of microbatches that divides the batch."""
    return [_graph(job, B) for B in range(1, job.batch + 1) if job.batch % B == 0 and _classes(job, job.batch // B)]


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


def _graph(job: MetisJob, microbatches: int) -> StageGraph:
    classes, types = _classes(job, job.batch // microbatches), sorted(job.gpus)
    L, C = len(job.parameters_L), len(classes)
    N = L + 1
    nodes = sum(math.ceil(gpu.count / gpu.per_node) for gpu in job.gpus.values())
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
        gpus = [job.gpus[one.device] for one in parts]
        together = len(parts) == 1 and dp * tp <= gpus[0].per_node
        slowest = min(gpu.intra if together else gpu.inter for gpu in gpus) if nodes > 1 else min(g.intra for g in gpus)
        sync[c] = 2.0 * (dp - 1) / dp * held_NN / tp / (slowest * _GIGA)
        update[c] = 2.0 * job.optimizer / tp * share_NN
        link = min(gpu.inter if nodes > 1 else gpu.intra for gpu in gpus)
        elements = max(one.share for one in parts) * job.sequence_length * job.hidden
        end[c, 1:L] = elements / (link * _GIGA)
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
        hops=Hops(sum_after=1.0),
        constant=microbatches * job.generation,
        max_stages=min(job.max_stages, L),
        label=(microbatches, tuple(classes)),
    )


def search_metis_referee(
    job: MetisJob, budget: Budget, *, tolerance: float = 0.0
) -> tuple[tuple[MetisStage, ...], int, Answer]:
    """Find the plan that is fastest by the formula.

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
        If nothing fits.
    """
    graphs = metis_graphs(job)
    answer = search_graphs(graphs, time_limit=budget.remaining(), tolerance=tolerance, report=budget.report)
    if answer.graph is None:
        raise InfeasibleError(
            "no plan fits the GPUs' memory" if answer.closed else f"no plan within {budget.time_limit:g} s",
            hint="profiles with a higher TP or a smaller microbatch",
        )
    microbatches, classes = graphs[answer.graph].label
    stages = tuple(MetisStage((i, j), classes[c]) for c, i, j in answer.path)
    return stages, microbatches, answer
