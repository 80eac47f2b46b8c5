"""Scattered measurements to a surface: least squares over a grid of knots, with an outlier counting less.

The surface is linear between knots in the logarithm of every size (`planner.cluster.surface`), so that fitting it is a
sparse linear problem: no starting values, one answer. Where knots see no measurement, differences between neighbours
are held small, so that the surface goes on as it was.

Legend: R row (measurement), K knot of the grid, A axis.

References
----------
P. Eilers, B. Marx, "Flexible smoothing with B-splines and penalties", Statistical Science 1996, sections 2-3 (here of
degree one); P. Huber, "Robust estimation of a location parameter", 1964.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from planner.cluster.surface import Surface

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from planner.cost._types import Array

__all__ = ["Axes", "left_out", "smooth", "within"]

Axes = tuple[tuple[str, tuple[float, ...]], ...]

_HUBER: Final = 0.15  # log error beyond which a row counts less
_ROUNDS: Final = 3
_SLOPE, _CURVATURE = 1e-3, 2e-2  # how much a row outweighs a difference between knots


def smooth(axes: Axes, points_RA: Array, log_values_R: Array, weights_R: Array) -> Surface:
    """Fit a surface.

    Parameters
    ----------
    axes
        Name and knots of each axis; a point beyond an end counts as at the end.
    points_RA
        Sizes of each measurement, shape (R, A).
    log_values_R
        Logarithm of the measured quantity.
    weights_R
        How much an error of the logarithm at each row matters, from 0 to 1.

    Returns
    -------
    Surface
    """
    from scipy import sparse  # slow to import

    basis_RK = _basis(axes, points_RA)
    shape = tuple(len(knots) for _, knots in axes)
    penalty_KK = _penalty(shape, axes)
    rows_each = max(len(points_RA) / float(np.prod(shape)), 1.0)
    robust_R = np.ones(len(points_RA))
    values_K = np.zeros(0)
    for _ in range(_ROUNDS):
        weight_R = weights_R**2 * robust_R
        scaled_RK = sparse.diags_array(weight_R) @ basis_RK
        normal_KK = basis_RK.T @ scaled_RK + rows_each * penalty_KK
        values_K = _solved(normal_KK, scaled_RK.T @ log_values_R)
        missed_R = np.abs(basis_RK @ values_K - log_values_R) * weights_R
        robust_R = np.minimum(1.0, _HUBER / np.maximum(missed_R, 1e-12))
    return Surface(
        tuple((name, np.asarray(knots, dtype=float)) for name, knots in axes), np.asarray(values_K).reshape(shape)
    )


def within(surface: Surface, log_values_R: Array) -> Surface:
    """The same surface, nowhere beyond what was measured: knots that saw nothing go on at a slope, and may go far."""
    lowest, highest = float(log_values_R.min()), float(log_values_R.max())
    return Surface(surface.axes, np.clip(surface.log_values, lowest, highest))


def left_out(
    fit: Callable[[NDArray[Any]], Callable[[NDArray[Any]], Array]], groups_R: NDArray[Any], folds: int = 5
) -> Array:
    """Predict every row by a fit that has not seen its group.

    Parameters
    ----------
    fit
        Takes the rows to fit to (indices), returns a predictor of other rows (indices).
    groups_R
        Group of each row; a group is left out whole.
    folds
        How many fits.

    Returns
    -------
    array, shape (R,)
        What each row was predicted to be.
    """
    _, group_R = np.unique(groups_R, axis=0, return_inverse=True)
    group_R = group_R.reshape(-1)
    number = int(group_R.max()) + 1
    fold_G = np.random.default_rng(0).permutation(number) % min(folds, number)
    fold_R = fold_G[group_R]
    predicted_R = np.full(len(groups_R), np.nan)
    for fold in range(min(folds, number)):
        held_out = np.flatnonzero(fold_R == fold)
        predicted_R[held_out] = fit(np.flatnonzero(fold_R != fold))(held_out)
    return predicted_R


def _solved(normal_KK: Any, right_K: Array) -> Array:
    """Solve the normal equations: positive definite, and banded, as only near knots meet."""
    from scipy.linalg import solveh_banded
    from scipy.sparse import triu

    upper = triu(normal_KK, format="coo")
    width = int((upper.col - upper.row).max())
    banded = np.zeros((width + 1, upper.shape[1]))
    np.add.at(banded, (width + upper.row - upper.col, upper.col), upper.data)
    return np.asarray(solveh_banded(banded, right_K, overwrite_ab=True, check_finite=False))


def _basis(axes: Axes, points_RA: Array) -> Any:
    """Sparse matrix of shape (R, K): the weights with which knots make the value at each point."""
    from scipy import sparse

    shape = tuple(len(knots) for _, knots in axes)
    rows = len(points_RA)
    lower, part = [], []
    for at, (_, knots) in enumerate(axes):
        place_R = np.interp(np.log(points_RA[:, at]), np.log(knots), np.arange(len(knots)))
        floor_R = np.minimum(place_R.astype(np.intp), max(len(knots) - 2, 0))
        lower.append(floor_R)
        part.append(place_R - floor_R)
    columns, weights = [], []
    for corner in itertools.product((0, 1), repeat=len(axes)):
        index = [np.minimum(low + step, size - 1) for low, step, size in zip(lower, corner, shape, strict=True)]
        columns.append(np.ravel_multi_index(tuple(index), shape))
        weights.append(np.prod([p if step else 1.0 - p for p, step in zip(part, corner, strict=True)], axis=0))
    row = np.tile(np.arange(rows), len(columns))
    matrix = sparse.coo_array(
        (np.concatenate(weights), (row, np.concatenate(columns))), shape=(rows, int(np.prod(shape)))
    )
    return matrix.tocsr()


def _penalty(shape: Sequence[int], axes: Axes) -> Any:
    """Squared slopes and changes of slope along every axis, as a matrix of shape (K, K)."""
    from scipy import sparse

    total: Any = sparse.csr_array((int(np.prod(shape)), int(np.prod(shape))))
    for at, (_, knots) in enumerate(axes):
        size = len(knots)
        if size < 2:
            continue
        gap = np.diff(np.log(np.asarray(knots)))
        slope = sparse.diags_array([-1.0 / gap, 1.0 / gap], offsets=[0, 1], shape=(size - 1, size))
        one: Any = _SLOPE * (slope.T @ slope)
        if size > 2:
            ones: Any = np.ones(size - 2)
            bend = sparse.diags_array([-ones, ones], offsets=[0, 1], shape=(size - 2, size - 1))
            change = bend @ slope
            one = one + _CURVATURE * (change.T @ change)
        before, after = int(np.prod(shape[:at])), int(np.prod(shape[at + 1 :]))
        total = total + sparse.kron(sparse.kron(sparse.eye_array(before), one), sparse.eye_array(after))
    return total
