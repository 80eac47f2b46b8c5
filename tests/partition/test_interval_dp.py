"""The interval DP is exact, and its answer depends on nothing but the candidate."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.partition import (
    OBJECTIVES,
    Objective,
    Partition,
    StageCosts,
    interval_dp,
    objective_value,
    partition_layers,
    stage_memory,
    stage_times,
)
from planner.partition.brute_force import partition_layers_brute_force
from planner.partition.problem import FloatArray, IntArray
from planner.solvers.cp_sat_partition import partition_layers_cp_sat

Instance = tuple[StageCosts, IntArray]
every_objective = pytest.mark.parametrize("objective", OBJECTIVES)
with_and_without_memory = pytest.mark.parametrize("memory", [False, True], ids=["unlimited", "memory"])


@st.composite
def instances(
    draw: st.DrawFn, *, memory: bool, batch: int = 3, stages: int = 4, layers: int = 8, whole: bool = True
) -> Instance:
    """Costs and microbatch counts: stages that differ, zero costs, ties, padding, tight and impossible memory."""
    B, S = draw(st.integers(1, batch)), draw(st.sampled_from(range(1, stages + 1)))
    L = draw(st.sampled_from(range(max(1, S - 1), layers + 1)))
    largest = draw(st.sampled_from([1, 3, 20]))  # few values make many ties
    padded = draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))

    def amounts(limit: int, *shape: int) -> FloatArray:
        return rng.integers(0, limit + 1, shape).astype(float) if whole else rng.uniform(0, limit, shape)

    costs = StageCosts(
        layer_BSL=amounts(largest, B, S, L),
        fixed_BS=amounts(largest, B, S),
        # Memory stays whole, or the last bit of a sum would decide what fits.
        memory_BSL=rng.integers(0, 5, (B, S, L)).astype(float) if memory else None,
        memory_fixed_BS=rng.integers(0, 3, (B, S)).astype(float),
        capacity_BS=np.ceil(rng.uniform(0.5, 2.5, (B, S)) * (1 + 2 * L / S)) if memory else None,
        stages_B=rng.integers(1, S + 1, B) if padded else None,
    )
    return costs, rng.integers(1, 10, B)


def heterogeneous(seed: int, B: int, S: int, L: int, *, memory: bool) -> StageCosts:
    """Candidates of realistic shape: devices of different speed, layers that vary, a fixed part, room to spare."""
    rng = np.random.default_rng(seed)
    layer_BSL = rng.uniform(0.5, 1.5, (B, S, L)) * rng.uniform(0.5, 3.0, (B, S, 1))
    fixed_BS = rng.uniform(0.0, 2.0, (B, S))
    if not memory:
        return StageCosts(layer_BSL=layer_BSL, fixed_BS=fixed_BS)
    return StageCosts(
        layer_BSL=layer_BSL,
        fixed_BS=fixed_BS,
        memory_BSL=rng.integers(8, 12, (B, 1, L)).astype(float) * np.ones((1, S, 1)),
        capacity_BS=rng.uniform(9.0, 25.0, (B, S)) * L / S,
    )


def check_is_partition(costs: StageCosts, found: Partition, objective: Objective, microbatches: IntArray) -> None:
    """The bounds are a legal partition, respect memory, and have exactly the value that is claimed."""
    bounds, depth_B = found.bounds_BS1, costs.num_stages - costs.padding_BS.sum(axis=1)
    assert bounds.shape == (costs.batch, costs.num_stages + 1)
    np.testing.assert_array_equal(found.feasible_B, np.isfinite(found.value_B))
    assert (bounds[~found.feasible_B] == -1).all()
    for b in np.flatnonzero(found.feasible_B):
        real = bounds[b, : depth_B[b] + 1]
        assert real[0] == 0
        assert real[-1] == costs.num_layers
        assert (np.diff(real) >= 1).all()
        assert (bounds[b, depth_B[b] :] == costs.num_layers).all()
    if costs.capacity_BS is not None:
        need_BS, used_BS = stage_memory(costs, bounds), ~costs.padding_BS & found.feasible_B[:, None]
        assert (need_BS <= costs.capacity_BS)[used_BS].all()
    attained_B: FloatArray = objective_value(objective, stage_times(costs, bounds), microbatches)
    np.testing.assert_array_equal(attained_B, found.value_B)


@every_objective
@with_and_without_memory
@settings(deadline=None, max_examples=500)
@given(data=st.data())
def test_equals_brute_force(objective: Objective, memory: bool, data: st.DataObject) -> None:
    costs, microbatches = data.draw(instances(memory=memory))
    found = partition_layers(costs, objective, microbatches)
    check_is_partition(costs, found, objective, microbatches)
    # Whole numbers sum without rounding, so that equal means equal.
    truth = partition_layers_brute_force(costs, objective, microbatches)
    np.testing.assert_array_equal(found.value_B, truth.value_B)


@every_objective
@settings(deadline=None, max_examples=500)
@given(instance=instances(memory=True, whole=False))
def test_equals_brute_force_on_fractions(objective: Objective, instance: Instance) -> None:
    costs, microbatches = instance
    found = partition_layers(costs, objective, microbatches)
    check_is_partition(costs, found, objective, microbatches)
    truth = partition_layers_brute_force(costs, objective, microbatches)
    np.testing.assert_allclose(found.value_B, truth.value_B, rtol=1e-12, atol=1e-12)


@settings(deadline=None, max_examples=600)
@given(instance=st.booleans().flatmap(lambda m: instances(memory=m, batch=1, layers=7)))
def test_equals_cp_sat(instance: Instance) -> None:
    costs, microbatches = instance
    for objective in OBJECTIVES:
        found = partition_layers(costs, objective, microbatches)
        np.testing.assert_array_equal(found.value_B, by_cp_sat(costs, objective, microbatches))


@settings(deadline=None, max_examples=100)
@given(instance=instances(memory=True, batch=1, layers=7, whole=False))
def test_equals_cp_sat_on_fractions(instance: Instance) -> None:
    costs, microbatches = instance
    for objective in OBJECTIVES:
        found = partition_layers(costs, objective, microbatches)
        np.testing.assert_allclose(found.value_B, by_cp_sat(costs, objective, microbatches), rtol=1e-7)


def by_cp_sat(costs: StageCosts, objective: Objective, microbatches: IntArray) -> FloatArray:
    """Value that CP-SAT's partition of a single candidate truly has."""
    depth = int((~costs.padding_BS).sum())
    bounds = partition_layers_cp_sat(
        costs.layer_BSL[0, :depth],
        costs.fixed_BS[0, :depth],
        objective=objective,
        microbatches=int(microbatches[0]),
        memory_SL=None if costs.memory_BSL is None else costs.memory_BSL[0, :depth],
        memory_fixed_S=costs.memory_fixed_BS[0, :depth],
        capacity_S=None if costs.capacity_BS is None else costs.capacity_BS[0, :depth],
    )
    if bounds is None:
        return np.array([np.inf])
    padded = np.array([[*bounds, *[costs.num_layers] * (costs.num_stages - depth)]])
    value_B = objective_value(objective, stage_times(costs, padded), microbatches)
    check_is_partition(
        costs, Partition(bounds_BS1=padded, value_B=value_B, feasible_B=np.array([True])), objective, microbatches
    )
    return value_B


@with_and_without_memory
@pytest.mark.parametrize("microbatches", [1, 2, 8, 64])
def test_equals_textbook_recurrence_on_more_layers(memory: bool, microbatches: int) -> None:
    costs = heterogeneous(microbatches, 6, 4, 24, memory=memory)
    m = np.full(6, microbatches)
    for objective in OBJECTIVES:
        found = partition_layers(costs, objective, m)
        check_is_partition(costs, found, objective, m)
        truth_B = [textbook(costs, b, objective, microbatches) for b in range(6)]
        np.testing.assert_allclose(found.value_B, truth_B, rtol=1e-12)


def textbook(costs: StageCosts, b: int, objective: Objective, microbatches: int) -> float:
    """Best value over the whole triangle of intervals; the pipeline objective tries every cap there is."""
    S, L = costs.num_stages, costs.num_layers
    time_SIJ = np.full((S, L + 1, L + 1), np.inf)
    for i in range(L):
        for j in range(i + 1, L + 1):
            time_SIJ[:, i, j] = costs.layer_BSL[b, :, i:j].sum(axis=1) + costs.fixed_BS[b]
            if costs.memory_BSL is not None and costs.capacity_BS is not None:
                need_S = costs.memory_BSL[b, :, i:j].sum(axis=1) + costs.memory_fixed_BS[b]
                time_SIJ[need_S > costs.capacity_BS[b], i, j] = np.inf

    def least(combine: np.ufunc, cap: float) -> float:
        best_I: FloatArray = np.full(L + 1, np.inf)
        best_I[0] = 0.0
        for s in range(S):
            best_I = combine(best_I[:, None], np.where(time_SIJ[s] <= cap, time_SIJ[s], np.inf)).min(axis=0)
        return float(best_I[L])

    if objective == "bottleneck":
        return least(np.maximum, np.inf)
    if objective == "sum" or microbatches == 1:
        return least(np.add, np.inf)
    floor = least(np.maximum, np.inf)
    if np.isinf(floor):
        return np.inf
    caps = np.unique(time_SIJ[np.isfinite(time_SIJ) & (time_SIJ >= floor * (1 - 1e-12))])
    top = floor + least(np.add, floor * (1 + 1e-12)) / (microbatches - 1)  # above it the maximum alone costs more
    return float(min((microbatches - 1) * cap + least(np.add, cap) for cap in caps if cap <= top))


def same(one: Partition, other: Partition) -> None:
    np.testing.assert_array_equal(one.bounds_BS1, other.bounds_BS1)
    np.testing.assert_array_equal(one.value_B, other.value_B)


@every_objective
@settings(deadline=None, max_examples=100)
@given(instance=st.booleans().flatmap(lambda m: instances(memory=m, batch=5)))
def test_a_candidate_does_not_see_its_batch(objective: Objective, instance: Instance) -> None:
    costs, microbatches = instance
    together = partition_layers(costs, objective, microbatches)
    for b in range(costs.batch):
        alone = partition_layers(costs.rows(slice(b, b + 1)), objective, microbatches[b : b + 1])
        np.testing.assert_array_equal(alone.bounds_BS1[0], together.bounds_BS1[b])


@every_objective
@with_and_without_memory
def test_chunks_and_tiles_change_nothing(objective: Objective, memory: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    costs = heterogeneous(5, 40, 5, 30, memory=memory)
    whole = partition_layers(costs, objective, 16)
    monkeypatch.setattr(interval_dp, "_TABLE_NUMBERS", 7 * 6 * 31)
    monkeypatch.setattr(interval_dp, "_TILE_NUMBERS", 500)
    same(partition_layers(costs, objective, 16), whole)


@settings(deadline=None, max_examples=500)
@given(instance=st.booleans().flatmap(lambda m: instances(memory=m)))
def test_windows_equal_pairs(instance: Instance) -> None:
    costs, microbatches = instance
    objectives: tuple[Objective, ...] = ("sum", "pipeline")
    for objective in objectives:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(interval_dp, "_NARROW", 0)
            by_windows = partition_layers(costs, objective, microbatches)
            patch.setattr(interval_dp, "_NARROW", costs.num_layers + 1)
            same(partition_layers(costs, objective, microbatches), by_windows)


@every_objective
def test_padding_equals_the_shorter_problem(objective: Objective) -> None:
    short = heterogeneous(9, 20, 4, 20, memory=True)
    assert short.memory_BSL is not None
    assert short.capacity_BS is not None
    padded = StageCosts(
        layer_BSL=np.pad(short.layer_BSL, ((0, 0), (0, 3), (0, 0)), constant_values=0.01),
        fixed_BS=np.pad(short.fixed_BS, ((0, 0), (0, 3)), constant_values=50.0),
        memory_BSL=np.pad(short.memory_BSL, ((0, 0), (0, 3), (0, 0))),
        capacity_BS=np.pad(short.capacity_BS, ((0, 0), (0, 3)), constant_values=-1.0),
        stages_B=np.full(20, 4),
    )
    found, truth = partition_layers(padded, objective, 6), partition_layers(short, objective, 6)
    np.testing.assert_array_equal(found.value_B, truth.value_B)
    np.testing.assert_array_equal(found.bounds_BS1[:, :5], truth.bounds_BS1)
    assert (found.bounds_BS1[truth.feasible_B, 5:] == 20).all()


def test_ties_start_the_last_stage_early() -> None:
    costs = StageCosts(layer_BSL=np.ones((1, 3, 7)))
    bounds = {objective: partition_layers(costs, objective, 4).bounds_BS1.tolist() for objective in OBJECTIVES}
    assert bounds == {"bottleneck": [[0, 2, 4, 7]], "sum": [[0, 1, 2, 7]], "pipeline": [[0, 1, 4, 7]]}


@every_objective
def test_costs_of_nothing(objective: Objective) -> None:
    found = partition_layers(StageCosts(layer_BSL=np.zeros((2, 3, 5))), objective, 3)
    assert found.value_B.tolist() == [0.0, 0.0]
    assert found.feasible_B.all()


@every_objective
def test_one_stage_holds_everything(objective: Objective) -> None:
    found = partition_layers(StageCosts(layer_BSL=np.full((1, 1, 5), 2.0)), objective, 3)
    assert found.bounds_BS1.tolist() == [[0, 5]]
    assert found.value_B.tolist() == [30.0 if objective == "pipeline" else 10.0]


@every_objective
@pytest.mark.parametrize("stages", [4, 20])
def test_more_stages_than_layers_is_infeasible(objective: Objective, stages: int) -> None:
    found = partition_layers(StageCosts(layer_BSL=np.ones((1, stages, 3))), objective)
    assert not found.feasible_B.any()
    assert np.isinf(found.value_B).all()
    assert (found.bounds_BS1 == -1).all()


@every_objective
def test_a_stage_too_small_for_the_middle_layer_is_worked_around(objective: Objective) -> None:
    # Stage 1 can hold layer 0 or 1 but not the large layer 2, so that plain left-to-right filling would fail.
    memory_SL = np.array([[1.0, 1.0, 5.0, 1.0]] * 3)
    costs = StageCosts(
        layer_BSL=np.ones((1, 3, 4)), memory_BSL=memory_SL[None], capacity_BS=np.array([[9.0, 4.0, 9.0]])
    )
    assert partition_layers(costs, objective).bounds_BS1.tolist() == [[0, 1, 2, 4]]


@every_objective
@settings(deadline=None, max_examples=100)
@given(instance=instances(memory=True), extra=st.integers(1, 8))
def test_more_memory_never_hurts(objective: Objective, instance: Instance, extra: int) -> None:
    costs, microbatches = instance
    roomier = StageCosts(
        layer_BSL=costs.layer_BSL,
        fixed_BS=costs.fixed_BS,
        memory_BSL=costs.memory_BSL,
        memory_fixed_BS=costs.memory_fixed_BS,
        capacity_BS=np.asarray(costs.capacity_BS) + extra,
        stages_B=costs.stages_B,
    )
    tight, loose = (partition_layers(c, objective, microbatches) for c in (costs, roomier))
    assert (loose.value_B <= tight.value_B).all()


def test_many_microbatches_leave_the_bottleneck_alone() -> None:
    costs = heterogeneous(3, 50, 6, 40, memory=False)
    slowest_B = stage_times(costs, partition_layers(costs, "pipeline", 10**9).bounds_BS1).max(axis=1)
    np.testing.assert_array_equal(slowest_B, partition_layers(costs, "bottleneck").value_B)
    one = partition_layers(costs, "pipeline", 1)
    np.testing.assert_array_equal(one.value_B, partition_layers(costs, "sum").value_B)


def test_memory_of_a_large_batch() -> None:
    rng = np.random.default_rng(0)
    costs = StageCosts(layer_BSL=rng.uniform(1, 2, (1, 8, 80)), fixed_BS=rng.uniform(0, 5, (12_000, 8)))
    tracemalloc.start()
    try:
        partition_layers(costs, "pipeline", 32)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200e6


@every_objective
def test_empty_batch(objective: Objective) -> None:
    found = partition_layers(StageCosts(layer_BSL=np.ones((0, 2, 3))), objective, 4)
    assert found.bounds_BS1.shape == (0, 3)
    assert found.value_B.shape == found.feasible_B.shape == (0,)


@pytest.mark.parametrize("microbatches", [0, np.array([1, 2, 3]), np.array([[1, 1]]), np.array([1, 0])])
def test_bad_microbatches(microbatches: IntArray | int) -> None:
    costs = StageCosts(layer_BSL=np.ones((2, 2, 3)))
    with pytest.raises(ValueError, match="microbatches_B must be at least 1"):
        partition_layers(costs, "pipeline", microbatches)


def test_unknown_objective() -> None:
    with pytest.raises(ValueError, match="one of bottleneck, sum, pipeline"):
        partition_layers(StageCosts(layer_BSL=np.ones((1, 1, 1))), "median")  # type: ignore[arg-type]


def test_input_is_left_as_it_was() -> None:
    layer_BSL: FloatArray = np.ones((2, 3, 4))
    costs = StageCosts(layer_BSL=layer_BSL, stages_B=np.array([2, 3]))
    for objective in OBJECTIVES:
        partition_layers(costs, objective, 2)
    assert (layer_BSL == 1.0).all()
