"""From placed replicas to a plan: predictions, engine arguments and certificate in one document."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.cost.prediction import PlacedStage, ReplicaPrediction, predict_serving
from planner.engine import serving_arguments
from planner.plan import (
    Certificate,
    ClusterInput,
    EngineInput,
    ModelInput,
    Replica,
    ServingInputs,
    ServingPlan,
    Stage,
)
from planner.resources import sha256_of
from planner.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from planner.cost.prediction import ServingPrediction
    from planner.search.problem import ServingProblem

__all__ = ["build_serving_plan"]


def build_serving_plan(
    problem: ServingProblem,
    replicas: Sequence[Sequence[PlacedStage]],
    certificate: Certificate | Callable[[ServingPrediction], Certificate],
) -> ServingPlan:
    """Predict placed replicas and write them down.

    Parameters
    ----------
    problem
        What they were placed for.
    replicas
        Stages of each replica, in order.
    certificate
        The certificate, or what makes it from the prediction.
    """
    prediction = predict_serving(problem.model, problem.cluster, problem.engine, problem.workload, replicas)
    return ServingPlan(
        generator=f"hetplan {__version__}",
        inputs=ServingInputs(
            model=ModelInput(
                name=problem.model.source,
                sha256=problem.model.sha256,
                weight_dtype=problem.model.weight_dtype,
                kv_dtype=problem.model.kv_dtype,
            ),
            cluster=ClusterInput(name=problem.cluster.source, sha256=problem.cluster.sha256),
            engine=EngineInput(
                name=problem.engine.loaded_from or problem.engine.name,
                sha256=sha256_of(problem.engine.model_dump_json()),
            ),
            workload=problem.workload,
        ),
        replicas=tuple(
            _replica(problem, f"r{index}", stages, predicted, share)
            for index, (stages, predicted, share) in enumerate(
                zip(replicas, prediction.replicas, prediction.shares, strict=True)
            )
        ),
        predicted=prediction.figures,
        certificate=certificate if isinstance(certificate, Certificate) else certificate(prediction),
    )


def _replica(
    problem: ServingProblem, name: str, stages: Sequence[PlacedStage], predicted: ReplicaPrediction, share: float
) -> Replica:
    return Replica(
        id=name,
        model=problem.model.name,
        role="both",
        engine=problem.engine.name,
        share=share,
        stages=tuple(
            Stage(
                devices=stage.devices,
                layers=stage.layers,
                tp=len(stage.devices),
                memory=memory,
                memory_limit=limit,
            )
            for stage, memory, limit in zip(stages, predicted.memory_S, predicted.limit_S, strict=True)
        ),
        concurrency=predicted.concurrency,
        engine_arguments=serving_arguments(
            problem.engine,
            tp_per_stage=[len(stage.devices) for stage in stages],
            layers_per_stage=[stage.layers[1] - stage.layers[0] for stage in stages],
            concurrency=predicted.concurrency,
            longest=problem.workload.total.max,
            max_context=problem.model.max_context,
        ),
        predicted=predicted.figures,
    )
