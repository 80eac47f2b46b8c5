"""From measured tables to a device profile that clusters can name at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from planner.cluster import DeviceProfile, load_device
from planner.cluster.efficiency import Efficiency, load_efficiency
from planner.plan.files import write_atomically
from planner.profiling.measure import curves
from planner.resources import resource_dir

if TYPE_CHECKING:
    from planner.profiling.measure.backend import DeviceFacts
    from planner.profiling.tables import MeasuredTable

__all__ = ["profile_data", "what_is_lacking", "write_profile"]

_LEAST_ERROR: Final = 0.05  # of a full run: the same kernel in another process, at another temperature
_QUICK_ERROR: Final = 0.3  # of a quick one: few and small sizes stand for all
_LINKS: Final = {"cpu": "shared_memory", "cuda": "pcie4_x16"}


def what_is_lacking(facts: DeviceFacts, tables: Mapping[str, MeasuredTable]) -> str | None:
    """Why no profile can be made yet; None where it can."""
    if "gemm" not in tables:
        return "no matrix product has been measured"
    if facts.registered is None and "copy" not in tables:
        return "no memory copy has been measured"
    return None


def profile_data(
    facts: DeviceFacts, kind: str, tables: Mapping[str, MeasuredTable], *, date: str, note: str, quick: bool
) -> dict[str, Any]:
    """Lay out a device profile.

    Parameters
    ----------
    facts
        The device; where it has a shipped profile, data-sheet numbers, links and price are that one's, and shares
        refer to them.
    kind
        ``"cpu"`` or ``"cuda"``.
    tables
        What was measured, by kind of table; at least products and, of an unknown device, copies.
    date
        Day of the measurement.
    note
        For readers: state of the clocks.
    quick
        Whether few and small sizes were measured.
    """
    known = load_device(facts.registered) if facts.registered else None
    source = f"planner profile measure on {facts.title}; {facts.software}"
    top = {"kind": "measured", "source": source, "date": date}
    data: dict[str, Any] = {"name": facts.profile_name, "title": facts.title}
    if known is not None:
        data |= _known(known, note)
        flops: dict[str, float] = {dtype: quantity.value for dtype, quantity in known.flops.items()}
        bandwidth = known.memory_bandwidth.value
    else:
        best = curves.best_flops(tables["gemm"])
        flops = {dtype: float(f"{value:.4g}") for dtype, value in best.items()}
        bandwidth = _bandwidth(tables["copy"], kind)
        data |= top | {"note": f"Peaks are the best that was measured. {note}".strip(), "vendor": facts.vendor}
        data |= {"compute_capability": facts.compute_capability} if facts.compute_capability else {}
        data |= {"memory": facts.memory, "memory_bandwidth": bandwidth, "flops": flops, "link": _LINKS[kind]}
    least = _QUICK_ERROR if quick else _LEAST_ERROR
    fallback = known.efficiency if known is not None else _default()
    data["efficiency"] = top | _efficiency(tables, flops, bandwidth, least, fallback)
    return data


def _known(known: DeviceProfile, note: str) -> dict[str, Any]:
    whole = known.model_dump(mode="json", exclude_none=True, exclude={"efficiency", "name", "title", "aliases", "note"})
    return {**whole, "note": f"{known.note} Efficiencies measured on this machine. {note}".strip()}


def _bandwidth(copy: MeasuredTable, kind: str) -> float:
    best = curves.best_bandwidth(copy, "device" if kind == "cuda" else "host")
    if best is None:  # a device whose own copies failed: the host's would be another memory
        best = float((2.0 * copy["bytes"] / copy["seconds"]).max())
    return float(f"{best:.4g}")


def _default() -> Efficiency:
    return load_efficiency(resource_dir("profiles") / "devices" / "_default_efficiency.yaml")


def _efficiency(
    tables: Mapping[str, MeasuredTable],
    flops: Mapping[str, float],
    bandwidth: float,
    least: float,
    fallback: Efficiency,
) -> dict[str, Any]:
    """Each part from its table; a part that was not measured keeps the source of what stands in for it."""
    floor = curves.gemm_floor(tables["gemm"])
    out: dict[str, Any] = {
        "gemm": curves.gemm_curves(tables["gemm"], flops, bandwidth, floor, least),
        "gemm_floor": {"value": float(f"{floor:.4g}"), "error": least},
    }
    other = fallback.model_dump(mode="json", exclude_none=True)
    if "prefill_attention" in tables:
        half = next(flops[dtype] for dtype in ("bf16", "fp16", "fp32", *flops) if dtype in flops)
        out["prefill_attention"] = curves.prefill_curve(tables["prefill_attention"], half, least)
    else:
        out["prefill_attention"] = other["prefill_attention"]
    if "decode_attention" in tables:
        curve, lowest = curves.decode_curve(tables["decode_attention"], bandwidth, least)
        out |= {"decode_attention": curve}
        out["decode_attention_floor"] = {"value": float(f"{lowest:.4g}"), "error": least}
    else:
        out |= {name: other[name] for name in ("decode_attention", "decode_attention_floor")}
    if "elementwise" in tables:
        share, spread = curves.elementwise_share(tables["elementwise"], bandwidth)
        out["elementwise"] = {"value": float(f"{share:.4g}"), "error": float(f"{max(spread, least):.2g}")}
    else:
        out["elementwise"] = other["elementwise"]
    if "collective" in tables:
        out["all_reduce"] = curves.all_reduce(tables["collective"], least)
    elif fallback.all_reduce:
        out["all_reduce"] = {int(count): entry for count, entry in other["all_reduce"].items()}
    return out


def write_profile(data: Mapping[str, Any], path: Path) -> DeviceProfile:
    """Write a profile, and read it back as every command does.

    Raises
    ------
    InputError
        If what was measured is no valid profile; names the field.
    """
    head = "# Written by planner profile measure. `gpu:` in a cluster file may name this file.\n"
    text = yaml.safe_dump(dict(data), sort_keys=False, allow_unicode=True, width=110, default_flow_style=None)
    write_atomically(path, head + text)
    return load_device(path)
