"""`planner serving`: plan where a model is served."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer

from planner.cli import options as opt

if TYPE_CHECKING:
    from planner.cli.output import PlanSink
    from planner.search.problem import FleetObjective, Roles

__all__ = ["serving"]


def serving(
    cluster: opt.ClusterName,
    model: opt.ModelNameOrNone = None,
    models: opt.ModelsFileName = None,
    trace: opt.TraceName = None,
    isl: opt.Isl = None,
    osl: opt.Osl = None,
    rate: opt.Rate = None,
    ttft: opt.Ttft = None,
    tpot: opt.Tpot = None,
    percentile: opt.Percentile = None,
    layout: opt.Layout = None,
    drop_longer_than: opt.DropLongerThan = None,
    engine: opt.EngineName = "vllm",
    method: opt.Method = "templates",
    weight_dtype: opt.WeightDtype = None,
    kv_dtype: opt.KvDtype = None,
    assume: opt.Assume = None,
    max_stages: opt.MaxStages = None,
    time_limit: opt.TimeLimit = 60.0,
    seed: opt.Seed = 0,
    workers: opt.Workers = 1,
    objective: Annotated[
        Literal["auto", "goodput", "cost", "gpus", "tpot", "scale"],
        typer.Option(
            "--objective",
            help="What the plan is to be best at: goodput; cost or GPUs of serving the rate; the least TPOT at which it"
            " is served. auto: cost where there is a rate that can be met, else goodput. With --models, scale is the"
            " greatest factor by which all rates can be multiplied (auto where they cannot be met), goodput the"
            " weighted sum.",
        ),
    ] = "auto",
    roles: opt.RolesChoice = "colocated",
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Say what binds each replica, what more GPUs would add, what was passed over."),
    ] = False,
    output: opt.Output = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Plan serving: which replicas, on which GPUs, with which share of the traffic.

    The plan is laid out on stderr. Its JSON goes to stdout with --json, to a file with -o FILE.

    [dim]planner serving -m llama-3.1-70b -c a100-l40s-l4-24 -t azure-conv-2023 --ttft 2 --tpot 0.1 -o plan.json[/dim]

    Several models share a cluster where --models names a YAML or JSON file that lists them, each with its requests:

    [dim]models: [{model: llama-3.1-70b, trace: azure-conv-2023, rate: 2, ttft: 2 s, tpot: 100 ms},
    {model: llama-3.1-8b, isl: 1024, osl: 256, rate: 10, tpot: 50 ms, weight: 0.2}][/dim]
    """
    from planner.cli import inputs
    from planner.cli.output import PlanSink, search_progress, searched_in_words, warn

    sink = PlanSink(output, json=json, quiet=quiet)
    if models is not None:
        given = {
            "--model": model, "--trace": trace, "--isl": isl, "--osl": osl, "--rate": rate, "--ttft": ttft,
            "--tpot": tpot, "--percentile": percentile, "--layout": layout, "--drop-longer-than": drop_longer_than,
            "--weight-dtype": weight_dtype, "--kv-dtype": kv_dtype, "--assume": assume,
        }  # fmt: skip
        _serve_models(
            models,
            cluster,
            sink,
            refused=[name for name, value in given.items() if value is not None],
            engine=engine,
            method=method,
            max_stages=max_stages,
            objective=objective,
            roles=roles,
            budget={"time_limit": time_limit, "seed": seed, "workers": workers},
            explain=explain,
            quiet=quiet,
        )
        return
    if model is None:
        raise typer.BadParameter("no model: give --model, or --models for several", param_hint="--model")
    if objective == "scale":
        raise typer.BadParameter(
            "scale is for several models (--models); goodput is the same", param_hint="--objective"
        )
    workload = inputs.read_workload(
        trace=trace,
        layout=layout,
        drop_longer_than=drop_longer_than,
        isl=isl,
        osl=osl,
        rate=rate,
        slo=inputs.slo_of(ttft, tpot, percentile),
        quiet=quiet,
    )
    from planner.api import search_serving
    from planner.cluster import load_cluster
    from planner.engine import load_engine
    from planner.search.problem import Budget

    loaded_model = inputs.read_model(model, weight_dtype, kv_dtype, assume)
    loaded_cluster, loaded_engine = load_cluster(cluster), load_engine(engine)
    with search_progress(quiet=quiet) as progress:
        result = search_serving(
            loaded_model,
            loaded_cluster,
            workload,
            engine=loaded_engine,
            method=method,
            max_stages=max_stages,
            objective=objective,
            roles=roles,
            budget=Budget(time_limit=time_limit, seed=seed, workers=workers, progress=progress),
        )
    from planner.report.fleet import fleet_report
    from planner.report.serving import serving_report

    searched = searched_in_words(result.seconds, result.counts)
    sink.put(
        result.plan,
        lambda: (
            serving_report(result.plan, loaded_model, loaded_cluster, loaded_engine, searched=searched)
            if roles == "colocated"
            else fleet_report(result.plan, [loaded_model], loaded_cluster, loaded_engine, searched=searched)
        ),
    )
    if explain and not quiet:
        if result.explanation is None:
            what = (
                f"method {method} does not explain its plans"
                if roles == "colocated"
                else f"plans of --roles {roles} come without an explanation"
            )
            warn(what)
        else:
            from planner.report.explain import explanation_report
            from planner.report.terminal import console_for

            console_for(stderr=True).print(explanation_report(result.explanation, result.plan, loaded_cluster))
    demand, served = workload.rate, result.plan.predicted["goodput"].value
    if demand is not None and served < demand * (1 - 1e-9):
        warn(
            f"the demand of {demand:.4g} requests/s is not met: {served:.4g} requests/s within the SLO is the most that"
            f" was found for this cluster, {served / demand:.0%} of it"
        )


def _serve_models(
    file: Path,
    cluster: str,
    sink: PlanSink,
    *,
    refused: list[str],
    engine: str,
    method: str,
    max_stages: int | None,
    objective: str,
    roles: str,
    budget: dict[str, Any],
    explain: bool,
    quiet: bool,
) -> None:
    """Plan for the models that a file lists."""
    from planner.api import search_fleet
    from planner.cli.output import search_progress, searched_in_words, warn
    from planner.cluster import load_cluster
    from planner.engine import load_engine
    from planner.report.fleet import fleet_report
    from planner.search.fleet_file import load_models_file
    from planner.search.problem import Budget

    if refused:
        raise typer.BadParameter("the file of --models says this for each model", param_hint=refused[0])
    if objective == "tpot":
        raise typer.BadParameter("with --models: auto, scale, goodput, cost or gpus", param_hint="--objective")
    if method not in ("templates", "exact"):
        raise typer.BadParameter(f"{method} places one model only", param_hint="--method")
    served = load_models_file(file)
    loaded_cluster, loaded_engine = load_cluster(cluster), load_engine(engine)
    with search_progress(quiet=quiet) as progress:
        result = search_fleet(
            served,
            loaded_cluster,
            engine=loaded_engine,
            max_stages=max_stages,
            objective=cast("FleetObjective", objective),
            roles=cast("Roles", roles),
            budget=Budget(progress=progress, **budget),
        )
    searched = searched_in_words(result.seconds, result.counts)
    models = [one.model for one in served]
    sink.put(result.plan, lambda: fleet_report(result.plan, models, loaded_cluster, loaded_engine, searched=searched))
    if explain and not quiet:
        warn("plans for several models come without an explanation")
    for one in served:
        demand, figures = one.workload.rate, result.plan.per_model.get(one.model.name, result.plan.predicted)
        reached = figures["goodput"].value if "goodput" in figures else 0.0
        if demand is not None and reached < demand * (1 - 1e-9):
            warn(
                f"the demand of {demand:.4g} requests/s for {one.model.name} is not met: {reached:.4g} requests/s"
                f" within the SLO, {reached / demand:.0%} of it"
            )
