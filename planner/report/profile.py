"""What was imported: tables by GPU type, their range, and what is odd about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from planner.report.terminal import data_table
from planner.report.words import format_bandwidth, format_number
from planner.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from rich.table import Table

    from planner.profiling.importers import Imported, Source
    from planner.profiling.tables import Column, MeasuredTable

__all__ = ["imported_as_data", "imported_table", "range_of", "source_table"]

Result = tuple["Imported", "Path", "Sequence[str]"]


def source_table(sources: Mapping[str, Source]) -> Table:
    """List importers."""
    rows = [(name, source.title, source.path) for name, source in sources.items()]
    return data_table(["kind", "what", "PATH"], rows, fold=("what", "PATH"))


def imported_table(results: Sequence[Result]) -> Table:
    """Tabulate what was imported."""
    rows = [
        (
            one.table.origin.device,
            one.name,
            one.table.kind.name,
            f"{len(one.table):,}",
            range_of(one.table),
            "plausible" if not warnings else f"{len(warnings)} odd",
        )
        for one, _, warnings in results
    ]
    return data_table(["GPU", "table", "kind", ">rows", "range", "check"], rows, fold=("table", "range"))


def imported_as_data(kind: str, results: Sequence[Result]) -> dict[str, Any]:
    """Return the same as data."""
    return {
        "kind": kind,
        "tables": [
            {
                "device": one.table.origin.device,
                "name": one.name,
                "table": one.table.kind.name,
                "rows": len(one.table),
                "file": str(file),
                "source": one.table.origin.source,
                "licence": one.table.origin.licence,
                "date": one.table.origin.date,
                "range": {
                    column.name: [float(one.table[column.name].min()), float(one.table[column.name].max())]
                    for column in one.table.kind.results
                    if column.type != "text"
                },
                "warnings": list(warnings),
            }
            for one, file, warnings in results
        ],
    }


def range_of(table: MeasuredTable) -> str:
    """Say from what to what the first result of a table goes."""
    column = next((c for c in table.kind.results if c.name in ("seconds", "bandwidth", "peak")), table.kind.results[0])
    values = table[column.name]
    low, high = float(values.min()), float(values.max())
    return f"{column.name} {_in_unit(column, low)} to {_in_unit(column, high)}"


def _in_unit(column: Column, value: float) -> str:
    if column.meaning.startswith(("seconds", "median seconds")):
        return format_seconds(value)
    if "bytes/s" in column.meaning:
        return format_bandwidth(value)
    return format_bytes(value) if column.meaning.startswith("bytes") else format_number(value)
