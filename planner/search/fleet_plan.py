"""From placed replicas of several models and roles to one plan: predictions, routes, engine arguments, certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.cost.fleet import FleetPrediction, ModelDeployment, predict_fleet
from planner.plan import Certificate, Replica, Route, ServedInput, ServingInputs, ServingPlan
from planner.search.serving_plan import cluster_input, engine_input, model_input, plan_replica
from planner.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from planner.search.problem import FleetProblem

__all__ = ["build_fleet_plan"]


def build_fleet_plan(
    problem: FleetProblem,
    deployments: Sequence[ModelDeployment],
    certificate: Callable[[FleetPrediction], Certificate],
) -> ServingPlan:
    """Predict placed replicas and write them down, one model after the other.

    Parameters
    ----------
    problem
        What they were placed for.
    deployments
        Replicas and routes of each model, in the order of the problem.
    certificate
        Makes it from the prediction.
    """
    prediction = predict_fleet(problem.cluster, problem.engine, deployments)
    replicas: list[Replica] = []
    routes: list[Route] = []
    for index, (deployment, predicted) in enumerate(zip(deployments, prediction.models, strict=True)):
        alone, first = problem.alone(index), len(replicas)
        for placed, of_one, share in zip(deployment.replicas, predicted.replicas, predicted.shares, strict=True):
            replicas.append(plan_replica(alone, f"r{len(replicas)}", placed.stages, of_one, share, placed.role))
        routes += [
            Route(prefill=f"r{first + route.prefill}", decode=f"r{first + route.decode}", share=route.share)
            for route in deployment.routes
        ]
    served = [
        ServedInput(model=model_input(one.model), workload=one.workload, weight=one.weight) for one in problem.served
    ]
    several = len(served) > 1
    return ServingPlan(
        generator=f"hetplan {__version__}",
        inputs=ServingInputs(
            model=served[0].model,
            cluster=cluster_input(problem.cluster),
            engine=engine_input(problem.engine),
            workload=served[0].workload,
            further=tuple(served[1:]),
            weight=served[0].weight if several else 1.0,
        ),
        replicas=tuple(replicas),
        routes=tuple(routes),
        predicted=prediction.figures,
        per_model=(
            {one.model.name: model.figures for one, model in zip(problem.served, prediction.models, strict=True)}
            if several
            else {}
        ),
        certificate=certificate(prediction),
    )
