"""What the routed experts of a layer cost on one GPU: both matrix products and all that lies between.

Engines run routed experts as one fused operator whose speed the efficiency of a plain matrix product does not tell: on
eight H200, 256 tokens of DeepSeek-R1 take TensorRT-LLM 0.6 ms with every expert cut in eight, and 0.4 ms with whole
experts on different GPUs. Measured tables of the engines' own operators, fitted to ``profiles/measured/*/moe.npz``,
give the share of the roofline that each reaches, by

* tokens per expert that is touched, which decides between reading weights and multiplying;
* width of an expert on this GPU (its intermediate size over TP), which kernels cut into tiles;
* work: the roofline time itself, as small problems do not fill a GPU;
* groups: expert parallelism, as some kernels spend time on the tokens of absent experts.

A correction by tokens per expert, width and groups is kept for the shapes of experts that were measured. Engines and
formats without a table fall back to the grouped matrix product of `planner.cost.device`.

Legend: B batch of token counts.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.device import compute_dtype
from planner.cost.measured import KernelSurface, kernel_surfaces
from planner.dtypes import DTYPE_BYTES, Dtype

if TYPE_CHECKING:
    from planner.cluster import DeviceProfile
    from planner.cost._types import Array
    from planner.cost.routing import Routing
    from planner.plan.figure import Provenance

__all__ = ["EXPERT_FORMATS", "ExpertKernel", "expert_roofline", "shape_key"]

# How a stored format is run, the preferred way first: DeepSeek's and Qwen's fp8 checkpoints scale by blocks of 128;
# mxfp4 meets activations of 16 bit, or of 8 bit where an engine and a GPU have that.
EXPERT_FORMATS: Final[dict[Dtype, tuple[str, ...]]] = {
    "bf16": ("bf16",),
    "fp16": ("bf16",),
    "fp8": ("fp8_block", "fp8"),
    "nvfp4": ("nvfp4",),
    "mxfp4": ("mxfp4", "mxfp4_fp8"),
    "int4": ("int4",),
}

# Whose table stands in where an engine has none for a format.
_STAND_INS: Final[dict[str, tuple[str, ...]]] = {
    "trtllm": ("sglang", "vllm"),
    "sglang": ("vllm", "trtllm"),
    "vllm": ("sglang", "trtllm"),
}
_STAND_IN_ERROR: Final = 0.4


def expert_roofline(
    touched_B: Array,
    visits_B: Array,
    hidden: float,
    width: float,
    stored_bytes: float,
    flops: float,
    bandwidth: float,
    *,
    matrices: float = 3.0,
) -> Array:
    """Seconds that the experts on one GPU take at least.

    Parameters
    ----------
    touched_B, visits_B
        Experts that are visited, and how often all together.
    hidden, width
        Width of the model, and of one expert on this GPU.
    stored_bytes
        Bytes of a stored weight.
    flops, bandwidth
        Peak FLOP/s of the format multiplied in, and bytes/s.
    matrices
        Of size hidden x width in an expert: 3 with a gate.
    """
    weights = matrices * hidden * width
    moved_B = touched_B * weights * stored_bytes + visits_B * (2.0 * hidden + matrices * width) * 2.0
    return np.maximum(2.0 * visits_B * weights / flops, moved_B / bandwidth)


def shape_key(hidden: int, intermediate: int, top_k: int, experts: int) -> str:
    """Name of a shape of experts in a file of surfaces.

    Examples
    --------
    >>> shape_key(7168, 2048, 8, 256)
    '7168x2048x8x256'
    """
    return f"{hidden}x{intermediate}x{top_k}x{experts}"


class ExpertKernel:
    """The operator that an engine runs the routed experts of one kind of layer with.

    Parameters
    ----------
    device
        The GPU.
    engine
        Name of the engine.
    stored
        Format of the experts' weights.
    hidden, intermediate, matrices
        Widths of the model and of one whole expert; its matrices of that size.
    """

    def __init__(
        self,
        device: DeviceProfile,
        engine: str,
        stored: Dtype,
        hidden: int,
        intermediate: int,
        matrices: float = 3.0,
    ) -> None:
        self.stored: Dtype = stored
        self.hidden, self.intermediate, self.matrices = hidden, intermediate, matrices
        self._bandwidth = device.memory_bandwidth.value
        self._flops = device.flops[compute_dtype(device, stored)].value
        self._fitted, form = _chosen(device, engine, stored)
        if form == "mxfp4_fp8" and "fp8" in device.flops:
            self._flops = device.flops["fp8"].value

    @property
    def known(self) -> bool:
        """Whether there is a table for it."""
        return self._fitted is not None

    def time_B(self, tokens_B: Array, routing: Routing, tp: int, ep: int) -> Array:
        """Seconds of the experts on the busiest GPU.

        Parameters
        ----------
        tokens_B
            Tokens of all GPUs together; 0 takes no time.
        routing
            Who visits whom.
        tp, ep
            GPUs that share an expert, and groups that hold different ones.
        """
        if self._fitted is None:
            raise KeyError(self.stored)
        tokens_B = np.asarray(tokens_B, dtype=float)
        some_B = np.maximum(tokens_B, 1.0)
        touched_B, visits_B = routing.on_busiest(some_B, ep)
        width = self.intermediate / tp
        work_B = expert_roofline(
            touched_B,
            visits_B,
            self.hidden,
            width,
            DTYPE_BYTES[self.stored],
            self._flops,
            self._bandwidth,
            matrices=self.matrices,
        )
        each_B = visits_B / touched_B
        share_B = self._fitted.surface.at(each_B, width, work_B, ep)
        place = self._place(routing)
        if place and self._fitted.corrections is not None:
            share_B = share_B * self._fitted.corrections.at(float(place), each_B, width, ep)
        return np.where(tokens_B > 0, np.minimum(tokens_B, 1.0) * work_B / share_B, 0.0)

    def band(self, routing: Routing) -> tuple[float, Provenance]:
        """Relative error and provenance; that of the shape itself where it was measured."""
        if self._fitted is None:
            raise KeyError(self.stored)
        errors = list(self._fitted.named.values())
        place = self._place(routing)
        error = errors[place - 1] if place else self._fitted.error
        if self._fitted.provenance == "spec":
            error = max(error, _STAND_IN_ERROR)
        return error, self._fitted.provenance

    def _place(self, routing: Routing) -> int:
        """Number of the shape among those measured, from 1; 0 where it is none of them."""
        if self._fitted is None:
            return 0
        wanted = shape_key(self.hidden, self.intermediate, routing.top_k, routing.experts)
        shapes = list(self._fitted.named)
        return shapes.index(wanted) + 1 if wanted in shapes else 0


def _chosen(device: DeviceProfile, engine: str, stored: Dtype) -> tuple[KernelSurface | None, str]:
    """Surface that an engine's operator goes by, and the format it is run in."""
    surfaces = kernel_surfaces(device, "moe")
    formats = EXPERT_FORMATS.get(stored, ())
    for name in (engine, *_STAND_INS.get(engine, _STAND_INS["vllm"])):
        # TensorRT-LLM quantises activations to mxfp8 where the GPU multiplies them
        for form in reversed(formats) if name == "trtllm" and stored == "mxfp4" else formats:
            found = surfaces.get(f"{form}/{name}")
            if found is None:
                continue
            return (found if name == engine else replace(found, provenance="spec")), form
    return None, ""
