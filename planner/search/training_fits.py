"""Whether a training job fits at all: a pipeline whose every GPU holds its part is looked for, and no time is priced.

Least memory has one sequence per microbatch; stages behind hold fewer microbatches than those before, whatever stands
before them. So pipelines are built from the end: of all ways to place the last q stages only the one that has reached
the lowest layer matters, and every stage takes as many layers as it holds. That is done for all orders of node classes,
all tensor-parallel and data-parallel degrees at once, by table; exact for the family that the search goes through.

Legend: B orders of kinds of stage, J kind of stage, P position in the order, L layer, q stages from here to the end, n
first layer that is not placed yet.
"""

from __future__ import annotations

from itertools import permutations, product
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.search.stage_classes import StageClasses
from planner.search.training_families import MAX_NODE_CLASSES

if TYPE_CHECKING:
    from planner.cost._types import BoolArray, IntArray
    from planner.search.problem import TrainingProblem

__all__ = ["MAX_STAGES", "deepest_pipeline", "has_a_plan"]

# Stages of a pipeline unless the problem says otherwise.
MAX_STAGES: Final = 16
_SLACK: Final = 1e-12  # of memory limits against rounding; the verifier allows as much


def deepest_pipeline(problem: TrainingProblem) -> int:
    """Most stages that a problem's pipelines may have."""
    most = min(problem.max_stages or MAX_STAGES, problem.model.num_layers, problem.cluster.num_gpus)
    return min(most, problem.engine.max_pipeline or most) if problem.engine.pipeline else 1


def has_a_plan(problem: TrainingProblem) -> bool:
    """Whether a plan of the search's family fits the GPUs' memory."""
    stages = StageClasses(problem, (1,), deepest_pipeline(problem))
    if not stages.classes:
        return False
    orders = _orders(stages)
    return any(
        _fits(stages, kinds_BP, degree, recompute)
        for recompute in range(len(stages.recomputes))
        for degree in range(len(stages.degrees))
        for kinds_BP in orders
    )


def _orders(stages: StageClasses) -> list[IntArray]:
    """Orders of kinds that the engine can run, by how many kinds they have."""
    engine, cluster = stages.problem.engine, stages.problem.cluster
    by_class: dict[int, list[int]] = {}
    for j, one in enumerate(stages.classes):
        by_class.setdefault(one.node_class, []).append(j)
    found = []
    for size in range(1, min(MAX_NODE_CLASSES, len(by_class), stages.max_stages) + 1):
        rows = [
            kinds
            for order in permutations(by_class, size)
            if engine.mixed_gpu_types or len({cluster.classes[c].device.name for c in order}) == 1
            for kinds in product(*(by_class[c] for c in order))
            if engine.tensor_parallel != "uniform" or len({stages.classes[j].tp for j in kinds}) == 1
            if stages.joinable(kinds)
        ]
        if rows:
            found.append(np.array(rows, dtype=np.int64))
    return found


def _fits(stages: StageClasses, kinds_BP: IntArray, degree: int, recompute: int) -> bool:
    most_J = np.array([stages.most_stages(j, degree) for j in range(len(stages.classes))])
    kinds_BP = kinds_BP[(most_J[kinds_BP] > 0).all(axis=1) & _may_hold_B(stages, kinds_BP, most_J, degree)]
    if not len(kinds_BP):
        return False
    S, L, size = stages.max_stages, stages.model.num_layers, kinds_BP.shape[1]
    tables = [_table(stages, j, degree, recompute) for j in range(len(stages.classes))]
    reach_JqN, done_JqN = np.stack([reach for reach, _ in tables]), np.stack([done for _, done in tables])
    # the first layer that q stages from the end have reached; L + 1: there are no such stages
    lowest_BQ = np.full((len(kinds_BP), S + 1), L + 1, dtype=np.int64)
    lowest_BQ[:, 0] = L
    for p in reversed(range(size)):
        kind_B = kinds_BP[:, p]
        next_BQ = np.full_like(lowest_BQ, L + 1)
        for behind in range(size - 1 - p, S):
            n_B = lowest_BQ[:, behind]
            for count in range(1, min(int(most_J[kind_B].max()), S - behind) + 1):
                q = behind + count
                more_B = count <= most_J[kind_B]
                if p == 0 and (done_JqN[kind_B, q, n_B] & more_B).any():
                    return True
                n_B = np.where(more_B, reach_JqN[kind_B, q, n_B], L + 1)
                np.minimum(next_BQ[:, q], n_B, out=next_BQ[:, q])
        lowest_BQ = next_BQ
    return False


def _may_hold_B(stages: StageClasses, kinds_BP: IntArray, most_J: IntArray, degree: int) -> BoolArray:
    """Whether there is room for weights, gradients and optimizer state of all layers, the roomiest stages first."""
    room_BP = stages.room_DJ[degree][kinds_BP]
    roomiest = np.argsort(-room_BP, axis=1, kind="stable")
    upto_BP = np.cumsum(np.take_along_axis(most_J[kinds_BP], roomiest, axis=1), axis=1).clip(max=stages.max_stages)
    taken_BP = np.diff(upto_BP, axis=1, prepend=0)
    return np.asarray((taken_BP * np.take_along_axis(room_BP, roomiest, axis=1)).sum(axis=1) >= 1.0 - 1e-9)


def _table(stages: StageClasses, j: int, degree: int, recompute: int) -> tuple[IntArray, BoolArray]:
    """Of a stage with q to the end that ends before layer n: its lowest first layer, and whether it can be the first.

    The lowest is 1, as another stage comes before; L + 1 where it holds no layer at all.
    """
    one, problem, L = stages.classes[j], stages.problem, stages.model.num_layers
    kind_L = np.asarray(stages.model.kind_of_layer)
    state = float(stages.state_D[degree])
    microbatches = int(stages.microbatches_DM[degree, 0])
    reach_qN = np.full((stages.max_stages + 1, L + 2), L + 1, dtype=np.int64)
    done_qN = np.zeros((stages.max_stages + 1, L + 2), dtype=bool)
    ends = np.arange(1, L + 1)
    for q in range(1, stages.max_stages + 1):
        layer_K = state * one.parameters_K + min(microbatches, q) * one.saved_RMK[recompute, 0]
        upto = np.concatenate([[0.0], np.cumsum(layer_K[kind_L])])
        room = one.limit * (1 + _SLACK) - problem.engine.reserved_memory.value - float(one.working_RM[recompute, 0])
        first = state * (one.both_parameters if q == 1 else one.first_parameters)
        if q == 1:
            room -= float(one.logits_M[0])
            done_qN[q, L] = upto[L] + first <= room
            room -= state * one.last_parameters
        else:
            done_qN[q, ends] = upto[ends] + first <= room
        lowest = np.maximum(np.searchsorted(upto, upto[ends] - room, side="left"), 1)
        reach_qN[q, ends] = np.where(lowest < ends, lowest, L + 1)
    return reach_qN, done_qN
