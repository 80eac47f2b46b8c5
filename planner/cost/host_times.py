"""What an engine adds to the kernels it runs: its own time, and how much slower kernels are among others.

The constants come from the engine's profile (`planner.engine.Overheads`), fitted to end-to-end measurements by
`planner.profiling.fit.serving`.

Legend: R replica, P part of a layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from planner.cost.layer import PARTS, QUANTISED

if TYPE_CHECKING:
    from planner.cost._types import Array
    from planner.engine import EngineProfile
    from planner.model import ModelSpec

__all__ = ["HostTimes", "part_factors", "quantises"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTimes:
    """Constants of some engines, one for each replica; arrays of shape R.

    Parameters
    ----------
    kernels_R, collectives_R
        Time of kernels, and of all-reduces, inside the engine over their time alone.
    quantise_R
        What quantising activations adds to the time of elementwise kernels, relative; 0 counts for 16-bit weights.
    iteration_R, layer_R, eager_R, sequence_R, prompt_R, first_token_R
        Seconds per iteration; per layer and iteration, and what is added where the iteration carries a prompt; per
        sequence and iteration; per prompt; before a first token.
    """

    kernels_R: Array
    collectives_R: Array
    quantise_R: Array
    iteration_R: Array
    layer_R: Array
    eager_R: Array
    sequence_R: Array
    prompt_R: Array
    first_token_R: Array

    @classmethod
    def of(cls, engines: Sequence[EngineProfile]) -> HostTimes:
        """Constants of the engines of some replicas."""
        names = [field.name.removesuffix("_R") for field in fields(cls)]
        return cls(**{f"{n}_R": np.array([getattr(e.overhead, n).value for e in engines]) for n in names})


def quantises(model: ModelSpec) -> bool:
    """Whether activations are quantised before matrix products: where weights are stored in a format of 8 bits or less.

    Weight-only formats (mxfp4, int4) are unpacked instead; nothing is quantised.
    """
    return any(gemm.dtype in QUANTISED for kind in model.kinds for gemm in kind.gemms)


def part_factors(engine: EngineProfile, model: ModelSpec) -> Array:
    """Time of each of `PARTS` inside the engine over its time alone, shape (P,)."""
    overhead = engine.overhead
    elementwise = 1.0 + (overhead.quantise.value if quantises(model) else 0.0)
    factors = {"elementwise": elementwise, "all_reduce": overhead.collectives.value}
    return np.array([factors.get(name, overhead.kernels.value) for name in PARTS])
