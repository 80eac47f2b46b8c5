"""Why a training job has no plan: the stage that does not fit, with its numbers, and what would help."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from planner.cost.memory import tensor_parallel_fault
from planner.errors import InfeasibleError
from planner.partition import StageCosts, partition_layers
from planner.search.stage_classes import StageClasses
from planner.search.training_changes import helpful_change
from planner.search.training_families import Family
from planner.search.training_fits import has_a_plan
from planner.units import format_bytes

if TYPE_CHECKING:
    from planner.cost._types import Array, IntArray
    from planner.search.problem import TrainingProblem

__all__ = ["misfit", "no_plan"]

# Families looked at, those with most memory first, and candidates of each, those with most stages first.
_FAMILIES, _CANDIDATES = 64, 32


def no_plan(
    stages: StageClasses, tried: Sequence[Family], fits: Callable[[TrainingProblem], bool] = has_a_plan
) -> InfeasibleError:
    """Make the error for a job that no candidate fits.

    Parameters
    ----------
    stages
        Its kinds of stage.
    tried
        Its families; none of their candidates fits.
    fits
        Whether a changed job would have a plan, as the search that failed sees it.
    """
    problem = stages.problem
    if not stages.classes:
        fault = tensor_parallel_fault(problem.model, 1)
        return InfeasibleError(f"{problem.model.name} cannot be divided at all: {fault}")
    text = f"{problem.model.name} does not fit {problem.cluster.name}"
    near = _closest(stages, tried)
    if near is None:
        return InfeasibleError(f"{text}: no stage can be laid out on it")
    change = helpful_change(problem, fits)
    return InfeasibleError(f"{text}: even {near}", hint=None if change is None else change.words)


def misfit(stages: StageClasses, tried: Sequence[Family]) -> str | None:
    """Say by how much the closest of some families does not fit; None if it does, or if there is none."""
    near = _closest(stages, tried)
    return None if near is None or near.ratio <= 1 else str(near)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Near:
    """The fullest stage of the candidate that comes closest to fitting.

    Parameters
    ----------
    needed, limit
        Bytes per GPU.
    stage, stages, layers, group
        Its number of how many, what it holds, and on what: ``2xt4``.
    """

    needed: float
    limit: float
    stage: int
    stages: int
    layers: int
    group: str

    @property
    def ratio(self) -> float:
        return self.needed / self.limit

    def __str__(self) -> str:
        return (
            f"with full recomputation and one sequence per microbatch, stage {self.stage} of {self.stages}"
            f" ({self.layers} layers) on {self.group} needs {format_bytes(self.needed)} per GPU of"
            f" {format_bytes(self.limit)}"
        )


def _closest(stages: StageClasses, tried: Sequence[Family]) -> _Near | None:
    """Over the families with most memory, the candidate whose fullest GPU is the least too full."""
    by_memory = sorted(tried, key=lambda family: -_memory(stages, family))[:_FAMILIES]
    return min((_closest_of(stages, family) for family in by_memory), key=lambda near: near.ratio, default=None)


def _closest_of(stages: StageClasses, family: Family) -> _Near:
    counts_CJ = family.counts_CJ(stages)
    counts_CJ = counts_CJ[np.argsort(-counts_CJ.sum(axis=1), kind="stable")[:_CANDIDATES]]
    held = _held(stages, family, counts_CJ)
    found = partition_layers(held.fullness(), "bottleneck")
    row = int(np.argmin(found.value_B))
    bounds, depth = found.bounds_BS1[row], int(held.stages_B[row])
    needed_S = [
        float(held.memory_BSL[row, s, bounds[s] : bounds[s + 1]].sum() + held.fixed_BS[row, s]) for s in range(depth)
    ]
    worst = int(np.argmax(needed_S / held.limit_BS[row, :depth]))
    which = int(np.searchsorted(np.cumsum(counts_CJ[row]), worst, side="right"))
    one = stages.classes[family.kinds[which]]
    device = stages.problem.cluster.classes[one.node_class].device
    return _Near(
        needed=needed_S[worst],
        limit=one.limit,
        stage=worst,
        stages=depth,
        layers=int(bounds[worst + 1] - bounds[worst]),
        group=f"{one.tp}x{device.name}",
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Held:
    """Bytes per GPU of pipelines of a family: of each layer on each stage, of what a stage holds anyway, and limits.

    Stages that a pipeline does not have are padding.
    """

    stages_B: IntArray
    memory_BSL: Array
    fixed_BS: Array
    limit_BS: Array

    def fullness(self) -> StageCosts:
        """Memory as a share of the limit, to be balanced."""
        return StageCosts(
            layer_BSL=self.memory_BSL / self.limit_BS[:, :, None],
            fixed_BS=self.fixed_BS / self.limit_BS,
            stages_B=self.stages_B,
        )


def _held(stages: StageClasses, family: Family, counts_CJ: IntArray) -> _Held:
    """Memory with one sequence per microbatch and full recomputation."""
    depth_B, full = counts_CJ.sum(axis=1), stages.recomputes.index("full")
    position_S = np.arange(int(depth_B.max()))
    real_BS = position_S < depth_B[:, None]
    which_BS = (position_S[:, None] >= np.cumsum(counts_CJ, axis=1)[:, None, :]).sum(axis=2)
    which_BS = np.minimum(which_BS, len(family.kinds) - 1)
    classes, state = [stages.classes[j] for j in family.kinds], float(stages.state_D[family.degree])
    microbatches = int(stages.microbatches_DM[family.degree, 0])

    def of(values: list[Array] | list[float]) -> Array:
        return np.asarray(np.array(values)[which_BS])

    first_BS, last_BS = np.broadcast_to(position_S == 0, real_BS.shape), position_S == depth_B[:, None] - 1
    ends_BS = np.where(last_BS, of([one.last_parameters for one in classes]), 0.0)
    both_BS, only_BS = of([one.both_parameters for one in classes]), of([one.first_parameters for one in classes])
    ends_BS = np.where(first_BS, np.where(last_BS, both_BS, only_BS), ends_BS)
    in_flight_BS = np.minimum(microbatches, depth_B[:, None] - position_S)
    memory_BSK = state * of([one.parameters_K for one in classes])
    memory_BSK = memory_BSK + in_flight_BS[:, :, None] * of([one.saved_RMK[full, 0] for one in classes])
    fixed_BS = stages.problem.engine.reserved_memory.value + of([float(one.working_RM[full, 0]) for one in classes])
    fixed_BS = fixed_BS + state * ends_BS + last_BS * of([float(one.logits_M[0]) for one in classes])
    return _Held(
        stages_B=depth_B,
        memory_BSL=np.where(real_BS[:, :, None], memory_BSK, 1.0)[:, :, np.asarray(stages.model.kind_of_layer)],
        fixed_BS=np.where(real_BS, fixed_BS, 0.0),
        limit_BS=np.where(real_BS, of([one.limit for one in classes]), 1.0),
    )


def _memory(stages: StageClasses, family: Family) -> float:
    """Bytes that a family's groups offer to one copy of the model's state."""
    return sum(
        stages.most_stages(j, family.degree) * stages.classes[j].tp * stages.classes[j].limit for j in family.kinds
    ) / float(stages.state_D[family.degree])
