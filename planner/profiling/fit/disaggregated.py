"""Fit what a decode step costs more where prefill and decode run on separate workers, leaving out whole layouts.

A group is one engine under one way of sharing the attention of its decode workers and one prompt length. All the rest
of the prediction comes from the fit of servers, which has seen none of these rows.

Legend: B row, G grid of the constant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.engine.fitted import FitFile
from planner.profiling.accuracy.disaggregated import group_of, predict_disaggregated
from planner.profiling.accuracy.records import Comparison, FigureName
from planner.profiling.accuracy.table import Row
from planner.profiling.fit.constants import Constant, priors
from planner.profiling.fit.robust import Fold, fit_robustly, leave_groups_out, weights_of_groups
from planner.profiling.fit.store import fit_file, left_out_errors

if TYPE_CHECKING:
    from planner.cost._types import Array, IntArray

__all__ = ["CONSTANTS", "SeparateWorkers", "fit_of"]

Group = tuple[str, str, str]

CONSTANTS: Final[tuple[Constant, ...]] = (
    Constant("step", 3e-3, 3e-3, "taking in KV caches and handing tokens to a router, step by step on the host"),
)
_STEP_G: Final = np.linspace(0.0, 12e-3, 13)
_FIGURES: Final[tuple[FigureName, ...]] = ("ttft", "tpot", "e2e")


@dataclass(frozen=True, slots=True)
class SeparateWorkers:
    """Measured rows, and what they are predicted to be over a grid of the constant.

    Parameters
    ----------
    groups, group_B
        What is left out together, and to which of them each row belongs.
    measured, predicted
        By figure: shape (B,), and shape (B, G).
    """

    groups: tuple[Group, ...]
    group_B: IntArray
    measured: dict[str, Array]
    predicted: dict[str, Array]

    @classmethod
    def of(cls, rows: Sequence[Row]) -> SeparateWorkers:
        """Price rows; those that cannot be are left out."""
        found: list[dict[tuple[int, str], Comparison]] = []
        for step in _STEP_G:
            outcomes = predict_disaggregated(rows, step_of=lambda _, step=step: float(step))  # type: ignore[misc]
            found.append({(one.row, one.figure): one for one in outcomes if isinstance(one, Comparison)})
        numbers = sorted({number for number, _ in found[0]})
        by_number = {row.number: row for row in rows}
        named = [group_of(by_number[number]) for number in numbers]
        groups = tuple(sorted(set(named)))
        return cls(
            groups=groups,
            group_B=np.array([groups.index(group) for group in named]),
            measured={f: np.array([found[0][n, f].measured for n in numbers]) for f in _FIGURES},
            predicted={f: np.array([[one[n, f].predicted for one in found] for n in numbers]) for f in _FIGURES},
        )

    def predict(self, figure: str, values: Mapping[str, float]) -> Array:
        """A figure of every row under some constants, shape (B,)."""
        return np.array([np.interp(values["step"], _STEP_G, one_G) for one_G in self.predicted[figure]])


def fit_of(data: SeparateWorkers, *, source: str, date: str) -> FitFile:
    """Fit, leave out each group in turn, and gather what is stored."""
    measured_B = data.measured["tpot"]

    def fit(seen_B: Array) -> dict[str, float]:
        return fit_robustly(
            CONSTANTS,
            lambda values: np.asarray(np.log(data.predict("tpot", values) / measured_B)),
            weights_of_groups(data.group_B, np.asarray(seen_B, dtype=bool)),
            priors(CONSTANTS),
        )

    folds: list[Fold[Group]] = leave_groups_out(data.groups, data.group_B, fit)  # type: ignore[arg-type]
    everything_B = np.ones(len(measured_B), dtype=bool)
    errors = []
    for figure in _FIGURES:
        predicted_B = np.zeros(len(measured_B))
        for g, fold in enumerate(folds[:-1]):
            mine_B = data.group_B == g
            predicted_B[mine_B] = data.predict(figure, fold.values)[mine_B]
        errors.append(left_out_errors("all", figure, predicted_B, data.measured[figure], data.group_B, everything_B))
    return fit_file(
        name="disaggregated",
        title="decode workers apart from prefill: their step",
        source=source,
        date=date,
        rows=len(measured_B),
        folds=folds,
        left_out=errors,
    )
