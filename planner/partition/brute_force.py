"""The layer partition by trying every one: slow, plain, the oracle that tests compare with.

It shares the question and the answer with the interval DP and no arithmetic: sums are taken layer by layer.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from planner.partition.problem import IntArray, Objective, Partition, StageCosts, check_objective

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["partition_layers_brute_force"]


def partition_layers_brute_force(
    costs: StageCosts, objective: Objective, microbatches_B: IntArray | int = 1
) -> Partition:
    """Find what :func:`planner.partition.partition_layers` finds, up to ties, in exponential time.

    Parameters
    ----------
    costs
        The batch of candidates; a dozen layers is plenty.
    objective
        ``"bottleneck"``, ``"sum"`` or ``"pipeline"``.
    microbatches_B
        m of each candidate or of all; read by ``"pipeline"`` only.

    Returns
    -------
    Partition
        The first best in lexicographic order of the bounds.

    Raises
    ------
    ValueError
        If there is no such objective.

    Examples
    --------
    >>> costs = StageCosts(layer_BSL=np.ones((1, 2, 6)) * [[[1.0], [2.0]]])
    >>> partition_layers_brute_force(costs, "pipeline", 3).value_B
    array([16.])
    """
    check_objective(objective)
    microbatches = np.broadcast_to(microbatches_B, (costs.batch,))
    bounds_BS1 = np.full((costs.batch, costs.num_stages + 1), -1, dtype=np.int64)
    value_B = np.full(costs.batch, np.inf)
    for b in range(costs.batch):
        depth = costs.num_stages if costs.stages_B is None else int(costs.stages_B[b])
        for bounds in _all_bounds(costs.num_layers, depth):
            if not _fits(costs, b, bounds):
                continue
            value = _value(costs, b, bounds, objective, int(microbatches[b]))
            if value < value_B[b]:
                value_B[b] = value
                bounds_BS1[b] = bounds + [costs.num_layers] * (costs.num_stages - depth)
    return Partition(bounds_BS1=bounds_BS1, value_B=value_B, feasible_B=np.isfinite(value_B))


def _all_bounds(layers: int, stages: int) -> Iterator[list[int]]:
    for inner in combinations(range(1, layers), stages - 1):
        yield [0, *inner, layers]


def _fits(costs: StageCosts, b: int, bounds: list[int]) -> bool:
    if costs.memory_BSL is None or costs.capacity_BS is None:
        return True
    for s in range(len(bounds) - 1):
        need = sum(costs.memory_BSL[b, s, bounds[s] : bounds[s + 1]].tolist(), float(costs.memory_fixed_BS[b, s]))
        if need > costs.capacity_BS[b, s]:
            return False
    return True


def _value(costs: StageCosts, b: int, bounds: list[int], objective: Objective, microbatches: int) -> float:
    times = [
        sum(costs.layer_BSL[b, s, bounds[s] : bounds[s + 1]].tolist(), float(costs.fixed_BS[b, s]))
        for s in range(len(bounds) - 1)
    ]
    if objective == "bottleneck":
        return max(times)
    if objective == "sum":
        return sum(times)
    return (microbatches - 1) * max(times) + sum(times)
