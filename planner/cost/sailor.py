"""What Sailor's simulator would say of a training plan: a referee for comparing plans, not a prediction of ours.

``T = (m - 1) max_s z_s + sum_s z_s + max_s u_s + max_s g_s`` with ``m = ceil(batch / (D b))`` and for every stage

* ``z_s``: forward and backward of its layers on the slowest replica, plus its transfers: one to the next stage, one to
  the one before it; the last stage pays its only neighbour twice. (The two published prices fix the first and
  the last stage; of a middle stage they only say that it pays two transfers.)
* a transfer: the output of the stage's last layer, each end by its own fit to a like GPU, the slower end counts;
* ``g_s``: a ring all-reduce over D of the unsplit parameters divided by the smallest TP (at most 4), in buckets of
  500 MB, by the slowest pair of GPU types in the stage at TP 1;
* ``u_s``: the update of the stage's first layer.

Gradients of a group count as if its ranks did not share a network card, and the update as if a stage had one layer:
what Sailor publishes is so priced, and so it is reproduced.

Legend: S stage, L layer.

References
----------
F. Strati et al., "Sailor", SOSP 2025, sections 4 and 5, and the prices of its artifact (MIT).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.sailor_tables import SailorTables
from planner.errors import InputError

if TYPE_CHECKING:
    from planner.cost._types import Array

__all__ = ["SailorPrice", "SailorReplica", "SailorStage", "sailor_memory", "sailor_price", "sailor_transfer"]

_BUCKET: Final = 5e8
_MOST_RINGS: Final = 4
# Bytes per 4-byte parameter: weight, gradient, Adam's two moments, and copies.
_STATE: Final = 24.0 / 4.0
_RESERVE: Final = {1: 2e9}
_RESERVE_TP: Final = 3e9


@dataclass(frozen=True, slots=True)
class SailorReplica:
    """Replicas of a stage that are alike: GPU type, TP, and how many."""

    device: str
    tp: int
    count: int


@dataclass(frozen=True, slots=True)
class SailorStage:
    """``[first, end)`` of the layers, embedding and head counted, and the replicas that hold them."""

    layers: tuple[int, int]
    replicas: tuple[SailorReplica, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SailorPrice:
    """A plan's price.

    Parameters
    ----------
    seconds
        Of an iteration.
    microbatches
        Per iteration.
    stage_S, sync_S, update_S
        Seconds of each stage: a microbatch with its transfers, the gradients' all-reduce, the update.
    """

    seconds: float
    microbatches: int
    stage_S: Array
    sync_S: Array
    update_S: Array


def sailor_transfer(tables: SailorTables, device: str, tp: int, message: float, zone: str) -> float:
    """Seconds that one end takes for a message to a GPU like itself in its zone."""
    fit = tables.zone_links.get((device, tp, device, tp, zone))
    if fit is None:
        raise InputError(f"has no network fit for {device} with TP {tp} in zone {zone}")
    return fit.seconds(message)


def _sync(tables: SailorTables, stage: SailorStage, degree: int, zone: str) -> float:
    whole = float(tables.sizes[1].parameters_L[slice(*stage.layers)].sum())
    left = whole / min(min(one.tp for one in stage.replicas), _MOST_RINGS)
    types = sorted({one.device for one in stage.replicas})
    seconds = 0.0
    while degree > 1 and left > 0:
        part = min(left, _BUCKET) / degree
        slowest = max(tables.zone_links[a, 1, b, 1, zone].seconds(part) for a in types for b in types)
        seconds += 2.0 * (degree - 1) * slowest
        left -= _BUCKET
    return seconds


def sailor_price(
    tables: SailorTables, stages: Sequence[SailorStage], *, microbatch: int, batch: int, zone: str = "us-central1-a"
) -> SailorPrice:
    """Price a plan.

    Parameters
    ----------
    tables
        Of the model.
    stages
        In order; every stage has the same number of replicas.
    microbatch, batch
        Sequences of a microbatch, and of an iteration.
    zone
        Cloud zone that all GPUs are in.

    Raises
    ------
    InputError
        If the stages differ in their number of replicas, or something was not measured.
    """
    degrees = {sum(one.count for one in stage.replicas) for stage in stages}
    if len(degrees) != 1:
        raise InputError(f"has stages of {sorted(degrees)} replicas", expected="the same number in every stage")
    degree = degrees.pop()
    microbatches = math.ceil(batch / (degree * microbatch))
    compute, sync, update, hops = [], [], [], []
    for s, stage in enumerate(stages):
        times = [tables.layer_times(one.device, one.tp, microbatch)[slice(*stage.layers)] for one in stage.replicas]
        compute.append(max(float(one[:, :2].sum()) for one in times))
        update.append(max(float(one[0, 2]) for one in times))
        sync.append(_sync(tables, stage, degree, zone))
        if s + 1 < len(stages):
            message = float(tables.sizes[1].output_L[stage.layers[1] - 1]) * microbatch
            ends = {(one.device, one.tp) for both in (stage, stages[s + 1]) for one in both.replicas}
            hops.append(max(sailor_transfer(tables, *end, message, zone) for end in ends))
    before_S = np.array([0.0, *hops])
    after_S = np.array([*hops, hops[-1] if hops else 0.0])
    stage_S = np.array(compute) + before_S + after_S
    seconds = (microbatches - 1) * float(stage_S.max()) + float(stage_S.sum()) + max(update) + max(sync)
    return SailorPrice(
        seconds=seconds,
        microbatches=microbatches,
        stage_S=stage_S,
        sync_S=np.array(sync),
        update_S=np.array(update),
    )


def sailor_memory(
    tables: SailorTables, stages: Sequence[SailorStage], *, microbatch: int
) -> list[dict[tuple[str, int], float]]:
    """Bytes on a GPU of each stage, by (GPU type, TP), as Sailor's simulator counts them."""
    answer = []
    for s, stage in enumerate(stages):
        held: dict[tuple[str, int], float] = {}
        for one in stage.replicas:
            size = tables.sizes[one.tp]
            state = _STATE * float(size.parameters_L[slice(*stage.layers)].sum())
            activations = float(size.activations_L[slice(*stage.layers)].sum()) * microbatch * (len(stages) - s)
            held[one.device, one.tp] = state + activations + _RESERVE.get(one.tp, _RESERVE_TP)
        answer.append(held)
    return answer
