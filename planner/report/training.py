"""A training plan on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Group, RenderableType
from rich.text import Text

from planner.engine.chunks import chunk_layers
from planner.report.certificate import certificate_report
from planner.report.serving import cluster_line, idle_line, model_line
from planner.report.terminal import block, data_table, figure_table, heading, provenance_legend
from planner.report.words import format_arguments, format_gpus, format_layers, format_memory, format_types

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.cluster import Cluster
    from planner.engine import EngineProfile
    from planner.model import ModelSpec
    from planner.plan import TrainingPlan, TrainingStage

__all__ = ["TRAINING_LABELS", "training_report"]

TRAINING_LABELS: Final = {
    "iteration_time": "time of an iteration",
    "tokens_per_second": "throughput",
    "mfu": "MFU",
    "bubble_fraction": "GPUs waiting in the pipeline",
    "transfer": "activations between stages",
    "gradient_sync": "gradient synchronisation",
    "optimizer": "optimizer",
    "memory_peak": "memory of the fullest GPU",
    "gpus": "GPUs used",
    "cost_per_hour": "cost",
    "cost_per_iteration": "cost of an iteration",
    "cost_per_million_tokens": "cost per million tokens",
}


def training_report(
    plan: TrainingPlan, model: ModelSpec, cluster: Cluster, engine: EngineProfile, *, searched: str | None = None
) -> RenderableType:
    """Lay out a training plan.

    Parameters
    ----------
    plan
        The plan.
    model, cluster, engine
        What it was made for.
    searched
        What the search took, in words; None where nothing was searched.
    """
    job, schedule = plan.inputs.job, plan.schedule
    chunks = f" over {schedule.virtual_stages} chunks a stage" if schedule.virtual_stages > 1 else ""
    sequence_parallel = ", sequence parallel" if schedule.sequence_parallel else ""
    rows = {
        "model": model_line(model),
        "cluster": cluster_line(cluster),
        "job": f"{job.global_batch:,} sequences of {job.sequence_length:,} tokens per step, {job.optimizer},"
        f" ZeRO {job.zero_stage}",
        "engine": f"{engine.title} {engine.version}",
        "schedule": f"{schedule.name}{chunks}, {schedule.microbatches} microbatches of {schedule.microbatch_size},"
        f" recompute {schedule.recompute}{sequence_parallel}",
    }
    degrees = [f"context {schedule.context_parallel}"] if schedule.context_parallel > 1 else []
    degrees += [f"experts {schedule.expert_parallel}"] if schedule.expert_parallel > 1 else []
    if degrees:
        rows["parallel"] = ", ".join(degrees)
    columns = ["stage", "GPUs", "type", "layers", ">TP", ">DP", "shares", ">GiB per GPU"]
    held = chunk_layers([stage.layers[1] - stage.layers[0] for stage in plan.stages], schedule.virtual_stages)
    stages = [
        (str(s), *_row(stage, cluster, held[s], schedule.context_parallel)) for s, stage in enumerate(plan.stages)
    ]
    parts: list[RenderableType] = [heading("Training plan"), block(rows), Text()]
    parts += [
        heading(f"Stages ({len(stages)})"),
        data_table(columns, stages, fold=("GPUs", "type", "layers", "shares")),
    ]
    parts += [figure_table(TRAINING_LABELS, plan.predicted), provenance_legend(plan.predicted)]
    parts += [idle_line(cluster, [gpu for stage in plan.stages for gpu in stage.devices]), Text()]
    if plan.engine_arguments:
        parts += [heading(f"What {engine.title} is told"), block({"": format_arguments(plan.engine_arguments)}), Text()]
    parts.append(certificate_report(plan.certificate))
    if searched is not None:
        parts.append(Text(searched, style="dim"))
    return Group(*parts)


def _row(
    stage: TrainingStage, cluster: Cluster, chunks: Sequence[tuple[int, int]], context_parallel: int
) -> tuple[str, ...]:
    return (
        format_gpus(stage.devices),
        format_types(cluster, stage.devices),
        " ".join(format_layers(chunk) for chunk in chunks if chunk[1] > chunk[0]),
        str(stage.tp),
        str(stage.dp // context_parallel),
        _shares(stage.microbatch_shares),
        format_memory(stage.memory.value, stage.memory_limit),
    )


def _shares(shares: tuple[int, ...]) -> str:
    """Write equal shares once: ``8 x 1``, or ``2 x 3, 4 x 1``."""
    runs: list[tuple[int, int]] = []
    for share in shares:
        if runs and runs[-1][1] == share:
            runs[-1] = (runs[-1][0] + 1, share)
        else:
            runs.append((1, share))
    return ", ".join(f"{count} x {share}" for count, share in runs)
