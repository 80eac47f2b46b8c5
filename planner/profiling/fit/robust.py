"""Least squares that rows which contradict their own columns do not decide, pulled towards priors, by whole groups.

Errors are logarithms of prediction over measurement, so that too high and too low count alike; beyond a limit they
saturate; every group weighs the same, however many rows it has.

Legend: N row, C constant.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeVar

import numpy as np

from planner.profiling.fit.constants import Constant

if TYPE_CHECKING:
    from planner.cost._types import Array, BoolArray, IntArray

__all__ = ["Fold", "fit_robustly", "leave_groups_out", "weights_of_groups"]

Group = TypeVar("Group", bound=Hashable, covariant=True)
Values = dict[str, float]

_PULL: Final = 0.03
_EVALUATIONS: Final = 40
_MOST_SPREADS: Final = 12.0


@dataclass(frozen=True, slots=True)
class Fold(Generic[Group]):
    """Constants that have not seen one group.

    Parameters
    ----------
    group
        The group that was left out; None: nothing was.
    values
        The constants by name.
    """

    group: Group | None
    values: Values


def weights_of_groups(group_N: IntArray, seen_N: BoolArray) -> Array:
    """One for each group together, nothing for rows that are left out; the whole has length 1."""
    counts = np.bincount(group_N[seen_N], minlength=int(group_N.max()) + 1)
    weight_N = np.where(seen_N, 1.0 / np.sqrt(np.maximum(counts[group_N], 1)), 0.0)
    return np.asarray(weight_N / np.sqrt((weight_N**2).sum()))


def fit_robustly(
    constants: Sequence[Constant],
    errors_N: Callable[[Mapping[str, float]], Array],
    weight_N: Array,
    held: Mapping[str, float],
    *,
    saturation: float = 0.5,
) -> Values:
    """Find the constants with the least weighted errors.

    Parameters
    ----------
    constants
        C of them, with their priors. None is less than 0, unless its prior is 0.
    errors_N
        Log errors of all rows under some values.
    weight_N
        Of the rows; 0 for those left out.
    held
        Values of the constants that are not fitted now.
    saturation
        Errors beyond it count little more.

    Returns
    -------
    dict
        Values of the fitted constants by name.
    """
    from scipy.optimize import least_squares

    prior_C = np.array([constant.prior for constant in constants])
    spread_C = np.array([constant.spread for constant in constants])
    names = [constant.name for constant in constants]
    used_N = weight_N > 0
    pull = _PULL / np.sqrt(len(names))
    lowest_C = np.where(prior_C > 0, -prior_C / spread_C, -_MOST_SPREADS)

    def values(step_C: Array) -> Values:
        sizes_C = np.where(prior_C > 0, np.maximum(prior_C + spread_C * step_C, 0.0), spread_C * step_C)
        return dict(held) | dict(zip(names, sizes_C.tolist(), strict=True))

    def residuals(step_C: Array) -> Array:
        error_N = errors_N(values(step_C))[used_N]
        return np.concatenate([weight_N[used_N] * saturation * np.tanh(error_N / saturation), pull * step_C])

    found = least_squares(
        residuals,
        np.zeros(len(names)),
        bounds=(lowest_C - 1e-9, np.full(len(names), _MOST_SPREADS)),
        diff_step=np.full(len(names), 1e-3),
        max_nfev=_EVALUATIONS,
    )
    fitted = values(np.asarray(found.x))
    return {name: fitted[name] for name in names}


def leave_groups_out(
    groups: Sequence[Group], group_N: IntArray, fit: Callable[[BoolArray], Values]
) -> list[Fold[Group]]:
    """Fit once for each group without it, and once to all.

    Parameters
    ----------
    groups, group_N
        The groups, and to which of them each row belongs.
    fit
        Fits to the rows that it is told.

    Returns
    -------
    list of Fold
        One for each group in order; the last has seen all.
    """
    folds = [Fold(group, fit(np.asarray(group_N != g))) for g, group in enumerate(groups)]
    return [*folds, Fold(None, fit(np.ones(len(group_N), dtype=bool)))]
