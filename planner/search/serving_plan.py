"""From placed replicas to a plan: predictions, engine arguments and certificate in one document."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from planner.cost.prediction import PlacedStage, ReplicaPrediction, predict_serving
from planner.engine import default_split
from planner.errors import InputError, UnsupportedError
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
    from planner.engine import EngineProfile
    from planner.search.problem import ServingProblem

__all__ = ["build_serving_plan"]

_CONTEXT_STEP = 256  # the engine's context limit is rounded up to a whole number of these


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
            engine=EngineInput(name=problem.engine.name, sha256=sha256_of(problem.engine.model_dump_json())),
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
        engine_arguments=_arguments(problem, stages, predicted.concurrency),
        predicted=predicted.figures,
    )


def _arguments(
    problem: ServingProblem, stages: Sequence[PlacedStage], concurrency: int
) -> dict[str, int | float | str]:
    """What the engine is to be told, under its own names; what it has no name for is left out."""
    engine = problem.engine
    names = engine.arguments
    tps = [len(stage.devices) for stage in stages]
    layers = tuple(end - first for first, end in (stage.layers for stage in stages))
    longest = min(math.ceil(problem.workload.total.max / _CONTEXT_STEP) * _CONTEXT_STEP, problem.model.max_context)
    values: dict[str, int | float | str] = {
        "tensor_parallel": tps[0] if len(set(tps)) == 1 else ",".join(map(str, tps)),
        "pipeline_parallel": len(stages),
        "memory_fraction": engine.memory_fraction.value,
        "chunk_tokens": engine.serving_defaults().chunk_tokens.value,
        "max_sequences": concurrency,
        "max_context": longest,
    }
    if len(stages) > 1 and not _is_default(engine, layers):
        values["layer_split"] = ",".join(map(str, layers))
    return {names[key]: value for key, value in values.items() if key in names}


def _is_default(engine: EngineProfile, layers: tuple[int, ...]) -> bool:
    try:
        return default_split(engine, sum(layers), len(layers)) == layers
    except (InputError, UnsupportedError):
        return False
