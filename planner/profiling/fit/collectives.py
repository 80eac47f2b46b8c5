"""Collectives inside a node: seconds by GPUs and bytes, for each operation and library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from planner.cluster.measured import SurfaceFacts
from planner.profiling.fit.shares import FOLDS
from planner.profiling.fit.smoothing import Axes, left_out, smooth

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from planner.cluster.surface import Surface
    from planner.profiling.tables import MeasuredTable

__all__ = ["fit_collectives"]

_BYTES: Final = tuple(float(2**power) for power in range(10, 31))
_LIBRARIES: Final = ("nccl", "custom")  # launched inside a CUDA graph; eager launches hold host time
_FORMATS: Final = ("bf16", "fp16")
_FEWEST: Final = 12
_LARGEST_ERROR: Final = 0.9


def fit_collectives(tables: Sequence[MeasuredTable]) -> dict[str, tuple[Surface, SurfaceFacts]]:
    """Fit the collectives of one GPU type.

    Parameters
    ----------
    tables
        Its ``collective`` tables. Of several collections of the same library the fastest counts at each size: a group
        on a slow host says little about the GPU. How far the middle one is above it counts as error.

    Returns
    -------
    dict
        ``<operation>/nccl``, or ``all_reduce/<engine>`` for an engine's fused kernel.
    """
    times: dict[str, dict[tuple[int, int], list[float]]] = {}
    software: dict[str, list[str]] = {}
    for table in tables:
        engine = table.origin.software.split()[0] if table.origin.software else "measured"
        columns = (
            table[name].tolist() for name in ("operation", "library", "dtype", "nodes", "gpus", "bytes", "seconds")
        )
        for operation, library, dtype, nodes, gpus, size, seconds in zip(*columns, strict=True):
            served = library in _LIBRARIES and dtype in _FORMATS and nodes == 1 and _BYTES[0] <= size <= _BYTES[-1]
            if served:
                name = f"{operation}/{'nccl' if library == 'nccl' else engine}"
                times.setdefault(name, {}).setdefault((gpus, size), []).append(seconds)
                if table.origin.software not in software.setdefault(name, []):
                    software[name].append(table.origin.software)
    return {
        name: _fit(points, ", ".join(software[name]))
        for name, points in sorted(times.items())
        if len(points) >= _FEWEST
    }


def _fit(times: dict[tuple[int, int], list[float]], software: str) -> tuple[Surface, SurfaceFacts]:
    points_RA = np.array(sorted(times), dtype=float)
    log_seconds_R = np.log([min(times[gpus, size]) for gpus, size in sorted(times)])
    above = [float(np.median(seconds)) / min(seconds) - 1.0 for seconds in times.values()]
    axes: Axes = (("gpus", tuple(np.unique(points_RA[:, 0]).tolist())), ("bytes", _BYTES))
    even_R = np.ones(len(points_RA))

    def predictor(rows: NDArray[Any]) -> Any:
        part = smooth(axes, points_RA[rows], log_seconds_R[rows], even_R[rows])
        return lambda others: np.log(part.at(*points_RA[others].T))

    missed_R = np.abs(np.expm1(left_out(predictor, points_RA[:, 1], FOLDS) - log_seconds_R))
    spread = float(np.mean(above))
    facts = SurfaceFacts(
        rows=sum(len(seconds) for seconds in times.values()),
        error=round(max(float(missed_R.mean()), min(spread, _LARGEST_ERROR)), 4),
        error_median=round(float(np.median(missed_R)), 4),
        error_basis=f"each message size left out once, in {FOLDS} parts; or how far the median of the collections is"
        f" above the fastest, {100 * spread:.0f} %, if that is more",
        software=software,
    )
    return smooth(axes, points_RA, log_seconds_R, even_R), facts
