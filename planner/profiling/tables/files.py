"""Measured tables on disk: ``profiles/measured/<device>/<name>.csv`` and its provenance in ``<name>.yaml``."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import yaml

from planner.cluster.loading import read_yaml, validated
from planner.errors import InputError
from planner.plan.files import write_atomically
from planner.profiling.tables.kinds import kind_named
from planner.profiling.tables.table import MeasuredTable, Origin
from planner.resources import read_text, resource_dir

__all__ = ["list_measured", "measured_dir", "read_measured", "write_measured"]


def measured_dir() -> Path:
    """Folder of the measured tables that ship."""
    return resource_dir("profiles") / "measured"


def list_measured(device: str, folder: Path | None = None) -> tuple[Path, ...]:
    """CSV files of the measured tables of a GPU type, sorted; none where it has no folder.

    Parameters
    ----------
    device
        GPU type.
    folder
        Where to look; None takes the tables that ship.
    """
    return tuple(sorted(((folder or measured_dir()) / device).glob("*.csv")))


def read_measured(path: str | Path) -> MeasuredTable:
    """Read a table and its provenance.

    Parameters
    ----------
    path
        The CSV file; its provenance is in the ``.yaml`` of the same name beside it.

    Raises
    ------
    InputError
        If either is missing or wrong; names file, line and column.
    """
    path = Path(path)
    sidecar = path.with_suffix(".yaml")
    origin = validated(Origin, read_yaml(sidecar, "table's provenance")[0], sidecar)
    kind_named(origin.table)
    text = read_text(path, "measured table")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        lines = [(reader.line_num, fields) for fields in reader if fields]
    except csv.Error as error:
        raise InputError(f"is not CSV: {error}", where=f"{path}:{reader.line_num}") from None
    if not lines:
        raise InputError("is empty", where=path, expected="a header and measurements")
    header = [name.strip() for name in lines[0][1]]
    for line, fields in lines[1:]:
        if len(fields) != len(header):
            raise InputError(
                f"{len(fields)} fields where the header has {len(header)}",
                where=f"{path}:{line}",
                expected="one value for each column",
                hint="the file may be cut short; complete that row, or take it out",
            )
    columns = {name: [fields[at] for _, fields in lines[1:]] for at, name in enumerate(header)}
    return MeasuredTable.of(origin, columns, where=str(path), lines=[line for line, _ in lines[1:]])


def write_measured(table: MeasuredTable, path: str | Path, *, digits: int | None = 6) -> None:
    """Write a table and its provenance, each whole or not at all; what is everywhere the default is left out.

    Parameters
    ----------
    table
        The table.
    path
        The CSV file; its provenance goes into the ``.yaml`` of the same name beside it.
    digits
        Digits of the numbers that count; None writes as many as bring back the very same number.

    Raises
    ------
    InputError
        If the folder cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [c for c in table.kind.columns if not c.optional or any(v != c.default for v in table[c.name].tolist())]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([column.name for column in kept])
    written = [
        [repr(value) if digits is None else f"{value:.{digits}g}" for value in table[column.name].tolist()]
        if column.type == "number"
        else table[column.name].tolist()
        for column in kept
    ]
    writer.writerows(zip(*written, strict=True))
    write_atomically(path, text.getvalue())
    origin = table.origin.model_dump(exclude_defaults=True)
    write_atomically(path.with_suffix(".yaml"), yaml.safe_dump(origin, sort_keys=False, allow_unicode=True, width=110))
