"""From tables of latent attention to surfaces: the share of the roofline by heads, sequences and tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from planner.cluster.measured import SurfaceFacts
from planner.cost.device import compute_dtype
from planner.cost.latent import decode_roofline, prefill_roofline
from planner.dtypes import DTYPE_BYTES, Dtype
from planner.profiling.fit.smoothing import Axes, left_out, smooth, within

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from planner.cluster import DeviceProfile
    from planner.cluster.surface import Surface
    from planner.cost._types import Array
    from planner.profiling.tables import MeasuredTable

__all__ = ["fit_latent", "latent_rooflines_R"]

_HEADS: Final = ("heads", (4.0, 8.0, 16.0, 32.0, 64.0, 128.0))
_DECODE: Final[Axes] = (
    _HEADS,
    ("batch", (1, 4, 16, 64, 256, 1024)),
    ("context", (64, 256, 1024, 4096, 16384, 131072)),
)
_PREFILL: Final[Axes] = (
    _HEADS,
    ("batch", (1, 4, 16, 64, 256)),
    ("tokens", (64, 128, 256, 512, 1024, 2048, 4096, 8192, 32768)),
)
_EXPANDED: Final = 192 + 128  # query-key and value dimensions of a head, as measured
_SHORTEST: Final = 64  # tokens of a context that matter
_FEWEST_HEADS: Final = 4  # of 128, on one of 32 GPUs


def latent_rooflines_R(table: MeasuredTable, device: DeviceProfile) -> Array:
    """Roofline seconds of each row."""
    flops = device.flops[compute_dtype(device, "bf16")].value
    if table.origin.table == "mla_prefill":
        tokens_R = (table["batch"] * table["tokens"]).astype(float)
        return prefill_roofline(tokens_R, table["tokens"] / 2.0, table["heads"], _EXPANDED, flops)
    formats: list[Dtype] = ["fp8" if name == "fp8" else "bf16" for name in table["kv_dtype"].tolist()]
    kv_bytes_R: Any = np.array([DTYPE_BYTES[name] for name in formats])
    width: Any = table["kv_rank"] + table["rope_dim"]
    return decode_roofline(
        table["batch"].astype(float),
        table["context"].astype(float),
        table["heads"],
        width,
        kv_bytes_R,
        flops,
        device.memory_bandwidth.value,
    )


def fit_latent(table: MeasuredTable, device: DeviceProfile) -> dict[str, tuple[Surface, SurfaceFacts]]:
    """Fit latent attention of one engine.

    Parameters
    ----------
    table
        An ``mla_prefill`` or ``mla_decode`` table.
    device
        The GPU it was measured on.

    Returns
    -------
    dict
        ``prefill/<KV format>/<engine>`` or ``decode/…``, with the error on combinations of heads and sequences that
        were left out.
    """
    prefill = table.origin.table == "mla_prefill"
    axes, last = (_PREFILL, "tokens") if prefill else (_DECODE, "context")
    phase, engine = "prefill" if prefill else "decode", table.origin.software.split()[0]
    work_R = latent_rooflines_R(table, device)
    fitted: dict[str, tuple[Surface, SurfaceFacts]] = {}
    for name in sorted(set(table["kv_dtype"].tolist())):
        served_R = (table[last] >= _SHORTEST) & (table["heads"] >= _FEWEST_HEADS)
        mine = np.flatnonzero((table["kv_dtype"] == name) & served_R)
        if not len(mine):
            continue
        points_RA = np.stack([table[n][mine] for n in ("heads", "batch", last)], axis=1).astype(float)
        share_R = np.log(work_R[mine] / table["seconds"][mine])
        surface, error, median = _fitted(axes, points_RA, share_R)
        fitted[f"{phase}/{name}/{engine}"] = (
            surface,
            SurfaceFacts(
                rows=len(mine),
                error=error,
                error_median=median,
                error_basis="combinations of heads and sequences left out, five folds",
                software=table.origin.software,
            ),
        )
    return fitted


def _fitted(axes: Axes, points_RA: Array, share_R: Array) -> tuple[Surface, float, float]:
    even_R = np.ones(len(share_R))

    def predictor(rows: NDArray[Any]) -> Any:
        part = within(smooth(axes, points_RA[rows], share_R[rows], even_R[rows]), share_R[rows])
        return lambda others: np.log(part.at(*points_RA[others].T))

    groups_R = points_RA[:, 0] * 1e6 + points_RA[:, 1]
    miss_R = np.abs(np.expm1(share_R - left_out(predictor, groups_R)))
    surface = within(smooth(axes, points_RA, share_R, even_R), share_R)
    return surface, float(miss_R.mean()), float(np.median(miss_R))
