"""Fit the serving model's constants to measured TTFT and TPOT, and learn how wrong it is where it has not measured.

A group is everything measured of one model on one GPU type under one engine; it is left out whole, for that is what the
model is asked about when it is asked anything new. TPOT is fitted first, which nearly all of the end-to-end latency is,
then TTFT with the constants that only divide it: a joint fit lets the load generator's share of TTFT bend the kernels.

Legend: B row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.closed_loop import ClosedLoop, LoopModel
from planner.profiling.accuracy.replicas import ServedRows
from planner.profiling.accuracy.serving import SiliconRow, silicon_rows
from planner.profiling.accuracy.table import Row
from planner.profiling.fit.constants import LATENCY, SPLIT, host_times, loads_with, priors
from planner.profiling.fit.robust import Fold, fit_robustly, leave_groups_out, weights_of_groups

if TYPE_CHECKING:
    from planner.cost._types import Array, BoolArray, IntArray

__all__ = ["Group", "SiliconData", "cross_validate", "fit_constants", "left_out", "whole_left_out"]

Group = tuple[str, str, str]

# TTFT has rows that wait for what their columns do not tell (balancing of ranks, batching delays): it saturates early.
_SATURATION: Final = {"tpot": 0.5, "ttft": 0.3}

# Servers of models with experts hold first tokens back to level their ranks or to gather batches, which no column
# tells: they say less of what an engine's first token takes.
_EXPERTS_IN_SPLIT: Final = 0.5


@dataclass(frozen=True, slots=True)
class SiliconData:
    """Measured closed loops, ready to be priced under any constants.

    Parameters
    ----------
    rows
        B rows.
    served
        Their replicas and loads.
    engines
        Engine of each replica.
    rules
        Load rule of each row.
    groups, group_B
        What is left out together, and to which of them each row belongs.
    ttft_B, tpot_B
        Seconds, measured.
    """

    rows: tuple[SiliconRow, ...]
    served: ServedRows
    engines: tuple[str, ...]
    rules: tuple[str, ...]
    groups: tuple[Group, ...]
    group_B: IntArray
    ttft_B: Array
    tpot_B: Array

    @classmethod
    def of(cls, rows: Sequence[Row]) -> SiliconData:
        """Read rows in the layout ``serving_silicon``; those that cannot be priced are left out."""
        read, _ = silicon_rows(rows)
        served, _ = ServedRows.of(one.served for one in read)
        assert served is not None, "no row can be priced"
        by_number = {one.served.row: one for one in read}
        kept = tuple(by_number[one.row] for one in served.rows)
        groups = tuple(sorted({one.group for one in kept}))
        return cls(
            rows=kept,
            served=served,
            engines=tuple(engine.name for engine in served.engines),
            rules=tuple(one.rule.name for one in kept),
            groups=groups,
            group_B=np.array([groups.index(one.group) for one in kept]),
            ttft_B=np.array([one.ttft for one in kept]),
            tpot_B=np.array([one.tpot for one in kept]),
        )

    def solve(self, values: Mapping[str, float]) -> ClosedLoop:
        """Price all rows under some constants."""
        model = LoopModel(self.served.tables, host_times(values, self.engines))
        return model.solve(loads_with(values, self.served.loads, self.rules))

    def errors_B(self, values: Mapping[str, float], figure: str) -> Array:
        """Logarithm of predicted over measured ``"ttft"`` or ``"tpot"``."""
        predicted_B = getattr(self.solve(values), f"{figure}_B")
        return np.asarray(np.log(predicted_B / getattr(self, f"{figure}_B")))


def fit_constants(data: SiliconData, seen_B: BoolArray) -> dict[str, float]:
    """Constants that fit some of the rows best, priors included."""
    weight_B = weights_of_groups(data.group_B, seen_B)
    experts_B = np.array([any(kind.experts for kind in one.served.setting.model.kinds) for one in data.rows])
    split_B = np.where(experts_B, _EXPERTS_IN_SPLIT, 1.0) * weight_B
    values = priors((*LATENCY, *SPLIT))
    for constants, figure, rows_B in ((LATENCY, "tpot", weight_B), (SPLIT, "ttft", split_B)):
        values |= fit_robustly(
            constants,
            lambda trial, figure=figure: data.errors_B(trial, figure),  # type: ignore[misc]
            rows_B,
            values,
            saturation=_SATURATION[figure],
        )
    return values


def cross_validate(data: SiliconData) -> list[Fold[Group]]:
    """Fit once for each group without it, and once to all; the last fold is the one that has seen all."""
    return leave_groups_out(data.groups, data.group_B, lambda seen_B: fit_constants(data, seen_B))


def left_out(data: SiliconData, folds: Sequence[Fold[Group]]) -> tuple[Array, Array]:
    """TTFT and TPOT of every row under the constants that have not seen its group, seconds."""
    ttft_B, tpot_B = np.zeros(len(data.rows)), np.zeros(len(data.rows))
    by_group = {fold.group: fold.values for fold in folds}
    for g, group in enumerate(data.groups):
        mine_B = data.group_B == g
        loop = data.solve(by_group[group])
        ttft_B[mine_B], tpot_B[mine_B] = loop.ttft_B[mine_B], loop.tpot_B[mine_B]
    return ttft_B, tpot_B


def whole_left_out(data: SiliconData, place: int) -> tuple[Array, Array, IntArray]:
    """TTFT and TPOT of every row under constants that have not seen its GPU type, its engine, or its model at all.

    Parameters
    ----------
    data
        The measurements.
    place
        Which part of a group is left out whole: 0 the GPU type, 1 the engine, 2 the model.

    Returns
    -------
    tuple
        Seconds, and which whole each row belongs to; shape (B,) each.
    """
    wholes = sorted({group[place] for group in data.groups})
    whole_B = np.array([wholes.index(data.groups[g][place]) for g in data.group_B])
    ttft_B, tpot_B = np.zeros(len(data.rows)), np.zeros(len(data.rows))
    for w in range(len(wholes)):
        loop = data.solve(fit_constants(data, np.asarray(whole_B != w)))
        ttft_B, tpot_B = np.where(whole_B == w, loop.ttft_B, ttft_B), np.where(whole_B == w, loop.tpot_B, tpot_B)
    return ttft_B, tpot_B, whole_B
