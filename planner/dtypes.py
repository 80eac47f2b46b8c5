"""Number formats of weights, activations and KV caches, and the bytes they take."""

from __future__ import annotations

from typing import Final, Literal, get_args

__all__ = ["COMPUTE_DTYPE", "DTYPES", "DTYPE_BYTES", "Dtype"]

Dtype = Literal["fp32", "bf16", "fp16", "fp8", "int8", "nvfp4", "mxfp4", "int4"]

DTYPES: Final[tuple[Dtype, ...]] = get_args(Dtype)

DTYPE_BYTES: Final[dict[Dtype, float]] = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "nvfp4": 0.5625,  # 4 bits and an 8-bit scale for each 16 values
    "mxfp4": 0.53125,  # 4 bits and an 8-bit scale for each 32 values (OCP Microscaling 1.0)
    "int4": 0.53125,  # 4 bits and a 16-bit scale for each 128 values, with zero points (AWQ, GPTQ)
}

# What multiplies, once the weights are unpacked: weight-only formats compute in bf16 where the GPU has no
# units for them; the cost model looks here when a device lists no FLOP/s for the stored format.
COMPUTE_DTYPE: Final[dict[Dtype, Dtype]] = {
    "fp32": "fp32",
    "bf16": "bf16",
    "fp16": "fp16",
    "fp8": "fp8",
    "int8": "int8",
    "nvfp4": "nvfp4",
    "mxfp4": "bf16",
    "int4": "bf16",
}
