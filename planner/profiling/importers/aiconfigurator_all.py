"""All kernel tables of NVIDIA AIConfigurator, dense and mixture, under the names of the files they become."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from planner.profiling.importers.aiconfigurator import import_aiconfigurator
from planner.profiling.importers.aiconfigurator_moe import import_mixture
from planner.profiling.importers.base import Imported, device_named
from planner.profiling.plausibility import faster_than_hardware_N
from planner.profiling.tables import MeasuredTable

__all__ = ["read_aiconfigurator"]

_FEW: Final = 0.2  # more rows than these beyond the hardware are no faults, but a wrong unit


def read_aiconfigurator(path: Path, *, device: str | None = None) -> Iterator[Imported]:
    """Read all kernel tables, those of routed experts and latent attention too.

    Parameters
    ----------
    path
        A folder that holds ``<system>/<family>/…``, or the package; the empty path takes the installed one.
    device
        GPU type, by any of its spellings; None reads all.

    Raises
    ------
    InputError
        If there is nothing to read, a table is not what it must be, or pandas and pyarrow are not installed.
    """
    folder = None if path == Path() else path
    only = None if device is None else device_named(device, "--device")
    for table in import_aiconfigurator(folder, device=only):
        yield _named(table)
    for table in import_mixture(folder, device=only):
        yield _named(table)


def _named(table: MeasuredTable) -> Imported:
    engine, _, version = table.origin.software.partition(" ")
    where = f"{table.origin.device}: {table.origin.title}"
    beats_N = faster_than_hardware_N(table)
    if 0 < beats_N.mean() < _FEW:
        told = f"{int(beats_N.sum())} of {len(table)} rows are left out: faster than the data sheet allows"
        origin = table.origin.model_copy(update={"note": told})
        table = MeasuredTable(origin, {name: column[~beats_N] for name, column in table.columns.items()})
    # rows of a .parquet have no lines; the table is named for each
    return Imported(f"{table.origin.table}-{engine}-{version}", table, where, (where,) * len(table))
