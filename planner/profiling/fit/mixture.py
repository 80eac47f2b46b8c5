"""Surfaces that mixture-of-experts models need of a GPU type: from its measured tables to the files that ship."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from planner.cluster import load_device
from planner.cluster.measured import SurfaceFacts, SurfaceFile, write_fitted
from planner.profiling.fit.mla import fit_latent
from planner.profiling.fit.moe import fit_experts

if TYPE_CHECKING:
    from planner.cluster import DeviceProfile
    from planner.cluster.surface import Surface
    from planner.profiling.tables import MeasuredTable, Origin

__all__ = ["FAMILIES", "family_of", "fit_mixture", "write_mixture"]

Fitted = dict[str, tuple["Surface", SurfaceFacts]]

# Family -> what its file holds, and what a reader must know.
FAMILIES: Final[Mapping[str, tuple[str, str]]] = {
    "moe": (
        "share of the roofline that routed experts reach, by format and engine",
        "Roofline: planner.cost.experts.expert_roofline with the device's data sheet. Launches of small kernels are "
        "part of the times. …/shapes: factors for the shapes of experts that were measured (hidden x intermediate x "
        "top-k x experts), numbered from 1 in the order of `named`.",
    ),
    "mla": (
        "share of the roofline that latent attention reaches, by phase, KV format and engine",
        "Roofline: planner.cost.latent, with the device's data sheet. Projections around attention are not in it.",
    ),
}
_OF_KIND: Final = {"moe": "moe", "mla_prefill": "mla", "mla_decode": "mla"}


def family_of(kind: str) -> str | None:
    """Family that a kind of table is fitted for; None for those of other rooms."""
    return _OF_KIND.get(kind)


def fit_mixture(tables: Iterable[MeasuredTable], device: DeviceProfile) -> dict[str, Fitted]:
    """Fit routed experts and latent attention of one GPU type.

    Parameters
    ----------
    tables
        Measured on it, one for each engine and kind; others are passed over.
    device
        Its profile.

    Returns
    -------
    dict
        Family -> name -> surface and facts.
    """
    found: dict[str, Fitted] = {}
    for table in tables:
        family = family_of(table.origin.table)
        if family is not None:
            fit = fit_experts if family == "moe" else fit_latent
            found.setdefault(family, {}).update(fit(table, device))
    return {family: fitted for family, fitted in found.items() if fitted}


def write_mixture(
    fitted: Mapping[str, Fitted], device: str, origin: Origin, folder: Path
) -> list[tuple[Path, SurfaceFile]]:
    """Write surfaces as they ship.

    Parameters
    ----------
    fitted
        As `fit_mixture` returns them.
    device
        GPU type.
    origin
        Who measured the tables, when and under which terms.
    folder
        Where ``<device>/moe.npz`` and ``<device>/mla.npz`` go, each with its ``.yaml``.

    Returns
    -------
    list
        What was written: each file with the facts beside it.
    """
    written = []
    for family, surfaces in fitted.items():
        title, note = FAMILIES[family]
        file = SurfaceFile(
            device=device,
            title=f"{load_device(device).title}: {title}",
            source=origin.source.split(" (")[0],
            licence=origin.licence,
            date=origin.date,
            note=note,
            surfaces={name: _rounded(facts) for name, (_, facts) in surfaces.items()},
        )
        path = folder / device / f"{family}.npz"
        write_fitted(file, {name: surface for name, (surface, _) in surfaces.items()}, path)
        written.append((path, file))
    return written


def _rounded(facts: SurfaceFacts) -> SurfaceFacts:
    median = None if facts.error_median is None else round(facts.error_median, 4)
    return facts.model_copy(update={"error": round(facts.error, 4), "error_median": median})
