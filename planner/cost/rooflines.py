"""The least time that a kernel can take on a GPU of its data sheet: multiply everything, or move everything once.

Measured kernels are kept as shares of these (`planner.profiling.fit`), and the cost model divides by the shares again.

References
----------
S. Williams et al., "Roofline: an insightful visual performance model", CACM 2009.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from planner.cost._types import Array

__all__ = ["decode_roofline", "gemm_roofline", "prefill_roofline"]


def gemm_roofline(
    m: Array, n: Array | float, k: Array | float, flops: float, bandwidth: float, stored: float, activation: float
) -> Array:
    """Seconds of ``(m, k) x (k, n)``.

    Parameters
    ----------
    m, n, k
        Sizes; any common shape.
    flops, bandwidth
        Peak FLOP/s of the format multiplied in, and bytes/s.
    stored, activation
        Bytes of a weight, and of a number on either side of it.

    Examples
    --------
    >>> float(gemm_roofline(np.array(1.0), 1e3, 1e3, 1e15, 1e12, 2.0, 2.0))
    2.004e-06
    """
    moved = n * k * stored + m * (n + k) * activation
    return np.asarray(np.maximum(2.0 * m * n * k / flops, moved / bandwidth))


def prefill_roofline(tokens: Array, context: Array, width: Array | float, flops: float) -> Array:
    """Seconds of causal attention of `tokens` that see `context` others each.

    Parameters
    ----------
    tokens, context
        Any common shape.
    width
        Heads times the sum of query-key and value dimensions.
    flops
        Peak FLOP/s of 16-bit products.
    """
    return np.asarray(2.0 * tokens * context * width / flops)


def decode_roofline(
    sequences: Array, context: Array, kv_bytes: Array | float, width: Array | float, bandwidth: float
) -> Array:
    """Seconds of one decode step's attention: its KV cache, queries and results are moved once.

    Parameters
    ----------
    sequences, context
        Sequences in the step, and tokens each of them holds; any common shape.
    kv_bytes
        Bytes of KV cache per token.
    width
        Heads times the sum of query-key and value dimensions: 16-bit numbers in and out per sequence.
    bandwidth
        Bytes/s.
    """
    return np.asarray(sequences * (context * kv_bytes + 2.0 * width) / bandwidth)
