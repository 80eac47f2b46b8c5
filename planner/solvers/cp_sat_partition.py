"""The layer partition as a constraint program: a second, unrelated opinion on the interval DP.

Much slower than :mod:`planner.partition.interval_dp` and meant for checking it. The program has one Boolean per
stage and layer and no prefix sums, so that it shares neither recurrence nor arithmetic with what it checks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from planner.errors import SolverError, TimeLimitError
from planner.partition.problem import (
    IntArray,
    Objective,
    Partition,
    StageCosts,
    check_objective,
    objective_value,
    stage_times,
)

if TYPE_CHECKING:
    from planner.partition.problem import FloatArray

__all__ = ["partition_layers_cp_sat"]

# Where costs are not whole numbers, all layers of the slowest stage come to this many steps.
_STEPS: Final = 10**9


def partition_layers_cp_sat(
    costs: StageCosts,
    objective: Objective,
    microbatches_B: IntArray | int = 1,
    *,
    time_limit: float = 60.0,
) -> Partition:
    """Find what :func:`planner.partition.partition_layers` finds, up to ties, one candidate after the other.

    CP-SAT knows integers only. Whole numbers are taken as they are and the answer is exact. Other costs are rounded
    to a billionth of the largest stage, memory up and capacity down, and the value returned is that of the
    partition under the true costs, at most a few billionths from the best.

    Parameters
    ----------
    costs
        The batch of candidates.
    objective
        ``"bottleneck"``, ``"sum"`` or ``"pipeline"``.
    microbatches_B
        m of each candidate or of all; read by ``"pipeline"`` only.
    time_limit
        Seconds for each candidate.

    Returns
    -------
    Partition

    Raises
    ------
    ValueError
        If there is no such objective.
    TimeLimitError
        If optimality was not proven in time.
    SolverError
        If CP-SAT rejects the program.

    Examples
    --------
    >>> costs = StageCosts(layer_BSL=np.ones((1, 2, 6)) * [[[1.0], [2.0]]])
    >>> partition_layers_cp_sat(costs, "bottleneck").value_B
    array([4.])
    """
    check_objective(objective)
    microbatches = np.broadcast_to(microbatches_B, (costs.batch,))
    bounds_BS1 = np.full((costs.batch, costs.num_stages + 1), -1, dtype=np.int64)
    for b in range(costs.batch):
        first_S = _solve_one(costs, b, objective, int(microbatches[b]), time_limit)
        if first_S is not None:
            bounds_BS1[b, : len(first_S)] = first_S
            bounds_BS1[b, len(first_S) :] = costs.num_layers
    value_B = objective_value(objective, stage_times(costs, bounds_BS1), microbatches)
    return Partition(bounds_BS1=bounds_BS1, value_B=value_B, feasible_B=bounds_BS1[:, 0] == 0)


def _solve_one(
    costs: StageCosts, b: int, objective: Objective, microbatches: int, time_limit: float
) -> list[int] | None:
    """First layer of each real stage, or None if there is no partition."""
    from ortools.sat.python import cp_model

    layers = range(costs.num_layers)
    stages = range(costs.num_stages if costs.stages_B is None else int(costs.stages_B[b]))
    model = cp_model.CpModel()
    holds = [[model.new_bool_var(f"stage {s} holds layer {i}") for i in layers] for s in stages]

    # A layer is on the stage of the layer before it or on the next stage: contiguous, in order, none empty.
    model.add(holds[0][0] == 1)
    model.add(holds[-1][-1] == 1)
    for i in layers:
        model.add_exactly_one(holds[s][i] for s in stages)
    for i in layers[1:]:
        for s in stages:
            before = [holds[s][i - 1]] if s == 0 else [holds[s][i - 1], holds[s - 1][i - 1]]
            model.add_bool_or(before).only_enforce_if(holds[s][i])

    scale = _scale(costs.layer_BSL[b], costs.fixed_BS[b])
    layer_SL = np.rint(costs.layer_BSL[b] * scale).astype(np.int64).tolist()
    fixed_S = np.rint(costs.fixed_BS[b] * scale).astype(np.int64).tolist()
    time_S = [fixed_S[s] + sum(layer_SL[s][i] * holds[s][i] for i in layers) for s in stages]
    slowest = model.new_int_var(0, max(fixed_S[s] + sum(layer_SL[s]) for s in stages), "slowest")
    for s in stages:
        model.add(time_S[s] <= slowest)

    if costs.memory_BSL is not None and costs.capacity_BS is not None:
        scale = _scale(costs.memory_BSL[b], costs.memory_fixed_BS[b])
        memory_SL = np.ceil(costs.memory_BSL[b] * scale).astype(np.int64)
        free_S = np.floor((costs.capacity_BS[b] - costs.memory_fixed_BS[b]) * scale)
        free_S = np.clip(free_S, -1, memory_SL.sum(axis=1))  # beyond either end nothing changes
        for s in stages:
            model.add(sum(int(memory_SL[s, i]) * holds[s][i] for i in layers) <= int(free_S[s]))

    if objective == "bottleneck":
        model.minimize(slowest)
    elif objective == "sum":
        model.minimize(sum(time_S))
    else:
        model.minimize((microbatches - 1) * slowest + sum(time_S))

    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = 0
    solver.parameters.max_time_in_seconds = time_limit
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        return None
    if status == cp_model.OPTIMAL:
        return [next(i for i in layers if solver.boolean_value(holds[s][i])) for s in stages]
    if status == cp_model.MODEL_INVALID:
        raise SolverError(f"CP-SAT rejects the partition program: {model.validate()}")
    raise TimeLimitError(f"CP-SAT did not prove the best partition of candidate {b} within {time_limit:g} s")


def _scale(layer_SL: FloatArray, fixed_S: FloatArray) -> float:
    """Factor that turns one candidate's amounts into integers: 1 where they are integers already."""
    largest = float(layer_SL.sum(axis=1).max() + fixed_S.max())
    amounts = np.append(layer_SL, fixed_S)
    if largest == 0 or (largest < 2**40 and bool((amounts == np.rint(amounts)).all())):
        return 1.0
    return _STEPS / largest
