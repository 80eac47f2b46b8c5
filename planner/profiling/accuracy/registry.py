"""Layouts of truth files, told apart by their columns, and the way from a file to its errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from planner.errors import InputError, unknown_name
from planner.profiling.accuracy.megatron import BRIDGE, H100, MLSYS23_MEMORY, MLSYS23_SHARES, MLSYS23_TIME, SC21
from planner.profiling.accuracy.muxserve import MUXSERVE
from planner.profiling.accuracy.names import truth_dir
from planner.profiling.accuracy.records import Layout
from planner.profiling.accuracy.report import Accuracy
from planner.profiling.accuracy.sailor import SAILOR
from planner.profiling.accuracy.serving import SERVING_SILICON
from planner.profiling.accuracy.table import Table, read_table
from planner.profiling.accuracy.trtllm import FIRST_TOKEN, MAX_LOAD, STATIC_BATCH

__all__ = ["LAYOUTS", "accuracy_of", "list_truth", "load_truth", "recognise"]

LAYOUTS: Final[dict[str, Layout]] = {
    layout.name: layout
    for layout in (
        SERVING_SILICON,
        MAX_LOAD,
        STATIC_BATCH,
        FIRST_TOKEN,
        MUXSERVE,
        SAILOR,
        SC21,
        H100,
        BRIDGE,
        MLSYS23_TIME,
        MLSYS23_MEMORY,
        MLSYS23_SHARES,
    )
}

LEFT_OUT: Final = (
    "Each row is predicted by constants that were fitted without its group (model, GPU type and engine), so that its "
    "error is that of a forecast."
)


def list_truth() -> tuple[str, ...]:
    """Names of the shipped truth files, sorted.

    Examples
    --------
    >>> "serving_silicon_dense" in list_truth()
    True
    """
    return tuple(sorted(path.stem for path in truth_dir().glob("*.csv")))


def recognise(columns: Sequence[str], where: str) -> Layout:
    """Layout of a file with these columns: of those whose columns are all there, the one that asks for most.

    Raises
    ------
    InputError
        If there is none; names the known layouts, and what the nearest lacks.

    Examples
    --------
    >>> recognise(["model", "gpu", "precision", "batch_size", "tp", "isl", "first_token_latency_ms"], "a.csv").name
    'trtllm_first_token'
    """
    there = set(columns)
    matching = [layout for layout in LAYOUTS.values() if there.issuperset(layout.columns)]
    if matching:
        return max(matching, key=lambda layout: len(layout.columns))
    nearest = max(LAYOUTS.values(), key=lambda layout: len(there.intersection(layout.columns)) / len(layout.columns))
    lacking = [column for column in nearest.columns if column not in there]
    known = "; ".join(f"{layout.name} ({layout.columns[-1]})" for layout in LAYOUTS.values())
    raise InputError(
        f"has columns of no known layout: {', '.join(columns)[:120]}",
        where=where,
        expected=f"a layout, of which one column each is named: {known}",
        hint=f"nearest is {nearest.name}, which also needs {', '.join(lacking)}",
    )


def load_truth(name_or_path: str | Path) -> Table:
    """Read a shipped truth file by name, or any file.

    Raises
    ------
    InputError
        If there is none, or it cannot be read.
    """
    if isinstance(name_or_path, str) and name_or_path in list_truth():
        return read_table(truth_dir() / f"{name_or_path}.csv", name=name_or_path)
    path = Path(name_or_path)
    if not path.exists() and not path.suffix and len(path.parts) == 1:
        raise unknown_name("truth file", str(name_or_path), list_truth())
    return read_table(path)


def accuracy_of(truth: Table | str | Path, *, layout: str | None = None, left_out: bool = False) -> Accuracy:
    """Predict the rows of a truth file and compare.

    Parameters
    ----------
    truth
        A table, a shipped name, or a CSV file.
    layout
        A name in `LAYOUTS`; None goes by the columns.
    left_out
        Whether each row is predicted by constants that were fitted without its group: model, GPU type and engine.
        Rows of groups that no fit has seen, and layouts that nothing was fitted to, are predicted as ever.

    Raises
    ------
    InputError
        If the file is wrong: names line and column.
    """
    table = truth if isinstance(truth, Table) else load_truth(truth)
    if layout is not None and layout not in LAYOUTS:
        raise unknown_name("layout of truth files", layout, LAYOUTS)
    chosen = recognise(table.columns, table.where) if layout is None else LAYOUTS[layout]
    if left_out and chosen.predict_left_out is not None:
        return Accuracy.of(table, chosen.name, LEFT_OUT, chosen.predict_left_out(table.rows))
    return Accuracy.of(table, chosen.name, chosen.fitted, chosen.predict(table.rows))
