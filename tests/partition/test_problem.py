"""What the partition accepts, and the sums it hands to callers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from planner.partition import StageCosts, objective_value, stage_memory, stage_times

ONES = np.ones((2, 3, 4))


def test_broadcasting_to_full_shape() -> None:
    costs = StageCosts(
        layer_BSL=np.ones((1, 3, 4)),
        fixed_BS=np.array([[0.0], [1.0]]),
        memory_BSL=np.ones((1, 1, 4)),
        capacity_BS=np.full(3, 9.0),
        stages_B=np.array([3]),
    )
    assert (costs.batch, costs.num_stages, costs.num_layers) == (2, 3, 4)
    assert costs.layer_BSL.shape == (2, 3, 4)
    assert costs.fixed_BS.tolist() == [[0.0] * 3, [1.0] * 3]
    assert costs.memory_BSL is not None
    assert costs.memory_BSL.shape == (2, 3, 4)
    assert costs.capacity_BS is not None
    assert costs.capacity_BS.shape == costs.memory_fixed_BS.shape == (2, 3)
    assert costs.stages_B is not None
    assert costs.stages_B.tolist() == [3, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer_BSL": np.ones((3, 4))}, r"layer_BSL must be \(B, S, L\)"),
        ({"layer_BSL": np.ones((2, 0, 4))}, r"layer_BSL must be \(B, S, L\)"),
        ({"layer_BSL": -ONES}, "layer_BSL must be finite, not negative"),
        ({"layer_BSL": ONES * np.nan}, "layer_BSL must be finite, not negative"),
        ({"layer_BSL": ONES * np.inf}, "layer_BSL must be finite, not negative"),
        ({"fixed_BS": np.array([[0.0, -1.0, 0.0]])}, "fixed_BS must be finite, not negative"),
        ({"fixed_BS": np.ones((2, 2))}, r"fixed_BS has shape \(2, 2\), which does not fit \(2, 3\)"),
        ({"fixed_BS": np.ones((5, 3))}, r"fixed_BS has shape \(5, 3\), which does not fit \(2, 3\)"),
        ({"memory_BSL": ONES}, "memory_BSL and capacity_BS must be given together"),
        ({"capacity_BS": np.ones((2, 3))}, "memory_BSL and capacity_BS must be given together"),
        ({"memory_BSL": ONES[:, :2], "capacity_BS": np.ones((2, 3))}, "memory_BSL has shape"),
        ({"memory_BSL": ONES, "capacity_BS": np.full((2, 3), np.nan)}, "capacity_BS must not hold NaN"),
        ({"stages_B": np.array([0, 1])}, "stages_B must lie in 1 to 3, got 0 to 1"),
        ({"stages_B": np.array([1, 4])}, "stages_B must lie in 1 to 3, got 1 to 4"),
        ({"stages_B": np.array([1.0, 2.0])}, "stages_B must be whole numbers"),
        ({"stages_B": np.array([1, 1, 1])}, r"stages_B has shape \(3,\), which does not fit \(2,\)"),
    ],
)
def test_what_is_rejected(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StageCosts(**{"layer_BSL": ONES, **arguments})


def test_stage_times_and_memory() -> None:
    costs = StageCosts(
        layer_BSL=np.array([[[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]]] * 3),
        fixed_BS=np.array([[100.0, 200.0]]),
        memory_BSL=np.ones((1, 1, 3)),
        memory_fixed_BS=np.array([[0.5, 0.0]]),
        capacity_BS=np.array([[9.0, np.inf]]),
        stages_B=np.array([2, 1, 2]),
    )
    bounds = np.array([[0, 1, 3], [0, 3, 3], [-1, -1, -1]])
    assert stage_times(costs, bounds).tolist() == [[101.0, 248.0], [107.0, 0.0], [np.inf, np.inf]]
    assert stage_memory(costs, bounds).tolist() == [[1.5, 2.0], [3.5, 0.0], [np.inf, np.inf]]


def test_helpers_say_what_is_missing() -> None:
    costs = StageCosts(layer_BSL=ONES)
    with pytest.raises(ValueError, match="costs have no memory_BSL"):
        stage_memory(costs, np.zeros((2, 4), dtype=np.int64))
    with pytest.raises(ValueError, match=r"bounds_BS1 has shape \(2, 3\), which is not \(2, 4\)"):
        stage_times(costs, np.zeros((2, 3), dtype=np.int64))


def test_objective_values() -> None:
    time_BS = np.array([[1.0, 3.0, 2.0], [np.inf, np.inf, np.inf]])
    assert objective_value("bottleneck", time_BS).tolist() == [3.0, np.inf]
    assert objective_value("sum", time_BS).tolist() == [6.0, np.inf]
    assert objective_value("pipeline", time_BS, np.array([5, 1])).tolist() == [18.0, np.inf]
    with pytest.raises(ValueError, match="unknown objective 'max'"):
        objective_value("max", time_BS)  # type: ignore[arg-type]


def test_views_of_some_candidates() -> None:
    costs = StageCosts(layer_BSL=np.arange(24.0).reshape(2, 3, 4), stages_B=np.array([1, 3]))
    part = costs.rows(slice(1, 2))
    assert part.layer_BSL.base is not None
    assert (part.batch, part.stages_B, part.memory_BSL) == (1, np.array([3]), None)
    assert part.padding_BS.tolist() == [[False, False, False]]
