"""From measured tables to the curves that a device profile holds.

Every function undoes one formula of `planner.cost.device`, so that the cost model gives back what was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from planner.dtypes import DTYPE_BYTES
from planner.profiling.measure.gemm import TINY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from planner.profiling.tables import MeasuredTable

__all__ = [
    "all_reduce",
    "best_bandwidth",
    "best_flops",
    "decode_curve",
    "elementwise_share",
    "gemm_curves",
    "gemm_floor",
    "prefill_curve",
]

_LARGE: Final = 1024  # matrices of the layers of a model are at least so wide
_LEAST_SHARE: Final = 1e-6
_TWO_WAY: Final = 2.0  # a copy reads and writes


def _curve(points: Mapping[float, float], error: float, basis: str) -> dict[str, Any]:
    xs = sorted(points)
    ys = [float(f"{min(1.0, max(_LEAST_SHARE, points[x])):.4g}") for x in xs]
    return {"x": [float(x) for x in xs], "y": ys, "error": float(f"{error:.2g}"), "error_basis": basis}


def best_flops(gemm: MeasuredTable) -> dict[str, float]:
    """Highest FLOP/s of each format."""
    rate = 2.0 * gemm["m"] * gemm["n"] * gemm["k"] / gemm["seconds"]
    return {str(dtype): float(rate[gemm["dtype"] == dtype].max()) for dtype in dict.fromkeys(gemm["dtype"].tolist())}


def best_bandwidth(copy: MeasuredTable, direction: str) -> float | None:
    """Highest bytes/s, reads and writes together, of the largest copies, which no cache holds; None without any."""
    chosen = copy["direction"] == direction
    if not chosen.any():
        return None
    chosen &= copy["bytes"] == copy["bytes"][chosen].max()
    return float((_TWO_WAY * copy["bytes"] / copy["seconds"])[chosen].max())


def gemm_floor(gemm: MeasuredTable) -> float:
    """Seconds of the smallest product, least over the formats."""
    tiny = (gemm["m"] == TINY) & (gemm["n"] == TINY) & (gemm["k"] == TINY)
    return float(gemm["seconds"][tiny].min() if tiny.any() else gemm["seconds"].min() / 2)


def gemm_curves(
    gemm: MeasuredTable, flops: Mapping[str, float], bandwidth: float, floor: float, least_error: float
) -> dict[str, dict[str, Any]]:
    """Roofline time over measured time beside the floor, by tokens: 90th percentile over the matrices."""
    curves = {}
    for dtype, peak in flops.items():
        tiny = (gemm["n"] == TINY) & (gemm["k"] == TINY)
        rows = (gemm["dtype"] == dtype) & ~tiny
        wide = rows & (gemm["n"] >= _LARGE) & (gemm["k"] >= _LARGE)
        rows = wide if wide.any() else rows
        if not rows.any():
            continue
        m, n, k, seconds = (gemm[name][rows].astype(float) for name in ("m", "n", "k", "seconds"))
        weight = DTYPE_BYTES[dtype]  # type: ignore[index]  # formats come from the table
        moved = n * k * weight + m * (n + k) * max(weight, 2.0)
        roofline = np.maximum(2.0 * m * n * k / peak, moved / bandwidth)
        share = np.minimum(roofline / np.maximum(seconds - floor, seconds / 2), 1.0)
        points, spreads = {}, []
        for tokens in np.unique(m):
            values = share[m == tokens]
            high, middle = float(np.percentile(values, 90)), float(np.median(values))
            points[float(tokens)] = high
            spreads.append((high - middle) / 2 / high)
        basis = f"half of (p90 - median) over p90, over matrices, mean over m; at least {least_error:g}"
        curves[dtype] = _curve(points, max(float(np.mean(spreads)), least_error), basis)
    return curves


def prefill_curve(table: MeasuredTable, rate: float, least_error: float) -> dict[str, Any]:
    """Share of the peak by tokens of the prompt, causal FLOPs only: median over heads and prompts."""
    batch, tokens, heads, dim = (table[name].astype(float) for name in ("batch", "tokens", "heads", "head_dim"))
    share = 2.0 * batch * tokens**2 * heads * dim / (rate * table["seconds"])
    return _medians(tokens, share, least_error, "shapes")


def decode_curve(table: MeasuredTable, bandwidth: float, least_error: float) -> tuple[dict[str, Any], float]:
    """Share of the memory bandwidth by bytes of KV cache, and the least seconds of all."""
    batch, context, heads, dim = (table[name].astype(float) for name in ("batch", "context", "kv_heads", "head_dim"))
    moved = 2.0 * batch * context * heads * dim * 2.0
    share = moved / (bandwidth * table["seconds"])
    return _medians(moved, share, least_error, "shapes"), float(table["seconds"].min())


def _medians(x: NDArray[Any], share: NDArray[Any], least_error: float, over: str) -> dict[str, Any]:
    points, spreads = {}, [0.0]
    for value in np.unique(x):
        values = share[x == value]
        low, middle, high = np.percentile(values, (25, 50, 75))
        points[float(value)] = float(middle)
        if len(values) > 1:
            spreads.append(float((high - low) / 2 / middle))
    error = max(float(np.mean(spreads)), least_error)
    return _curve(points, error, f"half the interquartile range over the median, over {over}; at least {least_error:g}")


def elementwise_share(table: MeasuredTable, bandwidth: float) -> tuple[float, float]:
    """Share of the memory bandwidth: median over operators, with half the range between them over it."""
    tensors = np.where(table["operation"] == "rms_norm", 2.0, 3.0)
    rate = tensors * table["tokens"] * table["width"] * 2.0 / table["seconds"]
    share = np.clip(rate / bandwidth, _LEAST_SHARE, 1.0)
    middle = float(np.median(share))
    return middle, float((share.max() - share.min()) / 2 / middle)


def all_reduce(table: MeasuredTable, least_error: float) -> dict[int, dict[str, Any]]:
    """By GPUs: latency and bus bandwidth that give back the smallest and the largest message, and all points."""
    rows = table["operation"] == "all_reduce"
    entries: dict[int, dict[str, Any]] = {}
    for gpus in sorted({int(count) for count in table["gpus"][rows]}):
        chosen = rows & (table["gpus"] == gpus)
        order = np.argsort(table["bytes"][chosen])
        size, seconds = table["bytes"][chosen][order].astype(float), table["seconds"][chosen][order]
        if len(size) < 2 or seconds[-1] <= seconds[0]:
            continue
        per_byte = (seconds[-1] - seconds[0]) / (size[-1] - size[0])
        latency = max(seconds[0] - per_byte * size[0], 1e-9)
        missed = float(np.max(np.abs((latency + per_byte * size) / seconds - 1)))
        factor = 2.0 * (gpus - 1) / gpus
        spread = float(np.median(table["spread"][chosen]))
        entries[gpus] = {
            "latency": {"value": float(f"{latency:.4g}"), "error": float(f"{max(missed, least_error):.2g}")},
            "bandwidth": {
                "value": float(f"{factor / per_byte:.4g}"),
                "error": float(f"{max(missed, least_error):.2g}"),
            },
            "seconds": {
                "x": size.tolist(),
                "y": [float(f"{value:.4g}") for value in seconds],
                "error": float(f"{max(spread, least_error):.2g}"),
                "error_basis": f"half the interquartile range over the median; at least {least_error:g}",
            },
        }
    return entries
