"""A measured table in memory: columns as arrays, checked, with its provenance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from planner.cluster.quantity import DateText, Kind
from planner.errors import InputError
from planner.profiling.tables.kinds import Column, TableKind, kind_named

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MeasuredTable", "Origin"]


class Origin(BaseModel):
    """Where a table comes from; the ``.yaml`` beside its CSV.

    Parameters
    ----------
    table
        Its kind, a name in `planner.profiling.tables.KINDS`.
    device
        GPU type it was measured on.
    title
        What it holds, for people.
    source, licence, date
        Who measured or published it, under which terms, and when.
    software
        Library or engine with its version, where that matters.
    kind
        What the numbers rest on.
    note
        What a reader must know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    device: str
    title: str = Field(min_length=1)
    source: str = Field(min_length=1)
    licence: str = Field(min_length=1)
    date: DateText
    software: str = ""
    kind: Kind = "measured"
    note: str = ""


@dataclass(frozen=True, slots=True)
class MeasuredTable:
    """Measurements of one kind on one GPU type.

    Parameters
    ----------
    origin
        Provenance.
    columns
        One array for each column of the kind, all of the same length.
    """

    origin: Origin
    columns: Mapping[str, NDArray[Any]]

    @property
    def kind(self) -> TableKind:
        """What is measured."""
        return kind_named(self.origin.table)

    def __len__(self) -> int:
        """Count the rows."""
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return a column."""
        return self.columns[name]

    @classmethod
    def of(
        cls,
        origin: Origin,
        columns: Mapping[str, Sequence[object] | NDArray[Any]],
        *,
        where: str,
        lines: Sequence[int | str] | None = None,
    ) -> MeasuredTable:
        """Check and convert columns.

        Parameters
        ----------
        origin
            Provenance, which names the kind.
        columns
            Values by column; optional columns may be left out, others are an error.
        where
            The file, for messages.
        lines
            For messages: line of each row, or a text that names its place and file; None counts from 1.

        Raises
        ------
        InputError
            If a column is missing or unknown, or a value is no number or outside its plausible range: names the line.
        """
        kind = kind_named(origin.table)
        unknown = [name for name in columns if name not in kind.names]
        lacking = [c.name for c in kind.columns if not c.optional and c.name not in columns]
        if unknown or lacking:
            what = f"lacks the column {lacking[0]!r}" if lacking else f"has the unknown column {unknown[0]!r}"
            raise InputError(what, where=where, expected=f"columns of a {kind.name} table: {', '.join(kind.names)}")
        lengths = {len(values) for values in columns.values()}
        if len(lengths) != 1:
            raise InputError("columns of different lengths", where=where, expected="a value in every field")
        if lengths == {0}:
            raise InputError("has no rows", where=where, expected=f"measurements: {kind.title}")
        length = lengths.pop()
        converted = {
            column.name: _converted(column, columns.get(column.name, [column.default] * length), where, lines)
            for column in kind.columns
        }
        return cls(origin, converted)


def _converted(
    column: Column, values: Sequence[object] | NDArray[Any], where: str, lines: Sequence[int | str] | None
) -> NDArray[Any]:
    if column.type == "text":
        return np.asarray([str(value) for value in values])
    try:
        numbers = np.asarray(values, dtype=float)
    except (TypeError, ValueError):
        numbers = np.array([_number(value) for value in values])
    wrong = ~(np.isfinite(numbers) & (numbers >= column.low) & (numbers <= column.high))
    if column.type == "whole":
        wrong |= numbers != np.round(numbers)
    if wrong.any():
        at = int(np.argmax(wrong))
        line = lines[at] if lines is not None else at + 1
        sort = "a whole number" if column.type == "whole" else "a number"
        raise InputError(
            f"found {str(values[at])!r}",
            where=line if isinstance(line, str) else f"{where}:{line}",
            field=column.name,
            expected=f"{sort} from {column.low:g} to {column.high:g}: {column.meaning}",
            hint="check the unit: tables hold SI units (seconds, bytes)",
        )
    return numbers.astype(np.int64) if column.type == "whole" else numbers


def _number(value: object) -> float:
    try:
        return float(str(value))
    except ValueError:
        return float("nan")
