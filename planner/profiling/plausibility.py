"""Whether a measured table can be true: held against the data sheet of its GPU, and against itself."""

from __future__ import annotations

from planner.profiling.tables import MeasuredTable

__all__ = ["check"]


def check(table: MeasuredTable, *, where: str) -> tuple[str, ...]:
    """Hold a table against what its GPU can do."""
    return ()
