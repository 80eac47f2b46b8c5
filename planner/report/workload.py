"""Workloads and traces: how many requests, how long, what is promised to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType

from planner.report.terminal import block, data_table, heading
from planner.report.words import format_number, format_share
from planner.units import format_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from planner.workload import Slo, TraceSource, Workload

__all__ = ["format_lengths", "format_rate", "format_slo", "trace_table", "workload_report"]


def format_slo(slo: Slo) -> str:
    """Write what is promised.

    Examples
    --------
    >>> from planner.workload import Slo
    >>> format_slo(Slo(ttft=2.0, tpot=0.1)), format_slo(Slo())
    ('TTFT 2.00 s for 90 % of the requests, mean TPOT 100.0 ms', 'none')
    """
    parts = []
    if slo.ttft is not None:
        parts.append(f"TTFT {format_seconds(slo.ttft)} for {slo.percentile * 100:g} % of the requests")
    if slo.tpot is not None:
        parts.append(f"mean TPOT {format_seconds(slo.tpot)}")
    return ", ".join(parts) or "none"


def format_rate(rate: float | None) -> str:
    """Write how much is asked for."""
    return "as many requests as the cluster can serve" if rate is None else f"{format_number(rate)} requests/s"


def format_lengths(workload: Workload) -> str:
    """Write the lengths in one line."""
    if workload.kind == "fixed":
        return f"ISL {workload.prompt.mean:,.0f}, OSL {workload.output.mean:,.0f}"
    parts = [
        f"{name} mean {lengths.mean:,.0f}, p90 {lengths.quantile(0.9):,.0f}"
        for name, lengths in (("ISL", workload.prompt), ("OSL", workload.output))
    ]
    return "; ".join(parts)


def trace_table(sources: Sequence[TraceSource]) -> Table:
    """List shipped traces, one line each."""
    rows = [[source.name, f"{source.requests:,}", source.title, source.licence] for source in sources]
    return data_table(["name", ">requests", "title", "licence"], rows, fold=("title",))


def workload_report(workload: Workload) -> RenderableType:
    """Describe a workload: figures, and lengths in tokens."""
    rows = {
        "source": workload.source,
        "requests": f"{workload.requests:,}",
        "span": format_seconds(workload.duration) if workload.duration else "no arrival times",
        "rate": format_rate(workload.rate),
        "burstiness": f"{format_number(workload.burstiness)} (1 is a Poisson process)",
        "prefix share": f"{format_share(workload.prefix_share)} of the prompt tokens came before",
    }
    lengths = [
        (name, *(f"{value:,.0f}" for value in distribution.statistics().values()))
        for name, distribution in (("ISL", workload.prompt), ("OSL", workload.output), ("both", workload.total))
    ]
    columns = ["tokens", *(f">{name}" for name in workload.prompt.statistics())]
    return Group(heading(workload.name), block(rows), data_table(columns, lengths))
