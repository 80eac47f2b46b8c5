"""A serving plan on the terminal: for what, which replicas, with which predictions, and how good that provably is."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from planner.report.certificate import certificate_report
from planner.report.terminal import block, data_table, figure_table, heading, provenance_legend
from planner.report.words import (
    billions,
    count_of,
    format_arguments,
    format_error,
    format_figure,
    format_gpus,
    format_layers,
    format_memory,
    format_number,
    format_types,
)
from planner.report.workload import format_lengths, format_rate, format_slo

if TYPE_CHECKING:
    from planner.cluster import Cluster
    from planner.engine import EngineProfile
    from planner.model import ModelSpec
    from planner.plan import Replica, ServingPlan, Stage

__all__ = ["cluster_line", "idle_line", "model_line", "serving_report"]


def serving_report(
    plan: ServingPlan, model: ModelSpec, cluster: Cluster, engine: EngineProfile, *, searched: str | None = None
) -> RenderableType:
    """Lay out a serving plan.

    Parameters
    ----------
    plan
        The plan.
    model, cluster, engine
        What it was made for.
    searched
        What the search took, in words; None where nothing was searched.
    """
    workload = plan.inputs.workload
    rows = {
        "model": model_line(model),
        "cluster": cluster_line(cluster),
        "workload": f"{workload.name}: {format_lengths(workload)}; {format_rate(workload.rate)}",
        "SLO": format_slo(workload.slo),
        "engine": f"{engine.title} {engine.version}",
    }
    parts: list[RenderableType] = [heading("Serving plan"), block(rows), Text()]
    parts += [heading(f"Replicas ({len(plan.replicas)})"), _replicas(plan, cluster)]
    parts += [figure_table(_labels(plan), plan.predicted), provenance_legend(plan.predicted)]
    parts += _shortage(plan)
    used = [gpu for replica in plan.replicas for stage in replica.stages for gpu in stage.devices]
    parts += [idle_line(cluster, used), Text()]
    told = _told(plan)
    if told:
        parts += [heading(f"What {engine.title} is told"), block(told), Text()]
    parts.append(certificate_report(plan.certificate))
    if searched is not None:
        parts.append(Text(searched, style="dim"))
    return Group(*parts)


def _told(plan: ServingPlan) -> dict[str, str]:
    """Arguments of each replica, equal ones in one line."""
    lines: dict[str, list[str]] = {}
    for replica in plan.replicas:
        if replica.engine_arguments:
            lines.setdefault(format_arguments(replica.engine_arguments), []).append(replica.id)
    return {ids[0] if len(ids) == 1 else f"{ids[0]} to {ids[-1]}": text for text, ids in lines.items()}


def model_line(model: ModelSpec) -> str:
    """Say what a model is in one line."""
    active = f", {billions(model.active_params)} active" if any(kind.experts for kind in model.kinds) else ""
    return (
        f"{model.name}: {billions(model.params)} parameters{active}, {model.num_layers} layers,"
        f" weights {model.weight_dtype}, KV cache {model.kv_dtype}"
    )


def cluster_line(cluster: Cluster) -> str:
    """Say what a cluster is in one line."""
    counts = _types(cluster, cluster.gpus)
    types = ", ".join(f"{count} {name}" for name, count in counts.items())
    return f"{cluster.name}: {count_of(cluster.num_gpus, 'GPU')}, {types}"


def idle_line(cluster: Cluster, used: list[str]) -> Text:
    """Say which GPUs a plan leaves idle, by type."""
    there, taken = _types(cluster, cluster.gpus), _types(cluster, used)
    idle = [f"{there[name] - taken[name]} of {there[name]} {name}" for name in there if there[name] > taken[name]]
    return Text(f"idle GPUs: {', '.join(idle) if idle else 'none'}")


def _types(cluster: Cluster, gpus: tuple[str, ...] | list[str]) -> Counter[str]:
    return Counter(cluster.device_of(gpu).name for gpu in gpus)


def _labels(plan: ServingPlan) -> dict[str, str]:
    percentile = f"p{plan.inputs.workload.slo.percentile * 100:g}"
    return {
        "goodput": "goodput within the SLO",
        "rate": "rate served",
        "ttft": f"TTFT, {percentile}, slowest replica",
        "tpot": "TPOT, slowest replica",
        "output_throughput": "output",
        "memory_peak": "memory of the fullest GPU",
        "gpus": "GPUs used",
        "cost_per_hour": "cost",
        "cost_per_million_output_tokens": "cost per million output tokens",
    }


def _replicas(plan: ServingPlan, cluster: Cluster) -> Table:
    columns = ["id", ">share", "GPUs", "type", "layers", ">TP", ">GiB per GPU", ">goodput/s", ">TTFT", ">TPOT"]
    rows: list[list[str]] = []
    for replica in plan.replicas:
        for s, stage in enumerate(replica.stages):
            first, last = (_of_replica(replica), _latencies(replica)) if s == 0 else (["", ""], ["", "", ""])
            rows.append([*first, *_of_stage(stage, cluster), *last])
    return data_table(columns, rows, fold=("GPUs", "type"))


def _of_replica(replica: Replica) -> list[str]:
    return [replica.id, f"{replica.share * 100:.1f} %"]


def _of_stage(stage: Stage, cluster: Cluster) -> list[str]:
    return [
        format_gpus(stage.devices),
        format_types(cluster, stage.devices),
        format_layers(stage.layers),
        str(stage.tp),
        format_memory(stage.memory.value, stage.memory_limit),
    ]


def _latencies(replica: Replica) -> list[str]:
    if "goodput" not in replica.predicted:
        return ["none", "", ""]
    figures = replica.predicted
    goodput = figures["goodput"]
    written = f"{format_number(goodput.value)} {format_error(goodput.error)}"
    return [written, format_figure(figures["ttft"]), format_figure(figures["tpot"])]


_SHORT: Final = 1e-6  # of the demand; less is rounding


def _shortage(plan: ServingPlan) -> list[RenderableType]:
    """Warn where the demand is not met."""
    asked = plan.inputs.workload.rate
    goodput = plan.predicted["goodput"].value if "goodput" in plan.predicted else 0.0
    if asked is None or goodput >= asked * (1 - _SHORT) or math.isclose(goodput, asked):
        return []
    text = f"the demand is not met: {format_number(goodput)} of {format_number(asked)} requests/s within the SLO"
    return [Text(text, style="bold yellow")]
