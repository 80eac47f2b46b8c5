"""The layer partition of one pipeline as a constraint program: a second, unrelated opinion on the interval DP.

Much slower than the DP and meant for checking it. The program has one Boolean per stage and layer and no prefix
sums; it shares neither recurrence, nor arithmetic, nor code with what it checks.

Axes in names: S stage, L layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from planner.errors import SolverError, TimeLimitError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]

__all__ = ["partition_layers_cp_sat"]

# Where costs are not whole numbers, all layers of the slowest stage come to this many steps.
_STEPS: Final = 10**9


def partition_layers_cp_sat(
    layer_SL: FloatArray,
    fixed_S: FloatArray,
    *,
    objective: Literal["bottleneck", "sum", "pipeline"],
    microbatches: int = 1,
    memory_SL: FloatArray | None = None,
    memory_fixed_S: FloatArray | None = None,
    capacity_S: FloatArray | None = None,
    time_limit: float = 60.0,
) -> tuple[int, ...] | None:
    """Split the layers of one pipeline over its stages so that the objective is least.

    CP-SAT knows integers only. Whole numbers are taken as they are and the answer is exact. Other costs are rounded
    to a billionth of the largest stage, memory up and room for it down, which leaves the true value of the answer a
    few billionths from the best.

    Parameters
    ----------
    layer_SL
        Cost of each layer on each stage, not negative.
    fixed_S
        Cost that a stage has whatever it holds.
    objective
        ``"bottleneck"``: the slowest stage. ``"sum"``: all stages. ``"pipeline"``: ``(m - 1) * max + sum``.
    microbatches
        m, read by ``"pipeline"`` only.
    memory_SL, memory_fixed_S, capacity_S
        Memory of each layer on each stage, of each stage whatever it holds, and how much a stage has, which may be
        infinite. Without `capacity_S` memory is no concern.
    time_limit
        Seconds.

    Returns
    -------
    tuple of S + 1 ints, or None
        First layer of each stage and, last, L. None where no partition gives every stage a layer and fits.

    Raises
    ------
    TimeLimitError
        If optimality was not proven in time.
    SolverError
        If CP-SAT rejects the program.

    Examples
    --------
    >>> partition_layers_cp_sat(np.array([[1.0] * 6, [2.0] * 6]), np.zeros(2), objective="bottleneck")
    (0, 4, 6)
    """
    from ortools.sat.python import cp_model

    stages, layers = (range(size) for size in layer_SL.shape)
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

    scale = _scale(layer_SL, fixed_S)
    cost_SL = np.rint(layer_SL * scale).astype(np.int64).tolist()
    once_S = np.rint(fixed_S * scale).astype(np.int64).tolist()
    time_S = [once_S[s] + sum(cost_SL[s][i] * holds[s][i] for i in layers) for s in stages]
    slowest = model.new_int_var(0, max(once_S[s] + sum(cost_SL[s]) for s in stages), "slowest")
    for s in stages:
        model.add(time_S[s] <= slowest)

    if memory_SL is not None and capacity_S is not None:
        occupied_S = np.zeros(len(stages)) if memory_fixed_S is None else memory_fixed_S
        scale = _scale(memory_SL, occupied_S)
        need_SL = np.ceil(memory_SL * scale).astype(np.int64)
        # Beyond either end nothing changes, and infinite room becomes an integer.
        free_S = np.clip(np.floor((capacity_S - occupied_S) * scale), -1, need_SL.sum(axis=1))
        for s in stages:
            model.add(sum(int(need_SL[s, i]) * holds[s][i] for i in layers) <= int(free_S[s]))

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
        return (*(next(i for i in layers if solver.boolean_value(holds[s][i])) for s in stages), len(layers))
    if status == cp_model.MODEL_INVALID:
        raise SolverError(f"CP-SAT rejects the partition program: {model.validate()}")
    raise TimeLimitError(f"CP-SAT did not prove the best partition within {time_limit:g} s")


def _scale(layer_SL: FloatArray, fixed_S: FloatArray) -> float:
    """Factor that turns amounts into integers: 1 where they are integers already."""
    largest = float(layer_SL.sum(axis=1).max() + fixed_S.max())
    amounts = np.append(layer_SL, fixed_S)
    if largest == 0 or (largest < 2**40 and bool((amounts == np.rint(amounts)).all())):
        return 1.0
    return _STEPS / largest
