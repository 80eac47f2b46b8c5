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

    from planner.cluster import Cluster
    from planner.cost.prediction import ServingPrediction
    from planner.engine import EngineProfile
    from planner.model import ModelSpec
    from planner.plan import Role
    from planner.search.problem import ServingProblem

__all__ = ["build_serving_plan", "cluster_input", "engine_input", "model_input", "plan_replica"]


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
            model=model_input(problem.model),
            cluster=cluster_input(problem.cluster),
            engine=engine_input(problem.engine),
            workload=problem.workload,
        ),
        replicas=tuple(
            plan_replica(problem, f"r{index}", stages, predicted, share)
            for index, (stages, predicted, share) in enumerate(
                zip(replicas, prediction.replicas, prediction.shares, strict=True)
            )
        ),
        predicted=prediction.figures,
        certificate=certificate if isinstance(certificate, Certificate) else certificate(prediction),
    )


def model_input(model: ModelSpec) -> ModelInput:
    """Name a model so that a check finds the same one."""
    return ModelInput(name=model.source, sha256=model.sha256, weight_dtype=model.weight_dtype, kv_dtype=model.kv_dtype)


def cluster_input(cluster: Cluster) -> ClusterInput:
    """Name a cluster so that a check finds the same one."""
    return ClusterInput(name=cluster.source, sha256=cluster.sha256)


def engine_input(engine: EngineProfile) -> EngineInput:
    """Name an engine so that a check finds the same one."""
    return EngineInput(name=engine.loaded_from or engine.name, sha256=sha256_of(engine.model_dump_json()))


def plan_replica(
    problem: ServingProblem,
    name: str,
    stages: Sequence[PlacedStage],
    predicted: ReplicaPrediction,
    share: float,
    role: Role = "both",
) -> Replica:
    """Write one replica down.

    Parameters
    ----------
    problem
        Model, engine and workload.
    name, stages, predicted, share, role
        Of the replica.
    """
    return Replica(
        id=name,
        model=problem.model.name,
        role=role,
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
            role=role,
        ),
        predicted=predicted.figures,
    )
