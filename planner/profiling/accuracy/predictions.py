"""Truth files with the predictions beside each row, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from planner.profiling.accuracy.records import FIGURES
from planner.profiling.accuracy.report import Accuracy

__all__ = ["predictions_csv"]

_COLUMNS = ("measured", "predicted", "error")


def predictions_csv(results: Sequence[Accuracy]) -> str:
    """Write the rows of some truth files with what was predicted for them.

    Parameters
    ----------
    results
        One file or several; several get a first column ``truth`` and the columns of all.

    Returns
    -------
    str
        The rows as they were read; then for each figure that occurs ``measured_``, ``predicted_`` and ``error_`` (the
        relative error that the prediction states), in SI units; then ``skipped``, why a row has none.
    """
    named = len(results) > 1
    own = list(dict.fromkeys(column for one in results for column in one.table.columns))
    figures = [name for name in FIGURES if any(c.figure == name for one in results for c in one.comparisons)]
    added = [f"{what}_{figure}" for figure in figures for what in _COLUMNS]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*(["truth"] if named else []), *own, *added, "skipped"])
    for one in results:
        values = {(c.row, f"{what}_{c.figure}"): getattr(c, what) for c in one.comparisons for what in _COLUMNS}
        reasons = {skipped.row: skipped.why for skipped in one.skipped}
        for row in one.table.rows:
            kept = [row.fields.get(column, "") for column in own]
            numbers = [f"{values[row.number, name]:.6g}" if (row.number, name) in values else "" for name in added]
            first = [one.table.name] if named else []
            writer.writerow([*first, *kept, *numbers, reasons.get(row.number, "")])
    return text.getvalue()
