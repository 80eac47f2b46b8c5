"""How far off a GPU's kernels are when a relative's shares of the roofline stand in: found by leaving each GPU out.

Legend: P point of a grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cluster.measured import load_fitted
from planner.cost.measured import measured_devices, relative_of

if TYPE_CHECKING:
    from planner.cluster.measured import FittedSurface
    from planner.cost._types import BoolArray

__all__ = ["transfer_error", "transfer_errors"]

# Sizes of layers that are served: where shares are compared.
_SERVED: Final[Mapping[str, tuple[float, float]]] = {
    "n": (1024, 16384),
    "k": (1024, 16384),
    "length": (256, 16384),
    "context": (256, 32768),
    "parallel": (4, 1024),
    "head_dim": (128, 128),
}


def transfer_error(own: FittedSurface, lent: FittedSurface) -> float:
    """Mean relative error of the time beyond the start of the kernel, over the sizes that are served."""
    surface = own.surface
    if surface.names != lent.surface.names or surface.log_values.shape != lent.surface.log_values.shape:
        raise ValueError("surfaces over different grids")
    served_P: BoolArray = np.ones(surface.log_values.shape, dtype=bool)
    for at, (name, points) in enumerate(surface.axes):
        low, high = _SERVED.get(name, (0.0, np.inf))
        shape = [-1 if place == at else 1 for place in range(len(surface.axes))]
        served_P &= ((points >= low) & (points <= high)).reshape(shape)
    return float(np.abs(np.expm1(surface.log_values - lent.surface.log_values))[served_P].mean())


def transfer_errors(family: str) -> dict[tuple[str, str], float]:
    """Error of each measured GPU type, had it not been measured.

    Parameters
    ----------
    family
        ``"gemm"`` or ``"attention"``.

    Returns
    -------
    dict
        (GPU type, relative) -> mean over the formats and engines that both have.
    """
    names = measured_devices(family)
    errors: dict[tuple[str, str], float] = {}
    for name in names:
        relative = relative_of(name, tuple(other for other in names if other != name))
        if relative is None:
            continue
        own, lent = load_fitted(name, family), load_fitted(relative, family)
        both = sorted(set(own) & set(lent))
        if both:
            errors[name, relative] = float(np.mean([transfer_error(own[key], lent[key]) for key in both]))
    return errors
