"""Fit what an engine costs in batch runs, where requests lie ready in its process, to TensorRT-LLM's published tables.

Large batches, other host code and older releases than those that are measured as servers: the constants are a set of
their own. Saturated throughput, static batches and first tokens are fitted together; a group is everything of one model
on one GPU type in one number format.

Legend: B row, R replica.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.profiling.accuracy.replicas import ServedRows
from planner.profiling.accuracy.table import Table
from planner.profiling.accuracy.trtllm import OfflineLayout, group_of, offline_loop
from planner.profiling.fit.constants import OFFLINE, priors
from planner.profiling.fit.robust import Fold, fit_robustly, leave_groups_out, weights_of_groups

if TYPE_CHECKING:
    from planner.cost._types import Array, BoolArray, IntArray

__all__ = ["Group", "OfflineData", "cross_validate", "left_out"]

Group = tuple[str, str, str]

# Some rows are faster than their weights can be read, others sit at the edge of the memory: they saturate early.
_SATURATION: Final = 0.25
_TABLES_APART: Final = 1000  # groups of one table, at most


@dataclass(frozen=True, slots=True)
class OfflineData:
    """Measured batch runs, ready to be priced under any constants.

    Parameters
    ----------
    tables
        Layout, replicas and loads of each table.
    groups, group_B
        What is left out together, and to which of them each row belongs.
    table_B
        Table of each row.
    measured_B
        What it measured.
    """

    tables: tuple[tuple[OfflineLayout, ServedRows], ...]
    groups: tuple[Group, ...]
    group_B: IntArray
    table_B: IntArray
    measured_B: Array

    @classmethod
    def of(cls, tables: Sequence[tuple[OfflineLayout, Table]]) -> OfflineData:
        """Read tables; rows that cannot be priced are left out."""
        kept, measured, groups, place = [], [], [], []
        for t, (layout, table) in enumerate(tables):
            read, _ = layout.rows(table.rows)
            served, _ = ServedRows.of(one.served for one in read)
            assert served is not None, "no row can be priced"
            found = {one.served.row: one.measured for one in read}
            kept.append((layout, served))
            measured += [found[one.row] for one in served.rows]
            groups += [group_of(one.setting) for one in served.rows]
            place += [t] * len(served.rows)
        named = tuple(sorted(set(groups)))
        return cls(
            tables=tuple(kept),
            groups=named,
            group_B=np.array([named.index(group) for group in groups]),
            table_B=np.array(place),
            measured_B=np.array(measured),
        )

    def predict(self, values: Mapping[str, float]) -> Array:
        """What each row is predicted to measure under some constants, shape (B,)."""
        predicted = []
        for layout, served in self.tables:
            loop = offline_loop(served, values)
            predicted += [layout.predicted(one, loop, b) for b, one in enumerate(served.rows)]
        return np.array(predicted)


def cross_validate(data: OfflineData) -> list[Fold[Group]]:
    """Fit once for each group without it, and once to all; the last fold is the one that has seen all."""
    parts_B = data.group_B + _TABLES_APART * data.table_B  # a group weighs once in each table
    _, part_B = np.unique(parts_B, return_inverse=True)

    def fit(seen_B: BoolArray) -> dict[str, float]:
        return fit_robustly(
            OFFLINE,
            lambda values: np.asarray(np.log(data.predict(values) / data.measured_B)),
            weights_of_groups(part_B, seen_B),
            priors(OFFLINE),
            saturation=_SATURATION,
        )

    return leave_groups_out(data.groups, data.group_B, fit)


def left_out(data: OfflineData, folds: Sequence[Fold[Group]]) -> Array:
    """What each row is predicted to measure under the constants that have not seen its group, shape (B,)."""
    by_group = {fold.group: fold.values for fold in folds}
    predicted_B = np.zeros(len(data.measured_B))
    for g, group in enumerate(data.groups):
        mine_B = data.group_B == g
        predicted_B[mine_B] = data.predict(by_group[group])[mine_B]
    return predicted_B
