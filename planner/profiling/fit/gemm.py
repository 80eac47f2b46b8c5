"""Matrix products: the share of the roofline by m, n, k, for each format and engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.device import compute_dtype
from planner.cost.rooflines import gemm_roofline
from planner.dtypes import DTYPE_BYTES, Dtype
from planner.profiling.fit.shares import Samples, fastest_rows, fit_shares, launch_floor
from planner.profiling.fit.smoothing import Axes

if TYPE_CHECKING:
    from planner.cluster import DeviceProfile
    from planner.cluster.measured import SurfaceFacts
    from planner.cluster.surface import Surface
    from planner.profiling.tables import MeasuredTable

__all__ = ["GEMM_AXES", "STORED", "fit_gemm"]

# Kernels change their tiles where a power of two is exceeded: both sides of it are knots, between which the surface is
# smoothed. Kept apart, they cut the error of single 8-bit products by a quarter, and served models come out no better.
_TOKENS: Final = (
    *(1, 2, 4, 8, 16, 17, 32, 33, 48, 64, 65, 96, 128, 129, 160, 192, 256, 257, 512, 513),
    *(768, 1024, 1536, 2048, 3072, 4096, 8192, 16384, 32768),
)
_COLUMNS: Final = (
    *(64, 256, 512, 1024, 2048, 3072, 4096, 5120, 6144, 7168),
    *(8192, 10240, 12288, 16384, 65536),
)  # finer than the depth: tiles over n fill the GPU, or leave a part of it idle
_DEPTHS: Final = (64, 256, 512, 1024, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 65536)
GEMM_AXES: Final[Axes] = (("m", _TOKENS), ("n", _COLUMNS), ("k", _DEPTHS))

# Formats of tables that are fitted, and in what they store weights.
STORED: Final[dict[str, Dtype]] = {
    "bf16": "bf16",
    "fp16": "fp16",
    "fp8": "fp8",
    "fp8_block": "fp8",
    "nvfp4": "nvfp4",
    "int8": "int8",
    "int4": "int4",
}
_LEAST_WIDTH: Final = 64  # narrower matrices are no layer's
# A table whose smallest products take longer holds the time of the host: a just-in-time compiler, Python.
_LONGEST_FLOOR: Final = 20e-6
_FEWEST: Final = 40  # rows that a surface can be fitted to


def fit_gemm(table: MeasuredTable, device: DeviceProfile) -> dict[str, tuple[Surface, SurfaceFacts]]:
    """Fit the matrix products of one engine.

    Parameters
    ----------
    table
        A ``gemm`` table.
    device
        The GPU it was measured on.

    Returns
    -------
    dict
        ``<format>/<engine>``; formats whose table holds host time are left out.
    """
    engine = table.origin.software.split()[0] if table.origin.software else "measured"
    fitted: dict[str, tuple[Surface, SurfaceFacts]] = {}
    for name in sorted(set(table["dtype"].tolist()) & set(STORED)):
        mine = (table["dtype"] == name) & (table["n"] >= _LEAST_WIDTH) & (table["k"] >= _LEAST_WIDTH)
        m, n, k, seconds = (table[column][mine].astype(float) for column in ("m", "n", "k", "seconds"))
        if len(seconds) < _FEWEST:
            continue
        best = fastest_rows(np.stack([m, n, k], axis=1), seconds)
        m, n, k, seconds = m[best], n[best], k[best], seconds[best]
        floor = launch_floor(m * n * k, seconds)
        if floor > _LONGEST_FLOOR:
            continue
        stored = STORED[name]
        flops = device.flops[compute_dtype(device, stored)].value
        samples = Samples(
            axes=GEMM_AXES,
            points_RA=np.stack([m, n, k], axis=1),
            roofline_R=gemm_roofline(m, n, k, flops, device.memory_bandwidth.value, DTYPE_BYTES[stored], 2.0),
            seconds_R=seconds,
            floor=floor,
            groups_R=np.stack([n, k], axis=1),
        )
        fitted[f"{name}/{engine}"] = fit_shares(samples, left_out_basis="(n, k)", software=table.origin.software)
    return fitted
