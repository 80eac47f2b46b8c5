"""Fitted surfaces: what they rest on, and how far they miss what was left out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from planner.report.terminal import data_table
from planner.units import format_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.table import Table

    from planner.cluster.measured import SurfaceFile

__all__ = ["fitted_as_data", "fitted_table"]

Written = tuple["Path", "SurfaceFile"]


def fitted_table(written: Sequence[Written]) -> Table:
    """Tabulate surfaces, one line each."""
    rows = [
        (
            file.device,
            path.stem,
            name,
            f"{facts.rows:,}",
            format_seconds(facts.floor) if facts.floor else "",
            f"{100 * facts.error:.1f} %",
            "" if facts.error_median is None else f"{100 * facts.error_median:.1f} %",
            facts.software,
        )
        for path, file in written
        for name, facts in file.surfaces.items()
    ]
    columns = ["GPU", "family", "surface", ">rows", ">launch", ">left-out mean", ">median", "software"]
    return data_table(columns, rows, fold=("software",))


def fitted_as_data(written: Sequence[Written]) -> list[dict[str, Any]]:
    """Return the same as data."""
    return [
        {
            "device": file.device,
            "family": path.stem,
            "file": str(path),
            "bytes": path.stat().st_size,
            "surfaces": {name: facts.model_dump(exclude_defaults=True) for name, facts in file.surfaces.items()},
        }
        for path, file in written
    ]
