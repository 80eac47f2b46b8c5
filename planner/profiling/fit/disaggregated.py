"""Fit what a decode step takes longer on a worker of a disaggregated deployment than inside one server.

One constant, beside those of the engines, which are taken as the serving fit left them; where a group is left out, as
the fold left them that has not seen the same model under the same engine on the same GPU type either. A group is one
layout of decode workers under one engine and one length of prompts.

Legend: N row, S trial value of the constant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.profiling.accuracy.disaggregated import DisaggregatedRow, price_rows
from planner.profiling.accuracy.records import Skipped
from planner.profiling.fit.constants import Constant
from planner.profiling.fit.robust import Fold, fit_robustly, leave_groups_out, weights_of_groups

if TYPE_CHECKING:
    from planner.cost._types import Array, BoolArray, IntArray
    from planner.profiling.accuracy.table import Row

__all__ = ["STEP", "DisaggregatedData", "Group", "cross_validate", "left_out"]

Group = tuple[str, str, str]

STEP: Final = Constant("step", 4e-3, 2e-3, "a scheduler step on the host that no overlap hides, transfers beside it")
_TRIALS_S: Final = np.linspace(0.0, 16e-3, 9)


@dataclass(frozen=True, slots=True)
class DisaggregatedData:
    """Rows priced at some trial values of the constant.

    Parameters
    ----------
    rows
        N of them.
    seen_SN, unseen_SN
        TPOT in seconds by the constants of all rows, and by those of the fold that has not seen the model.
    groups, group_N
        What is left out together, and to which of them each row belongs.
    """

    rows: tuple[DisaggregatedRow, ...]
    seen_SN: Array
    unseen_SN: Array
    groups: tuple[Group, ...]
    group_N: IntArray

    @classmethod
    def of(cls, rows: Sequence[Row]) -> DisaggregatedData:
        """Price rows whose ``mode`` is ``disagg``; those that cannot be are left out."""
        apart = [row for row in rows if row.text("mode") == "disagg"]
        trials: dict[bool, list[list[DisaggregatedRow]]] = {
            unseen: [
                [one for one in price_rows(apart, step=float(step), left_out=unseen) if not isinstance(one, Skipped)]
                for step in _TRIALS_S
            ]
            for unseen in (False, True)
        }
        kept = trials[False][0]
        groups = tuple(sorted({one.group for one in kept}))
        seen, unseen = (np.array([[one.tpot for one in trial] for trial in trials[key]]) for key in (False, True))
        return cls(tuple(kept), seen, unseen, groups, np.array([groups.index(one.group) for one in kept]))

    @property
    def measured_N(self) -> Array:
        """TPOT in seconds."""
        return np.array([one.measured_tpot for one in self.rows])

    def tpot_N(self, step: float, *, unseen: bool) -> Array:
        """TPOT of every row with some value of the constant."""
        table_SN = self.unseen_SN if unseen else self.seen_SN
        return np.array([np.interp(step, _TRIALS_S, column) for column in table_SN.T])


def _fit(data: DisaggregatedData, seen_N: BoolArray) -> dict[str, float]:
    every = bool(seen_N.all())

    def errors_N(values: Mapping[str, float]) -> Array:
        return np.asarray(np.log(data.tpot_N(values["step"], unseen=not every) / data.measured_N))

    return fit_robustly((STEP,), errors_N, weights_of_groups(data.group_N, seen_N), {})


def cross_validate(data: DisaggregatedData) -> list[Fold[Group]]:
    """Fit once for each group without it, and once to all; the last fold is the one that has seen all."""
    return leave_groups_out(data.groups, data.group_N, lambda seen_N: _fit(data, seen_N))


def left_out(data: DisaggregatedData, folds: Sequence[Fold[Group]]) -> Array:
    """TPOT of every row by constants that have not seen its group, seconds."""
    tpot_N = np.zeros(len(data.rows))
    by_group = {fold.group: fold.values["step"] for fold in folds}
    for g, group in enumerate(data.groups):
        mine_N = data.group_N == g
        tpot_N[mine_N] = data.tpot_N(by_group[group], unseen=True)[mine_N]
    return tpot_N
