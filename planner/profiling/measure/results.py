"""From finished points to measured tables in the common layout."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from planner.profiling.measure.backend import DeviceFacts
from planner.profiling.measure.journal import Entry
from planner.profiling.tables import KINDS, MeasuredTable, Origin, write_measured

__all__ = ["NOTES", "tables_of", "write_tables"]

NOTES: Final[dict[str, str]] = {
    "gemm": "The 16 x 16 x 16 product is the floor of all others.",
    "prefill_attention": "torch's scaled_dot_product_attention, whose kernels differ from those of serving engines.",
    "decode_attention": "torch's scaled_dot_product_attention over a contiguous cache; engines have paged kernels that"
    " split long contexts, and may be faster.",
    "copy": "So many bytes are read and as many written.",
    "cipher": "AES-256-GCM of OpenSSL; threads are processes, as the library holds Python's lock.",
    "collective": "Ranks are processes of this machine, the slowest counts. send_recv is a ring in which every rank"
    " sends as much as it receives.",
    "training_layer": "Eager; backward is forward and backward less forward; fused AdamW in the format of the weights."
    " The all-reduces of tensor parallelism are not in it.",
    "serving_layer": "Forward only; the all-reduces of tensor parallelism are not in it.",
}


def tables_of(entries: Iterable[Entry], facts: DeviceFacts, *, date: str, note: str) -> dict[str, MeasuredTable]:
    """Put points of one kind into one table, in the order of their settings.

    Parameters
    ----------
    entries
        Finished points.
    facts
        The device.
    date
        Day of the measurement.
    note
        What all tables are to say: state of the clocks, small sizes.
    """
    by_table: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.results is not None:
            by_table.setdefault(entry.point.table, []).append(entry)
    tables = {}
    for name, kind in KINDS.items():
        if name not in by_table:
            continue
        rows: list[dict[str, Any]] = [
            dict(entry.point.settings) | {k: v for k, v in (entry.results or {}).items() if k in kind.names}
            for entry in by_table[name]
        ]
        rows.sort(key=lambda row: tuple(row[column.name] for column in kind.settings if column.name in row))
        columns = {column: [row[column] for row in rows] for column in kind.names if column in rows[0]}
        origin = Origin(
            table=name,
            device=facts.name,
            title=f"{kind.title} on {facts.title}",
            source="planner profile measure",
            licence="own measurement",
            date=date,
            software=facts.software,
            note=" ".join(part for part in (NOTES.get(name, ""), note) if part),
        )
        tables[name] = MeasuredTable.of(origin, columns, where=f"measured {name}")
    return tables


def write_tables(tables: dict[str, MeasuredTable], folder: Path) -> list[Path]:
    """Write each table with its provenance; answers the CSV files."""
    paths = []
    for name, table in tables.items():
        path = folder / f"{name}.csv"
        write_measured(table, path)
        paths.append(path)
    return paths
