"""All kernel tables of NVIDIA AIConfigurator, dense and mixture, under the names of the files they become."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from planner.profiling.importers.aiconfigurator import import_aiconfigurator
from planner.profiling.importers.aiconfigurator_moe import import_mixture
from planner.profiling.importers.base import Imported, device_named
from planner.profiling.tables import MeasuredTable

__all__ = ["read_aiconfigurator"]


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
    return Imported(name=f"{table.origin.table}-{engine}-{version}", table=table, where=table.origin.title)
