"""The layer partition: contiguous layers to stages, exactly optimal, for a whole batch of candidates at once.

One recurrence serves all objectives. With best[s, j] the least value of s stages that hold the layers [0, j),

    best[s + 1, j] = min over i < j of combine(best[s, i], time of stage s on the layers [i, j)),

where combine is ``max`` or ``+`` and intervals above a limit (memory, or a *cap* on stage time) are left out. An
interval's time is a difference of prefix sums, so that all candidates, all i and all j are a few numpy calls.

What makes it fast is that most (s, i) never matter. Under a cap the first s stages reach only so far, and the others
must be able to hold the rest, so that boundary s lies in a *band* that two greedy passes find (`bands`). With a good
cap, and a greedy fill gives one, a band has a few positions instead of L. A least sum without a good cap has wide
bands; there each j takes the minimum over a window of i instead of looking at every one (`sweeps`).

The pipeline objective ``(m - 1) * max + sum`` is a walk: the least sum under a cap is a bound for all lower caps,
which says how far the maximum must fall before anything can improve, and that is the next cap. The walk ends where
it would fall below the least bottleneck.

Axes in names: B candidate (lower case where some are done already), S stage; a trailing 1 is one entry more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from planner.partition.bands import NUM_GUESSES, attained_cap, bands
from planner.partition.problem import (
    FloatArray,
    IntArray,
    Objective,
    Partition,
    StageCosts,
    check_objective,
    objective_value,
)
from planner.partition.sweeps import sweep_pairs, sweep_windows
from planner.partition.tables import Tables

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["partition_layers"]

# Numbers in one tile of the recurrence: half a megabyte, so that it stays in a core's cache with its masks.
_TILE_NUMBERS: Final = 1 << 16
# Bands up to this width are cheaper to sweep pair by pair than by windows.
_NARROW: Final = 16
# Numbers in one prefix table: 16 MiB, so that all tables and temporaries together stay below 200 MB.
_TABLE_NUMBERS: Final = 1 << 21


def partition_layers(costs: StageCosts, objective: Objective, microbatches_B: IntArray | int = 1) -> Partition:
    """Split the layers over the stages of each candidate so that the objective is least.

    Every stage gets at least one layer, a stage's layers are contiguous, stages keep their order, and none exceeds
    its memory. The answer is exact, up to the rounding of sums.

    Parameters
    ----------
    costs
        The batch of candidates.
    objective
        ``"bottleneck"``: the slowest stage. ``"sum"``: all stages. ``"pipeline"``: ``(m - 1) * max + sum``, the
        time of m microbatches through the pipeline.
    microbatches_B
        m of each candidate or of all, at least 1; read by ``"pipeline"`` only.

    Returns
    -------
    Partition
        Values are in the unit of ``costs.layer_BSL``. Ties fall by a rule that looks at one candidate alone, so an
        answer never depends on the rest of the batch. For ``"bottleneck"`` and ``"sum"`` the last stage starts as
        early as an optimum lets it; then the one before, among the best splits of the layers that remain; and so on.
        For ``"pipeline"``, of equal values the one with the lowest maximum if that is the least bottleneck, else
        the one with the highest.

    Raises
    ------
    ValueError
        If there is no such objective, or `microbatches_B` has the wrong shape or a value below 1.

    References
    ----------
    Olstad and Manne, "Efficient partitioning of sequences", IEEE Transactions on Computers 44(11), 1995: the
    recurrence for the bottleneck. Zheng et al., "Alpa", OSDI 2022, section 5.2: ``(m - 1) * max + sum`` by
    enumerating the maximum.

    Examples
    --------
    Six equal layers on a device and on one half as fast:

    >>> costs = StageCosts(layer_BSL=np.ones((1, 2, 6)) * [[[1.0], [2.0]]])
    >>> best = partition_layers(costs, "bottleneck")
    >>> best.bounds_BS1, best.value_B
    (array([[0, 4, 6]]), array([4.]))
    """
    check_objective(objective)
    given = np.asarray(microbatches_B)
    if given.shape not in ((), (costs.batch,)) or (given.size and not given.min() >= 1):
        raise ValueError(f"microbatches_B must be at least 1, one number or {costs.batch} of them, got {given}")
    microbatches = np.broadcast_to(given, (costs.batch,))

    bounds_BS1 = np.full((costs.batch, costs.num_stages + 1), -1, dtype=np.int64)
    value_B = np.full(costs.batch, np.inf)
    step = max(1, _TABLE_NUMBERS // (max(costs.num_stages, NUM_GUESSES) * (costs.num_layers + 1)))
    for first in range(0, costs.batch, step):
        part = slice(first, first + step)
        tables = Tables.of(costs.rows(part))
        if objective == "bottleneck":
            bounds = _least_bottleneck(tables)
        elif objective == "sum":
            bounds = _least("sum", tables, np.full(tables.batch, np.inf))
        else:
            bounds = _least_pipeline(tables, microbatches[part] - 1.0)
        bounds_BS1[part] = bounds
        value_B[part] = objective_value(objective, tables.times(bounds), microbatches[part])
    return Partition(bounds_BS1=bounds_BS1, value_B=value_B, feasible_B=bounds_BS1[:, 0] == 0)


def _least_bottleneck(tables: Tables) -> IntArray:
    return _least("bottleneck", tables, attained_cap(tables))


def _least_pipeline(tables: Tables, waits_B: FloatArray) -> IntArray:
    """Bounds of the least ``waits * max + sum``: walk the cap on the maximum down and keep the best."""
    bounds_BS1 = _least_bottleneck(tables)
    live_B = np.flatnonzero(bounds_BS1[:, 0] == 0)
    tables, waits_b = tables.take(live_B), waits_B[live_B]
    least_max_b = tables.times(bounds_BS1[live_B]).max(axis=1)

    # The least sum at the least maximum is near the optimum when many microbatches wait for the slowest stage.
    found = _least("sum", tables, least_max_b)
    bounds_BS1[live_B] = found
    time_bS = tables.times(found)
    best_b = waits_b * time_bS.max(axis=1) + time_bS.sum(axis=1)
    least_sum_b = _fastest_everywhere(tables)
    below_b = np.full(len(live_B), np.inf)
    while True:
        # What improves has a maximum not yet seen, and its sum is at least the one found under a higher cap.
        with np.errstate(divide="ignore", invalid="ignore"):
            room_b = np.where(best_b > least_sum_b, (best_b - least_sum_b) / waits_b, -np.inf)
        cap_b = np.minimum(below_b, room_b)
        more_b = cap_b > least_max_b
        if not more_b.any():
            return bounds_BS1
        if not more_b.all():
            tables, live_B, cap_b = tables.take(np.flatnonzero(more_b)), live_B[more_b], cap_b[more_b]
            least_max_b, waits_b, best_b = least_max_b[more_b], waits_b[more_b], best_b[more_b]

        found = _least("sum", tables, cap_b)
        time_bS = tables.times(found)
        max_b, least_sum_b = time_bS.max(axis=1), time_bS.sum(axis=1)
        value_b = waits_b * max_b + least_sum_b
        better_b = value_b < best_b
        bounds_BS1[live_B[better_b]] = found[better_b]
        best_b = np.minimum(best_b, value_b)
        below_b = np.nextafter(max_b, -np.inf)


def _fastest_everywhere(tables: Tables) -> FloatArray:
    """Sum that no partition undercuts: each layer on the stage that is fastest for it."""
    layer_BSL = np.where(tables.padding_BS[:, :, None], np.inf, np.diff(tables.time.start_BSN, axis=2))
    sum_B: FloatArray = layer_BSL.min(axis=1).sum(axis=1) + tables.time.end_BSN[:, :, 0].sum(axis=1)
    return sum_B


def _least(objective: Literal["bottleneck", "sum"], tables: Tables, cap_B: FloatArray) -> IntArray:
    """Bounds (B, S + 1) of the least value of all partitions with no stage time above the cap; -1 without any."""
    low_BS1, high_BS1 = bands(tables, cap_B)
    width_B = (high_BS1 - low_BS1).max(axis=1) + 1
    bounds_BS1 = np.full(low_BS1.shape, -1, dtype=np.int64)
    todo = np.flatnonzero((low_BS1 <= high_BS1).all(axis=1))
    todo = todo[np.argsort(width_B[todo], kind="stable")]  # a tile is as wide as its widest candidate
    # Each candidate goes by its own width, so that even the rounding does not depend on the rest of the batch.
    split = len(todo) if objective == "bottleneck" else np.searchsorted(width_B[todo], _NARROW, side="right")
    for tile in _tiles(todo[:split], tables.num_stages * width_B**2):
        combine = np.maximum if objective == "bottleneck" else np.add
        bounds_BS1[tile] = sweep_pairs(combine, tables, tile, cap_B, low_BS1[tile], int(width_B[tile[-1]]))
    for tile in _tiles(todo[split:], tables.num_stages * width_B):
        bounds_BS1[tile] = sweep_windows(tables, tile, cap_B, low_BS1[tile], int(width_B[tile[-1]]))
    return bounds_BS1


def _tiles(todo: IntArray, numbers_B: IntArray) -> Iterator[IntArray]:
    """Cut candidates, given in the order of their numbers, into tiles."""
    while len(todo):
        size = max(1, _TILE_NUMBERS // numbers_B[todo[0]])  # as many as would fill it if all were like the first,
        size = max(1, min(size, _TILE_NUMBERS // numbers_B[todo[:size][-1]]))  # then as few as the last demands
        yield todo[:size]
        todo = todo[size:]
