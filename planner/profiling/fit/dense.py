"""All surfaces that dense layers need of a GPU type: from its measured tables to the files that ship."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from planner.cluster import load_device
from planner.cluster.measured import SurfaceFacts, SurfaceFile, write_fitted
from planner.profiling.fit.attention import fit_attention
from planner.profiling.fit.collectives import fit_collectives
from planner.profiling.fit.gemm import fit_gemm

if TYPE_CHECKING:
    from planner.cluster import DeviceProfile
    from planner.cluster.surface import Surface
    from planner.profiling.tables import MeasuredTable, Origin

__all__ = ["FAMILIES", "family_of", "fit_dense", "newest_first", "write_dense"]

Fitted = dict[str, tuple["Surface", SurfaceFacts]]

# Family -> what its file holds, and the roofline its shares are of.
FAMILIES: Final[Mapping[str, tuple[str, str]]] = {
    "gemm": (
        "share of the roofline that matrix products reach, by format and engine",
        "seconds = floor + planner.cost.rooflines.gemm_roofline / share, with the rates of the device's profile and"
        " activations of 16 bit.",
    ),
    "attention": (
        "share of the roofline that attention reaches, by phase, KV format and engine",
        "seconds = floor + planner.cost.rooflines.prefill_roofline or decode_roofline / share. length: twice the tokens"
        " that a new token sees on average; parallel: prompts x heads, or sequences x KV heads; group: queries per KV"
        " head.",
    ),
    "collectives": (
        "seconds of collectives inside a node, by operation and library",
        "bytes: held by every GPU before an all-reduce; in all after an all-gather, before a reduce-scatter or"
        " all-to-all.",
    ),
}
_OF_KIND: Final = {
    "gemm": "gemm",
    "prefill_attention": "attention",
    "decode_attention": "attention",
    "collective": "collectives",
}


def family_of(kind: str) -> str | None:
    """Family that a kind of table is fitted for; None for those of other rooms."""
    return _OF_KIND.get(kind)


def newest_first(tables: Iterable[MeasuredTable]) -> list[MeasuredTable]:
    """Order tables by the version of their software, the newest first; a stable order where it is the same."""
    return sorted(tables, key=lambda table: _version(table.origin.software), reverse=True)


def _version(software: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", software.partition(" ")[2]))


def fit_dense(tables: Iterable[MeasuredTable], device: DeviceProfile) -> dict[str, Fitted]:
    """Fit all surfaces of one GPU type.

    Parameters
    ----------
    tables
        Measured on it; of several versions of an engine the newest that was measured in full counts.
    device
        Its profile.

    Returns
    -------
    dict
        Family -> name -> surface and facts.
    """
    ordered = newest_first(tables)
    families: dict[str, Fitted] = {
        "collectives": fit_collectives([table for table in ordered if table.origin.table == "collective"])
    }
    for table in ordered:
        family = family_of(table.origin.table)
        if family is None or family == "collectives":
            continue
        found = fit_gemm(table, device) if family == "gemm" else fit_attention(table, device)
        mine = families.setdefault(family, {})
        for name, (surface, facts) in found.items():
            if name not in mine or facts.rows > 4 * mine[name][1].rows:
                mine[name] = surface, facts
    return {family: dict(sorted(fitted.items())) for family, fitted in families.items() if fitted}


def write_dense(
    families: Mapping[str, Fitted], device_name: str, origin: Origin, folder: Path
) -> list[tuple[Path, SurfaceFile]]:
    """Write the surfaces of one GPU type: ``<folder>/<device>/<family>.npz`` and ``.yaml``.

    Parameters
    ----------
    families
        As `fit_dense` returns them.
    device_name
        The GPU type.
    origin
        Provenance of its tables.
    folder
        Where its folder is or will be.

    Returns
    -------
    list
        What was written: each file with the facts beside it.
    """
    device, written = load_device(device_name), []
    for family, fitted in families.items():
        title, note = FAMILIES[family]
        file = SurfaceFile(
            device=device_name,
            title=f"{device.title}: {title}",
            source=origin.source,
            licence=origin.licence,
            date=origin.date,
            note=note,
            surfaces={name: facts for name, (_, facts) in fitted.items()},
        )
        path = folder / device_name / f"{family}.npz"
        write_fitted(file, {name: surface for name, (surface, _) in fitted.items()}, path)
        written.append((path, file))
    return written
