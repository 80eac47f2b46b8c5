"""What Metis' published formula says of a plan, with every stage priced, both links read, memory counted per GPU.

``T = (B - 1) max t + sum t + B f + max u + max d + sum p + B g`` for B microbatches of the whole batch: ``t`` the
layers of a stage on its slowest replica; ``f`` what the last stage's profile has beyond its layers; ``u = 2 opt / tp``
times the stage's share of the layers; ``d = 2 (dp - 1) / dp`` of its parameters over the data-parallel group's slowest
link; ``p`` its output, in elements, over the link to the next stage; ``g`` the generation of a microbatch. Bandwidths
count 1.048576e9 bytes/s per GB/s, as the formula does. A GPU holds the sum of its layers' memory.

A stage's TP groups stay inside nodes; its gradients cross nodes where it has more GPUs than one. Stages are taken to
be on different nodes where there are several. A referee for comparing plans, not a prediction of ours.

Legend: L layer, S stage.

References
----------
T. Um et al., "Metis: fast automatic distributed training on heterogeneous GPUs", USENIX ATC 2024.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.errors import InputError

if TYPE_CHECKING:
    from planner.cost._types import Array

__all__ = [
    "MetisGpu",
    "MetisJob",
    "MetisLinks",
    "MetisPrice",
    "MetisProfile",
    "MetisReplicas",
    "MetisStage",
    "metis_links",
    "metis_memory",
    "metis_price",
    "metis_seconds_per_byte",
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


@dataclass(frozen=True, slots=True)
class MetisLinks:
    """Bandwidths of a stage in bytes/s: of its gradients, and to the stages before and after it."""

    sync: float
    before: float
    after: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MetisPrice:
    """A plan's price.

    Parameters
    ----------
    seconds
        Of an iteration.
    stage_S, update_S, sync_S, hop_S
        Seconds of each stage: a microbatch, the update, the gradients' all-reduce, the transfer behind it.
    beyond, generation
        Seconds of an iteration: what profiles have beyond their layers, and making microbatches.
    """

    seconds: float
    stage_S: Array
    update_S: Array
    sync_S: Array
    hop_S: Array
    beyond: float
    generation: float


def metis_seconds_per_byte(bandwidth: float) -> float:
    """Seconds of a byte (an element, of activations) as the formula counts bandwidth."""
    return 1.0 / (bandwidth * _GIGA)


def metis_links(job: MetisJob, stage: MetisStage) -> MetisLinks:
    """Links of a stage whose GPUs fill nodes in order, other stages on other nodes."""
    gpus = [job.gpus[one.device] for one in stage.replicas]
    nodes = sum(math.ceil(gpu.count / gpu.per_node) for gpu in job.gpus.values())
    inside, outside = min(gpu.intra for gpu in gpus), min(gpu.inter for gpu in gpus)
    if nodes == 1:
        return MetisLinks(inside, inside, inside)
    width = sum(one.count * one.tp for one in stage.replicas)
    together = len(gpus) == 1 and width <= gpus[0].per_node
    return MetisLinks(inside if together else outside, outside, outside)


def metis_memory(job: MetisJob, stage: MetisStage) -> dict[MetisReplicas, float]:
    """Bytes on each GPU of a stage's replicas."""
    return {
        one: float(job.profiles[one.device, one.tp, one.share].memory_L[slice(*stage.layers)].sum())
        for one in stage.replicas
    }


def metis_price(
    job: MetisJob, stages: Sequence[MetisStage], microbatches: int, links: Sequence[MetisLinks] | None = None
) -> MetisPrice:
    """Price an explicit plan.

    Parameters
    ----------
    job
        What is trained, and on what.
    stages
        In order; they need neither hold all layers nor fit.
    microbatches
        Of the whole batch.
    links
        Of each stage; None: as `metis_links` takes them.

    Raises
    ------
    InputError
        If a replica was not profiled.
    """
    L = len(job.parameters_L)
    for s, stage in enumerate(stages):
        for one in stage.replicas:
            if (one.device, one.tp, one.share) not in job.profiles:
                known = sorted(f"TP {tp} microbatch {share}" for name, tp, share in job.profiles if name == one.device)
                raise InputError(
                    f"no profile of {one.device} with TP {one.tp} and a microbatch of {one.share}",
                    field=f"stage {s}",
                    expected=f"one of {', '.join(known) or 'none at all'}",
                )
    links = [metis_links(job, stage) for stage in stages] if links is None else links
    compute, update, sync, beyond = [], [], [], 0.0
    before, after = [], []
    for stage, link in zip(stages, links, strict=True):
        span, replicas = slice(*stage.layers), stage.replicas
        tp, dp = min(one.tp for one in replicas), sum(one.count for one in replicas)
        profiles = [job.profiles[one.device, one.tp, one.share] for one in replicas]
        compute.append(max(float(one.time_L[span].sum()) for one in profiles))
        update.append(2.0 * job.optimizer / tp * (stage.layers[1] - stage.layers[0]) / L)
        moved = 2.0 * (dp - 1) / dp * float(job.parameters_L[span].sum()) / tp
        sync.append(moved * metis_seconds_per_byte(link.sync))
        elements = max(one.share for one in replicas) * job.sequence_length * job.hidden
        before.append(elements * metis_seconds_per_byte(link.before))
        after.append(elements * metis_seconds_per_byte(link.after))
        beyond = max(one.beyond for one in profiles)
    # a boundary is as slow as its slower end
    hop_S = np.array([*map(max, after[:-1], before[1:]), 0.0])
    stage_S, update_S, sync_S = np.array(compute), np.array(update), np.array(sync)
    passes = (microbatches - 1) * float(stage_S.max()) + float(stage_S.sum())
    tail = float(update_S.max()) + float(sync_S.max()) + float(hop_S.sum())
    return MetisPrice(
        seconds=passes + tail + microbatches * (beyond + job.generation),
        stage_S=stage_S,
        update_S=update_S,
        sync_S=sync_S,
        hop_S=hop_S,
        beyond=microbatches * beyond,
        generation=microbatches * job.generation,
    )
