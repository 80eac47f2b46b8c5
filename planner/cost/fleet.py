"""What a plan for several models on one cluster is predicted to do: each model for itself, and all together.

Models share GPUs and links by having different ones, so each is predicted as if it were alone
(`planner.cost.prediction`, `planner.cost.roles`); only sums and the worst are taken over them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.cost.prediction import ReplicaPrediction, ServingPrediction, cost_figures, predict_serving
from planner.plan.figure import Figure, weakest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.cluster import Cluster
    from planner.cost.roles import PlacedReplica, PlacedRoute
    from planner.engine import EngineProfile
    from planner.model import ModelSpec
    from planner.workload import Workload

__all__ = ["FleetPrediction", "ModelDeployment", "predict_fleet"]

_SUMMED = ("goodput", "rate", "output_throughput")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDeployment:
    """The replicas of one model.

    Parameters
    ----------
    model, workload, weight
        What runs, for whom, and what a request of it is worth beside those of other models.
    replicas
        Placed; may be none where another model is worth more.
    shares
        Share of the model's requests that each replica takes part in; None divides them by goodput.
    routes
        From prefill to decode replicas, by their position, with their share of the model's requests.
    """

    model: ModelSpec
    workload: Workload
    replicas: Sequence[PlacedReplica]
    weight: float = 1.0
    shares: Sequence[float] | None = None
    routes: Sequence[PlacedRoute] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPrediction:
    """All models: each by itself in `models`, and the figures of the whole."""

    models: tuple[ServingPrediction, ...]
    figures: dict[str, Figure]

    @property
    def replicas(self) -> tuple[ReplicaPrediction, ...]:
        """Replicas of all models, one model after the other."""
        return tuple(replica for model in self.models for replica in model.replicas)


def predict_fleet(cluster: Cluster, engine: EngineProfile, deployments: Sequence[ModelDeployment]) -> FleetPrediction:
    """Predict every figure of a plan for one or several models.

    Returns
    -------
    FleetPrediction
        With one model, its figures are those of the whole.
    """
    models = [_one(cluster, engine, deployment) for deployment in deployments]
    if len(models) == 1:
        return FleetPrediction(models=(models[0],), figures=models[0].figures)
    return FleetPrediction(models=tuple(models), figures=_whole(cluster, deployments, models))


def _one(cluster: Cluster, engine: EngineProfile, deployment: ModelDeployment) -> ServingPrediction:
    if any(replica.role != "both" for replica in deployment.replicas):
        from planner.cost.role_prediction import predict_roles

        return predict_roles(
            deployment.model,
            cluster,
            engine,
            deployment.workload,
            deployment.replicas,
            shares=deployment.shares or [],
            routes=deployment.routes,
        )
    return predict_serving(
        deployment.model,
        cluster,
        engine,
        deployment.workload,
        [replica.stages for replica in deployment.replicas],
        deployment.shares,
    )


def _whole(
    cluster: Cluster, deployments: Sequence[ModelDeployment], models: Sequence[ServingPrediction]
) -> dict[str, Figure]:
    gpus = [
        gpu
        for deployment in deployments
        for replica in deployment.replicas
        for stage in replica.stages
        for gpu in stage.devices
    ]
    used = Figure(value=float(len(gpus)), unit="GPUs", error=0.0, provenance="spec")
    working = [model.figures for model in models if "goodput" in model.figures]
    if not working:
        return {"gpus": used}
    provenance = weakest(*(figures["goodput"].provenance for figures in working))
    figures = {name: _sum([one[name] for one in working]) for name in _SUMMED}
    served = [
        (
            model.figures.get("goodput"),
            deployment.workload.rate,
            deployment.weight,
        )
        for deployment, model in zip(deployments, models, strict=True)
    ]
    worth = math.fsum(
        weight * min(goodput.value, math.inf if rate is None else rate)
        for goodput, rate, weight in served
        if goodput is not None
    )
    figures["weighted_goodput"] = Figure(
        value=worth, unit="requests/s", error=figures["goodput"].error, provenance=provenance
    )
    if all(rate is not None for _, rate, _ in served):
        scales = [(0.0 if goodput is None else goodput.value / (rate or 1.0), goodput) for goodput, rate, _ in served]
        scale, tightest = min(scales, key=lambda pair: pair[0])
        figures["demand_scale"] = Figure(
            value=scale,
            unit="x demand",
            error=0.0 if tightest is None else tightest.error,
            provenance=provenance,
        )
    figures["gpus"] = used
    figures["memory_peak"] = max((one["memory_peak"] for one in working), key=lambda figure: figure.value)
    return figures | cost_figures(cluster, gpus, figures["output_throughput"])


def _sum(figures: Sequence[Figure]) -> Figure:
    """Sum of what is taken to err the same way."""
    value = math.fsum(figure.value for figure in figures)
    error = math.fsum(figure.value * figure.error for figure in figures) / value
    return Figure(
        value=value,
        unit=figures[0].unit,
        error=error,
        provenance=weakest(*(figure.provenance for figure in figures)),
    )
