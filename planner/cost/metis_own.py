"""Our own terms on Metis' profiles: measured layers, and links, updates and order of things as `planner.cost.training`.

``T = (B - 1) max z + sum z + max (g + u) + B (f + generation)`` with, for every stage,

* ``z = t + 2 h``: its layers on the slowest replica, and the way to the next stage, activations there and gradients
  back. Numbers have two bytes; every rank of every replica on a node sends its own copy over the node's network;
* ``g``: a ring all-reduce of the gradients. The rings of all ranks of a group share the node's network, so that TP
  makes them no faster there;
* ``u``: its share of the parameters of one update, divided by TP, behind its own gradients.

Bandwidths are bytes per second as the clusterfile means them. Memory is what the profiles hold: they do not say how
much of it is activations, so microbatches in flight beyond the profiled one are not counted.

Legend: S stage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from planner.cost.metis import MetisJob, MetisPrice, MetisReplicas, MetisStage

__all__ = ["metis_own_hop", "metis_own_price", "metis_own_sync"]

_NUMBER_BYTES: Final = 2.0


def _nodes(job: MetisJob) -> int:
    return sum(math.ceil(gpu.count / gpu.per_node) for gpu in job.gpus.values())


def metis_own_hop(job: MetisJob, replicas: Sequence[MetisReplicas]) -> float:
    """Seconds of a microbatch's activations to or from a stage, one way, as far as that stage decides it."""
    slowest = 0.0
    for one in replicas:
        gpu = job.gpus[one.device]
        size = _NUMBER_BYTES * one.share * job.sequence_length * job.hidden
        if _nodes(job) == 1:
            slowest = max(slowest, size / gpu.intra)
        else:
            together = min(one.count, gpu.per_node // one.tp)
            slowest = max(slowest, size * one.tp * together / gpu.inter)
    return slowest


def metis_own_sync(job: MetisJob, replicas: Sequence[MetisReplicas]) -> float:
    """Seconds of a gradient all-reduce per byte of a stage's parameters."""
    dp, tp = sum(one.count for one in replicas), replicas[0].tp
    gpus = [job.gpus[one.device] for one in replicas]
    inside = len(gpus) == 1 and dp * tp <= gpus[0].per_node
    rings = 2.0 * (dp - 1) / dp
    if inside or _nodes(job) == 1:
        return rings / tp / min(gpu.intra for gpu in gpus)
    return rings / min(gpu.inter for gpu in gpus)


def metis_own_price(job: MetisJob, stages: Sequence[MetisStage], microbatches: int) -> MetisPrice:
    """Price an explicit plan; parameters as in `planner.cost.metis.metis_price`. `hop_S` is one way."""
    work, sync, update, end, beyond = [], [], [], [], 0.0
    whole = float(job.parameters_L.sum())
    for stage in stages:
        span = slice(*stage.layers)
        profiles = [job.profiles[one.device, one.tp, one.share] for one in stage.replicas]
        work.append(max(float(one.time_L[span].sum()) for one in profiles))
        held = float(job.parameters_L[span].sum())
        sync.append(metis_own_sync(job, stage.replicas) * held)
        update.append(job.optimizer / stage.replicas[0].tp * held / whole)
        end.append(metis_own_hop(job, stage.replicas))
        beyond = max(one.beyond for one in profiles)
    hop_S = np.array([*map(max, end[:-1], end[1:]), 0.0])
    stage_S, sync_S, update_S = np.array(work), np.array(sync), np.array(update)
    cycle_S = stage_S + 2.0 * hop_S
    passes = (microbatches - 1) * float(cycle_S.max()) + float(cycle_S.sum())
    return MetisPrice(
        seconds=passes + float((sync_S + update_S).max()) + microbatches * (beyond + job.generation),
        stage_S=stage_S,
        update_S=update_S,
        sync_S=sync_S,
        hop_S=hop_S,
        beyond=microbatches * beyond,
        generation=microbatches * job.generation,
    )
