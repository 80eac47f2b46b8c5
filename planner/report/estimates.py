"""Explicit serving configurations side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rich.console import Group
from rich.text import Text

from planner.report.terminal import block, data_table, heading
from planner.report.words import format_error, format_number
from planner.units import format_seconds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray
    from rich.console import RenderableType

    from planner.cost.estimates import ServingEstimates, ServingEstimator

__all__ = ["estimate_rows", "estimates_table"]

_COLUMNS: Final = ("tp", "pp", "isl", "osl", "concurrency")


def estimate_rows(
    asked: Mapping[str, NDArray[Any]], found: ServingEstimates, meets_B: NDArray[np.bool_]
) -> dict[str, Any]:
    """Everything as data: one entry a configuration, and the bands that hold for all.

    Parameters
    ----------
    asked
        ``tp``, ``pp``, ``isl``, ``osl`` and ``concurrency``, each of shape B.
    found
        What they come to.
    meets_B
        Whether they run and keep the latencies asked for.
    """
    figures = ("ttft", "tpot", "latency", "rate", "output_rate", "running")
    rows = []
    for b in range(len(meets_B)):
        row: dict[str, Any] = {name: float(asked[name][b]) for name in _COLUMNS}
        row |= {"gpus": float(found.gpus_B[b]), "feasible": bool(found.feasible_B[b]), "meets": bool(meets_B[b])}
        if found.feasible_B[b]:
            row |= {name: float(getattr(found, f"{name}_B")[b]) for name in figures}
        rows.append(row)
    refused = [{"tp": tp, "pp": pp, "why": why} for (tp, pp), why in found.why.items()]
    return {"configurations": rows, "errors": found.errors, "refused": refused}


def estimates_table(
    estimator: ServingEstimator,
    asked: Mapping[str, NDArray[Any]],
    found: ServingEstimates,
    meets_B: NDArray[np.bool_],
    *,
    most: int,
) -> RenderableType:
    """Tabulate configurations that run and keep the latencies asked for; the best per GPU is marked."""
    facts = {
        "model": estimator.model.name,
        "GPU": estimator.device.title,
        "engine": f"{estimator.engine.title} {estimator.engine.version}",
    }
    if found.errors:
        bands = (("TTFT", "ttft"), ("TPOT", "tpot"), ("throughput", "e2e"))
        facts["90 % bands"] = ", ".join(f"{name} {format_error(found.errors[key])}" for name, key in bands)
    shown = np.flatnonzero(meets_B)
    parts: list[RenderableType] = [heading("Estimates"), block(facts)]
    if not len(shown):
        reason = "none fits" if not found.feasible_B.any() else "none keeps the latencies asked for"
        return Group(*parts, Text(f"{len(meets_B)} configurations, {reason}"), Text(""))
    per_gpu_B = found.output_rate_B / found.gpus_B
    best = shown[int(np.argmax(per_gpu_B[shown]))]
    kept = shown if len(shown) <= most else np.sort(shown[np.argsort(-per_gpu_B[shown], kind="stable")[:most]])
    waits_B = found.running_B < 0.9 * asked["concurrency"]
    rows = [
        (
            *(f"{asked[name][b]:g}" for name in _COLUMNS),
            format_seconds(float(found.ttft_B[b])),
            format_seconds(float(found.tpot_B[b])),
            format_number(float(found.output_rate_B[b])),
            format_number(float(per_gpu_B[b])),
            Text("best", style="green") if b == best else "some wait" if waits_B[b] else "",
        )
        for b in kept
    ]
    headings = [">TP", ">PP", ">ISL", ">OSL", ">clients", ">TTFT", ">TPOT", ">tokens/s", ">per GPU", ""]
    parts.append(data_table(headings, rows))
    if len(kept) < len(meets_B):
        parts.append(Text(f"{len(kept)} of {len(meets_B)} configurations; --json has all", style="dim"))
    return Group(*parts)
