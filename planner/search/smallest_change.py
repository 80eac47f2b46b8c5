"""The smallest change that makes a job feasible: kinds of change in order, each tried in growing sizes, for real.

A kind of change comes in sizes 1, 2, 3, … (as many more nodes; the n-th value of an option) of which a larger one never
helps less. What makes a job feasible is asked of the search itself, so that a change that is named works, and the next
smaller one does not.

References
----------
Galloping and bisection: J. Bentley, A. Yao, "An almost optimal algorithm for unbounded searching", Information
Processing Letters 5, 1976.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Change", "Kind", "smallest_change"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Change(Generic[T]):
    """A changed job.

    Parameters
    ----------
    words
        What was changed, as advice: ``"2 more nodes like those of a100"``.
    job
        The job after it.
    """

    words: str
    job: T


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """A kind of change.

    Parameters
    ----------
    most
        Its largest size.
    at
        The change of a size, from 1 to `most`.
    """

    most: int
    at: Callable[[int], Change[T]]


def smallest_change(kinds: Sequence[Sequence[Kind[T]]], fits: Callable[[T], bool]) -> Change[T] | None:
    """Find the first kind of change that helps, at its smallest size.

    Parameters
    ----------
    kinds
        Groups of kinds, those to try first in front. Of a group the kind with the smallest size is taken, the earlier
        one among equals: a node of one type, or of another.
    fits
        Whether a job has a plan.

    Returns
    -------
    Change or None
        None where nothing helps.

    Examples
    --------
    >>> more = Kind(100, lambda n: Change(f"{n} more", n))
    >>> smallest_change([[more]], lambda n: n >= 37).words
    '37 more'
    """
    for group in kinds:
        best: tuple[int, Change[T]] | None = None
        for kind in group:
            found = _smallest(kind, fits, kind.most if best is None else min(kind.most, best[0] - 1))
            best = best if found is None else found
        if best is not None:
            return best[1]
    return None


def _smallest(kind: Kind[T], fits: Callable[[T], bool], most: int) -> tuple[int, Change[T]] | None:
    low, high = 0, 1  # `low` does not fit
    found: Change[T] | None = None
    while high <= most:
        change = kind.at(high)
        if fits(change.job):
            found = change
            break
        low, high = high, (most if high < most < 2 * high else 2 * high)
    if found is None:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        change = kind.at(middle)
        if fits(change.job):
            high, found = middle, change
        else:
            low = middle
    return high, found
