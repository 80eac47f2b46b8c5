"""From placed training stages to a plan: predictions, engine arguments and certificate in one document."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.cost.training import predict_training
from planner.plan import (
    Certificate,
    ClusterInput,
    EngineInput,
    ModelInput,
    TrainingInputs,
    TrainingPlan,
    TrainingStage,
)
from planner.resources import sha256_of
from planner.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from planner.cost.training import TrainingPrediction
    from planner.cost.training_replica import PlacedTrainingStage
    from planner.plan import Schedule
    from planner.search.problem import TrainingProblem

__all__ = ["build_training_plan", "megatron_layout"]


def build_training_plan(
    problem: TrainingProblem,
    stages: Sequence[PlacedTrainingStage],
    schedule: Schedule,
    certificate: Callable[[TrainingPrediction], Certificate],
) -> TrainingPlan:
    """Predict placed stages and write them down.

    Parameters
    ----------
    problem
        What they were placed for.
    stages, schedule
        The pipeline and how it runs.
    certificate
        Called with the prediction.
    """
    model, cluster, engine = problem.model, problem.cluster, problem.engine
    prediction = predict_training(model, cluster, engine, problem.job, stages, schedule)
    return TrainingPlan(
        generator=f"hetplan {__version__}",
        inputs=TrainingInputs(
            model=ModelInput(
                name=model.source, sha256=model.sha256, weight_dtype=model.weight_dtype, kv_dtype=model.kv_dtype
            ),
            cluster=ClusterInput(name=cluster.source, sha256=cluster.sha256),
            engine=EngineInput(name=engine.name, sha256=sha256_of(engine.model_dump_json())),
            job=problem.job,
        ),
        stages=tuple(
            TrainingStage(
                devices=stage.devices,
                layers=stage.layers,
                tp=stage.tp,
                dp=stage.dp,
                microbatch_shares=stage.microbatch_shares,
                memory=memory,
                memory_limit=limit,
            )
            for stage, memory, limit in zip(stages, prediction.memory_S, prediction.limit_S, strict=True)
        ),
        schedule=schedule,
        engine_arguments=_arguments(problem, stages, schedule),
        predicted=prediction.figures,
        certificate=certificate(prediction),
    )


def megatron_layout(layers: Sequence[int]) -> str:
    """Pipeline layout as Megatron-Core reads it: E embedding, t transformer layer, L loss, stages between bars.

    Examples
    --------
    >>> megatron_layout([26, 22, 20, 12])
    'Et*26|t*22|t*20|t*12,L'
    """
    parts = [f"t*{count}" for count in layers]
    parts[0] = "E" + parts[0]
    parts[-1] += ",L"
    return "|".join(parts)


def _arguments(
    problem: TrainingProblem, stages: Sequence[PlacedTrainingStage], schedule: Schedule
) -> dict[str, int | float | str]:
    """What the engine is to be told, under its own names; an empty value is a flag that takes none.

    Names come from the engine's profile; an engine whose profile has none is told nothing.
    """
    names = problem.engine.arguments
    tps = [stage.tp for stage in stages]
    layers = [end - first for first, end in (stage.layers for stage in stages)]
    values: dict[str, int | float | str] = {
        "tensor_parallel": tps[0] if len(set(tps)) == 1 else ",".join(map(str, tps)),
        "pipeline_parallel": len(stages),
        "micro_batch": schedule.microbatch_size,
        "global_batch": problem.job.global_batch,
        "sequence_length": problem.job.sequence_length,
    }
    if len(stages) > 1:
        values["layer_split"] = megatron_layout(layers)
    if schedule.sequence_parallel:
        values["sequence_parallel"] = ""
    if schedule.recompute != "none":
        values["recompute"] = schedule.recompute
    if schedule.recompute == "full":
        values |= {"recompute_method": "uniform", "recompute_layers": 1}
    if problem.job.zero_stage == 1:
        values["distributed_optimizer"] = ""
    return {(names | _MEGATRON)[key]: value for key, value in values.items()} if names else {}


# Options of Megatron-Core's training script that its profile need not name.
_MEGATRON = {
    "micro_batch": "--micro-batch-size",
    "global_batch": "--global-batch-size",
    "sequence_length": "--seq-length",
    "recompute_method": "--recompute-method",
    "recompute_layers": "--recompute-num-layers",
    "distributed_optimizer": "--use-distributed-optimizer",
}
