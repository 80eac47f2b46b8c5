"""What one operator costs on one GPU: a roofline with a measured, inherited or default efficiency.

``t = max(flops / F, bytes / B) / efficiency + t0``. Where kernels of the GPU or of a relative were measured, the
efficiency is a surface over all sizes that decide it (`planner.cost.kernels`). Elsewhere it is a curve over one of them
that comes with the device profile: from measurements of one's own, from a relative, or from a default. Sizes outside
take the end value; between points it is interpolated over the logarithm of the size.

Every method takes and returns arrays of any common shape; nothing here loops over a batch.

References
----------
S. Williams et al., "Roofline: an insightful visual performance model", CACM 2009.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.kernels import AttentionKernel, GemmKernel
from planner.cost.rooflines import decode_roofline, prefill_roofline
from planner.dtypes import DTYPE_BYTES, Dtype
from planner.plan.figure import Provenance

if TYPE_CHECKING:
    from planner.cluster import Curve, DeviceProfile, Quantity
    from planner.cost._types import Array

__all__ = ["DeviceOperators", "compute_dtype", "provenance_of"]

# Where a GPU has no units for a format, the kernel unpacks to the next one that it has.
_FALLBACK: Final[dict[Dtype, tuple[Dtype, ...]]] = {
    "nvfp4": ("fp8", "bf16", "fp16", "fp32"),
    "mxfp4": ("bf16", "fp16", "fp32"),
    "int4": ("bf16", "fp16", "fp32"),
    "fp8": ("bf16", "fp16", "fp32"),
    "int8": ("bf16", "fp16", "fp32"),
    "bf16": ("fp16", "fp32"),
    "fp16": ("bf16", "fp32"),
    "fp32": (),
}

# A format whose efficiency was not measured on a device runs like the nearest one that was.
_SIMILAR: Final[tuple[Dtype, ...]] = ("bf16", "fp16", "fp8", "int8", "nvfp4")


def provenance_of(kind: str) -> Provenance:
    """Provenance of a figure from the kind of number it rests on; an estimate counts as ``spec``."""
    return "measured" if kind == "measured" else "fitted" if kind == "fitted" else "spec"


def compute_dtype(device: DeviceProfile, stored: Dtype) -> Dtype:
    """Format that a GPU multiplies in, for weights stored in `stored`.

    A weight-only format (mxfp4, int4) is unpacked; so is one that the GPU has no units for.
    """
    if stored in device.flops and stored not in ("mxfp4", "int4"):
        return stored
    return next(d for d in (*_FALLBACK[stored], *device.flops) if d in device.flops)


class _Interpolated:
    """A curve made ready for arrays: linear in log size, constant beyond its ends."""

    __slots__ = ("error", "log_x", "provenance", "y")

    def __init__(self, curve: Curve) -> None:
        self.log_x = np.log(np.asarray(curve.x, dtype=float))
        self.y = np.asarray(curve.y, dtype=float)
        self.error = curve.error
        self.provenance = provenance_of(curve.kind)

    def __call__(self, size: Array) -> Array:
        return np.asarray(np.interp(np.log(np.maximum(size, 1e-9)), self.log_x, self.y))


class DeviceOperators:
    """Times of single operators on one GPU of a type.

    Parameters
    ----------
    device
        The GPU's profile.
    engine
        Whose kernels run; None takes the best that any engine was measured with.
    """

    def __init__(self, device: DeviceProfile, engine: str | None = None) -> None:
        self.device, self.engine = device, engine
        efficiency = device.efficiency
        self._bandwidth = device.memory_bandwidth.value
        self._gemm = {dtype: _Interpolated(curve) for dtype, curve in efficiency.gemm.items()}
        self._gemm_floor = efficiency.gemm_floor.value
        self._prefill = _Interpolated(efficiency.prefill_attention)
        self._decode = _Interpolated(efficiency.decode_attention)
        self._decode_floor = efficiency.decode_attention_floor.value
        self._elementwise: Quantity = efficiency.elementwise

    def _gemm_curve(self, dtype: Dtype) -> _Interpolated:
        return next(self._gemm[d] for d in (dtype, *_SIMILAR, *self._gemm) if d in self._gemm)

    def _gemm_kernel(self, stored: Dtype) -> GemmKernel | None:
        """Measured matrix products in a stored format, or in what it is unpacked to."""
        for dtype in (stored, compute_dtype(self.device, stored)):
            kernel = GemmKernel.of(self.device, self.engine, dtype)
            if kernel is not None:
                return kernel
        return None

    def gemm(self, m: Array, n: float, k: float, stored: Dtype, activation: Dtype) -> Array:
        """Seconds of ``(m, k) x (k, n)``.

        Parameters
        ----------
        m
            Tokens; any shape. Zero tokens take no time.
        n, k
            Size of the weight matrix on this GPU.
        stored, activation
            Formats of the weight and of the activations.
        """
        return self.grouped_gemm(m, n, k, 1, 1, stored, activation)

    def grouped_gemm(
        self, m: Array, n: float, k: float, experts: float, top_k: float, stored: Dtype, activation: Dtype
    ) -> Array:
        """Seconds of `experts` matrices of which each token visits `top_k`, balanced routing.

        The weights of an expert are read if any token visits it: ``E (1 - (1 - k/E)^m)`` of E experts are, on average.
        """
        m = np.asarray(m, dtype=float)
        dtype = compute_dtype(self.device, stored)
        touched = experts * -np.expm1(m * np.log1p(-min(top_k / experts, 1 - 1e-12))) if experts > 1 else 1.0
        visits = m * top_k
        flops = 2.0 * visits * n * k
        moved = touched * n * k * DTYPE_BYTES[stored] + visits * (n + k) * DTYPE_BYTES[activation]
        tokens_per_matrix = visits / np.maximum(touched, 1e-9)
        roofline = np.maximum(flops / self.device.flops[dtype].value, moved / self._bandwidth)
        kernel = self._gemm_kernel(stored)
        if kernel is None:
            time = roofline / self._gemm_curve(dtype)(tokens_per_matrix) + self._gemm_floor
        else:
            time = roofline / kernel.share_B(tokens_per_matrix, n, k) + kernel.start
        return np.where(m > 0, time, 0.0)

    def prefill_attention(
        self,
        tokens: Array,
        context: Array,
        width: float,
        *,
        heads: float | None = None,
        kv_heads: float | None = None,
        kv_dtype: Dtype = "bf16",
        window: float = np.inf,
    ) -> Array:
        """Seconds of causal attention of `tokens` new tokens that see `context` others each on average.

        Parameters
        ----------
        tokens, context
            Any common shape.
        width
            Heads on this GPU times the sum of query-key and value dimensions.
        heads, kv_heads
            Of this GPU; None where heads are of no kind that was measured, and the curve by length counts.
        kv_dtype
            Format of the KV cache.
        window
            Tokens that a token sees at most.
        """
        rate = self.device.flops[compute_dtype(self.device, "bf16")].value
        # a prompt of n tokens sees n / 2 on average; where the window is shorter, w - w^2 / 2n
        length = 2.0 * np.asarray(context, dtype=float)
        seen = np.asarray(context, dtype=float)
        if np.isfinite(window):
            seen = np.where(length > window, window - window**2 / (2.0 * np.maximum(length, 1.0)), seen)
        roofline = prefill_roofline(tokens, seen, width, rate)
        if heads is None:
            return roofline / self._prefill(2.0 * seen)
        reach, last = 2.0 * seen, heads / (kv_heads or heads)
        kernel = None
        if np.isfinite(window):
            kernel = AttentionKernel.of(self.device, self.engine, "prefill_window", kv_dtype)
        if kernel is not None:
            reach, last = length, window
        else:
            kernel = AttentionKernel.of(self.device, self.engine, "prefill", kv_dtype)
        if kernel is None:
            return roofline / self._prefill(2.0 * seen)
        prompts = np.maximum(tokens * heads / np.maximum(length, 1.0), 1.0)
        share = kernel.share_B(np.maximum(reach, 1.0), prompts, width / (2.0 * heads), last)
        return np.where(roofline > 0, roofline / share + kernel.start, 0.0)

    def decode_attention(
        self,
        sequences: Array,
        context: Array,
        kv_bytes: float,
        width: float,
        *,
        heads: float | None = None,
        kv_heads: float | None = None,
        kv_dtype: Dtype = "bf16",
    ) -> Array:
        """Seconds of one decode step's attention over the KV cache.

        Parameters
        ----------
        sequences, context
            Sequences in the step, and tokens each of them holds; any common shape.
        kv_bytes
            Bytes of KV cache per token and layer on this GPU.
        width
            Heads on this GPU times the dimensions multiplied per cached token: decides when many heads on one
            latent (MLA) are bound by compute.
        heads, kv_heads, kv_dtype
            As in `prefill_attention`.
        """
        kernel = None
        if heads is not None:
            kernel = AttentionKernel.of(self.device, self.engine, "decode", kv_dtype)
        if kernel is None or heads is None:
            moved = sequences * context * kv_bytes
            flops = 2.0 * sequences * context * width
            rate = self.device.flops[compute_dtype(self.device, "bf16")].value
            time = np.maximum(moved / (self._bandwidth * self._decode(moved)), flops / (0.5 * rate))
            return np.where(sequences > 0, np.maximum(time, self._decode_floor), 0.0)
        groups = kv_heads or heads
        share = kernel.share_B(context, np.maximum(sequences, 1.0) * groups, width / (2.0 * heads), heads / groups)
        time = decode_roofline(sequences, context, kv_bytes, width, self._bandwidth) / share + kernel.start
        return np.where(sequences > 0, time, 0.0)

    def elementwise(self, moved: Array) -> Array:
        """Seconds of norms, activations and residuals that move so many bytes."""
        return moved / (self._bandwidth * self._elementwise.value)

    def band(self, operator: str, stored: Dtype = "bf16") -> tuple[float, Provenance]:
        """Relative error and provenance of an operator, by its name: ``gemm``, ``prefill_attention``.

        Parameters
        ----------
        operator
            One of ``gemm``, ``prefill_attention``, ``decode_attention``, ``elementwise``.
        stored
            Format of the weights, or of the KV cache.
        """
        kernel: GemmKernel | AttentionKernel | None = None
        if operator == "gemm":
            kernel = self._gemm_kernel(stored)
        elif operator in ("prefill_attention", "decode_attention"):
            kernel = AttentionKernel.of(self.device, self.engine, operator.partition("_")[0], stored)
        if kernel is not None:
            return kernel.error, kernel.provenance
        if operator == "gemm":
            dtype = compute_dtype(self.device, stored)
            curve = self._gemm_curve(dtype)
            borrowed = dtype not in self._gemm
            return curve.error, "spec" if borrowed else curve.provenance
        if operator == "prefill_attention":
            return self._prefill.error, self._prefill.provenance
        if operator == "decode_attention":
            return self._decode.error, self._decode.provenance
        if operator == "elementwise":
            return self._elementwise.error or 0.0, provenance_of(self._elementwise.kind)
        raise KeyError(operator)
