"""What a fit leaves behind: its constants, those of its folds, and the errors on what each fold had not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import TYPE_CHECKING, Final

import numpy as np
import yaml

from planner.engine.fitted import FitFile, LeftOut, StoredFold
from planner.profiling.fit.robust import Fold

if TYPE_CHECKING:
    from pathlib import Path

    from planner.cost._types import Array, BoolArray, IntArray

__all__ = ["fit_file", "left_out_errors", "write_fit"]

_COVERED: Final = 0.9
_DIGITS: Final = 5


def left_out_errors(
    part: str, figure: str, predicted_B: Array, measured_B: Array, group_B: IntArray, among_B: BoolArray
) -> LeftOut:
    """Errors of some rows, each predicted by constants that have not seen its group.

    Parameters
    ----------
    part, figure
        What they are called.
    predicted_B, measured_B
        Of all rows.
    group_B
        Their groups.
    among_B
        Which of them count.
    """
    predicted, measured, group = predicted_B[among_B], measured_B[among_B], group_B[among_B]
    deviation = predicted / measured - 1.0
    missed = np.abs(measured - predicted) / predicted
    held = 0.0
    for one in np.unique(group):
        others = missed[group != one]
        held += float((missed[group == one] <= _band(others)).sum()) if len(others) else 0.0
    return LeftOut(
        part=part,
        figure=figure,
        rows=len(measured),
        mean_ape=_rounded(fmean(np.abs(deviation).tolist())),
        median_ape=_rounded(median(np.abs(deviation).tolist())),
        bias=_rounded(fmean(deviation.tolist())),
        band=_rounded(_band(missed)),
        coverage=_rounded(held / len(measured)),
    )


def _band(missed: Array) -> float:
    return float(np.quantile(missed, _COVERED))


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def fit_file(
    *,
    name: str,
    title: str,
    source: str,
    date: str,
    rows: int,
    folds: Sequence[Fold[tuple[str, ...]]],
    left_out: Sequence[LeftOut],
) -> FitFile:
    """Gather what is stored; the last of the folds has seen all."""

    def rounded(values: Mapping[str, float]) -> dict[str, float]:
        return {key: _rounded(value) for key, value in values.items()}

    return FitFile(
        name=name,
        title=title,
        kind="fitted",
        source=source,
        date=date,
        rows=rows,
        constants=rounded(folds[-1].values),
        left_out=tuple(left_out),
        folds=tuple(
            StoredFold(group=fold.group, constants=rounded(fold.values)) for fold in folds if fold.group is not None
        ),
    )


def write_fit(fit: FitFile, folder: Path, *, by: str = "benchmarks/fit_serving.py") -> Path:
    """Write a fit as ``NAME.yaml``."""
    from planner.plan.files import write_atomically

    path = folder / f"{fit.name}.yaml"
    head = f"# Written by {by}; the numbers are fitted, do not edit them here.\n"
    text = yaml.safe_dump(fit.model_dump(mode="json"), sort_keys=False, width=110, default_flow_style=None)
    write_atomically(path, head + text)
    return path
