"""The library: the same jobs as the command line, without printing.

Every argument that names something takes the thing itself, a shipped name, or a path.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar, cast, get_args

from pydantic import ValidationError

from planner.cluster import Cluster, load_cluster
from planner.cost.prediction import PlacedStage
from planner.engine import EngineProfile, load_engine
from planner.errors import InfeasibleError, InputError, unknown_name
from planner.model import ModelSpec, load_model
from planner.plan import ServingPlan, TrainingJob, TrainingPlan
from planner.search.explicit import estimate_serving
from planner.search.fleet import search_fleet as search_models
from planner.search.fleet_file import load_models_file
from planner.search.problem import (
    Budget,
    FleetObjective,
    FleetProblem,
    Roles,
    SearchResult,
    ServedModel,
    ServingObjective,
    ServingProblem,
    TrainingProblem,
)
from planner.search.registry import serving_method, training_method
from planner.search.serving import search_templates
from planner.workload import Slo, Trace, Workload, load_trace

__all__ = [
    "estimate",
    "plan_fleet",
    "plan_serving",
    "plan_training",
    "search_fleet",
    "search_serving",
    "search_training",
    "serving_problem",
]

_ROLES: Final = get_args(Roles)

T = TypeVar("T")


def plan_serving(
    model: ModelSpec | str | Path,
    cluster: Cluster | str | Path,
    workload: Workload | Trace | str | Path,
    *,
    engine: EngineProfile | str = "vllm",
    ttft: float | str | None = None,
    tpot: float | str | None = None,
    percentile: float = 0.90,
    rate: float | str = "trace",
    method: str = "templates",
    max_stages: int | None = None,
    objective: ServingObjective = "auto",
    roles: Roles = "colocated",
    budget: Budget | None = None,
) -> ServingPlan:
    """Plan serving: which replicas, on which GPUs, with which share of the traffic.

    Parameters
    ----------
    model, cluster
        The things, shipped names or paths.
    workload
        A workload, or a trace (or its name or path), which `ttft`, `tpot` and `rate` turn into one.
    engine
        What will run the plan; only what it can be told is planned. ``"generic"`` lifts that.
    ttft, tpot
        Targets for a trace, in seconds or as text (``"2 s"``, ``"100 ms"``).
    percentile
        Share of the requests that are to meet the TTFT; TPOT is held on average.
    rate
        Requests/s for a trace: ``"trace"`` (its own), ``"max"`` (as many as the cluster can) or a number.
    method
        Search method.
    max_stages
        Most pipeline stages of a replica.
    objective
        ``"goodput"``; ``"cost"`` or ``"gpus"`` of serving the rate; ``"tpot"``, the least at which it is served; or
        ``"auto"``: the least cost where there is a rate that can be met, else the greatest goodput.
    roles
        ``"colocated"``: replicas prefill and decode; ``"disaggregated"``: they do the one or the other; ``"any"``:
        whichever is best. What the latter two gain is a prediction that no replay has confirmed.
    budget
        Time limit, workers, progress callback.

    Returns
    -------
    ServingPlan
        With predictions and certificate.

    Raises
    ------
    InputError
        If an input is wrong.
    InfeasibleError
        If no plan exists; says which constraint binds.
    TimeLimitError
        If the time limit passed without a plan.

    Examples
    --------
    >>> plan = plan_serving("llama-3.1-8b", "1xh100", "azure-conv-2023", ttft=2.0, tpot=0.1, rate=2.0)
    >>> len(plan.replicas), plan.replicas[0].stages[0].devices
    (1, ('node-0/0',))
    """
    return search_serving(
        model,
        cluster,
        workload,
        engine=engine,
        ttft=ttft,
        tpot=tpot,
        percentile=percentile,
        rate=rate,
        method=method,
        max_stages=max_stages,
        objective=objective,
        roles=roles,
        budget=budget,
    ).plan


def search_serving(
    model: ModelSpec | str | Path,
    cluster: Cluster | str | Path,
    workload: Workload | Trace | str | Path,
    *,
    engine: EngineProfile | str = "vllm",
    ttft: float | str | None = None,
    tpot: float | str | None = None,
    percentile: float = 0.90,
    rate: float | str = "trace",
    method: str = "templates",
    max_stages: int | None = None,
    objective: ServingObjective = "auto",
    roles: Roles = "colocated",
    budget: Budget | None = None,
) -> SearchResult[ServingPlan]:
    """Do as `plan_serving` does, and tell what the search took: seconds, templates priced."""
    search = serving_method(method)
    if roles not in _ROLES:
        raise unknown_name("choice of roles", roles, _ROLES)
    if roles != "colocated" and search is not search_templates:
        raise InputError(
            f"method {method} places no prefill or decode replicas", field="roles", hint="method templates"
        )
    problem = _serving_problem(model, cluster, workload, engine, _slo(ttft, tpot, percentile), rate, max_stages)
    return search(replace(problem, objective=objective, roles=roles), budget or Budget())


def plan_fleet(
    models: Sequence[ServedModel] | str | Path,
    cluster: Cluster | str | Path,
    *,
    engine: EngineProfile | str = "vllm",
    objective: FleetObjective = "auto",
    roles: Roles = "colocated",
    max_stages: int | None = None,
    budget: Budget | None = None,
) -> ServingPlan:
    """Plan serving of several models on one cluster, each for requests of its own.

    Parameters
    ----------
    models
        The models with their workloads, or a file that lists them (`planner.search.fleet_file`).
    cluster, engine, max_stages, budget
        As for `plan_serving`.
    objective
        ``"scale"``: the greatest factor by which all rates can be multiplied; ``"goodput"``: the greatest weighted sum
        of requests/s, of no model more than its rate; ``"cost"`` or ``"gpus"`` of serving all rates; ``"auto"``: the
        least cost where all rates are known and can be met, the greatest factor where they cannot be met, the greatest
        goodput where a model has no rate.
    roles
        As for `plan_serving`.

    Returns
    -------
    ServingPlan
        With the figures of each model in `per_model`, and one certificate for all.

    Raises
    ------
    InputError, InfeasibleError, TimeLimitError
        As `plan_serving`.

    Examples
    --------
    >>> from planner import ServedModel, Slo, fixed_workload, load_model
    >>> chat = fixed_workload(512, 128, rate=2, slo=Slo(ttft="2 s", tpot="100 ms"))
    >>> models = [ServedModel(model=load_model(name), workload=chat) for name in ("llama-3.1-8b", "qwen3-8b")]
    >>> plan = plan_fleet(models, "4xl4")
    >>> sorted(plan.per_model), plan.predicted["demand_scale"].value >= 1
    (['llama-3.1-8b', 'qwen3-8b'], True)
    """
    return search_fleet(
        models, cluster, engine=engine, objective=objective, roles=roles, max_stages=max_stages, budget=budget
    ).plan


def search_fleet(
    models: Sequence[ServedModel] | str | Path,
    cluster: Cluster | str | Path,
    *,
    engine: EngineProfile | str = "vllm",
    objective: FleetObjective = "auto",
    roles: Roles = "colocated",
    max_stages: int | None = None,
    budget: Budget | None = None,
) -> SearchResult[ServingPlan]:
    """Do as `plan_fleet` does, and tell what the search took."""
    if roles not in _ROLES:
        raise unknown_name("choice of roles", roles, _ROLES)
    _check_max_stages(max_stages)
    served = load_models_file(models) if isinstance(models, str | Path) else tuple(models)
    problem = FleetProblem(
        served=served,
        cluster=_loaded(cluster, Cluster, load_cluster),
        engine=_loaded(engine, EngineProfile, load_engine),
        max_stages=max_stages,
        objective=objective,
        roles=roles,
    )
    for one in served:
        _check_context(one.model, one.workload)
    return search_models(problem, budget or Budget())


def plan_training(
    model: ModelSpec | str | Path,
    cluster: Cluster | str | Path,
    *,
    global_batch: int,
    sequence_length: int,
    engine: EngineProfile | str = "megatron",
    zero_stage: int = 1,
    method: str = "exact",
    max_stages: int | None = None,
    budget: Budget | None = None,
) -> TrainingPlan:
    """Plan training: stages, tensor and data parallelism, layers, microbatches.

    Parameters
    ----------
    model, cluster
        The things, shipped names or paths.
    global_batch
        Sequences per optimizer step.
    sequence_length
        Tokens per sequence.
    engine
        What will run the plan: ``"megatron"`` or ``"generic"``.
    zero_stage
        What is divided over data parallelism: 0 nothing, 1 the optimizer's state, 2 gradients too, 3 weights too.
    method, max_stages, budget
        As for `plan_serving`.

    Returns
    -------
    TrainingPlan
        With predictions and certificate.

    Raises
    ------
    InputError, InfeasibleError, TimeLimitError
        As `plan_serving`.
    """
    return search_training(
        model,
        cluster,
        global_batch=global_batch,
        sequence_length=sequence_length,
        engine=engine,
        zero_stage=zero_stage,
        method=method,
        max_stages=max_stages,
        budget=budget,
    ).plan


def search_training(
    model: ModelSpec | str | Path,
    cluster: Cluster | str | Path,
    *,
    global_batch: int,
    sequence_length: int,
    engine: EngineProfile | str = "megatron",
    zero_stage: int = 1,
    method: str = "exact",
    max_stages: int | None = None,
    budget: Budget | None = None,
) -> SearchResult[TrainingPlan]:
    """Do as `plan_training` does, and tell what the search took."""
    search = training_method(method)
    for name, value in (("global_batch", global_batch), ("sequence_length", sequence_length)):
        if value < 1:
            raise InputError(f"{value}", field=name, expected="a whole number of at least 1")
    if zero_stage not in (0, 1, 2, 3):
        raise InputError(f"{zero_stage}", field="zero_stage", expected="0 to 3")
    _check_max_stages(max_stages)
    problem = TrainingProblem(
        model=_loaded(model, ModelSpec, load_model),
        cluster=_loaded(cluster, Cluster, load_cluster),
        engine=_loaded(engine, EngineProfile, load_engine),
        job=TrainingJob(global_batch=global_batch, sequence_length=sequence_length, zero_stage=zero_stage),
        max_stages=max_stages,
    )
    if sequence_length > problem.model.max_context:
        raise InfeasibleError(
            f"sequences of {sequence_length:,} tokens; {problem.model.name} has a context of"
            f" {problem.model.max_context:,}",
            hint=f"sequences of at most {problem.model.max_context:,} tokens, or a config with a longer context",
        )
    return search(problem, budget or Budget())


def estimate(
    model: ModelSpec | str | Path,
    cluster: Cluster | str | Path,
    workload: Workload | Trace | str | Path,
    replicas: Sequence[Sequence[tuple[Sequence[str], int]]],
    *,
    engine: EngineProfile | str = "vllm",
    ttft: float | str | None = None,
    tpot: float | str | None = None,
    percentile: float = 0.90,
    rate: float | str = "trace",
) -> ServingPlan:
    """Price one explicit serving configuration.

    Parameters
    ----------
    model, cluster, workload, engine, ttft, tpot, percentile, rate
        As for `plan_serving`.
    replicas
        For each replica its stages in order: the GPUs of the tensor-parallel group (``node/index``), and how many
        layers they hold.

    Returns
    -------
    ServingPlan
        The configuration as a plan; its certificate bounds nothing but itself.

    Raises
    ------
    InputError
        If GPUs or layers do not add up.
    InfeasibleError
        If a stage does not fit its memory, or the SLO cannot be met.

    Examples
    --------
    >>> plan = estimate("llama-3.1-8b", "1xh100", "azure-conv-2023", [[(["node-0/0"], 32)]], ttft=2.0, tpot=0.1)
    >>> plan.predicted["goodput"].value > 1
    True
    """
    problem = _serving_problem(model, cluster, workload, engine, _slo(ttft, tpot, percentile), rate)
    placed = []
    for stages in replicas:
        first = 0
        replica = []
        for devices, layers in stages:
            replica.append(PlacedStage(tuple(devices), (first, first + layers)))
            first += layers
        placed.append(replica)
    return estimate_serving(problem, placed)


def serving_problem(
    model: ModelSpec | str | Path,
    cluster: Cluster | str | Path,
    workload: Workload | Trace | str | Path,
    *,
    engine: EngineProfile | str = "vllm",
    ttft: float | str | None = None,
    tpot: float | str | None = None,
    percentile: float = 0.90,
    rate: float | str = "trace",
    max_stages: int | None = None,
) -> ServingProblem:
    """Put a problem together for several methods (`planner.search.side_by_side.run_methods`).

    Takes and raises what `plan_serving` does.
    """
    return _serving_problem(model, cluster, workload, engine, _slo(ttft, tpot, percentile), rate, max_stages)


def _loaded(thing: T | str | Path, kind: type[T], load: Callable[[str | Path], T]) -> T:
    if isinstance(thing, kind):
        return thing
    return load(cast("str | Path", thing))


def _serving_problem(
    model: ModelSpec | str | Path,
    cluster: Cluster | str | Path,
    workload: Workload | Trace | str | Path,
    engine: EngineProfile | str,
    slo: Slo,
    rate: float | str,
    max_stages: int | None = None,
) -> ServingProblem:
    _check_max_stages(max_stages)
    problem = ServingProblem(
        model=_loaded(model, ModelSpec, load_model),
        cluster=_loaded(cluster, Cluster, load_cluster),
        engine=_loaded(engine, EngineProfile, load_engine),
        workload=_workload(workload, slo, rate),
        max_stages=max_stages,
    )
    _check_context(problem.model, problem.workload)
    return problem


def _check_context(model: ModelSpec, workload: Workload) -> None:
    longest, context = workload.total.max, model.max_context
    if longest > context:
        # An engine rejects such a request, so a plan that counts it would promise what nobody can serve.
        raise InfeasibleError(
            f"the longest request of {workload.name} takes {longest:,.0f} tokens, in and out together;"
            f" {model.name} has a context of {context:,}",
            hint=f"shorter requests (of a trace: --drop-longer-than {context}, or Trace.within({context})),"
            " or a model with a longer context",
        )


def _check_max_stages(max_stages: int | None) -> None:
    if max_stages is not None and max_stages < 1:
        raise InputError(f"{max_stages}", field="max_stages", expected="a whole number of at least 1")


def _slo(ttft: float | str | None, tpot: float | str | None, percentile: float) -> Slo:
    try:
        return Slo.model_validate({"ttft": ttft, "tpot": tpot, "percentile": percentile})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(
            f"{first['input']!r}: {first['msg']}",
            field=".".join(str(part) for part in first["loc"]),
            expected="seconds above 0 or text like '100 ms'; a percentile between 0 and 1",
        ) from None


def _workload(workload: Workload | Trace | str | Path, slo: Slo, rate: float | str) -> Workload:
    if isinstance(workload, Workload):
        return workload
    trace = workload if isinstance(workload, Trace) else load_trace(workload)
    if isinstance(rate, str) and rate not in ("trace", "max"):
        raise InputError(f"{rate!r}", field="rate", expected="'trace', 'max' or requests per second")
    return trace.summary(slo, rate=rate)  # type: ignore[arg-type]
