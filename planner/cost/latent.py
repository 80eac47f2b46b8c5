"""What multi-head latent attention costs: one compressed latent per token, read by every head.

Prompts expand the latent to full heads and attend as usual; decode steps work on the latent itself, whose key and value
share ``kv_rank`` numbers per token beside the rotary part. One latent is not divided by tensor parallelism: every GPU
reads it for its heads. Shares of the roofline come from measured tables of the engines' operators, fitted to
``profiles/measured/*/mla.npz`` by heads on this GPU, sequences, and tokens.

Legend: B batch of loads.

References
----------
DeepSeek-AI, "DeepSeek-V2", 2024, section 2.1 and appendix C (absorbed projections).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.device import compute_dtype
from planner.cost.measured import KernelSurface, kernel_surfaces
from planner.dtypes import DTYPE_BYTES, Dtype

if TYPE_CHECKING:
    from planner.cluster import DeviceProfile
    from planner.cost._types import Array
    from planner.model import Attention
    from planner.plan.figure import Provenance

__all__ = ["LATENT_NUMBERS", "LatentKernel", "decode_roofline", "prefill_roofline"]

LATENT_NUMBERS: Final = 576  # of the measured model family: 512 of the latent, 64 rotary
_STAND_INS: Final[dict[str, tuple[str, ...]]] = {
    "vllm": ("sglang", "trtllm"),
    "sglang": ("trtllm", "vllm"),
    "trtllm": ("sglang", "vllm"),
}
_STAND_IN_ERROR: Final = 0.3


def decode_roofline(
    sequences_B: Array,
    context_B: Array,
    heads: float | Array,
    kv_dim: int,
    kv_bytes: float | Array,
    flops: float,
    bandwidth: float,
) -> Array:
    """Seconds of one decode step over latents at least: reading them, or multiplying every head with them twice."""
    tokens_B = sequences_B * context_B
    return np.maximum(tokens_B * kv_dim * kv_bytes / bandwidth, 4.0 * tokens_B * heads * kv_dim / flops)


def prefill_roofline(tokens_B: Array, context_B: Array, heads: float | Array, width: int, flops: float) -> Array:
    """Seconds of causal attention of `tokens` that see `context` others each; `width`: query-key and value dims."""
    return 2.0 * tokens_B * context_B * heads * width / flops


@dataclass(frozen=True, slots=True)
class LatentKernel:
    """The operator that an engine runs latent attention with, on one GPU.

    Parameters
    ----------
    attention
        Shape of the layer's attention.
    flops, bandwidth
        Peak of 16-bit products, and of memory.
    kv_bytes
        Of a cached number.
    prefill, decode
        Shares of the roofline.
    """

    attention: Attention
    flops: float
    bandwidth: float
    kv_bytes: float
    prefill: KernelSurface
    decode: KernelSurface

    @classmethod
    def of(cls, attention: Attention, device: DeviceProfile, engine: str, kv_dtype: Dtype) -> LatentKernel | None:
        """Find the tables; None where there are none."""
        prefill = _chosen(device, engine, "prefill", kv_dtype)
        decode = _chosen(device, engine, "decode", kv_dtype)
        if prefill is None or decode is None:
            return None
        flops = device.flops[compute_dtype(device, "bf16")].value
        return cls(attention, flops, device.memory_bandwidth.value, DTYPE_BYTES[kv_dtype], prefill, decode)

    def prefill_B(self, tokens_B: Array, context_B: Array, heads: float) -> Array:
        """Seconds of prompts: `tokens` new ones that see `context` others each on average, on so many heads."""
        width = self.attention.head_dim + self.attention.value_dim
        work_B = prefill_roofline(tokens_B, context_B, heads, width, self.flops)
        # a prompt of n tokens sees n / 2 on average; a chunk of it is a part of one
        whole_B = np.maximum(2.0 * context_B, 1.0)
        share_B = self.prefill.surface.at(heads, np.maximum(tokens_B / whole_B, 1.0), whole_B)
        return np.where(tokens_B > 0, work_B / share_B, 0.0)

    def decode_B(self, sequences_B: Array, context_B: Array, heads: float) -> Array:
        """Seconds of one decode step of so many sequences of `context` tokens each."""
        some_B = np.maximum(sequences_B, 1.0)
        work_B = decode_roofline(
            some_B, context_B, heads, self.attention.kv_dim, self.kv_bytes, self.flops, self.bandwidth
        )
        share_B = self.decode.surface.at(heads, some_B, context_B)
        return np.where(sequences_B > 0, work_B / share_B, 0.0)

    def band(self, part: str) -> tuple[float, Provenance]:
        """Relative error and provenance of ``prefill_attention`` or ``decode_attention``."""
        one = self.prefill if part == "prefill_attention" else self.decode
        return one.error, one.provenance


def _chosen(device: DeviceProfile, engine: str, phase: str, kv_dtype: Dtype) -> KernelSurface | None:
    """Surface of the engine and KV format; another engine's, or the format of 16 bit, where it has none."""
    surfaces = kernel_surfaces(device, "mla")
    wanted = "fp8" if DTYPE_BYTES[kv_dtype] <= 1.0 else "bf16"
    for form in (wanted, "bf16"):
        for name in (engine, *_STAND_INS.get(engine, _STAND_INS["vllm"])):
            found = surfaces.get(f"{phase}/{form}/{name}")
            if found is not None:
                if name == engine and form == wanted:
                    return found
                return replace(found, provenance="spec", error=max(found.error, _STAND_IN_ERROR))
    return None
