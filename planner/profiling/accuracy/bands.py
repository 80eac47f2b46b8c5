"""The relative error that a prediction of a truth row states for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.cost.bands import ServedFigure, served_error, widened
from planner.cost.layer import PARTS
from planner.engine.fitted import load_fit
from planner.plan.figure import weakest

if TYPE_CHECKING:
    from planner.cost.replica import ReplicaPricer
    from planner.plan.figure import Provenance

__all__ = ["offline_error", "server_error"]


def server_error(figure: ServedFigure, pricer: ReplicaPricer) -> float:
    """Half width of the 90 % band of a server's figure, relative to the prediction."""
    return served_error(pricer.model, figure, *_kernels(pricer))


def offline_error(part: str, figure: str, pricer: ReplicaPricer) -> float:
    """The same of a batch run: ``"saturated"``, ``"static"`` or ``"first"``."""
    return widened(load_fit("offline").error(part, figure).band, *_kernels(pricer))


def _kernels(pricer: ReplicaPricer) -> tuple[float, Provenance]:
    """Error and provenance of the kernels of a replica: the worst of its matrix products, the weakest of all."""
    layer = pricer.layer_pricers[0]
    bands = [layer.band(part) for part in PARTS]
    return layer.band("gemm")[0], weakest(*(provenance for _, provenance in bands))
