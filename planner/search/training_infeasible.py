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
from planner.search.training_batch import Batch, make_batch
from planner.search.training_candidates import MAX_NODE_CLASSES, Candidates, Family
from planner.search.training_changes import helpful_change
from planner.search.training_fits import has_a_plan
from planner.units import format_bytes

if TYPE_CHECKING:
    from planner.cost._types import IntArray
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
    batch = make_batch(stages, _smallest(family, counts_CJ, stages.recomputes.index("full")))
    found = partition_layers(_fullness(batch), "bottleneck")
    row = int(np.argmin(found.value_B))
    bounds, depth = found.bounds_BS1[row], int(batch.stages_B[row])
    needed_S = [
        float(batch.memory_BSK[row, s][batch.kind_L[bounds[s] : bounds[s + 1]]].sum() + batch.memory_fixed_BS[row, s])
        for s in range(depth)
    ]
    worst = int(np.argmax(needed_S / batch.limit_BS[row, :depth]))
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


def _smallest(family: Family, counts_CJ: IntArray, recompute: int) -> Candidates:
    """Candidates with one sequence per microbatch and full recomputation."""
    rows, kinds = counts_CJ.shape
    kind_BJ = np.full((rows, MAX_NODE_CLASSES), -1)
    kind_BJ[:, :kinds] = family.kinds
    count_BJ = np.zeros_like(kind_BJ)
    count_BJ[:, :kinds] = counts_CJ
    return Candidates(
        kind_BJ=kind_BJ,
        count_BJ=count_BJ,
        degree_B=np.full(rows, family.degree),
        recompute_B=np.full(rows, recompute),
        size_B=np.zeros(rows, dtype=np.int64),
        bound_B=np.zeros(rows),
        update_bound_B=np.zeros(rows),
    )


def _fullness(batch: Batch) -> StageCosts:
    """Memory as a share of the limit, to be balanced."""
    limit_BS = np.where(batch.real_BS, batch.limit_BS, 1.0)
    return StageCosts(
        layer_BSL=batch.memory_BSK[:, :, batch.kind_L] / limit_BS[:, :, None],
        fixed_BS=batch.memory_fixed_BS / limit_BS,
        stages_B=batch.stages_B,
    )


def _memory(stages: StageClasses, family: Family) -> float:
    """Bytes that a family's groups offer to one copy of the model's state."""
    return sum(
        stages.most_stages(j, family.degree) * stages.classes[j].tp * stages.classes[j].limit for j in family.kinds
    ) / float(stages.state_D[family.degree])
