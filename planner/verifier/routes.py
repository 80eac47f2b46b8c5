"""The check of prefill and decode replicas: who hands on to whom, and whether the network carries the KV caches.

What passes between nodes is added up anew, stage by stage: the layers that a prefill stage and a decode stage share.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from planner.cost.disaggregated import sent_bytes_L
from planner.cost.memory import kv_bytes_per_token_L
from planner.cost.roles import link_capacity
from planner.cost.serving import Demand
from planner.units import format_bytes
from planner.verifier.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planner.cluster import Cluster
    from planner.engine import EngineProfile
    from planner.model import ModelSpec
    from planner.plan import Replica, ServingPlan, Stage
    from planner.workload import Workload

__all__ = ["check_network", "check_routes"]

_SLACK = 1 + 1e-9


def check_routes(plan: ServingPlan) -> list[Finding]:
    """Check that routes lead from prefill to decode replicas of one model and add up to the replicas' shares."""
    findings = []
    by_id = {replica.id: replica for replica in plan.replicas}
    passing = dict.fromkeys(by_id, 0.0)
    seen: set[tuple[str, str]] = set()
    for route in plan.routes:
        where = f"route {route.prefill} to {route.decode}"
        ends = [by_id.get(route.prefill), by_id.get(route.decode)]
        if None in ends:
            findings.append(Finding("route", where, "leads from or to a replica that the plan does not hold"))
            continue
        first, second = (end for end in ends if end is not None)
        if (first.role, second.role) != ("prefill", "decode"):
            findings.append(Finding("route", where, f"leads from a {first.role} to a {second.role} replica"))
        if first.model != second.model:
            findings.append(Finding("route", where, f"leads from {first.model} to {second.model}"))
        if (route.prefill, route.decode) in seen:
            findings.append(Finding("route", where, "is there twice"))
        seen.add((route.prefill, route.decode))
        passing[route.prefill] += route.share
        passing[route.decode] += route.share
    for replica in plan.replicas:
        if replica.role == "both":
            continue
        if not math.isclose(passing[replica.id], replica.share, rel_tol=1e-9, abs_tol=1e-12):
            findings.append(
                Finding(
                    "flow",
                    replica.id,
                    f"its routes carry {passing[replica.id]!r} of the requests; its share is {replica.share!r}",
                )
            )
    return findings


def check_network(
    plan: ServingPlan,
    models: Sequence[ModelSpec],
    cluster: Cluster,
    engine: EngineProfile,
    goodput: Mapping[str, float],
) -> list[Finding]:
    """Check that network cards and links carry the KV caches of all models at their goodput.

    Parameters
    ----------
    plan
        With sound routes.
    models, cluster, engine
        What it was made for; the models in the plan's order.
    goodput
        Requests/s of each model by its name.
    """
    if not plan.routes:
        return []
    by_id = {replica.id: replica for replica in plan.replicas}
    of_model = {model.name: (model, stated.workload) for model, stated in zip(models, plan.inputs.served, strict=True)}
    out: dict[str, float] = {}
    into: dict[str, float] = {}
    pairs: dict[tuple[str, str], float] = {}
    zones: dict[tuple[str, str], float] = {}
    for route in plan.routes:
        first, second = by_id[route.prefill], by_id[route.decode]
        model, workload = of_model[first.model]
        rate = goodput.get(model.name, 0.0) * route.share
        for here, there, sent, received in _transfers(model, workload, cluster, engine, first, second):
            if here == there:
                continue
            out[here] = out.get(here, 0.0) + rate * sent
            into[there] = into.get(there, 0.0) + rate * received
            pairs[here, there] = pairs.get((here, there), 0.0) + rate * sent
            between = (cluster.class_of_node(here).zone, cluster.class_of_node(there).zone)
            if between[0] != between[1]:
                zones[between] = zones.get(between, 0.0) + rate * sent
    findings = []
    for what, used in (("sends", out), ("receives", into)):
        for node, amount in used.items():
            findings += _within(f"node {node}", what, amount, cluster.class_of_node(node).nic.bandwidth)
    for (here, there), amount in pairs.items():
        link = cluster.node_link(here, there)
        findings += _within(f"link {here} to {there}", "carries", amount, link.bandwidth)
    for (from_zone, to_zone), amount in zones.items():
        slowest = min(
            cluster.class_link(a, b).bandwidth
            for a in cluster.classes
            for b in cluster.classes
            if (a.zone, b.zone) == (from_zone, to_zone)
        )
        findings += _within(f"zone {from_zone} to {to_zone}", "carries", amount, slowest)
    return findings


def _transfers(
    model: ModelSpec, workload: Workload, cluster: Cluster, engine: EngineProfile, first: Replica, second: Replica
) -> list[tuple[str, str, float, float]]:
    """Nodes, and bytes sent and received, of a request's KV cache between each two stages that share layers."""
    tokens = Demand.of(workload, engine).prompt
    found = []
    for source in first.stages:
        for target in second.stages:
            shared = slice(max(source.layers[0], target.layers[0]), min(source.layers[1], target.layers[1]))
            if shared.start >= shared.stop:
                continue
            sent = float(sent_bytes_L(model, source.tp)[shared].sum()) * tokens
            received = float(kv_bytes_per_token_L(model, target.tp)[shared].sum()) * target.tp * tokens
            found.append((_node(cluster, source), _node(cluster, target), sent, received))
    return found


def _node(cluster: Cluster, stage: Stage) -> str:
    return cluster.node_of(stage.devices[0])


def _within(where: str, what: str, amount: float, bandwidth: float) -> list[Finding]:
    limit = link_capacity(bandwidth)
    if amount <= limit * _SLACK:
        return []
    return [
        Finding(
            "kv-link", where, f"{what} {format_bytes(amount)}/s of KV caches at the goodput of {format_bytes(limit)}/s"
        )
    ]
