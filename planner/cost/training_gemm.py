"""How fast a GPU multiplies large matrices with the best kernel that was measured on it: what training mostly does.

Efficiency curves by tokens hold the kernels of serving engines, whose format conversions a training run does not make
and whose shapes are narrower. Where large products were measured (``profiles/measured/kernels/large_gemms.csv``), the
curve keeps its shape and takes their level.
"""

from __future__ import annotations

import csv
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.device import DeviceOperators, compute_dtype
from planner.resources import read_text, resource_dir

if TYPE_CHECKING:
    from planner.cluster import DeviceProfile
    from planner.dtypes import Dtype

__all__ = ["large_gemm_level", "large_gemm_rates"]

# A large product, tokens times width times width.
_TOKENS, _WIDTH = 16384, 8192
_SIXTEEN_BIT: Final = ("bf16", "fp16")


@lru_cache(maxsize=1)
def large_gemm_rates() -> dict[tuple[str, str], float]:
    """FLOP/s of large products by GPU type and format.

    Examples
    --------
    >>> large_gemm_rates()["h100_sxm", "bf16"] > 8e14
    True
    """
    path = resource_dir("profiles") / "measured" / "kernels" / "large_gemms.csv"
    rows = csv.DictReader(read_text(path, "rates of large products").splitlines())
    return {(row["device"], row["dtype"]): float(row["flop_per_s"]) for row in rows}


def large_gemm_level(device: DeviceProfile, stored: Dtype) -> float:
    """Time of a large product as measured over its time by the efficiency curve; 1 where none was measured."""
    dtype = compute_dtype(device, stored)
    rates = large_gemm_rates()
    names = _SIXTEEN_BIT if dtype in _SIXTEEN_BIT else (dtype,)
    rate = next((rates[device.name, name] for name in names if (device.name, name) in rates), None)
    if rate is None:
        return 1.0
    activation: Dtype = "bf16"
    by_curve = DeviceOperators(device).gemm(np.array(float(_TOKENS)), _WIDTH, _WIDTH, stored, activation)
    return 2.0 * _TOKENS * _WIDTH * _WIDTH / rate / float(by_curve)
