"""Why a training job has no plan: the stage that does not fit, with its numbers, and what would help."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from planner.cost.memory import tensor_parallel_fault
from planner.cost.training_memory import state_bytes
from planner.errors import InfeasibleError
from planner.partition import StageCosts, partition_layers
from planner.search.stage_classes import StageClass, StageClasses
from planner.search.training_batch import Batch, make_batch
from planner.search.training_candidates import MAX_NODE_CLASSES, Candidates, Family
from planner.units import format_bytes

if TYPE_CHECKING:
    from planner.cost._types import IntArray

__all__ = ["misfit", "no_plan"]

# Families looked at, those with most memory first, and candidates of each, those with most stages first.
_FAMILIES, _CANDIDATES = 64, 32


def no_plan(stages: StageClasses, tried: Sequence[Family]) -> InfeasibleError:
    """Make the error for a job that no candidate fits.

    Parameters
    ----------
    stages
        Its kinds of stage.
    tried
        Its families; none of their candidates fits.
    """
    problem = stages.problem
    if not stages.classes:
        fault = tensor_parallel_fault(problem.model, 1)
        return InfeasibleError(f"{problem.model.name} cannot be divided at all: {fault}")
    text = f"{problem.model.name} does not fit {problem.cluster.name}"
    near = _closest(stages, tried)
    if near is None:
        return InfeasibleError(f"{text}: no stage can be laid out on it")
    return InfeasibleError(f"{text}: even {near}", hint=_hint(stages, tried))


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


def _fits(stages: StageClasses, tried: Sequence[Family]) -> bool:
    near = _closest(stages, tried)
    return near is not None and near.ratio <= 1


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


def _hint(stages: StageClasses, tried: Sequence[Family]) -> str | None:
    """Name the smallest change that would help, the cheapest kind first."""
    problem = stages.problem
    if problem.job.zero_stage == 0:
        job = problem.job.model_copy(update={"zero_stage": 1})
        if _fits(StageClasses(replace(problem, job=job), stages.sizes, stages.max_stages), tried):
            return "ZeRO 1 (--zero 1), which divides the optimizer state over data parallelism"
    hints = []
    largest = max(
        range(len(problem.cluster.classes)),
        key=lambda c: problem.cluster.classes[c].device.memory.value * problem.cluster.classes[c].gpus_per_node,
    )
    needed = [more for tp in _degrees(stages) if (more := _more_nodes(stages, largest, tp)) is not None]
    if needed:
        nodes, depth = min(needed)
        what = []
        if nodes:
            each = "node" if nodes == 1 else "nodes"
            what.append(f"about {nodes} more {each} like those of {problem.cluster.classes[largest].name}")
        if depth > stages.max_stages:
            what.append(f"up to {depth} stages (--max-stages {depth})")
        hints += [" with ".join(what)] if what else []
    if _fits(_without_activations(stages), tried):
        hints.append("shorter sequences")
    return ", or ".join(hints) or None


def _without_activations(stages: StageClasses) -> StageClasses:
    bare = copy(stages)
    bare.classes = tuple(
        replace(one, saved_RMK=0.0 * one.saved_RMK, working_RM=0.0 * one.working_RM, logits_M=0.0 * one.logits_M)
        for one in stages.classes
    )
    return bare


def _degrees(stages: StageClasses) -> list[int]:
    return sorted({one.tp for one in stages.classes})


def _more_nodes(stages: StageClasses, node_class: int, tp: int) -> tuple[int, int] | None:
    """Nodes to add to a class, and stages of the pipeline that then fits: groups of `tp` where a class has them.

    One data-parallel replica, which takes least memory of all GPUs together. The stages are filled one after the
    other, those of the class first; None if not even a stage per layer would do.
    """
    wide = [_widest(stages, c, tp) for c in range(len(stages.problem.cluster.classes))]
    new = wide[node_class]
    if new is None or new.tp != tp:
        return None
    alone = not stages.problem.engine.mixed_gpu_types
    device = stages.problem.cluster.classes[node_class].device.name
    others = [
        one
        for c, one in enumerate(wide)
        if one is not None
        and c != node_class
        and not (alone and stages.problem.cluster.classes[c].device.name != device)
        for _ in one.groups
    ]
    per_node = stages.problem.cluster.classes[node_class].gpus_per_node // tp
    for nodes in range(math.ceil(stages.model.num_layers / per_node) + 1):
        row = [new] * (len(new.groups) + nodes * per_node) + others
        depth = _filled(stages, row[: stages.model.num_layers])
        if depth is not None:
            return nodes, depth
    return None


def _widest(stages: StageClasses, node_class: int, tp: int) -> StageClass | None:
    """The kind of a class with the largest degree up to `tp`, or with just that where the engine has one for all."""
    uniform = stages.problem.engine.tensor_parallel == "uniform"
    fit = [
        one for one in stages.classes if one.node_class == node_class and (one.tp == tp if uniform else one.tp <= tp)
    ]
    return max(fit, key=lambda one: (one.tp, one.sequence_parallel), default=None)


def _filled(stages: StageClasses, row: Sequence[StageClass]) -> int | None:
    """Stages of a row that hold all layers, filled one after the other; None if these do not suffice."""
    problem, full, kinds = stages.problem, stages.recomputes.index("full"), stages.model.kind_of_layer
    state, reserve = state_bytes(problem.job, 1), problem.engine.reserved_memory.value
    at = 0
    for s, one in enumerate(row):
        in_flight = min(problem.job.global_batch, len(row) - s)
        layer_K = state * one.parameters_K + in_flight * one.saved_RMK[full, 0]
        room = one.limit - reserve - one.working_RM[full, 0] - (state * one.first_parameters if s == 0 else 0.0)
        ends = state * (one.last_parameters if s else one.both_parameters - one.first_parameters) + one.logits_M[0]
        while at < len(kinds):
            last = ends if at == len(kinds) - 1 else 0.0  # with the last layer comes the head
            if layer_K[kinds[at]] + last > room:
                break
            room -= layer_K[kinds[at]]
            at += 1
        if at == len(kinds):
            return s + 1
    return None
