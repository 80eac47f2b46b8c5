"""Collectives inside a node: seconds by GPUs and bytes, for each operation and library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from planner.cluster.measured import SurfaceFacts
from planner.profiling.fit.shares import FOLDS
from planner.profiling.fit.smoothing import Axes, left_out, smooth

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from planner.cluster.surface import Surface
    from planner.cost._types import Array
    from planner.profiling.tables import MeasuredTable

__all__ = ["fit_collectives"]

_BYTES: Final = tuple(float(2**power) for power in range(10, 31))
_LARGEST: Final = 2**30  # bytes; beyond, the last bandwidth goes on
_LIBRARIES: Final = ("nccl", "custom")  # launched inside a CUDA graph; eager launches hold host time
_FORMATS: Final = ("bf16", "fp16")
_FEWEST: Final = 12


def fit_collectives(table: MeasuredTable) -> dict[str, tuple[Surface, SurfaceFacts]]:
    """Fit the collectives of one library.

    Parameters
    ----------
    table
        A ``collective`` table.

    Returns
    -------
    dict
        ``<operation>/nccl``, or ``all_reduce/<engine>`` for an engine's fused kernel.
    """
    engine = table.origin.software.split()[0] if table.origin.software else "measured"
    fitted: dict[str, tuple[Surface, SurfaceFacts]] = {}
    for operation in sorted(set(table["operation"].tolist())):
        for library in _LIBRARIES:
            mine = (
                (table["operation"] == operation)
                & (table["library"] == library)
                & np.isin(table["dtype"], _FORMATS)
                & (table["nodes"] == 1)
                & (table["bytes"] <= _LARGEST)
                & (table["bytes"] >= _BYTES[0])
            )
            if int(mine.sum()) < _FEWEST:
                continue
            name = f"{operation}/{'nccl' if library == 'nccl' else engine}"
            points_RA = np.stack([table["gpus"][mine], table["bytes"][mine]], axis=1).astype(float)
            fitted[name] = _fit(points_RA, np.log(table["seconds"][mine]), table.origin.software)
    return fitted


def _fit(points_RA: Array, log_seconds_R: Array, software: str) -> tuple[Surface, SurfaceFacts]:
    axes: Axes = (("gpus", tuple(np.unique(points_RA[:, 0]).tolist())), ("bytes", _BYTES))
    even_R = np.ones(len(points_RA))

    def predictor(rows: NDArray[Any]) -> Any:
        part = smooth(axes, points_RA[rows], log_seconds_R[rows], even_R[rows])
        return lambda others: np.log(part.at(*points_RA[others].T))

    missed_R = np.abs(np.expm1(left_out(predictor, points_RA[:, 1], FOLDS) - log_seconds_R))
    facts = SurfaceFacts(
        rows=len(points_RA),
        error=round(float(missed_R.mean()), 4),
        error_median=round(float(np.median(missed_R)), 4),
        error_basis=f"each message size left out once, in {FOLDS} parts; mean relative error of the time",
        software=software,
    )
    return smooth(axes, points_RA, log_seconds_R, even_R), facts
