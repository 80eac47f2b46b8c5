"""The relative error that a prediction of a truth row states for itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.cost.bands import ServedFigure, served_error, widened
from planner.engine.fitted import load_fit

if TYPE_CHECKING:
    from planner.cost.replica import ReplicaPricer

__all__ = ["offline_error", "server_error"]


def server_error(figure: ServedFigure, pricer: ReplicaPricer) -> float:
    """Half width of the 90 % band of a server's figure, relative to the prediction."""
    return served_error(pricer.layer_pricers, pricer.engine, figure)


def offline_error(part: str, figure: str, pricer: ReplicaPricer) -> float:
    """The same of a batch run: ``"saturated"``, ``"static"`` or ``"first"``."""
    return widened(load_fit("offline").error(part, figure).band, pricer.layer_pricers)
