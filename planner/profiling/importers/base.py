"""What every importer gives back, and how it reads: files with clear errors, GPU types by the registry's names."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from planner.cluster import list_devices, load_device
from planner.errors import InputError
from planner.profiling.tables import MeasuredTable, Origin
from planner.resources import mapping_at, number_list, read_json, read_text

__all__ = [
    "ANY_DEVICE",
    "CsvRow",
    "Imported",
    "Importer",
    "Source",
    "device_named",
    "mapping_at",
    "number_list",
    "read_csv",
    "read_json",
]

ANY_DEVICE: Final = "any"
"""Folder of what holds for every GPU type, such as sizes of layers."""


@dataclass(frozen=True, slots=True)
class Imported:
    """One table as it goes to disk.

    Parameters
    ----------
    name
        Of the file, without ending.
    table
        The measurements.
    where
        What it was read from, for messages.
    places
        File and line, or file and field, of each row; empty where the source has neither.
    digits
        As in `planner.profiling.tables.write_measured`.
    """

    name: str
    table: MeasuredTable
    where: str
    places: tuple[str, ...] = ()
    digits: int | None = 6

    @classmethod
    def of(
        cls,
        name: str,
        origin: Origin,
        columns: Mapping[str, Sequence[object]],
        *,
        where: str | Path,
        places: Sequence[int | str],
        digits: int | None = 6,
    ) -> Imported:
        """Check and convert columns.

        Parameters
        ----------
        name, digits
            As above.
        origin, columns
            As in `planner.profiling.tables.MeasuredTable.of`.
        where
            What was read.
        places
            Line of each row, field of `where`, or a whole place.

        Raises
        ------
        InputError
            If a value is not what its column must hold.
        """
        named = tuple(_place(place, str(where)) for place in places)
        return cls(name, MeasuredTable.of(origin, columns, where=str(where), lines=named), str(where), named, digits)


def _place(place: int | str, where: str) -> str:
    if isinstance(place, int):
        return f"{where}:{place}"
    return place if "/" in place or ":" in place else f"{where}: {place}"


class Importer(Protocol):
    """Reads what somebody else measured."""

    def __call__(self, path: Path, *, device: str | None) -> Iterator[Imported]:
        """Read the tables at a path.

        Parameters
        ----------
        path
            File or folder, as the source's `Source.path` says.
        device
            GPU type: which one it was measured on where the source does not say, else the only one to read.
        """
        ...


@dataclass(frozen=True, slots=True)
class Source:
    """One entry of the registry.

    Parameters
    ----------
    title
        Who measured what.
    path
        What PATH is.
    read
        The importer.
    needs_device
        Whether the files do not say which GPU type they were measured on.
    needs_path
        Whether there is nothing to read without PATH.
    """

    title: str
    path: str
    read: Importer
    needs_device: bool = False
    needs_path: bool = True


def device_named(name: str, where: str | Path, field: str | None = None) -> str:
    """Name of a GPU type in the registry, from any of its spellings.

    Raises
    ------
    InputError
        If the registry does not know it; lists the closest.

    Examples
    --------
    >>> device_named("A100-40", "profiles.json")
    'a100_sxm_40'
    """
    if not name.endswith((".yaml", ".yml")) and "/" not in name:
        try:
            return load_device(name).name
        except InputError as error:
            known = ", ".join(list_devices())
            raise InputError(
                f"unknown GPU {name!r}",
                where=where,
                field=field,
                expected=error.expected or f"one of {known}",
                hint=(f"{error.hint}; " if error.hint else "") + "name another with --device, or write its profile: "
                "CONTRIBUTING.md, Add a GPU",
            ) from None
    return load_device(name).name


@dataclass(frozen=True, slots=True)
class CsvRow:
    """One row of a CSV file.

    Parameters
    ----------
    where
        File and line.
    line
        The line.
    fields
        Values by column, as text.
    """

    where: str
    line: int
    fields: Mapping[str, str]

    def number(self, column: str) -> float | None:
        """Value of a column; None where the field is empty.

        Raises
        ------
        InputError
            If it is no finite number.
        """
        text = self.fields[column].strip()
        if not text:
            return None
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputError(f"found {text!r}", where=self.where, field=column, expected="a number")
        return value

    def whole(self, column: str) -> int:
        """Value of a column that must hold a whole number.

        Raises
        ------
        InputError
            If it does not.
        """
        value = self.number(column)
        if value is None or value != round(value):
            raise InputError(
                f"found {self.fields[column]!r}", where=self.where, field=column, expected="a whole number"
            )
        return int(value)


def read_csv(path: Path, columns: Sequence[str] | None, what: str) -> Iterator[CsvRow]:
    """Read the rows of a CSV file.

    Parameters
    ----------
    path
        The file.
    columns
        Columns that must be there, more are allowed; None where the file has no header, whose columns are then called
        "0", "1", ….
    what
        What the file should hold, for messages.

    Raises
    ------
    InputError
        If it is missing, empty, cut short or lacks a column: names the line.
    """
    reader = csv.reader(io.StringIO(read_text(path, what), newline=""), strict=True)
    try:
        lines = [(reader.line_num, fields) for fields in reader if any(field.strip() for field in fields)]
    except csv.Error as error:
        raise InputError(f"is not CSV: {error}", where=f"{path}:{reader.line_num}", expected=what) from None
    if not lines:
        raise InputError("is empty", where=path, expected=what)
    header = [name.strip() for name in lines[0][1]] if columns is not None else []
    lacking = [name for name in columns or () if name not in header]
    if lacking:
        raise InputError(f"lacks the column {lacking[0]!r}", where=f"{path}:{lines[0][0]}", expected=what)
    for line, fields in lines[1:] if columns is not None else lines:
        names = header or [str(at) for at in range(len(lines[0][1]))]
        if len(fields) != len(names):
            raise InputError(
                f"{len(fields)} fields where there should be {len(names)}",
                where=f"{path}:{line}",
                expected=what,
                hint="the file may be cut short; copy it again",
            )
        yield CsvRow(f"{path}:{line}", line, dict(zip(names, fields, strict=True)))
