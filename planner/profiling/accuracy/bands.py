"""The relative error that a prediction of a truth row states for itself."""

from __future__ import annotations

from planner.profiling.accuracy.records import FigureName
from planner.profiling.accuracy.replicas import Setting

__all__ = ["stated_error"]


def stated_error(figure: FigureName, setting: Setting) -> float:
    """Half width of the 90 % band of a figure, relative to the prediction."""
    overhead = setting.engine.overhead
    constant = overhead.first_token if figure == "ttft" else overhead.iteration
    return constant.error or 0.0
