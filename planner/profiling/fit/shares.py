"""Measured times to a surface of shares of the roofline, with the error on what was left out.

``seconds = floor + roofline / share``: the floor is the launch of the smallest shapes, which CUDA graphs hide in part,
the share at most what memory and units deliver to work that no cache holds. A benchmark runs the same product again and
again, so that the chip's cache holds it; a served model does not, and such rows count at the largest share. Rows count
by the part of their time that is not the floor, so that what is fitted is the relative error of the time.

Legend: R row (measurement), A axis.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from planner.cluster.measured import SurfaceFacts
from planner.profiling.fit.smoothing import Axes, left_out, smooth

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from planner.cluster.surface import Surface
    from planner.cost._types import Array

__all__ = ["FOLDS", "LARGEST_SHARE", "Samples", "fastest_rows", "fit_shares", "launch_floor"]

FOLDS: Final = 5
LARGEST_SHARE: Final = 0.93
_LEAST_SHARE: Final = 1e-5
_LEAST_WEIGHT: Final = 0.02
_LAUNCHES: Final = 2  # rows that take less tell nothing about the share
_SMALLEST: Final = 0.01  # part of the rows, by work, that are nothing but a launch


@dataclass(frozen=True, slots=True)
class Samples:
    """Measurements of one operator on one GPU by one engine.

    Parameters
    ----------
    axes
        Knots of the surface.
    points_RA
        Sizes of each.
    roofline_R, seconds_R
        Least time, and measured time.
    floor
        Seconds to subtract.
    groups_R
        What is left out together; rows of any width.
    cap
        Largest share; `LARGEST_SHARE` is what KV caches of 1 GB and more reach at best, on any GPU.
    """

    axes: Axes
    points_RA: Array
    roofline_R: Array
    seconds_R: Array
    floor: float
    groups_R: NDArray[Any]
    cap: float = LARGEST_SHARE


def fit_shares(samples: Samples, *, left_out_basis: str, software: str, note: str = "") -> tuple[Surface, SurfaceFacts]:
    """Fit a surface and find its error.

    Parameters
    ----------
    samples
        What was measured.
    left_out_basis
        What a group is, for people: ``"(n, k)"``.
    software, note
        For the facts.
    """
    s = samples
    beyond_R = s.seconds_R - s.floor
    share_R = np.log(np.clip(s.roofline_R / np.maximum(beyond_R, 1e-12), _LEAST_SHARE, s.cap))
    weight_R = np.clip(beyond_R / s.seconds_R, _LEAST_WEIGHT, 1.0)

    def predictor(rows: NDArray[Any]) -> Any:
        part = smooth(s.axes, s.points_RA[rows], share_R[rows], weight_R[rows])
        return lambda others: s.floor + s.roofline_R[others] / np.minimum(part.at(*s.points_RA[others].T), s.cap)

    served_R = np.maximum(s.seconds_R, s.floor + s.roofline_R / s.cap)
    worked_R = (served_R > _LAUNCHES * s.floor) | (served_R.max() <= _LAUNCHES * s.floor)
    missed_R = np.abs(left_out(predictor, s.groups_R, FOLDS) / served_R - 1.0)[worked_R]
    cached = float(np.mean(served_R > 1.1 * s.seconds_R))
    if cached > 0.01:
        note = f"{note}; " if note else ""
        note += f"{100 * cached:.0f} % of the rows are more than a tenth faster than a share of {s.cap:.2f}: from cache"
    facts = SurfaceFacts(
        rows=len(s.seconds_R),
        floor=float(f"{s.floor:.3g}"),
        error=round(float(missed_R.mean()), 4),
        error_median=round(float(np.median(missed_R)), 4),
        error_basis=f"each {left_out_basis} left out once, in {FOLDS} parts; mean relative error of the time of"
        f" rows that take more than {_LAUNCHES} launches",
        software=software,
        note=note,
    )
    surface = smooth(s.axes, s.points_RA, share_R, weight_R)
    return type(surface)(surface.axes, np.minimum(surface.log_values, np.log(s.cap))), facts


def launch_floor(work_R: Array, seconds_R: Array) -> float:
    """Seconds that the smallest shapes take: their median.

    Examples
    --------
    >>> launch_floor(np.arange(1.0, 101.0), np.maximum(3e-6, np.arange(100) * 1e-7))
    3e-06
    """
    return float(np.median(seconds_R[work_R <= np.quantile(work_R, _SMALLEST)]))


def fastest_rows(settings_RA: Array, seconds_R: Array) -> NDArray[Any]:
    """Rows that are the fastest with their settings: of several kernels for one shape, engines choose the best.

    Examples
    --------
    >>> fastest_rows(np.array([[1.0], [2.0], [1.0]]), np.array([3.0, 1.0, 2.0])).tolist()
    [1, 2]
    """
    _, setting_R = np.unique(settings_RA, axis=0, return_inverse=True)
    order_R = np.lexsort((seconds_R, setting_R.reshape(-1)))
    sorted_R = setting_R.reshape(-1)[order_R]
    first_R = np.concatenate([[True], sorted_R[1:] != sorted_R[:-1]])
    return np.sort(order_R[first_R])
