"""Constants of training runs that are predicted from measured layers, fitted to Sailor's runs.

The time rests on one constant, memory on three. Groups are left out whole: each depth of the pipeline on GH200, and the
mixed cluster. Its memory is not fitted: those rows contradict their own columns (less is measured than the states
of the parameters take), and are predicted by the constants of GH200.

Legend: N row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.training_measured import MeasuredConstants
from planner.profiling.accuracy.records import SkipRowError
from planner.profiling.accuracy.registry import load_truth
from planner.profiling.accuracy.sailor import MeasuredRun, read_run
from planner.profiling.fit.constants import Constant
from planner.profiling.fit.robust import Fold, fit_robustly, leave_groups_out, weights_of_groups

if TYPE_CHECKING:
    from planner.cost._types import Array, BoolArray, IntArray

__all__ = ["MEMORY", "TABLE", "TIME", "MeasuredData", "cross_validate", "fit_constants", "left_out"]

TABLE: Final = "training_sailor"
TIME: Final = (Constant("curve", 0.5, 0.25, "a measured point and the line through all of them count alike"),)
MEMORY: Final = (
    Constant("parameter_bytes", 20.0, 3.0, "fp32 weight, gradient and two moments, and a gradient bucket"),
    Constant("activations", 1.1, 0.1, "allocators round up; gradients of activations come on top"),
    Constant("context", 4e9, 1e9, "CUDA context, NCCL, workspace"),
)


@dataclass(frozen=True, slots=True)
class MeasuredData:
    """Measured runs.

    Parameters
    ----------
    rows
        N rows.
    groups, group_N
        What is left out together, and to which of them each row belongs.
    seconds_N, memory_N
        Measured.
    """

    rows: tuple[MeasuredRun, ...]
    groups: tuple[tuple[str, ...], ...]
    group_N: IntArray
    seconds_N: Array
    memory_N: Array

    @classmethod
    def of(cls) -> MeasuredData:
        """Read the shipped table; rows that cannot be predicted are left out."""
        rows = []
        for row in load_truth(TABLE).rows:
            try:
                rows.append(read_run(row))
            except SkipRowError:
                continue
        groups = tuple(sorted({one.group for one in rows}))
        return cls(
            rows=tuple(rows),
            groups=groups,
            group_N=np.array([groups.index(one.group) for one in rows]),
            seconds_N=np.array([one.seconds for one in rows]),
            memory_N=np.array([one.memory for one in rows]),
        )

    @property
    def alike_N(self) -> BoolArray:
        """Which runs had one type of GPU."""
        return np.array([one.device != "mixed" for one in self.rows])

    def predict(self, values: Mapping[str, float]) -> tuple[Array, Array]:
        """Seconds and bytes of every row under some constants."""
        seconds, memory = zip(*(one.predict(MeasuredConstants.of(values)) for one in self.rows), strict=True)
        return np.array(seconds), np.array(memory)


def fit_constants(data: MeasuredData, seen_N: BoolArray) -> dict[str, float]:
    """Constants that fit some of the rows best, priors included."""
    values = {one.name: one.prior for one in (*TIME, *MEMORY)}
    for figure, constants, used_N in ((0, TIME, seen_N), (1, MEMORY, seen_N & data.alike_N)):
        measured_N = (data.seconds_N, data.memory_N)[figure]

        def errors_N(trial: Mapping[str, float], figure: int = figure, measured_N: Array = measured_N) -> Array:
            return np.asarray(np.log(data.predict(trial)[figure] / measured_N))

        values |= fit_robustly(constants, errors_N, weights_of_groups(data.group_N, used_N), values)
    return values


def cross_validate(data: MeasuredData) -> list[Fold[tuple[str, ...]]]:
    """Fit once for each group without it, and once to all; the last fold is the one that has seen all."""
    return leave_groups_out(data.groups, data.group_N, lambda seen_N: fit_constants(data, seen_N))


def left_out(data: MeasuredData, folds: Sequence[Fold[tuple[str, ...]]]) -> tuple[Array, Array]:
    """Seconds and bytes of every row under the constants that have not seen its group."""
    seconds_N, memory_N = np.zeros(len(data.rows)), np.zeros(len(data.rows))
    by_group = {fold.group: fold.values for fold in folds}
    for g, group in enumerate(data.groups):
        mine_N = data.group_N == g
        predicted = data.predict(by_group[group])
        seconds_N[mine_N], memory_N[mine_N] = predicted[0][mine_N], predicted[1][mine_N]
    return seconds_N, memory_N
