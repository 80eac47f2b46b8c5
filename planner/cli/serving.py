"""`planner serving`: plan where a model is served."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from planner.cli import options as opt

__all__ = ["serving"]


def serving(
    model: opt.ModelName,
    cluster: opt.ClusterName,
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
        Literal["auto", "goodput", "cost", "gpus", "tpot"],
        typer.Option(
            "--objective",
            help="What the plan is to be best at: goodput; cost or GPUs of serving the rate; the least TPOT at which it"
            " is served. auto: cost where there is a rate that can be met, else goodput.",
        ),
    ] = "auto",
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
    """
    from planner.cli import inputs
    from planner.cli.output import PlanSink, search_progress, searched_in_words, warn

    sink = PlanSink(output, json=json, quiet=quiet)
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
            budget=Budget(time_limit=time_limit, seed=seed, workers=workers, progress=progress),
        )
    from planner.report.serving import serving_report

    searched = searched_in_words(result.seconds, result.counts)
    sink.put(
        result.plan,
        lambda: serving_report(result.plan, loaded_model, loaded_cluster, loaded_engine, searched=searched),
    )
    if explain and not quiet:
        if result.explanation is None:
            warn(f"method {method} does not explain its plans")
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
