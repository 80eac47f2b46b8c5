"""A plan for several models, or with prefill and decode apart, on the terminal."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from planner.report.certificate import certificate_report
from planner.report.serving import cluster_line, idle_line, model_line
from planner.report.terminal import block, data_table, figure_table, heading, provenance_legend
from planner.report.words import (
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
    from collections.abc import Sequence

    from planner.cluster import Cluster
    from planner.engine import EngineProfile
    from planner.model import ModelSpec
    from planner.plan import Figure, Replica, Role, Route, ServedInput, ServingPlan

__all__ = ["UNCONFIRMED", "fleet_report"]

UNCONFIRMED: Final = (
    "What separate prefill and decode replicas gain is a prediction that no replay has confirmed; that is why colocated"
    " replicas are the default."
)
_SHORT: Final = 1e-6  # of a demand; less is rounding
_MOST_ROUTES: Final = 24  # that are listed; more are only counted
_LABELS: Final = {
    "demand_scale": "all demands can be multiplied by",
    "weighted_goodput": "weighted goodput, none beyond its demand",
    "goodput": "goodput within the SLO",
    "rate": "rate served",
    "output_throughput": "output",
    "memory_peak": "memory of the fullest GPU",
    "gpus": "GPUs used",
    "cost_per_hour": "cost",
    "cost_per_million_output_tokens": "cost per million output tokens",
}


def fleet_report(
    plan: ServingPlan,
    models: Sequence[ModelSpec],
    cluster: Cluster,
    engine: EngineProfile,
    *,
    searched: str | None = None,
) -> RenderableType:
    """Lay out a plan.

    Parameters
    ----------
    plan
        The plan.
    models, cluster, engine
        What it was made for; the models in the plan's order.
    searched
        What the search took, in words; None where nothing was searched.
    """
    facts = [("cluster", cluster_line(cluster)), ("engine", f"{engine.title} {engine.version}")]
    parts: list[RenderableType] = [heading("Serving plan"), block(facts), Text()]
    for model, stated in zip(models, plan.inputs.served, strict=True):
        parts += _model(plan, model, stated, cluster)
    if len(models) > 1:
        parts += [heading("All models together"), figure_table(_LABELS, plan.predicted)]
    parts.append(provenance_legend(plan.predicted))
    used = [gpu for replica in plan.replicas for stage in replica.stages for gpu in stage.devices]
    parts += [idle_line(cluster, used), Text()]
    told = _told(plan)
    if told:
        parts += [heading(f"What {engine.title} is told"), block(told), Text()]
    parts.append(certificate_report(plan.certificate))
    if any(replica.role != "both" for replica in plan.replicas):
        parts.append(Text(UNCONFIRMED, style="yellow"))
    if searched is not None:
        parts.append(Text(searched, style="dim"))
    return Group(*parts)


def _model(plan: ServingPlan, model: ModelSpec, stated: ServedInput, cluster: Cluster) -> list[RenderableType]:
    """One model: what is asked, its replicas, routes and figures."""
    workload = stated.workload
    mine = [replica for replica in plan.replicas if replica.model == model.name]
    figures = plan.per_model.get(model.name, plan.predicted)
    weight = "" if stated.weight == 1.0 else f"; weight {format_number(stated.weight)}"
    rows = {
        "workload": f"{workload.name}: {format_lengths(workload)}; {format_rate(workload.rate)}{weight}",
        "SLO": format_slo(workload.slo),
        "replicas": _counted(mine),
    }
    parts: list[RenderableType] = [heading(model_line(model)), block(rows)]
    if not mine:
        return [*parts, Text("no replica: other models are worth more", style="bold yellow"), Text()]
    parts.append(_replicas(mine, cluster))
    ids = {replica.id for replica in mine}
    routes = [route for route in plan.routes if route.prefill in ids]
    if routes:
        parts.append(_routes(routes))
    percentile = f"p{workload.slo.percentile * 100:g}"
    labels = {"ttft": f"TTFT, {percentile}, slowest replica", "tpot": "TPOT, slowest replica", **_LABELS}
    parts += [figure_table(labels, figures), *_shortage(figures, workload.rate), Text()]
    return parts


def _counted(replicas: Sequence[Replica]) -> str:
    """Say how many there are of each role, and their GPUs."""
    words: dict[Role, str] = {"both": "prefill and decode", "prefill": "prefill only", "decode": "decode only"}
    counts = Counter(replica.role for replica in replicas)
    gpus = Counter[str]()
    for replica in replicas:
        gpus[replica.role] += sum(len(stage.devices) for stage in replica.stages)
    return (
        "; ".join(
            f"{counts[role]} {text} on {count_of(gpus[role], 'GPU')}" for role, text in words.items() if counts[role]
        )
        or "none"
    )


def _replicas(replicas: Sequence[Replica], cluster: Cluster) -> Table:
    apart = any(replica.role != "both" for replica in replicas)
    columns = ["id", *(["role"] if apart else []), ">share", "GPUs", "type", "layers", ">TP", ">GiB per GPU"]
    columns += [">goodput/s", ">TTFT", ">TPOT"]
    rows: list[list[str]] = []
    for replica in replicas:
        figures = replica.predicted
        for s, stage in enumerate(replica.stages):
            head = [replica.id, *([replica.role] if apart else []), f"{replica.share * 100:.1f} %"]
            tail = [
                f"{format_number(figures['goodput'].value)} {format_error(figures['goodput'].error)}"
                if "goodput" in figures
                else "none",
                format_figure(figures["ttft"]) if "ttft" in figures else "",
                format_figure(figures["tpot"]) if "tpot" in figures else "",
            ]
            middle = [
                format_gpus(stage.devices),
                format_types(cluster, stage.devices),
                format_layers(stage.layers),
                str(stage.tp),
                format_memory(stage.memory.value, stage.memory_limit),
            ]
            rows.append([*(head if s == 0 else [""] * len(head)), *middle, *(tail if s == 0 else [""] * 3)])
    return data_table(columns, rows, fold=("GPUs", "type"))


def _routes(routes: Sequence[Route]) -> RenderableType:
    listed = [[route.prefill, route.decode, f"{route.share * 100:.1f} %"] for route in routes]
    if len(listed) > _MOST_ROUTES:
        return Text(f"{len(listed)} routes from prefill to decode replicas: in the plan")
    return data_table(["prefill", "decode", ">share of the requests"], listed)


def _told(plan: ServingPlan) -> dict[str, str]:
    """Arguments of each replica, equal ones in one line."""
    lines: dict[str, list[str]] = {}
    for replica in plan.replicas:
        if replica.engine_arguments:
            lines.setdefault(format_arguments(replica.engine_arguments), []).append(replica.id)
    return {ids[0] if len(ids) == 1 else f"{ids[0]} to {ids[-1]}": text for text, ids in lines.items()}


def _shortage(figures: dict[str, Figure], asked: float | None) -> list[RenderableType]:
    """Warn where a demand is not met."""
    goodput = figures["goodput"].value if "goodput" in figures else 0.0
    if asked is None or goodput >= asked * (1 - _SHORT):
        return []
    text = f"the demand is not met: {format_number(goodput)} of {format_number(asked)} requests/s within the SLO"
    return [Text(text, style="bold yellow")]
