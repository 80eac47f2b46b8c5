"""Fit the serving model's constants to measured TTFT and TPOT, and learn how wrong it is where it has not measured.

Groups are left out whole, never rows: a group is everything measured of one model on one GPU type under one engine, for
that is what the model is asked about when it is asked anything new. TPOT is fitted first, which nearly all of the
end-to-end latency is, then TTFT with the constants that only divide it: a joint fit lets the load generator's share of
TTFT bend the kernels. Errors are logarithms, so that too high and too low count alike, and saturate, so that rows that
contradict their own columns do not decide; every group weighs the same, however many rows it has.

Legend: B row, C constant.
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
from planner.profiling.fit.constants import LATENCY, SPLIT, Constant, host_times, loads_with, priors

if TYPE_CHECKING:
    from planner.cost._types import Array, IntArray

__all__ = ["Fold", "SiliconData", "cross_validate", "fit_constants"]

Group = tuple[str, str, str]

# Errors beyond this do not count for more (in units of the natural logarithm), and how hard the priors pull.
_SATURATION: Final = {"tpot": 0.5, "ttft": 0.6}
_PULL: Final = 0.018
_EVALUATIONS: Final = 40


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


@dataclass(frozen=True, slots=True)
class Fold:
    """Constants that have not seen one group.

    Parameters
    ----------
    group
        The group that was left out; None: nothing was.
    values
        The constants by name.
    """

    group: Group | None
    values: dict[str, float]


def fit_constants(data: SiliconData, seen_B: Array | None = None) -> dict[str, float]:
    """Constants that fit the measurements best, priors included.

    Parameters
    ----------
    data
        The measurements.
    seen_B
        Which rows to fit to; None: all.
    """
    weight_B = _weights(data, np.ones(len(data.rows), bool) if seen_B is None else np.asarray(seen_B, dtype=bool))
    values = priors((*LATENCY, *SPLIT))
    values |= _fit(data, weight_B, LATENCY, values, "tpot")
    values |= _fit(data, weight_B, SPLIT, values, "ttft")
    return values


def cross_validate(data: SiliconData) -> list[Fold]:
    """Fit once for each group without it, and once to all; the last fold is the one that has seen all."""
    folds = [Fold(group, fit_constants(data, data.group_B != g)) for g, group in enumerate(data.groups)]
    return [*folds, Fold(None, fit_constants(data))]


def _weights(data: SiliconData, seen_B: Array) -> Array:
    """One for each group together, nothing for rows that are left out; the whole has length 1."""
    counts = np.bincount(data.group_B[seen_B], minlength=len(data.groups))
    weight_B = np.where(seen_B, 1.0 / np.sqrt(np.maximum(counts[data.group_B], 1)), 0.0)
    return np.asarray(weight_B / np.sqrt((weight_B**2).sum()))


def _fit(
    data: SiliconData, weight_B: Array, constants: Sequence[Constant], held: Mapping[str, float], figure: str
) -> dict[str, float]:
    from scipy.optimize import least_squares

    prior_C = np.array([constant.prior for constant in constants])
    spread_C = np.array([constant.spread for constant in constants])
    names = [constant.name for constant in constants]
    used_B = weight_B > 0
    limit = _SATURATION[figure]
    measured_B = getattr(data, f"{figure}_B")
    pull = _PULL / np.sqrt(len(names))

    def values(step_C: Array) -> dict[str, float]:
        return dict(held) | dict(zip(names, (prior_C + spread_C * step_C).tolist(), strict=True))

    def residuals(step_C: Array) -> Array:
        predicted_B = getattr(data.solve(values(step_C)), f"{figure}_B")
        error_B = np.log(predicted_B[used_B] / measured_B[used_B])
        return np.concatenate([weight_B[used_B] * limit * np.tanh(error_B / limit), pull * step_C])

    found = least_squares(
        residuals,
        np.zeros(len(names)),
        bounds=(-prior_C / spread_C - 1e-9, np.full(len(names), 12.0)),
        diff_step=1e-3,
        max_nfev=_EVALUATIONS,
    )
    fitted = values(np.maximum(found.x, -prior_C / spread_C))
    return {name: fitted[name] for name in names}
