"""Truth files: CSV with one measured setting per row."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from planner.errors import InputError
from planner.resources import read_text

__all__ = ["Row", "Table", "read_table"]


@dataclass(frozen=True, slots=True)
class Row:
    """One row, with typed access to its fields.

    Parameters
    ----------
    number
        Its place, from 1 below the header.
    line
        Line of the file, for messages.
    where
        The file.
    fields
        As written.
    """

    number: int
    line: int
    where: str
    fields: Mapping[str, str]

    def text(self, name: str) -> str:
        """A field as written, without spaces around it; "" where the column is left out."""
        return self.fields.get(name, "").strip()

    def number_of(self, name: str, *, least: float = 0.0, default: float | None = None) -> float:
        """A field as a finite number above `least`.

        Raises
        ------
        InputError
            If it is none; names file, line and column.
        """
        written = self.text(name)
        if not written and default is not None:
            return default
        try:
            value = float(written)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > least):
            raise InputError(
                f"found {written!r}" if written else "is empty",
                where=f"{self.where}:{self.line}",
                field=name,
                expected=f"a number above {least:g}",
                hint="correct that row, or take it out",
            )
        return value

    def whole(self, name: str, *, default: int | None = None) -> int:
        """A field as a whole number of at least 1."""
        value = self.number_of(name, default=default)
        if value != int(value):
            raise InputError(
                f"found {self.text(name)!r}", where=f"{self.where}:{self.line}", field=name, expected="a whole number"
            )
        return int(value)


@dataclass(frozen=True, slots=True)
class Table:
    """A truth file.

    Parameters
    ----------
    name, where
        To call it, and for messages.
    columns
        In their order.
    rows
        At least one.
    """

    name: str
    where: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


def read_table(path: Path, *, name: str | None = None) -> Table:
    """Read a truth file.

    Raises
    ------
    InputError
        If it is missing, not CSV, empty, repeats a column, or a row has more or fewer fields than the header: cut
        short, most often. Names the line.
    """
    where = str(path)
    text = read_text(path, "truth").removeprefix("\ufeff")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        lines = [(reader.line_num, fields) for fields in reader if fields]
    except csv.Error as error:
        raise InputError(f"is not CSV: {error}", where=f"{where}:{reader.line_num}") from None
    if not lines:
        raise InputError("is empty", where=where, expected="a header and measured rows")
    columns = tuple(column.strip() for column in lines[0][1])
    repeated = sorted({column for column in columns if columns.count(column) > 1})
    if repeated:
        raise InputError(f"has the column {repeated[0]!r} twice", where=f"{where}:{lines[0][0]}")
    for line, fields in lines[1:]:
        if len(fields) != len(columns):
            raise InputError(
                f"{len(fields)} fields where the header has {len(columns)}: {','.join(fields)[:60]!r}",
                where=f"{where}:{line}",
                expected="a value, or nothing between two commas, for each column",
                hint="the file may be cut short; complete that row, or take it out",
            )
    if len(lines) == 1:
        raise InputError("has a header but no rows", where=where)
    rows = tuple(
        Row(number, line, where, dict(zip(columns, fields, strict=True)))
        for number, (line, fields) in enumerate(lines[1:], start=1)
    )
    return Table(name or path.stem, where, columns, rows)
