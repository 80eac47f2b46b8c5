"""From single readings to a figure: warm up until stable, repeat within a budget, answer median and spread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

__all__ = ["Sample", "TimeBudget", "sampled", "summed_up"]

_STABLE: Final = 0.05  # two readings that differ by less are warm
_MOST_WARM: Final = 0.3  # share of the budget that warming up may take


@dataclass(frozen=True, slots=True)
class TimeBudget:
    """How long one point may take.

    Parameters
    ----------
    seconds
        Of readings; warming up takes at most a third of it on top, and at least one run.
    least, most
        Number of readings, whatever the time.
    reading
        Seconds that one reading should span at least: shorter operations are run several times in it.
    """

    seconds: float = 0.5
    least: int = 5
    most: int = 200
    reading: float = 200e-6


@dataclass(frozen=True, slots=True)
class Sample:
    """What came of one point.

    Parameters
    ----------
    seconds
        Median of the readings.
    spread
        Half the interquartile range over the median.
    repeats
        Number of readings.
    """

    seconds: float
    spread: float
    repeats: int


def summed_up(readings: Sequence[float]) -> Sample:
    """Median and spread of readings.

    Examples
    --------
    >>> summed_up([1.0, 2.0, 3.0])
    Sample(seconds=2.0, spread=0.25, repeats=3)
    """
    low, middle, high = np.percentile(np.asarray(readings, dtype=float), (25, 50, 75))
    return Sample(float(middle), float((high - low) / 2 / middle) if middle > 0 else 0.0, len(readings))


def sampled(
    reading: Callable[[int], float], budget: TimeBudget, clock: Callable[[], float] = time.perf_counter
) -> Sample:
    """Warm up, then read until the budget is spent.

    Parameters
    ----------
    reading
        Runs the operation so many times and answers the seconds of one run.
    budget
        How long that may take.
    clock
        Seconds; tests give their own.
    """
    start = clock()
    one = reading(1)
    inner = max(1, min(1000, round(budget.reading / max(one, 1e-9))))
    before = one
    while clock() - start < _MOST_WARM * budget.seconds:
        now = reading(inner)
        stable = abs(now - before) <= _STABLE * before
        before = now
        if stable:
            break
    # The first run was cold, and perhaps the second: how many runs fill a reading is asked once more.
    inner = max(1, min(1000, round(budget.reading / max(reading(inner), 1e-9))))
    readings: list[float] = []
    start = clock()
    while len(readings) < budget.least or (len(readings) < budget.most and clock() - start < budget.seconds):
        readings.append(reading(inner))
    return summed_up(readings)
