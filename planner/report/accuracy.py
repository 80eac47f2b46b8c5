"""Predictions against measurements: errors by figure and by group, and what was left out."""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from planner.profiling.accuracy import rank_correlations
from planner.report.terminal import block, data_table, heading
from planner.report.words import count_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from planner.profiling.accuracy import Accuracy, Score, Skipped

__all__ = ["accuracy_report", "accuracy_summary", "fitted_in_words", "format_rows", "score_cells"]

_LABELS = {
    "ttft": "TTFT",
    "tpot": "TPOT",
    "e2e": "TTFT + OSL TPOT",
    "throughput": "throughput",
    "iteration_time": "iteration time",
    "tflops": "FLOP/s",
    "peak_memory": "peak memory",
}
_HEADINGS = (">rows", ">mean APE", ">median APE", ">bias", ">within band")


def _percent(share: float, *, sign: bool = False) -> str:
    return f"{share * 100:+.1f} %" if sign else f"{share * 100:.1f} %"


def score_cells(score: Score) -> list[str]:
    """Cells of a table's row: rows, mean and median absolute error, bias, coverage of the stated band.

    Examples
    --------
    >>> from planner.profiling.accuracy import Score
    >>> score_cells(Score(figure="tpot", n=12, mean_ape=0.1234, median_ape=0.1, bias=-0.05, coverage90=0.9))
    ['12', '12.3 %', '10.0 %', '-5.0 %', '90 %']
    """
    return [
        f"{score.n:,}",
        _percent(score.mean_ape),
        _percent(score.median_ape),
        _percent(score.bias, sign=True),
        f"{score.coverage90 * 100:.0f} %",
    ]


def format_rows(numbers: Sequence[int]) -> str:
    """Write numbers of rows in ascending order, neighbours as ranges.

    Examples
    --------
    >>> format_rows([1, 2, 3, 7, 9, 10])
    '1-3, 7, 9-10'
    """
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return ", ".join(f"{first}" if first == last else f"{first}-{last}" for first, last in ranges)


def accuracy_report(accuracy: Accuracy) -> RenderableType:
    """Lay out what came of one truth file."""
    rows = len(accuracy.table.rows)
    predicted = rows - len(accuracy.skipped)
    facts = {"layout": accuracy.layout, "rows": f"{rows:,}, of which {predicted:,} are predicted"}
    ranks = rank_correlations(accuracy)
    if ranks:
        within = "rank correlation of requests/s per GPU within engine, model, ISL and OSL"
        facts["order"] = f"{within}: median {median(ranks.values()):.3f} over {len(ranks)}"
    parts: list[RenderableType] = [heading(f"Predicted against measured: {accuracy.table.name}"), block(facts)]
    if accuracy.comparisons:
        overall = [[_LABELS[score.figure], *score_cells(score)] for score in accuracy.overall]
        parts.append(data_table(["figure", *_HEADINGS], overall))
        groups = [
            [group.model, group.device, group.engine, _LABELS[group.score.figure], *score_cells(group.score)]
            for group in accuracy.groups
        ]
        parts.append(data_table(["model", "GPU", "engine", "figure", *_HEADINGS], groups, fold=("model",)))
    if accuracy.skipped:
        parts += [heading("Not predicted"), _skipped(accuracy.skipped)]
    parts.append(fitted_in_words(accuracy))
    return Group(*parts)


def fitted_in_words(accuracy: Accuracy) -> Text:
    """Say what was fitted to such rows."""
    return Text(accuracy.fitted, style="dim")


def accuracy_summary(results: Sequence[Accuracy]) -> RenderableType:
    """Lay out several truth files in one table."""
    lines, left_out = [], []
    for accuracy in results:
        for index, score in enumerate(accuracy.overall):
            lines.append(["" if index else accuracy.table.name, _LABELS[score.figure], *score_cells(score)])
        for why, numbers in _by_reason(accuracy.skipped):
            left_out.append([accuracy.table.name, f"{len(numbers):,}", why])
    parts: list[RenderableType] = [data_table(["truth", "figure", *_HEADINGS], lines)]
    if left_out:
        parts += [heading("Not predicted"), data_table(["truth", ">rows", "why"], left_out, fold=("why",))]
    notes: dict[str, list[str]] = defaultdict(list)
    for accuracy in results:
        notes[accuracy.fitted].append(accuracy.table.name)
    parts += [Text(f"{', '.join(names)}: {note}", style="dim") for note, names in notes.items()]
    return Group(*parts)


def _by_reason(skipped: Sequence[Skipped]) -> list[tuple[str, list[int]]]:
    """Rows by reason, the commonest first."""
    found: dict[str, list[int]] = defaultdict(list)
    for one in skipped:
        found[one.why].append(one.row)
    return sorted(found.items(), key=lambda item: (-len(item[1]), item[0]))


def _skipped(skipped: Sequence[Skipped]) -> Table:
    lines = [[count_of(len(numbers), "row"), why, format_rows(numbers)] for why, numbers in _by_reason(skipped)]
    return data_table(
        [">", "why", "rows, from 1 below the header"], lines, fold=("why", "rows, from 1 below the header")
    )
