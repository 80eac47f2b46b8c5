"""The independent check of a training plan: structure, links, memory, engine, and every figure computed anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.cost.memory import tensor_parallel_fault
from planner.cost.training import predict_training
from planner.cost.training_attention import sequence_parallel_fault, training_precision
from planner.cost.training_experts import expert_fault
from planner.cost.training_replica import dp_groups
from planner.engine import check_runnable, training_arguments
from planner.engine.chunks import chunk_fault
from planner.units import format_bytes
from planner.verifier.findings import (
    Finding,
    check_arguments,
    check_certificate,
    check_layers,
    compare_figures,
    differs,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.cluster import Cluster
    from planner.engine import EngineProfile
    from planner.model import ModelSpec
    from planner.plan import TrainingPlan, TrainingStage

__all__ = ["check_training"]


def check_training(plan: TrainingPlan, model: ModelSpec, cluster: Cluster, engine: EngineProfile) -> list[Finding]:
    """Check a training plan.

    The figures are computed only for a plan whose structure is sound: those of a broken one mean nothing.

    Returns
    -------
    list of Finding
        Everything that is wrong; empty for a sound plan.
    """
    if not plan.stages:
        return [Finding("stage-empty", "plan", "has no stage")]
    findings = check_layers("pipeline", [stage.layers for stage in plan.stages], model.num_layers)
    known = set(cluster.gpus)
    for s, stage in enumerate(plan.stages):
        findings += _stage(f"stage {s}", stage, plan, model, cluster, known)
    findings += _devices_once(plan)
    findings += _batch(plan, engine)
    findings += _schedule(plan, model)
    if plan.schedule.sequence_parallel and all(stage.tp == 1 for stage in plan.stages):
        findings.append(Finding("sequence-parallel", "pipeline", "sequence parallelism without tensor parallelism"))
    if findings:
        return findings
    return _engine(plan, model, cluster, engine) + _figures(plan, model, cluster, engine)


def _stage(
    where: str, stage: TrainingStage, plan: TrainingPlan, model: ModelSpec, cluster: Cluster, known: set[str]
) -> list[Finding]:
    findings = []
    if len(stage.devices) != stage.dp * stage.tp:
        findings.append(Finding("tp-devices", where, f"TP {stage.tp} times DP {stage.dp} on {len(stage.devices)} GPUs"))
    fault = tensor_parallel_fault(model, stage.tp)
    if fault is not None:
        findings.append(Finding("tp-illegal", where, fault))
    length = plan.inputs.job.sequence_length
    context = plan.schedule.context_parallel
    parts = f"sequences of {length} tokens" if context == 1 else f"parts of {length} / {context} tokens"
    if plan.schedule.sequence_parallel and length % (stage.tp * context):
        findings.append(Finding("sequence-parallel", where, f"TP {stage.tp} does not divide {parts}"))
    unknown = [gpu for gpu in stage.devices if gpu not in known]
    findings += [Finding("gpu-unknown", where, f"{cluster.name} has no GPU {gpu!r}") for gpu in unknown]
    if findings:
        return findings
    for g, group in enumerate(dp_groups(stage)):
        types = sorted({cluster.device_of(gpu).name for gpu in group})
        if len(types) > 1:
            findings.append(
                Finding("tp-mixed", f"{where} group {g}", f"one TP group on different GPUs: {', '.join(types)}")
            )
        nodes = sorted({cluster.node_of(gpu) for gpu in group})
        if len(nodes) > 1:
            findings.append(
                Finding("tp-across-nodes", f"{where} group {g}", f"one TP group on nodes {', '.join(nodes)}")
            )
    return findings


def _devices_once(plan: TrainingPlan) -> list[Finding]:
    findings = []
    seen: dict[str, str] = {}
    for s, stage in enumerate(plan.stages):
        for gpu in stage.devices:
            if gpu in seen:
                findings.append(Finding("gpu-twice", f"stage {s}", f"{gpu} is already used by {seen[gpu]}"))
            seen.setdefault(gpu, f"stage {s}")
    return findings


def _batch(plan: TrainingPlan, engine: EngineProfile) -> list[Finding]:
    """Every stage takes whole microbatches, each group as many sequences as it passes on, and they fill the batch."""
    findings = []
    size, count, context = plan.schedule.microbatch_size, plan.schedule.microbatches, plan.schedule.context_parallel
    batch = plan.inputs.job.global_batch
    for s, stage in enumerate(plan.stages):
        if any(share < 1 for share in stage.microbatch_shares):
            findings.append(Finding("shares", f"stage {s}", "a data-parallel group without a sequence"))
        elif sum(stage.microbatch_shares) * count != batch * context:
            findings.append(
                Finding(
                    "shares",
                    f"stage {s}",
                    f"{count} microbatches of {sum(stage.microbatch_shares) / context:g} sequences are not the batch of"
                    f" {batch}",
                )
            )
        elif sum(stage.microbatch_shares) != size * stage.dp:
            findings.append(
                Finding(
                    "shares",
                    f"stage {s}",
                    f"{stage.dp} groups share {sum(stage.microbatch_shares)} sequences; microbatches are {size} each",
                )
            )
        elif engine.arguments and len(set(stage.microbatch_shares)) > 1:
            findings.append(
                Finding(
                    "shares",
                    f"stage {s}",
                    f"{engine.title} has one microbatch size for all groups; these take"
                    f" {_listed(stage.microbatch_shares)} sequences",
                )
            )
    dps = [stage.dp for stage in plan.stages]
    if len(set(dps)) > 1:
        findings.append(Finding("dp-differs", "pipeline", f"stages with DP {_listed(dps)} cannot be joined"))
    if findings:
        return findings
    first = plan.stages[0].microbatch_shares
    return [
        Finding(
            "shares",
            f"stage {s}",
            f"groups take {_listed(stage.microbatch_shares)} sequences; those of stage 0 {_listed(first)}",
        )
        for s, stage in enumerate(plan.stages)
        if stage.microbatch_shares != first
    ]


def _schedule(plan: TrainingPlan, model: ModelSpec) -> list[Finding]:
    """Interleaving, context and expert parallelism divide what they are to divide."""
    schedule, length = plan.schedule, plan.inputs.job.sequence_length
    stages, virtual, context = len(plan.stages), schedule.virtual_stages, schedule.context_parallel
    findings = []
    if (schedule.name == "interleaved") != (virtual > 1):
        findings.append(Finding("virtual-stages", "pipeline", f"{schedule.name} with {virtual} virtual stages"))
    fault = chunk_fault([stage.layers[1] - stage.layers[0] for stage in plan.stages], virtual)
    if fault is not None:
        findings.append(Finding("virtual-stages", "pipeline", fault))
    elif virtual > 1 and schedule.microbatches % stages:
        findings.append(
            Finding(
                "virtual-stages",
                "pipeline",
                f"{schedule.microbatches} microbatches are not a multiple of the {stages} stages of an interleaved"
                " pipeline",
            )
        )
    if context > 1 and length % (2 * context):
        findings.append(
            Finding(
                "context-parallel",
                "pipeline",
                f"CP {context} takes two chunks each of sequences of {length} tokens, which do not divide",
            )
        )
    for s, stage in enumerate(plan.stages):
        if stage.dp % context:
            findings.append(
                Finding("context-parallel", f"stage {s}", f"CP {context} does not divide its {stage.dp} groups")
            )
        elif any(len(set(stage.microbatch_shares[g : g + context])) > 1 for g in range(0, stage.dp, context)):
            findings.append(
                Finding("context-parallel", f"stage {s}", "groups that share sequences take different numbers of them")
            )
        fault = expert_fault(model, schedule.expert_parallel, stage.dp)
        if fault is not None:
            findings.append(Finding("expert-parallel", f"stage {s}", fault))
    return findings


def _listed(values: Sequence[int]) -> str:
    return ", ".join(map(str, values))


def _engine(plan: TrainingPlan, model: ModelSpec, cluster: Cluster, engine: EngineProfile) -> list[Finding]:
    types = ["+".join(sorted({cluster.device_of(gpu).name for gpu in stage.devices})) for stage in plan.stages]
    reasons = check_runnable(
        engine,
        tp_per_stage=[stage.tp for stage in plan.stages],
        layers_per_stage=[stage.layers[1] - stage.layers[0] for stage in plan.stages],
        device_types_per_stage=types,
        task="training",
        data_parallel=max(stage.dp for stage in plan.stages),
        expert_parallel=plan.schedule.expert_parallel,
        context_parallel=plan.schedule.context_parallel,
        virtual_stages=plan.schedule.virtual_stages,
        zero_stage=plan.inputs.job.zero_stage,
    )
    for tp in dict.fromkeys(stage.tp for stage in plan.stages):
        fault = sequence_parallel_fault(model, engine, tp, sequence_parallel=plan.schedule.sequence_parallel)
        reasons += [fault] if fault is not None else []
    return [Finding("engine-cannot", "pipeline", reason) for reason in reasons]


def _figures(plan: TrainingPlan, model: ModelSpec, cluster: Cluster, engine: EngineProfile) -> list[Finding]:
    computed = predict_training(model, cluster, engine, plan.inputs.job, plan.stages, plan.schedule)
    findings: list[Finding] = []
    for s, (stage, memory, limit) in enumerate(zip(plan.stages, computed.memory_S, computed.limit_S, strict=True)):
        where = f"stage {s}"
        if memory.value > limit * (1 + 1e-12):
            title = cluster.device_of(stage.devices[0]).title
            findings.append(
                Finding(
                    "memory",
                    where,
                    f"needs {format_bytes(memory.value)} on each GPU of {title}, which offers {format_bytes(limit)}",
                )
            )
        findings += compare_figures(where, {"memory": stage.memory}, {"memory": memory})
        if differs(stage.memory_limit, limit):
            findings.append(
                Finding("figure-changed", where, f"memory_limit is stated as {stage.memory_limit!r}; it is {limit!r}")
            )
    findings += compare_figures("plan", plan.predicted, computed.figures)
    findings += check_certificate(plan.certificate, computed.figures)
    job, schedule = plan.inputs.job, plan.schedule
    told = training_arguments(
        engine,
        tp_per_stage=[stage.tp for stage in plan.stages],
        layers_per_stage=[stage.layers[1] - stage.layers[0] for stage in plan.stages],
        microbatch_size=schedule.microbatch_size,
        global_batch=job.global_batch,
        sequence_length=job.sequence_length,
        max_context=model.max_context,
        precision=training_precision(cluster, [gpu for stage in plan.stages for gpu in stage.devices]),
        sequence_parallel=schedule.sequence_parallel,
        recompute=schedule.recompute,
        zero_stage=job.zero_stage,
        virtual_stages=schedule.virtual_stages,
        context_parallel=schedule.context_parallel,
        expert_parallel=schedule.expert_parallel,
        data_parallel=plan.stages[0].dp // schedule.context_parallel,
    )
    return findings + check_arguments("plan", plan.engine_arguments, told)
