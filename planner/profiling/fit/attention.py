"""Attention: the share of the roofline, for each phase, KV format and engine.

Prompts: by their length, by prompts times heads (which fill the GPU), by head dimension and by queries that share a KV
head; by the window instead of these where a layer has one. Decode: by tokens held, by sequences times KV heads, head
dimension and queries per KV head.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.device import compute_dtype
from planner.cost.rooflines import decode_roofline, prefill_roofline
from planner.dtypes import DTYPE_BYTES, Dtype
from planner.profiling.fit.shares import Samples, fastest_rows, fit_shares, launch_floor
from planner.profiling.fit.smoothing import Axes

if TYPE_CHECKING:
    from planner.cluster import DeviceProfile
    from planner.cluster.measured import SurfaceFacts
    from planner.cluster.surface import Surface
    from planner.cost._types import Array, BoolArray
    from planner.profiling.tables import MeasuredTable

__all__ = ["DECODE_AXES", "PREFILL_AXES", "WINDOW_AXES", "fit_attention"]

_HEAD_DIMS: Final = ("head_dim", (64.0, 128.0, 256.0))
PREFILL_AXES: Final[Axes] = (
    ("length", (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)),
    ("parallel", (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096, 16384)),
    _HEAD_DIMS,
    ("group", (1.0, 4.0, 12.0)),
)
DECODE_AXES: Final[Axes] = (
    ("context", (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 131072)),
    ("parallel", (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 16384)),
    _HEAD_DIMS,
    ("group", (1.0, 2.0, 4.0, 8.0, 16.0)),
)
WINDOW_AXES: Final[Axes] = (*PREFILL_AXES[:3], ("window", (128.0, 1024.0, 8192.0)))
_LEFT_OUT: Final = "(heads, KV heads, head dimension)"
_LARGEST_GROUP: Final = 16  # queries that share a KV head; more is no model's
_LARGEST_HEAD: Final = 256
_SHORTEST: Final = 16  # tokens of a context that matter
_FEWEST: Final = 40


def fit_attention(table: MeasuredTable, device: DeviceProfile) -> dict[str, tuple[Surface, SurfaceFacts]]:
    """Fit prefill or decode attention of one engine.

    Parameters
    ----------
    table
        A ``prefill_attention`` or ``decode_attention`` table.
    device
        The GPU it was measured on.

    Returns
    -------
    dict
        ``prefill/<KV format>/<engine>`` and ``prefill_window/…``, or ``decode/…``. Where prompts over an 8-bit cache
        were measured in both formats of multiplication, 8 bit counts.
    """
    prefill = table.origin.table == "prefill_attention"
    phase = "prefill" if prefill else "decode"
    engine = table.origin.software.split()[0] if table.origin.software else "measured"
    fitted: dict[str, tuple[Surface, SurfaceFacts]] = {}
    for kv in ("bf16", "fp8"):
        mine = (table["kv_dtype"] == kv) & _served(table)
        for name, kind in ((phase, table["window"] == 0), ("prefill_window", table["window"] > 0)):
            of_kind = mine & kind
            multiplied = _multiplied(table["dtype"][of_kind].tolist(), kv)
            if multiplied is None or (name == "prefill_window" and not prefill):
                continue
            rows = of_kind & (table["dtype"] == multiplied)
            fit = _prefill if prefill else _decode
            fitted[f"{name}/{kv}/{engine}"] = fit(table, device, rows, multiplied)
    return fitted


def _multiplied(dtypes: list[str], kv: str) -> str | None:
    """Format that counts of those that attention was measured in: the cache's own, if it was measured in full."""
    counts = Counter(dtypes)
    full = [name for name, count in counts.items() if count >= max(_FEWEST, max(counts.values()) / 2)]
    return kv if kv in full else min(full, default=None)


def _served(table: MeasuredTable) -> BoolArray:
    """Rows of the layers that models have."""
    length = "tokens" if table.origin.table == "prefill_attention" else "context"
    return np.asarray(
        (table["head_dim"] <= _LARGEST_HEAD)
        & (table["heads"] <= _LARGEST_GROUP * table["kv_heads"])
        & (table[length] >= _SHORTEST)
    )


def _columns(table: MeasuredTable, mine: BoolArray, *names: str) -> tuple[Array, ...]:
    """Columns of the rows that count: of several kernels the fastest."""
    names = (*names, "batch", "heads", "kv_heads", "head_dim")
    settings_RA = np.stack([table[name][mine].astype(float) for name in names], axis=1)
    seconds_R = table["seconds"][mine].astype(float)
    best = fastest_rows(settings_RA, seconds_R)
    return (*settings_RA[best].T, seconds_R[best])


def _prefill(
    table: MeasuredTable, device: DeviceProfile, mine: BoolArray, multiplied: str
) -> tuple[Surface, SurfaceFacts]:
    names = ("tokens", "context", "window")
    tokens, context, window, batch, heads, kv_heads, head_dim, seconds = _columns(table, mine, *names)
    windowed = bool(window.max() > 0)
    seen = context + (tokens + 1.0) / 2.0
    length = 2.0 * seen
    if windowed:
        seen = np.where(length > window, window - window**2 / (2.0 * length), seen)
    peak = device.flops[compute_dtype(device, "bf16")].value
    faster = device.flops[compute_dtype(device, _dtype(multiplied))].value / peak
    samples = Samples(
        axes=WINDOW_AXES if windowed else PREFILL_AXES,
        points_RA=np.stack([length, batch * heads, head_dim, window if windowed else heads / kv_heads], axis=1),
        roofline_R=prefill_roofline(batch * tokens, seen, 2.0 * heads * head_dim, peak),
        seconds_R=seconds,
        floor=launch_floor(batch * tokens * seen * heads, seconds),
        groups_R=np.stack([heads, kv_heads, head_dim], axis=1),
        cap=max(faster, 1.0),
    )
    return fit_shares(
        samples,
        left_out_basis=_LEFT_OUT,
        software=table.origin.software,
        note=f"share of the 16-bit peak; multiplied in {multiplied}",
    )


def _decode(
    table: MeasuredTable, device: DeviceProfile, mine: BoolArray, multiplied: str
) -> tuple[Surface, SurfaceFacts]:
    context, batch, heads, kv_heads, head_dim, seconds = _columns(table, mine, "context")
    kv = _dtype(str(table["kv_dtype"][mine][0]))
    kv_bytes, width = 2.0 * kv_heads * head_dim * DTYPE_BYTES[kv], 2.0 * heads * head_dim
    samples = Samples(
        axes=DECODE_AXES,
        points_RA=np.stack([context, batch * kv_heads, head_dim, heads / kv_heads], axis=1),
        roofline_R=decode_roofline(batch, context, kv_bytes, width, device.memory_bandwidth.value),
        seconds_R=seconds,
        floor=launch_floor(batch * context * kv_heads, seconds),
        groups_R=np.stack([heads, kv_heads, head_dim], axis=1),
    )
    return fit_shares(
        samples, left_out_basis=_LEFT_OUT, software=table.origin.software, note=f"multiplied in {multiplied}"
    )


def _dtype(name: str) -> Dtype:
    return "fp8" if name == "fp8" else "bf16"
