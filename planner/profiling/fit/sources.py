"""Measured tables of a folder by GPU type: in the common layout, or as AIConfigurator keeps them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from planner.errors import InputError
from planner.profiling.fit import mixture
from planner.profiling.fit.dense import family_of
from planner.profiling.importers.aiconfigurator import find_tables, import_aiconfigurator
from planner.profiling.importers.aiconfigurator_moe import import_mixture
from planner.profiling.tables import list_measured, read_measured

if TYPE_CHECKING:
    from pathlib import Path

    from planner.profiling.tables import MeasuredTable

__all__ = ["tables_by_device"]


def tables_by_device(folder: Path, device: str | None = None) -> Iterator[tuple[str, list[MeasuredTable]]]:
    """Read the tables that can be fitted, one GPU type after another.

    Parameters
    ----------
    folder
        Holds ``<device>/<name>.csv``, or is ``systems/data`` of aiconfigurator-core.
    device
        GPU type; None reads all.

    Yields
    ------
    (str, list)
        GPU type and its tables.

    Raises
    ------
    InputError
        If there is no such folder, or nothing in it that can be fitted; names what was found.
    """
    if not folder.is_dir():
        raise InputError("no such folder", where=folder, expected="<GPU>/<table>.csv, or tables of aiconfigurator-core")
    theirs = dict.fromkeys(name for _, name, _ in find_tables(folder, device=device))
    if theirs:
        for name in theirs:
            yield name, [*import_aiconfigurator(folder, device=name), *import_mixture(folder, device=name)]
        return
    found, others = False, set()
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        if device is not None and place.name != device:
            continue
        tables = []
        for path in list_measured(place.name, folder):
            table = read_measured(path)
            if family_of(table.origin.table) is None and mixture.family_of(table.origin.table) is None:
                others.add(table.origin.table)
            else:
                tables.append(table)
        if tables:
            found = True
            yield place.name, tables
    if not found:
        held = f"; found {', '.join(sorted(others))}" if others else ""
        raise InputError(
            "holds no tables that can be fitted",
            where=folder,
            expected=f"tables of GEMM, attention, collectives, routed experts or latent attention{held}",
            hint="planner profile import brings them in",
        )
