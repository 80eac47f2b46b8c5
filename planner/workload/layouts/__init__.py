"""Layouts of traces, and how to tell them apart."""

from __future__ import annotations

import csv
import json
from typing import Final

from planner.errors import InputError, unknown_name
from planner.workload.layouts.azure import AZURE
from planner.workload.layouts.base import Layout, Rows
from planner.workload.layouts.burstgpt import BURSTGPT
from planner.workload.layouts.lengths import LENGTHS
from planner.workload.layouts.mooncake import MOONCAKE
from planner.workload.layouts.vidur import VIDUR

__all__ = ["LAYOUTS", "Layout", "Rows", "detect", "read_rows"]

LAYOUTS: Final[dict[str, Layout]] = {
    "azure": AZURE,
    "vidur": VIDUR,
    "splitwise": VIDUR,
    "burstgpt": BURSTGPT,
    "mooncake": MOONCAKE,
    "lengths": LENGTHS,
}


def read_rows(text: str, where: str, layout: str | None = None) -> Rows:
    """Read a trace's text.

    Parameters
    ----------
    text
        The whole file.
    where
        Its name, for messages.
    layout
        A name in `LAYOUTS`; None goes by the first line.

    Raises
    ------
    InputError
        If the layout is unknown or not this file's, or a row is bad (named by line and column).
    """
    names = _first_line(text, where)
    if layout is None:
        return detect(names, where).read(text, where)
    if layout not in LAYOUTS:
        raise unknown_name("trace layout", layout, LAYOUTS)
    chosen = LAYOUTS[layout]
    if not chosen.matches(names):
        raise InputError(
            f"has the columns {', '.join(names)}",
            where=where,
            expected=f"{', '.join(chosen.columns)} (layout {layout})",
        )
    return chosen.read(text, where)


def detect(names: list[str], where: str) -> Layout:
    """Find the layout that has these columns or keys.

    Raises
    ------
    InputError
        If none has; lists the layouts and their columns.
    """
    for layout in LAYOUTS.values():
        if layout.matches(names):
            return layout
    known = "; ".join(f"{key}: {', '.join(item.columns)}" for key, item in LAYOUTS.items() if key == item.name)
    raise InputError(
        f"has the columns {', '.join(names)}, which no trace layout has"[:300],
        where=where,
        expected=f"the columns of one of {known}",
        hint="rename the columns, or convert to the vidur layout",
    )


def _first_line(text: str, where: str) -> list[str]:
    """Columns of the header, or keys of the first JSON object."""
    first = text.lstrip().split("\n", 1)[0].strip()
    if not first:
        raise InputError("is empty", where=where, expected="a trace with a header line")
    if first.startswith("{"):
        try:
            record = json.loads(first)
        except json.JSONDecodeError:
            record = None
        if isinstance(record, dict):
            return [str(key) for key in record]
        raise InputError(f"first line is not JSON: {first[:80]!r}", where=f"{where}:1")
    try:
        return [name.strip() for name in next(csv.reader([first]))]
    except csv.Error as error:
        raise InputError(f"is not CSV: {error}", where=f"{where}:1") from None
