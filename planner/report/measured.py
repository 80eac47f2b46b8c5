"""What a run of the profiler found: tables written, peaks, and what could not be measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich.console import Group, RenderableType
from rich.text import Text

from planner.report.terminal import block, data_table, heading
from planner.report.words import format_bandwidth, format_number
from planner.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from planner.profiling.measure import Measured

__all__ = ["measured_data", "measured_report"]

_MOST_REASONS: Final = 8


def measured_report(result: Measured) -> RenderableType:
    """Lay out a run for people."""
    facts = {
        "device": result.facts.title,
        "software": result.facts.software,
        "points": f"{result.now} measured in {result.seconds:.1f} s"
        + (f", {result.before} kept from an earlier run" if result.before else "")
        + (f", {result.left} left" if result.left else ""),
    }
    profile = result.profile
    if profile is not None:
        facts["memory"] = f"{format_bytes(profile.memory.value)}, {format_bandwidth(profile.memory_bandwidth.value)}"
        facts["FLOP/s"] = ", ".join(
            f"{dtype} {format_number(rate.value / 1e12)} T ({rate.kind})" for dtype, rate in profile.flops.items()
        )
        facts["profile"] = str(result.profile_path)
    else:
        facts["profile"] = f"none yet: {result.why_no_profile}"
    parts: list[RenderableType] = [heading("Measured"), block(facts)]
    if result.tables:
        rows = [(path.stem, f"{count:,}", str(path)) for path, count in result.tables.items()]
        parts.append(data_table(["table", ">rows", "file"], rows, fold=("file",)))
    reasons = [f"{key}: {why}" for key, why in result.not_measurable.items()]
    reasons += [f"not measured: {what}" for what in result.left_out]
    if len(reasons) > _MOST_REASONS:
        reasons = [*reasons[:_MOST_REASONS], f"and {len(reasons) - _MOST_REASONS} more, see the journal"]
    parts += [Text(reason, style="dim") for reason in reasons]
    if profile is not None:
        floor = format_seconds(profile.efficiency.gemm_floor.value)
        parts.append(Text(f"a matrix product takes at least {floor}; planner devices show tells all", style="dim"))
    return Group(*parts)


def measured_data(result: Measured) -> dict[str, Any]:
    """Lay out a run for programs."""
    return {
        "device": result.facts.name,
        "title": result.facts.title,
        "software": result.facts.software,
        "folder": str(result.folder),
        "profile": None if result.profile_path is None else str(result.profile_path),
        "points": {"total": result.total, "kept": result.before, "measured": result.now, "left": result.left},
        "interrupted": result.interrupted,
        "tables": {path.stem: {"file": str(path), "rows": rows} for path, rows in result.tables.items()},
        "not_measurable": [{"point": key, "why": why} for key, why in result.not_measurable.items()],
        "left_out": list(result.left_out),
        "warnings": list(result.warnings),
        "seconds": round(result.seconds, 3),
    }
