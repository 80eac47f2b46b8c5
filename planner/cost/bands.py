"""How wrong a served figure may be: what a cross-validation found where it had not seen model, GPU type and engine.

The bands are half widths relative to the prediction that held 90 % of the measurements of left-out groups
(`planner.profiling.fit.serving`), apart for dense models and for those with routed experts. On a GPU type whose kernels
were not measured, the error of the kernels' efficiency comes on top, as an independent one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Literal

from planner.engine.fitted import load_fit

if TYPE_CHECKING:
    from planner.model import ModelSpec
    from planner.plan.figure import Provenance

__all__ = ["ServedFigure", "served_error", "widened"]

ServedFigure = Literal["ttft", "tpot", "e2e"]

_NINETY: Final = 1.645  # standard deviations that hold 90 % of a normal distribution


def served_error(model: ModelSpec, figure: ServedFigure, kernels: float, provenance: Provenance) -> float:
    """Half width of the 90 % band of a server's TTFT, TPOT or end-to-end latency; the rate has that of the last.

    Parameters
    ----------
    model
        Routed experts have bands of their own.
    figure
        Which.
    kernels, provenance
        Relative error of the kernels' times, and what these rest on.
    """
    part = "experts" if any(kind.experts for kind in model.kinds) else "dense"
    return widened(load_fit("serving").error(part, figure).band, kernels, provenance)


def widened(band: float, kernels: float, provenance: Provenance) -> float:
    """A band with the error of kernels that were not measured on the GPU type.

    Examples
    --------
    >>> widened(0.3, 0.2, "measured"), round(widened(0.3, 0.2, "spec"), 2)
    (0.3, 0.45)
    """
    return band if provenance != "spec" else math.hypot(band, _NINETY * kernels)
