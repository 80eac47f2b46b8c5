"""What all tables share: consoles, columns, key-value blocks, and tables of predicted figures."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from planner.report.words import format_error, format_figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import ConsoleOptions, RenderableType, RenderResult

    from planner.plan import Figure

__all__ = [
    "FALLBACK_WIDTH",
    "block",
    "console_for",
    "data_table",
    "figure_table",
    "heading",
    "provenance_legend",
    "styled_provenance",
]

FALLBACK_WIDTH: Final = 100
"""Columns where the output is no terminal and COLUMNS says nothing."""

_GUTTER: Final = 2  # columns between two cells
_LEAST_WIDTH: Final = 10  # of a column that breaks into lines

_PROVENANCE_STYLE: Final = {"measured": "green", "fitted": "cyan", "spec": "yellow", "estimated": "yellow"}
_LEGEND: Final = {
    "measured": "from measurements on this GPU type",
    "fitted": "measurements and constants fitted to them",
    "spec": "data sheet with default or borrowed efficiencies",
}


def console_for(*, stderr: bool) -> Console:
    """Make a console that writes to stdout or stderr; colour only on a terminal, and never under NO_COLOR."""
    console = Console(stderr=stderr, highlight=False, soft_wrap=False)
    if not console.is_terminal and not os.environ.get("COLUMNS", "").isdigit():
        console.width = FALLBACK_WIDTH
    return console


def heading(text: str) -> Text:
    """Title of a part."""
    return Text(text, style="bold")


def block(rows: Mapping[str, str] | Sequence[tuple[str, str]]) -> Table:
    """Lay out names and values, one line each."""
    pairs = rows.items() if hasattr(rows, "items") else rows
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(Text(name), Text(value))
    return grid


class _FittingTable(Table):
    """A table whose columns stay whole while that fits, and all break into lines where it does not.

    Without this, rich cuts what does not fit out of columns that may not break, and a cut number is a wrong number.
    """

    needed = 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.needed > options.max_width:
            for column in self.columns:
                column.no_wrap = False
        yield from super().__rich_console__(console, options)


def data_table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]], *, fold: Sequence[str] = ()) -> Table:
    """Make a table.

    Parameters
    ----------
    columns
        Headings; one that starts with ``>`` is aligned right.
    rows
        Cells as plain text: square brackets are no markup.
    fold
        Headings of the columns that break into lines first; the others stay whole if at all possible.
    """
    table = _FittingTable(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for index, column in enumerate(columns):
        name = column.removeprefix(">")
        whole = name not in fold
        cells = [Text(name), *(Text(str(row[index])) for row in rows)]
        table.needed += _GUTTER + (max(cell.cell_len for cell in cells) if whole else _LEAST_WIDTH)
        table.add_column(
            Text(name), justify="right" if column.startswith(">") else "left", no_wrap=whole, overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return table


def styled_provenance(provenance: str) -> Text:
    """Write where a number comes from, in its colour."""
    return Text(provenance, style=_PROVENANCE_STYLE.get(provenance, ""))


def figure_table(labels: Mapping[str, str], figures: Mapping[str, Figure]) -> Table:
    """Tabulate predicted figures with error and provenance.

    Parameters
    ----------
    labels
        Names for people, in the order of the rows; figures without one follow under their own names.
    figures
        By name.
    """
    names = [name for name in labels if name in figures] + [name for name in figures if name not in labels]
    rows = [
        (
            labels.get(name, name.replace("_", " ")),
            format_figure(figures[name]),
            format_error(figures[name].error),
            styled_provenance(figures[name].provenance),
        )
        for name in names
    ]
    return data_table(["predicted", ">value", ">error", "from"], rows)


def provenance_legend(figures: Mapping[str, Figure]) -> RenderableType:
    """Explain the provenances that occur."""
    used = {figure.provenance for figure in figures.values()}
    parts = [f"{name}: {meaning}" for name, meaning in _LEGEND.items() if name in used]
    return Text("from " + "; ".join(parts), style="dim")
