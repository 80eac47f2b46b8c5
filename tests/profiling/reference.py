"""Errors on a fixed part of every truth file, to compare with those stored in ``tests/golden/accuracy.json``.

Each row is predicted by constants that were fitted without its group, so that these are cross-validated errors. Write
them anew, after a change that is meant to change them:

    python -m tests.profiling.reference
"""

from __future__ import annotations

import json
from pathlib import Path

from planner.profiling.accuracy import Accuracy, accuracy_of, list_truth, load_truth
from planner.profiling.accuracy.table import Table

__all__ = ["GOLDEN", "errors_of", "part_left_out", "part_of"]

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "accuracy.json"
ROWS = 60  # of a file, about


def part_of(name: str) -> Table:
    """Every k-th row of a shipped truth file."""
    table = load_truth(name)
    step = max(1, len(table.rows) // ROWS)
    return Table(table.name, table.where, table.columns, table.rows[::step])


def part_left_out(name: str) -> Accuracy:
    """The same rows, each predicted by constants that have not seen its group."""
    return accuracy_of(part_of(name), left_out=True)


def errors_of(accuracy: Accuracy) -> dict[str, dict[str, float]]:
    """Mean and median absolute relative error by figure, in points of a per cent."""
    return {
        score.figure: {"mean": round(100 * score.mean_ape, 2), "median": round(100 * score.median_ape, 2)}
        for score in accuracy.overall
    }


if __name__ == "__main__":
    found = {name: errors_of(part_left_out(name)) for name in list_truth()}
    GOLDEN.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print(GOLDEN.read_text(encoding="utf-8"), end="")
