"""The independent check of a serving plan: structure, memory, engine, and every figure computed anew."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from planner.cost.fleet import ModelDeployment, predict_fleet
from planner.cost.memory import tensor_parallel_fault
from planner.cost.prediction import PlacedStage
from planner.cost.roles import PlacedReplica, PlacedRoute
from planner.engine import check_device, check_runnable, serving_arguments
from planner.model import ModelSpec
from planner.units import format_bytes
from planner.verifier.findings import (
    Finding,
    check_arguments,
    check_certificate,
    check_layers,
    compare_figures,
    differs,
)
from planner.verifier.routes import check_network, check_routes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.cluster import Cluster
    from planner.cost.prediction import ReplicaPrediction
    from planner.engine import EngineProfile
    from planner.plan import Replica, ServingPlan

__all__ = ["check_serving"]


def check_serving(
    plan: ServingPlan, model: ModelSpec | Sequence[ModelSpec], cluster: Cluster, engine: EngineProfile
) -> list[Finding]:
    """Check a serving plan.

    The figures are computed only for a plan whose structure is sound: those of a broken one mean nothing.

    Parameters
    ----------
    plan
        The plan.
    model
        The model, or all of them in the order of the plan's inputs.
    cluster, engine
        What it was made for.
    """
    models = [model] if isinstance(model, ModelSpec) else list(model)
    by_name = {one.name: one for one in models}
    findings: list[Finding] = []
    if not plan.replicas:
        return [Finding("no-replica", "plan", "holds no replica")]
    if len(by_name) != len(plan.inputs.served):
        return [Finding("model", "inputs", f"{len(plan.inputs.served)} models are stated; {len(by_name)} differ")]
    for replica in plan.replicas:
        if replica.model in by_name:
            findings += _structure(replica, by_name[replica.model], cluster, engine)
        else:
            meant = ", ".join(repr(name) for name in by_name)
            findings.append(Finding("model", replica.id, f"runs {replica.model!r}; the plan is for {meant}"))
    findings += _devices_once(plan)
    for one in models:
        findings += _shares(plan, one)
    findings += _roles(plan)
    if findings:
        return findings
    return _figures(plan, models, cluster, engine)


def _structure(replica: Replica, model: ModelSpec, cluster: Cluster, engine: EngineProfile) -> list[Finding]:
    name = replica.id
    if not replica.stages:
        return [Finding("stage-empty", name, "has no stage")]
    findings = check_layers(name, [stage.layers for stage in replica.stages], model.num_layers)
    if replica.engine != engine.name:
        findings.append(Finding("engine", name, f"runs under {replica.engine!r}; the plan is for {engine.name!r}"))
    known = set(cluster.gpus)
    types = []
    for s, stage in enumerate(replica.stages):
        where = f"{name} stage {s}"
        if len(stage.devices) != stage.tp:
            findings.append(Finding("tp-devices", where, f"TP {stage.tp} on {len(stage.devices)} GPUs"))
        fault = tensor_parallel_fault(model, stage.tp)
        if fault:
            findings.append(Finding("tp-illegal", where, fault))
        unknown = [gpu for gpu in stage.devices if gpu not in known]
        findings += [Finding("gpu-unknown", where, f"{cluster.name} has no GPU {gpu!r}") for gpu in unknown]
        if unknown or not stage.devices:
            continue
        devices = sorted({cluster.device_of(gpu).name for gpu in stage.devices})
        types.append(devices[0])
        first = cluster.device_of(stage.devices[0])
        refusal = check_device(engine, vendor=first.vendor, compute_capability=first.compute_capability)
        if refusal:
            findings.append(Finding("engine-cannot", where, refusal))
        if len(devices) > 1:
            findings.append(Finding("tp-mixed", where, f"one TP group on different GPUs: {', '.join(devices)}"))
        nodes = sorted({cluster.node_of(gpu) for gpu in stage.devices})
        if len(nodes) > 1:
            findings.append(Finding("tp-across-nodes", where, f"one TP group on nodes {', '.join(nodes)}"))
    if len(types) == len(replica.stages) and not findings:
        reasons = check_runnable(
            engine,
            tp_per_stage=[stage.tp for stage in replica.stages],
            layers_per_stage=[stage.layers[1] - stage.layers[0] for stage in replica.stages],
            device_types_per_stage=types,
            task="serving",
            disaggregated=replica.role != "both",
        )
        findings += [Finding("engine-cannot", name, reason) for reason in reasons]
    return findings


def _devices_once(plan: ServingPlan) -> list[Finding]:
    findings = []
    seen: dict[str, str] = {}
    for replica in plan.replicas:
        for s, stage in enumerate(replica.stages):
            for gpu in stage.devices:
                where = f"{replica.id} stage {s}"
                if gpu in seen:
                    findings.append(Finding("gpu-twice", where, f"{gpu} is already used by {seen[gpu]}"))
                seen.setdefault(gpu, where)
    return findings


def _shares(plan: ServingPlan, model: ModelSpec) -> list[Finding]:
    """Check that every request of a model is computed by somebody; a model that is not served has no replica."""
    mine = [replica for replica in plan.replicas if replica.model == model.name]
    total = math.fsum(replica.share for replica in mine if replica.role != "decode")
    if not mine and len(plan.inputs.served) > 1:
        return []
    if math.isclose(total, 1.0, rel_tol=1e-9):
        return []
    of = f" of {model.name}" if len(plan.inputs.served) > 1 else ""
    return [Finding("shares", "plan", f"the replicas' shares of the traffic{of} sum to {total!r}, not to 1")]


def _roles(plan: ServingPlan) -> list[Finding]:
    """Check that replicas can be told apart, and that whoever prefills has somebody who decodes."""
    findings = []
    ids = [replica.id for replica in plan.replicas]
    findings += [
        Finding("id-twice", name, f"{ids.count(name)} replicas have this id")
        for name in dict.fromkeys(ids)
        if ids.count(name) > 1
    ]
    roles = {replica.role for replica in plan.replicas}
    for role, partner in (("prefill", "decode"), ("decode", "prefill")):
        if role in roles and partner not in roles:
            findings.append(Finding("role", "plan", f"replicas that {role} and none that {partner}s"))
    return findings + check_routes(plan)


def _figures(plan: ServingPlan, models: Sequence[ModelSpec], cluster: Cluster, engine: EngineProfile) -> list[Finding]:
    findings: list[Finding] = []
    deployments = []
    replicas: list[Replica] = []
    for model, stated in zip(models, plan.inputs.served, strict=True):
        mine = [replica for replica in plan.replicas if replica.model == model.name]
        deployments.append(
            ModelDeployment(
                model=model,
                workload=stated.workload,
                weight=stated.weight,
                replicas=[_placed(replica) for replica in mine],
                shares=[replica.share for replica in mine],
                routes=_routes(plan, mine),
            )
        )
        replicas += mine
    computed = predict_fleet(cluster, engine, deployments)
    owners = [deployment for deployment in deployments for _ in deployment.replicas]
    for replica, prediction, owner in zip(replicas, computed.replicas, owners, strict=True):
        findings += _replica_figures(replica, prediction, owner, cluster, engine)
    findings += compare_figures("plan", plan.predicted, computed.figures)
    if len(models) > 1:
        for model, one in zip(models, computed.models, strict=True):
            findings += compare_figures(model.name, plan.per_model.get(model.name, {}), one.figures)
    for name in plan.per_model:
        if len(models) == 1 or name not in {model.name for model in models}:
            findings.append(Finding("figure-unknown", name, "has figures of its own, but is not one of several models"))
    findings += check_certificate(plan.certificate, computed.figures)
    goodput = {
        model.name: one.figures["goodput"].value
        for model, one in zip(models, computed.models, strict=True)
        if "goodput" in one.figures
    }
    return findings + check_network(plan, models, cluster, engine, goodput)


def _routes(plan: ServingPlan, mine: Sequence[Replica]) -> list[PlacedRoute]:
    """Routes between some replicas, by their position among them."""
    place = {replica.id: r for r, replica in enumerate(mine)}
    return [
        PlacedRoute(prefill=place[route.prefill], decode=place[route.decode], share=route.share)
        for route in plan.routes
        if route.prefill in place
    ]


def _placed(replica: Replica) -> PlacedReplica:
    return PlacedReplica(
        stages=[PlacedStage(stage.devices, stage.layers) for stage in replica.stages], role=replica.role
    )


def _replica_figures(
    replica: Replica,
    prediction: ReplicaPrediction,
    owner: ModelDeployment,
    cluster: Cluster,
    engine: EngineProfile,
) -> list[Finding]:
    """Compare what a replica states with what the cost model computes."""
    findings: list[Finding] = []
    for s, (stage, memory, limit) in enumerate(
        zip(replica.stages, prediction.memory_S, prediction.limit_S, strict=True)
    ):
        where = f"{replica.id} stage {s}"
        if memory.value > limit * (1 + 1e-12):
            title = cluster.device_of(stage.devices[0]).title
            findings.append(
                Finding(
                    "memory",
                    where,
                    f"needs {format_bytes(memory.value)} on each {title}; it offers {format_bytes(limit)}",
                )
            )
        findings += compare_figures(where, {"memory": stage.memory}, {"memory": memory})
        if differs(stage.memory_limit, limit):
            findings.append(
                Finding("figure-changed", where, f"memory_limit is stated as {stage.memory_limit!r}; it is {limit!r}")
            )
    if not prediction.figures:
        findings.append(Finding("slo", replica.id, f"cannot serve within the SLO: {prediction.capacity}"))
    if replica.concurrency != prediction.concurrency:
        findings.append(
            Finding(
                "figure-changed",
                replica.id,
                f"concurrency is stated as {replica.concurrency}; it is {prediction.concurrency}",
            )
        )
    findings += compare_figures(replica.id, replica.predicted, prediction.figures)
    told = serving_arguments(
        engine,
        tp_per_stage=[stage.tp for stage in replica.stages],
        layers_per_stage=[stage.layers[1] - stage.layers[0] for stage in replica.stages],
        concurrency=prediction.concurrency,
        longest=owner.workload.total.max,
        max_context=owner.model.max_context,
        role=replica.role,
    )
    findings += check_arguments(replica.id, replica.engine_arguments, told)
    if prediction.figures and prediction.overloaded:
        findings.append(
            Finding("overloaded", replica.id, f"its share {replica.share!r} is more than it serves within the SLO")
        )
    return findings
