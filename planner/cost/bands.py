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
    from collections.abc import Sequence

    from planner.cost.layer import LayerPricer
    from planner.engine import EngineProfile

__all__ = ["ServedFigure", "served_error", "widened"]

ServedFigure = Literal["ttft", "tpot", "e2e"]

_NINETY: Final = 1.645  # standard deviations that hold 90 % of a normal distribution


def served_error(layers: Sequence[LayerPricer], engine: EngineProfile, figure: ServedFigure) -> float:
    """Half width of the 90 % band of a server's TTFT, TPOT or end-to-end latency; the rate has that of the last.

    Parameters
    ----------
    layers
        Of the stages of a replica; routed experts have bands of their own.
    engine
        What runs them. One whose overheads were not fitted has the bands of engines that were left out whole.
    figure
        Which.
    """
    fit = load_fit("serving")
    part = "experts" if any(kind.experts for kind in layers[0].model.kinds) else "dense"
    band = fit.error(part, figure).band
    if engine.overhead.iteration.kind != "fitted":
        band = max(band, fit.error(f"{part}, no engine", figure).band)
    return widened(band, layers)


def widened(band: float, layers: Sequence[LayerPricer]) -> float:
    """A band with the error of matrix products on top, of the worst GPU type on which they were not measured."""
    kernels = [error for error, provenance in (layer.band("gemm") for layer in layers) if provenance == "spec"]
    return math.hypot(band, _NINETY * max(kernels, default=0.0))
