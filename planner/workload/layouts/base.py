"""What every trace layout is: a way to recognise a file, and a reader that names the bad row.

Arrays: N requests, in the order of the file.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from planner.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float64]
    IntArray = NDArray[np.int64]

__all__ = ["Layout", "Rows", "Table", "bad_value", "tokens_of", "whole_tokens"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """What a reader found.

    Parameters
    ----------
    prompt_N, output_N
        Tokens in and out.
    arrival_N
        Seconds, any origin, any order; None where the layout has no arrivals.
    session_N
        Number of the conversation that a request belongs to (-1 for none); None where the layout has none.
    prefix_share
        Share of the prompt tokens that earlier requests had already brought.
    dropped
        Rows left out because they record failures.
    """

    prompt_N: IntArray
    output_N: IntArray
    arrival_N: FloatArray | None = None
    session_N: IntArray | None = None
    prefix_share: float = 0.0
    dropped: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """One way to write a trace down.

    Parameters
    ----------
    name
        Registry name.
    title
        Whose layout it is.
    columns
        Columns (or keys) it needs, as people write them.
    matches
        Whether a first line, split into columns or keys, is of this layout.
    read
        Reads the whole text; the second argument is the file's name for messages.
    """

    name: str
    title: str
    columns: tuple[str, ...]
    matches: Callable[[Sequence[str]], bool]
    read: Callable[[str, str], Rows]


class Table:
    """A CSV file's columns by name, with the line each row stands on.

    Parameters
    ----------
    text
        The file's text, header first.
    where
        Its name, for messages.

    Raises
    ------
    InputError
        If it is not CSV, has no rows, or a row has more or fewer fields than the header.
    """

    def __init__(self, text: str, where: str) -> None:
        self.where = where
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        try:
            header = next((row for row in reader if row), [])
            lines_and_rows = [(reader.line_num, row) for row in reader if row]
        except csv.Error as error:
            raise InputError(f"is not CSV: {error}", where=f"{where}:{reader.line_num}") from None
        self.names = [name.strip() for name in header]
        for line, row in lines_and_rows:
            if len(row) != len(header):
                raise InputError(
                    f"{len(row)} fields where the header has {len(header)}: {','.join(row)[:80]!r}",
                    where=f"{where}:{line}",
                    expected=f"a value for each of {', '.join(self.names)}",
                    hint="correct that row, or take it out",
                )
        if not lines_and_rows:
            raise InputError("has a header but no requests", where=where)
        self.lines = [line for line, _ in lines_and_rows]
        self.rows = [row for _, row in lines_and_rows]

    def column(self, name: str) -> list[str]:
        """Values of one column, as written."""
        index = self.names.index(name)
        return [row[index] for row in self.rows]

    def keep(self, mask_N: NDArray[np.bool_]) -> Table:
        """Return the table with only the rows where the mask is true."""
        kept = object.__new__(Table)
        kept.where, kept.names = self.where, self.names
        kept.lines = [line for line, keep in zip(self.lines, mask_N, strict=True) if keep]
        kept.rows = [row for row, keep in zip(self.rows, mask_N, strict=True) if keep]
        return kept

    def numbers(self, name: str, expected: str = "a number") -> FloatArray:
        """Values of one column as finite numbers.

        Raises
        ------
        InputError
            At the first value that is not one, with its line.
        """
        written = self.column(name)
        try:
            values_N = np.array([float(value) for value in written], dtype=np.float64)
        except ValueError:
            line, value = next(
                (line, value) for line, value in zip(self.lines, written, strict=True) if not _is_number(value)
            )
            raise bad_value(self.where, line, name, value, expected) from None
        for index in np.flatnonzero(~np.isfinite(values_N))[:1]:
            raise bad_value(self.where, self.lines[index], name, written[index], expected)
        return values_N

    def tokens(self, name: str, minimum: int = 1) -> IntArray:
        """Values of one column as token counts of at least `minimum`.

        Raises
        ------
        InputError
            At the first value that is not one, with its line.
        """
        expected = whole_tokens(minimum)
        values_N = self.numbers(name, expected)
        wrong_N = (values_N < minimum) | (values_N != np.floor(values_N)) | (values_N > 2**53)
        for index in np.flatnonzero(wrong_N)[:1]:
            raise bad_value(self.where, self.lines[index], name, self.column(name)[index], expected)
        return values_N.astype(np.int64)


def whole_tokens(minimum: int = 1) -> str:
    """Say what a token count must be."""
    return f"a whole number of tokens, {minimum} or more"


def bad_value(where: str, line: int, column: str, value: object, expected: str) -> InputError:
    """Error for one value of a trace."""
    shown = "an empty field" if value == "" else repr(value)
    hint = "correct that row, or take it out"
    return InputError(f"found {shown}", where=f"{where}:{line}", field=column, expected=expected, hint=hint)


def tokens_of(value: object, where: str, line: int, key: str, minimum: int = 1) -> int:
    """Check a JSON value for a token count of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or value < minimum:
        raise bad_value(where, line, key, value, whole_tokens(minimum))
    return int(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
