"""Layers to stages: exact, batched, on plain arrays."""

from __future__ import annotations

from planner.partition.interval_dp import partition_layers
from planner.partition.problem import (
    OBJECTIVES,
    Objective,
    Partition,
    StageCosts,
    objective_value,
    stage_memory,
    stage_times,
)

__all__ = [
    "OBJECTIVES",
    "Objective",
    "Partition",
    "StageCosts",
    "objective_value",
    "partition_layers",
    "stage_memory",
    "stage_times",
]
