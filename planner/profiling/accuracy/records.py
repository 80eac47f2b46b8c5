"""What comes of comparing: a prediction beside each measurement, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from planner.profiling.accuracy.table import Row

__all__ = ["FIGURES", "UNITS", "Comparison", "FigureName", "Layout", "Outcome", "SkipRowError", "Skipped"]

FigureName = Literal["ttft", "tpot", "e2e", "throughput", "iteration_time", "tflops", "peak_memory"]

FIGURES: Final[tuple[FigureName, ...]] = (
    "ttft",
    "tpot",
    "e2e",
    "throughput",
    "iteration_time",
    "tflops",
    "peak_memory",
)
"""Figures in the order of tables. ``e2e`` is TTFT + OSL TPOT."""

UNITS: Final[dict[FigureName, str]] = {
    "ttft": "s",
    "tpot": "s",
    "e2e": "s",
    "throughput": "tokens/s",
    "iteration_time": "s",
    "tflops": "TFLOP/s",
    "peak_memory": "bytes",
}


class SkipRowError(Exception):
    """A row is not predicted; the message says why. It does not leave this package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One figure of one row.

    Parameters
    ----------
    row
        Number of the row, from 1 below the header.
    model, device, engine
        What the row was priced as.
    figure
        Which figure.
    measured, predicted
        In the unit of `UNITS`.
    error
        The relative error that the prediction states for itself.
    """

    row: int
    model: str
    device: str
    engine: str
    figure: FigureName
    measured: float
    predicted: float
    error: float

    @property
    def deviation(self) -> float:
        """Prediction over measurement, less 1."""
        return self.predicted / self.measured - 1.0

    @property
    def covered(self) -> bool:
        """Whether the measurement lies within the stated band."""
        return abs(self.measured - self.predicted) <= self.error * self.predicted


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that was not predicted, and why."""

    row: int
    why: str


Outcome = Comparison | Skipped


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One way to write measurements down.

    Parameters
    ----------
    name, title
        Registry name, and what it holds.
    columns
        Columns by which it is recognised, and without which it cannot be read.
    predict
        Compares rows with predictions; says of each row that it cannot predict why.
    fitted
        What of the predictions was fitted to rows of this layout, so that nobody takes a fit for a test.
    predict_left_out
        The same with constants that were fitted without the group that a row belongs to; None: none were fitted.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    predict: Callable[[Sequence[Row]], Iterable[Outcome]]
    fitted: str
    predict_left_out: Callable[[Sequence[Row]], Iterable[Outcome]] | None = None
