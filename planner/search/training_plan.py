"""From placed training stages to a plan: predictions, engine arguments and certificate in one document."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.cost.training import predict_training
from planner.cost.training_attention import training_precision
from planner.engine import training_arguments
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

__all__ = ["build_training_plan"]


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
            engine=EngineInput(name=engine.loaded_from or engine.name, sha256=sha256_of(engine.model_dump_json())),
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
        engine_arguments=training_arguments(
            engine,
            tp_per_stage=[stage.tp for stage in stages],
            layers_per_stage=[stage.layers[1] - stage.layers[0] for stage in stages],
            microbatch_size=schedule.microbatch_size,
            global_batch=problem.job.global_batch,
            sequence_length=problem.job.sequence_length,
            max_context=model.max_context,
            precision=training_precision(cluster, [gpu for stage in stages for gpu in stage.devices]),
            sequence_parallel=schedule.sequence_parallel,
            recompute=schedule.recompute,
            zero_stage=problem.job.zero_stage,
            virtual_stages=schedule.virtual_stages,
            context_parallel=schedule.context_parallel,
            expert_parallel=schedule.expert_parallel,
            data_parallel=stages[0].dp // schedule.context_parallel,
        ),
        predicted=prediction.figures,
        certificate=certificate(prediction),
    )
