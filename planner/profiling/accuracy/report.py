"""How far predictions are off: absolute and signed relative errors, and how often the stated band holds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from planner.profiling.accuracy.records import FIGURES, Comparison, FigureName, Outcome, Skipped
from planner.profiling.accuracy.table import Table

__all__ = ["Accuracy", "GroupScore", "Score", "score"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Errors of one figure over some rows.

    Parameters
    ----------
    figure, n
        Which, and over how many rows.
    mean_ape, median_ape
        Of the absolute relative error, as fractions.
    bias
        Mean of the signed relative error: above 0 where predictions are too high.
    coverage90
        Share of the rows whose measurement lies within the band that the prediction states.
    """

    figure: FigureName
    n: int
    mean_ape: float
    median_ape: float
    bias: float
    coverage90: float

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "figure": self.figure,
            "n": self.n,
            "mean_ape": self.mean_ape,
            "median_ape": self.median_ape,
            "bias": self.bias,
            "coverage90": self.coverage90,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupScore:
    """Errors of one figure for one model on one GPU type under one engine."""

    model: str
    device: str
    engine: str
    score: Score

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {"model": self.model, "device": self.device, "engine": self.engine, **self.score.as_data()}


def score(comparisons: Sequence[Comparison]) -> Score:
    """Score comparisons of one figure; at least one."""
    deviations = [comparison.deviation for comparison in comparisons]
    absolute = [abs(deviation) for deviation in deviations]
    return Score(
        figure=comparisons[0].figure,
        n=len(comparisons),
        mean_ape=fmean(absolute),
        median_ape=median(absolute),
        bias=fmean(deviations),
        coverage90=fmean(1.0 if comparison.covered else 0.0 for comparison in comparisons),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """What came of one truth file.

    Parameters
    ----------
    table, layout
        The file, and the name of its layout.
    fitted
        What of the predictions was fitted to such rows.
    comparisons
        By row.
    skipped
        By row.
    """

    table: Table
    layout: str
    fitted: str
    comparisons: tuple[Comparison, ...]
    skipped: tuple[Skipped, ...]

    @classmethod
    def of(cls, table: Table, layout: str, fitted: str, outcomes: Iterable[Outcome]) -> Accuracy:
        """Sort outcomes by row."""
        found = list(outcomes)
        comparisons = [outcome for outcome in found if isinstance(outcome, Comparison)]
        skipped = [outcome for outcome in found if isinstance(outcome, Skipped)]
        return cls(
            table=table,
            layout=layout,
            fitted=fitted,
            comparisons=tuple(sorted(comparisons, key=lambda one: (one.row, FIGURES.index(one.figure)))),
            skipped=tuple(sorted(skipped, key=lambda one: one.row)),
        )

    @property
    def overall(self) -> list[Score]:
        """One score for each figure that occurs."""
        by_figure = {name: [one for one in self.comparisons if one.figure == name] for name in FIGURES}
        return [score(some) for some in by_figure.values() if some]

    @property
    def groups(self) -> list[GroupScore]:
        """One score for each model, GPU type, engine and figure that occur."""
        keys = sorted({(one.model, one.device, one.engine) for one in self.comparisons})
        found = []
        for model, device, engine in keys:
            mine = [one for one in self.comparisons if (one.model, one.device, one.engine) == (model, device, engine)]
            for name in FIGURES:
                some = [one for one in mine if one.figure == name]
                if some:
                    found.append(GroupScore(model=model, device=device, engine=engine, score=score(some)))
        return found

    def as_data(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "rows": len(self.table.rows),
            "overall": [one.as_data() for one in self.overall],
            "groups": [one.as_data() for one in self.groups],
            "skipped": [{"row": one.row, "why": one.why} for one in self.skipped],
        }
