"""Everything that mixture-of-experts models need of a GPU type, from AIConfigurator's tables to the files that ship."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from planner.cluster import load_device
from planner.cluster.measured import SurfaceFacts, SurfaceFile, write_fitted
from planner.profiling.fit.mla import fit_latent
from planner.profiling.fit.moe import fit_experts
from planner.profiling.importers.aiconfigurator_moe import ENGINES, import_latent, import_moe

if TYPE_CHECKING:
    from planner.cluster.surface import Surface
    from planner.profiling.tables import MeasuredTable

__all__ = ["FAMILIES", "fit_mixture"]

# Family -> what its file holds.
FAMILIES: Final = {
    "moe": "share of the roofline that routed experts reach, by format and engine",
    "mla": "share of the roofline that latent attention reaches, by phase, KV format and engine",
}
_NOTES: Final = {
    "moe": "Roofline: planner.cost.experts.expert_roofline with the device's data sheet. Launches of small kernels are "
    "part of the times. …/shapes: factors for the shapes of experts that were measured (hidden x intermediate x top-k "
    "x experts), numbered from 1 in the order of `named`.",
    "mla": "Roofline: planner.cost.latent, with the device's data sheet. Projections around attention are not in it.",
}
_SOURCE: Final = "aiconfigurator-core 0.12.0 kernel tables"
_LICENCE: Final = "Apache-2.0"
_DATE: Final = "2026-11"


def fit_mixture(data: Path, system: str, device_name: str, folder: Path) -> list[Path]:
    """Fit routed experts and latent attention of one GPU type, and write what was found.

    Parameters
    ----------
    data
        Their ``systems/data``.
    system
        A folder of it.
    device_name
        The GPU type here, which has a profile.
    folder
        Where ``<device>/moe.npz`` and ``<device>/mla.npz`` go.

    Returns
    -------
    list of Path
        What was written; empty where there are no tables.
    """
    device = load_device(device_name)
    written = []
    for family, tables in _tables(data, system, device_name).items():
        fitted: dict[str, tuple[Surface, SurfaceFacts]] = {}
        for table in tables:
            fitted |= fit_experts(table, device) if family == "moe" else fit_latent(table, device)
        if not fitted:
            continue
        file = SurfaceFile(
            device=device_name,
            title=f"{device.title}: {FAMILIES[family]}",
            source=_SOURCE,
            licence=_LICENCE,
            date=_DATE,
            note=_NOTES[family],
            surfaces={name: _rounded(facts) for name, (_, facts) in fitted.items()},
        )
        path = folder / device_name / f"{family}.npz"
        write_fitted(file, {name: surface for name, (surface, _) in fitted.items()}, path)
        written.append(path)
    return written


def _tables(data: Path, system: str, device: str) -> dict[str, list[MeasuredTable]]:
    experts = [import_moe(data, system, engine, device) for engine in ENGINES]
    latent = [
        import_latent(data, system, engine, device, prefill=prefill) for engine in ENGINES for prefill in (True, False)
    ]
    return {
        "moe": [table for table in experts if table is not None],
        "mla": [table for table in latent if table is not None],
    }


def _rounded(facts: SurfaceFacts) -> SurfaceFacts:
    median = None if facts.error_median is None else round(facts.error_median, 4)
    return facts.model_copy(update={"error": round(facts.error, 4), "error_median": median})
