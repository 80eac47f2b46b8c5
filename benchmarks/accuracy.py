"""How far predictions are from what was measured: every shipped truth file, and how long that takes.

Prints the tables of ``planner accuracy all``. Ends with exit code 1 if all of it takes longer than 20 s.

    python benchmarks/accuracy.py
"""

from __future__ import annotations

import sys
import time
from typing import Final

from rich.console import Console

from planner.profiling.accuracy import accuracy_of, list_truth
from planner.report.accuracy import accuracy_summary

BUDGET: Final = 20.0


def main() -> int:
    start = time.perf_counter()
    results = [accuracy_of(name) for name in list_truth()]
    seconds = time.perf_counter() - start
    console = Console(width=120, highlight=False)
    console.print(accuracy_summary(results))
    rows = sum(len(result.table.rows) for result in results)
    late = seconds > BUDGET
    console.print(f"{rows:,} rows in {seconds:.1f} s (budget {BUDGET:.0f} s){': MISSED' if late else ''}")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
