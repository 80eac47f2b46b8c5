"""The one layout that every measurement lands in, whoever made it: a CSV of SI units and its provenance beside it."""

from __future__ import annotations

from planner.profiling.tables.files import list_measured, measured_dir, read_measured, write_measured
from planner.profiling.tables.kinds import KINDS, Column, TableKind, kind_named
from planner.profiling.tables.table import MeasuredTable, Origin

__all__ = [
    "KINDS",
    "Column",
    "MeasuredTable",
    "Origin",
    "TableKind",
    "kind_named",
    "list_measured",
    "measured_dir",
    "read_measured",
    "write_measured",
]
