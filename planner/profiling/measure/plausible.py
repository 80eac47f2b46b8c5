"""Doubts about what was measured: above the peak, a thousand times off, noisy, slowed down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cluster import load_device, load_link
from planner.profiling.measure.curves import best_bandwidth, best_flops

if TYPE_CHECKING:
    from planner.profiling.measure.backend import DeviceFacts
    from planner.profiling.tables import MeasuredTable

__all__ = ["doubts"]

_ABOVE: Final = 1.05  # clocks boost a little beyond the data sheet
_POOR: Final = 0.25
_NOISY: Final = 0.25
_UNIT: Final = 500.0  # so far off is a wrong unit or a wrong clock
# No core of any processor does more: 64 B vectors, two units, 6 GHz; with matrix units 16 times that in 16 bit.
_CORE_FLOPS: Final = {"fp32": 4e11, "bf16": 1.3e13, "fp16": 1.3e13}
_CORE_BANDWIDTH: Final = 1e11  # bytes/s of main memory that one core can draw
_SLOWED: Final = "slowed by"


def doubts(facts: DeviceFacts, tables: Mapping[str, MeasuredTable], state: str) -> tuple[str, ...]:
    """Say what does not look right; figures stay as they were measured.

    Parameters
    ----------
    facts
        The device.
    tables
        What was measured.
    state
        Of its clocks, in words.
    """
    out: list[str] = []
    known = load_device(facts.registered) if facts.registered else None
    if "gemm" in tables:
        for dtype, rate in best_flops(tables["gemm"]).items():
            if known is None:
                peak = _CORE_FLOPS.get(dtype, np.inf) * facts.cores if facts.compute_capability is None else np.inf
                whose = f"what {facts.cores} cores of any processor can do"
            else:
                peak = known.flops[dtype].value if dtype in known.flops else np.inf
                whose = "the peak of its data sheet"
            out += _compared(f"{dtype} products", rate, "FLOP/s", peak, whose, poor=known is not None)
    if "copy" in tables:
        copy = tables["copy"]
        host, device = best_bandwidth(copy, "host"), best_bandwidth(copy, "device")
        if host is not None and facts.compute_capability is None:
            peak, whose = _CORE_BANDWIDTH * facts.cores, f"what {facts.cores} cores can draw from memory"
            out += _compared("host memory", host, "bytes/s", peak, whose, poor=False)
        if device is not None and known is not None:
            out += _compared(
                "device memory", device, "bytes/s", known.memory_bandwidth.value, "that of its data sheet", poor=True
            )
        if known is not None and known.pcie is not None:
            # A link profile holds what GPUs reach between each other; the host's copies reach somewhat more.
            link = 2.0 * load_link(known.pcie).bandwidth.value
            for direction in ("host_to_device", "device_to_host"):
                both = best_bandwidth(copy, direction)
                if both is not None:
                    out += _compared(direction, both / 2, "bytes/s", link, f"twice that of {known.pcie}", poor=True)
    noisy = [
        float(value) for table in tables.values() if "spread" in table.kind.names for value in table["spread"].tolist()
    ]
    count = sum(value > _NOISY for value in noisy)
    if noisy and count > 0.1 * len(noisy):
        out.append(
            f"{count} of {len(noisy)} points vary by more than {_NOISY * 100:.0f} %: something else may be running"
        )
    if _SLOWED in state:
        out.append(f"the GPU is {state[state.index(_SLOWED) :]}")
    return tuple(out)


def _compared(what: str, had: float, unit: str, most: float, whose: str, *, poor: bool) -> list[str]:
    if had > _UNIT * most or (np.isfinite(most) and had < most / _UNIT and poor):
        return [f"{what}: {had:.3g} {unit} is {had / most:.3g} times {whose}: a wrong unit, or a clock that is wrong"]
    if had > _ABOVE * most:
        return [f"{what}: {had:.3g} {unit} is above {whose} ({most:.3g}): operands in a cache, or not waited for"]
    if poor and had < _POOR * most:
        return [
            f"{what}: {had:.3g} {unit} is {had / most:.0%} of {whose}: low clocks, a shared GPU, or too small sizes"
        ]
    return []
