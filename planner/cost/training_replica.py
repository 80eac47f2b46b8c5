"""One placed stage of a training plan, priced on its GPUs: of its replicas the slowest, of its GPUs the tightest.

Legend: P part of a layer, K layer kind, B distinct numbers of sequences among the replicas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from planner.cost.device import DeviceOperators
from planner.cost.layer import PARTS
from planner.cost.network import Collective
from planner.cost.training_attention import has_flash_attention
from planner.cost.training_experts import expert_parameters_K
from planner.cost.training_links import Groups, tensor_parallel_collective
from planner.cost.training_memory import (
    GRADIENT_BYTES,
    WEIGHT_BYTES,
    activations,
    end_parameters,
    layer_parameters_K,
    memory_limit,
    microbatches_in_flight,
    optimizer_bytes,
    state_bytes,
    unsharded_bytes,
)
from planner.cost.training_options import PLAIN, RunOptions
from planner.cost.training_stage import StageWork, stage_work

if TYPE_CHECKING:
    from planner.cluster import Cluster, DeviceProfile, Link
    from planner.cost._types import Array, IntArray
    from planner.engine import EngineProfile
    from planner.model import ModelSpec
    from planner.plan import Provenance, Schedule, TrainingJob

__all__ = [
    "PlacedTrainingStage",
    "PricedStage",
    "StageLike",
    "UpdateTerms",
    "dp_groups",
    "price_stage",
    "sharding_seconds",
    "update_terms",
]

# Activations are counted tensor by tensor; allocators round up and fragment.
_ACTIVATION_ERROR: Final = 0.1


class StageLike(Protocol):
    """What pricing needs to know of a stage; `planner.plan.TrainingStage` has it."""

    @property
    def devices(self) -> tuple[str, ...]:
        """GPUs: dp groups of tp, one group after the other."""

    @property
    def layers(self) -> tuple[int, int]:
        """``[first, end)``."""

    @property
    def tp(self) -> int:
        """Tensor-parallel degree."""

    @property
    def dp(self) -> int:
        """Data-parallel degree."""

    @property
    def microbatch_shares(self) -> tuple[int, ...]:
        """Sequences of a microbatch that each group takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedTrainingStage:
    """A stage before it is priced; fields as in `planner.plan.TrainingStage`."""

    devices: tuple[str, ...]
    layers: tuple[int, int]
    tp: int
    dp: int
    microbatch_shares: tuple[int, ...]


def dp_groups(stage: StageLike) -> list[tuple[str, ...]]:
    """Tensor-parallel groups of a stage."""
    return [tuple(stage.devices[g * stage.tp : (g + 1) * stage.tp]) for g in range(stage.dp)]


@dataclass(frozen=True, slots=True)
class UpdateTerms:
    """Seconds of gradient sync and optimizer on one stage, affine in its parameters per GPU.

    Parameters
    ----------
    sync_fixed, sync_slope
        Of the gradient sync: seconds, and seconds per parameter.
    optimizer_slope
        Of the optimizer: seconds per parameter.
    """

    sync_fixed: float
    sync_slope: float
    optimizer_slope: float

    @property
    def slope(self) -> float:
        """Seconds per parameter of both."""
        return self.sync_slope + self.optimizer_slope


def update_terms(device: DeviceProfile, ring: Collective, job: TrainingJob) -> UpdateTerms:
    """Gradient sync and optimizer of a stage whose data-parallel groups form `ring`.

    The optimizer reads gradient and state and writes state and weight.
    """
    moved = GRADIENT_BYTES + 2.0 * optimizer_bytes(job) + WEIGHT_BYTES
    fixed = slope = 0.0
    if ring.size > 1:
        # an all-reduce of the gradients passes the ring twice; so do reduce-scatter of these and all-gather of weights;
        # ZeRO 2 scatters gradients, and ZeRO 3 gathers weights too, with every microbatch (`sharding_seconds`)
        payload = (2.0 * GRADIENT_BYTES, GRADIENT_BYTES + WEIGHT_BYTES, WEIGHT_BYTES, 0.0)[job.zero_stage]
        fixed = ring.latency if payload else 0.0
        slope = payload * (ring.size - 1) / ring.size / ring.bandwidth
        moved = moved if job.zero_stage == 0 else moved / ring.size
    per_byte = float(DeviceOperators(device).elementwise(np.array(1.0)))
    return UpdateTerms(fixed, slope, moved * per_byte)


def sharding_seconds(ring: Collective, parameters: float, engine: EngineProfile, job: TrainingJob) -> float:
    """What stays in view, per microbatch, of scattering gradients and gathering weights twice, all in 16 bit."""
    if ring.size == 1 or job.zero_stage < 2:
        return 0.0
    times = 3.0 if job.zero_stage == 3 else 1.0
    moved = times * WEIGHT_BYTES * parameters * (ring.size - 1) / ring.size
    return engine.training.sharding.value * moved / ring.bandwidth


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PricedStage:
    """A stage with its price.

    Parameters
    ----------
    seconds, forward
        One microbatch, forward and backward, on the slowest replica; how much of that is the forward pass.
    parts_P, error_P, provenance_P
        Seconds of its layers part by part, and what they rest on.
    spent_X
        Seconds of one microbatch by what they are spent on (`planner.cost.training_breakdown.MICROBATCH_PARTS`).
    memory, doubt, limit
        Bytes on the tightest GPU; how many of them are uncertain; how many the engine may use.
    sync, optimizer
        Seconds of the slowest replica.
    sync_error, optimizer_error
        Relative errors of these.
    """

    seconds: float
    forward: float
    parts_P: Array
    error_P: tuple[float, ...]
    provenance_P: tuple[Provenance, ...]
    spent_X: Array
    memory: float
    doubt: float
    limit: float
    sync: float
    optimizer: float
    sync_error: float
    optimizer_error: float

    @property
    def update(self) -> float:
        """Gradient sync and optimizer, one after the other."""
        return self.sync + self.optimizer

    def worse_of(self, other: PricedStage) -> PricedStage:
        """The slower of two replicas, with the tighter memory and the longer update of both."""
        slow = other if other.seconds > self.seconds else self
        tight = other if other.memory / other.limit > self.memory / self.limit else self
        late = other if other.update > self.update else self
        return replace(
            slow,
            memory=tight.memory,
            doubt=tight.doubt,
            limit=tight.limit,
            sync=late.sync,
            optimizer=late.optimizer,
            sync_error=late.sync_error,
            optimizer_error=late.optimizer_error,
        )


def price_stage(
    model: ModelSpec,
    cluster: Cluster,
    engine: EngineProfile,
    job: TrainingJob,
    schedule: Schedule,
    stage: StageLike,
    *,
    position: int,
    stages: int,
    ring: Collective,
    known: dict[tuple[object, ...], StageWork],
    kinds_K: IntArray | None = None,
    options: RunOptions = PLAIN,
    context_link: Link | None = None,
    expert_exchange: Collective | None = None,
    expert_ring: Collective | None = None,
) -> PricedStage:
    """Price one stage on its GPUs.

    Parameters
    ----------
    model
        As it is trained (`planner.cost.training_stage.mixed_precision`).
    cluster, engine, job, schedule
        As in the plan.
    stage, position, stages
        The stage, its number from 0, and how many there are.
    ring
        Its data-parallel collective, see `planner.cost.training_links.gradient_rings`.
    known
        Work on equal groups, kept from one call to the next.
    kinds_K
        Layers of each kind that it holds; None: those of `stage.layers`.
    options, context_link
        Formats and overlaps of the run, and the link between neighbours of a context-parallel group.
    expert_exchange, expert_ring
        All-to-all among the groups that hold different experts, and the collective of those that hold the same; None
        without expert parallelism.
    """
    first, last = position == 0, position == stages - 1
    if kinds_K is None:
        kinds_K = np.bincount(np.asarray(model.kind_of_layer)[slice(*stage.layers)], minlength=len(model.kinds))
    each_K = layer_parameters_K(model, stage.tp)
    parameters = float(kinds_K @ each_K)
    parameters += end_parameters(model, stage.tp, first=first, last=last)
    apart = 0.0  # parameters of experts, where they lie apart
    if expert_exchange is not None:
        expert_K = expert_parameters_K(model, stage.tp)
        parameters -= float(kinds_K @ expert_K)
        apart = float(kinds_K @ expert_K) / schedule.expert_parallel
        each_K = each_K - expert_K * (1.0 - 1.0 / schedule.expert_parallel)
    largest = float(each_K[kinds_K > 0].max(initial=0.0))
    state = state_bytes(job, stage.dp, options) * parameters + unsharded_bytes(job, stage.dp, largest)
    state += state_bytes(job, stage.dp // schedule.expert_parallel, options) * apart if apart else 0.0
    sizes = sorted(set(stage.microbatch_shares))
    sequences_B = np.array(sizes, dtype=float)
    in_flight = microbatches_in_flight(
        schedule.microbatches, position=position, stages=stages, chunks=schedule.virtual_stages
    )
    priced: dict[tuple[object, ...], PricedStage] = {}
    for key, group, share in _distinct(cluster, dp_groups(stage), stage.microbatch_shares):
        device = cluster.device_of(group[0])
        flash = has_flash_attention(device) if options.flash_attention is None else options.flash_attention
        held = activations(
            model,
            stage.tp,
            sequences_B=sequences_B,
            sequence_length=job.sequence_length / schedule.context_parallel,
            recompute=schedule.recompute,
            sequence_parallel=schedule.sequence_parallel,
            flash_attention=flash,
            expert_parallel=schedule.expert_parallel,
            stored=options.stored,
        )
        held_B = in_flight * (kinds_K @ held.saved_KB) + held.working_B + (held.logits_B if last else 0.0)
        if (*key, *sizes) not in known:
            known[(*key, *sizes)] = stage_work(
                model,
                device,
                tensor_parallel_collective(cluster, group),
                engine,
                sequences_B=sequences_B,
                sequence_length=job.sequence_length,
                recompute=schedule.recompute,
                sequence_parallel=schedule.sequence_parallel,
                options=options,
                context_parallel=schedule.context_parallel,
                context_link=context_link,
                expert_exchange=expert_exchange,
            )
        work, column = known[(*key, *sizes)], sizes.index(share)
        ends = (work.first_B[column] if first else 0.0) + (work.last_B[column] if last else 0.0)
        forward = float(kinds_K @ work.forward_PKB[:, :, column].sum(axis=0)) + kinds_K.sum() * work.overhead[0]
        forward += (work.first_forward_B[column] if first else 0.0) + (work.last_forward_B[column] if last else 0.0)
        terms = update_terms(device, ring, job)
        gathered = sharding_seconds(ring, parameters, engine, job)
        shown = engine.training.gradient_sync.value if options.overlap else 1.0
        shown *= 0.0 if options.frozen_weights else 1.0
        sync = shown * (terms.sync_fixed + terms.sync_slope * parameters)
        optimizer = terms.optimizer_slope * parameters
        if expert_ring is not None:
            theirs = update_terms(device, expert_ring, job)
            gathered += sharding_seconds(expert_ring, apart, engine, job)
            sync += shown * (theirs.sync_fixed + theirs.sync_slope * apart)
            optimizer += theirs.optimizer_slope * apart
        doubt = _ACTIVATION_ERROR * float(held_B[column])
        doubt += engine.reserved_memory.value * (engine.reserved_memory.error or 0.0)
        seconds = float(kinds_K @ work.layer_KB[:, column] + ends) + gathered
        priced[(*key, share)] = PricedStage(
            seconds=seconds,
            # one of ZeRO 3's two gathers; gradients are scattered behind the backward pass
            forward=float(forward) + (gathered / 3.0 if job.zero_stage == 3 else 0.0),
            spent_X=_spent_X(work, kinds_K, column, seconds, gathered),
            parts_P=(work.forward_PKB + work.backward_PKB)[:, :, column] @ kinds_K,
            error_P=work.error_P,
            provenance_P=work.provenance_P,
            memory=state + float(held_B[column]) + engine.reserved_memory.value,
            doubt=doubt,
            limit=memory_limit(device, engine),
            sync=sync,
            optimizer=0.0 if options.frozen_weights else optimizer,
            sync_error=ring.error if ring.size > 1 else 0.0,
            optimizer_error=device.efficiency.elementwise.error or 0.0,
        )
    answer, *others = priced.values()
    for other in others:
        answer = answer.worse_of(other)
    return answer


def _spent_X(work: StageWork, kinds_K: IntArray, column: int, seconds: float, gathered: float) -> Array:
    """Seconds of one microbatch by what they are spent on; what is nothing else is compute."""
    again_P = work.recompute_PKB[:, :, column] @ kinds_K
    ring, sends = float(work.ring_KB[:, column] @ kinds_K), float(work.sends_KB[:, column] @ kinds_K)
    reduce = PARTS.index("all_reduce")
    collectives = float((work.forward_PKB + work.backward_PKB)[reduce, :, column] @ kinds_K)
    recomputation = float(again_P.sum()) + work.again * work.overhead[0] * float(kinds_K.sum())
    tensor = collectives - float(again_P[reduce]) - ring - sends
    parts = [recomputation, tensor, ring, sends, gathered]
    return np.array([seconds - sum(parts), *parts])


def _distinct(
    cluster: Cluster, groups: Groups, shares: Sequence[int]
) -> list[tuple[tuple[object, ...], tuple[str, ...], int]]:
    """One group for each GPU type, kind of group and share, with a key that says which."""
    found: dict[tuple[object, ...], tuple[tuple[object, ...], tuple[str, ...], int]] = {}
    for group, share in zip(groups, shares, strict=True):
        nodes = [gpu.rpartition("/")[0] for gpu in group]
        node_class = cluster.class_of_node(nodes[0])
        alike = node_class.intra_matrix is None and len(set(nodes)) == 1
        key: tuple[object, ...] = (node_class.name, len(group), () if alike else group)
        found.setdefault((*key, share), (key, group, share))
    return list(found.values())
