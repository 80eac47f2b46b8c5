"""Matrix products by (m, n, k) and format."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from planner.dtypes import DTYPE_BYTES, Dtype
from planner.profiling.measure.backend import Work
from planner.profiling.measure.points import Point, Results, UnmeasurableError
from planner.profiling.measure.setup import Setup

__all__ = ["TINY", "measure_gemm", "points"]

TINY: Final = 16
"""A product of this size takes no more than its start: the floor of all others."""

_QUICK_M: Final = (1, 8, 64, 256)
_M: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)


def points(setup: Setup) -> Iterator[Point]:
    """All products: a floor, then every matrix with every number of tokens, as far as the device can."""
    backend = setup.backend
    for dtype in backend.dtypes:
        yield Point.of("gemm", "gemm", dtype=dtype, m=TINY, n=TINY, k=TINY)
        for n, k in setup.shapes.gemms:
            if dtype == "fp8" and (n % 16 or k % 16):
                continue  # the kernels demand it
            for m in _QUICK_M if setup.quick else _M:
                if 2.0 * m * n * k <= backend.flop_limit:
                    yield Point.of("gemm", "gemm", dtype=dtype, m=m, n=n, k=k)


def measure_gemm(point: Point, setup: Setup) -> Results:
    """Time ``(m, k) x (k, n)``; weights are taken in turns."""
    m, n, k = point.wholes("m", "n", "k")
    dtype: Dtype = point.text("dtype")  # type: ignore[assignment]  # written by `points`
    size = DTYPE_BYTES[dtype]
    tiny = m == n == k == TINY
    sets = 1 if tiny else setup.sets_for((n * k + m * k + m * n) * size)
    left = [setup.random(m, k, dtype=dtype) for _ in range(sets)]
    right = [setup.random(n, k, dtype=dtype).t() for _ in range(sets)]  # as a linear layer keeps its weight
    torch = setup.backend.torch
    if dtype == "fp8":
        run = _scaled(torch, left, right, setup)
    else:
        out = [torch.empty(m, n, device=setup.backend.device, dtype=left[0].dtype) for _ in range(sets)]

        def run(at: int) -> object:
            return torch.mm(left[at], right[at], out=out[at])

    sample = setup.backend.time(Work(run, sets), setup.budget)
    return {"seconds": sample.seconds, "spread": sample.spread}


def _scaled(torch: Any, left: list[Any], right: list[Any], setup: Setup) -> Any:
    """Product of fp8 with one scale a tensor, into bf16."""
    one = torch.ones((), device=setup.backend.device, dtype=torch.float32)

    def run(at: int) -> object:
        return torch._scaled_mm(left[at], right[at], scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    try:
        run(0)
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise UnmeasurableError(f"no fp8 product here: {str(error).splitlines()[0]}") from None
    return run
