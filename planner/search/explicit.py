"""One explicit serving configuration, priced and written down as a plan."""

from __future__ import annotations

from collections.abc import Sequence

from planner.cost.memory import tensor_parallel_fault
from planner.cost.prediction import PlacedStage, ServingPrediction
from planner.cost.replica import Shortfall
from planner.engine import check_device, check_runnable
from planner.errors import InfeasibleError, InputError, UnsupportedError
from planner.plan import Certificate, ServingPlan, certify
from planner.plan.certificate import ALONE
from planner.search.problem import ServingProblem
from planner.search.serving_plan import build_serving_plan
from planner.units import format_bytes, format_seconds

__all__ = ["estimate_serving"]


def estimate_serving(problem: ServingProblem, replicas: Sequence[Sequence[PlacedStage]]) -> ServingPlan:
    """Price placed replicas.

    Raises
    ------
    InputError
        If there is no replica, a GPU is unknown or used twice, a TP is not legal for the model, or the layers of a
        replica do not add up to the model's.
    UnsupportedError
        If the engine cannot be told it.
    InfeasibleError
        If a replica cannot serve: names the stage and the constraint with its numbers.
    """
    _check(problem, replicas)

    def certificate(prediction: ServingPrediction) -> Certificate:
        for r, replica in enumerate(prediction.replicas):
            if isinstance(replica.capacity, Shortfall):
                raise _infeasible(problem, replicas[r], replica.capacity, f"r{r}")
        goodput = prediction.figures["goodput"].value
        return certify(
            objective="goodput",
            sense="max",
            unit="requests/s",
            value=goodput,
            bound=goodput,
            proven=False,
            method="estimate of a given configuration; nothing was searched",
            family=ALONE,
        )

    return build_serving_plan(problem, replicas, certificate)


def _check(problem: ServingProblem, replicas: Sequence[Sequence[PlacedStage]]) -> None:
    if not replicas:
        raise InputError("no replica is given", expected="at least one, with its stages")
    used: set[str] = set()
    for r, stages in enumerate(replicas):
        for stage in stages:
            for gpu in stage.devices:
                problem.cluster.node_of(gpu)
                if gpu in used:
                    raise InputError(f"{gpu} is used twice", field=f"replica {r}", expected="every GPU once")
                used.add(gpu)
            if not stage.devices or stage.layers[1] <= stage.layers[0]:
                raise InputError("a stage without GPUs or layers", field=f"replica {r}", expected="both")
        placed = stages[-1].layers[1] if stages else 0
        if placed != problem.model.num_layers:
            raise InputError(
                f"its stages hold {placed} layers",
                field=f"replica {r}",
                expected=f"the {problem.model.num_layers} layers of {problem.model.name}",
            )
        for s, stage in enumerate(stages):
            fault = tensor_parallel_fault(problem.model, len(stage.devices))
            if fault is not None:
                raise InputError(fault, field=f"replica {r} stage {s}", expected="a TP that is legal for the model")
        reasons = check_runnable(
            problem.engine,
            tp_per_stage=[len(stage.devices) for stage in stages],
            layers_per_stage=[stage.layers[1] - stage.layers[0] for stage in stages],
            device_types_per_stage=[problem.cluster.device_of(stage.devices[0]).name for stage in stages],
            task="serving",
        )
        devices = [problem.cluster.device_of(stage.devices[0]) for stage in stages]
        refusals = [
            check_device(problem.engine, vendor=d.vendor, compute_capability=d.compute_capability) for d in devices
        ]
        reasons += [refusal for refusal in dict.fromkeys(refusals) if refusal]
        if reasons:
            raise UnsupportedError(f"replica {r}: {'; '.join(reasons)}\ntry: --engine generic")


def _infeasible(
    problem: ServingProblem, stages: Sequence[PlacedStage], shortfall: Shortfall, name: str
) -> InfeasibleError:
    stage = stages[shortfall.stage]
    device = problem.cluster.device_of(stage.devices[0])
    where = f"{name} stage {shortfall.stage} on {len(stage.devices)}x{device.name}"
    if shortfall.constraint == "memory":
        return InfeasibleError(
            f"{where} needs {format_bytes(shortfall.needed)} per GPU of {format_bytes(shortfall.had)}",
            hint="more TP, fewer layers on this stage, or a smaller weight format such as FP8",
        )
    return InfeasibleError(
        f"{name} reaches a {shortfall.constraint.upper()} of {format_seconds(shortfall.had)} at the lightest load;"
        f" {format_seconds(shortfall.needed)} is asked. Its slowest stage is {where}",
        hint="more TP, faster GPUs, fewer layers on this stage, or a looser SLO",
    )
