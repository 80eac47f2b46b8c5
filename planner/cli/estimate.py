"""`planner estimate`: price one explicit configuration, without a search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.cli import options as opt
from planner.cli.estimate_load import load
from planner.cli.estimate_training import training

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.cli.output import PlanSink
    from planner.cluster import Cluster
    from planner.engine import EngineProfile
    from planner.model import ModelSpec
    from planner.workload import Workload

__all__ = ["app", "plan", "serving"]

app = typer.Typer(help="Price one explicit configuration, without a search.", no_args_is_help=True)


app.command("load")(load)
app.command("training")(training)


@app.command("serving")
def serving(
    model: opt.ModelName,
    cluster: opt.ClusterName,
    replica: Annotated[
        list[str],
        typer.Option(
            "--replica",
            "-r",
            metavar="GPUS[:LAYERS],…",
            help="A replica: its stages in order, each the GPUs of a tensor-parallel group and how many layers they"
            " hold, such as a100-0/0-3:60,l40s-0/0-3:20. Again for each further replica. Without layers the"
            " engine's own split is taken.",
        ),
    ],
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
    weight_dtype: opt.WeightDtype = None,
    kv_dtype: opt.KvDtype = None,
    assume: opt.Assume = None,
    output: opt.Output = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Price replicas that you name.

    [dim]planner estimate serving -m llama-3.1-70b -c a100-l40s-l4-24 --isl 1024 --osl 256
    -r a100-0/0-3:60,l40s-0/0-3:20[/dim]
    """
    from planner.cli import inputs
    from planner.cli.output import PlanSink

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
    from planner.cluster import load_cluster
    from planner.engine import load_engine

    loaded_model = inputs.read_model(model, weight_dtype, kv_dtype, assume)
    loaded_engine = load_engine(engine)
    replicas = inputs.replicas_of(replica, loaded_model, loaded_engine)
    _price(
        sink,
        model=loaded_model,
        cluster=load_cluster(cluster),
        engine=loaded_engine,
        workload=workload,
        replicas=replicas,
    )


@app.command("plan")
def plan(
    file: Annotated[Path, typer.Argument(metavar="PLAN.json", help="A serving plan.", show_default=False)],
    cluster: Annotated[
        str | None, typer.Option("--cluster", "-c", metavar="NAME|FILE", help="Price it on this cluster instead.")
    ] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", "-e", metavar="NAME|FILE", help="Price it under this engine instead.")
    ] = None,
    trace: opt.TraceName = None,
    isl: opt.Isl = None,
    osl: opt.Osl = None,
    rate: opt.Rate = None,
    ttft: opt.Ttft = None,
    tpot: opt.Tpot = None,
    percentile: opt.Percentile = None,
    layout: opt.Layout = None,
    drop_longer_than: opt.DropLongerThan = None,
    output: opt.Output = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Price the placement of a plan again: for other requests, other targets, on another cluster.

    What is not given stays as the plan has it; traffic is divided anew.

    [dim]planner estimate plan plan.json --tpot '50 ms'[/dim]
    """
    from planner.cli import inputs
    from planner.cli.output import PlanSink
    from planner.cluster import load_cluster
    from planner.engine import load_engine
    from planner.errors import InputError
    from planner.model import load_model
    from planner.plan import ServingPlan, load_plan
    from planner.workload import Slo

    sink = PlanSink(output, json=json, quiet=quiet)
    given = load_plan(file)
    if not isinstance(given, ServingPlan):
        raise InputError(f"is a {given.kind} plan", where=file, expected="a serving plan")
    if given.routes or len(given.inputs.served) > 1:
        raise InputError(
            "is for several models, or has prefill and decode apart",
            where=file,
            expected="a plan whose replicas serve one model and both prefill and decode",
            hint="planner verify computes its figures anew",
        )
    stated = given.inputs
    workload, before = stated.workload, stated.workload.slo
    slo = Slo(
        ttft=before.ttft if ttft is None else ttft,
        tpot=before.tpot if tpot is None else tpot,
        percentile=before.percentile if percentile is None else percentile,
    )
    if trace is not None or isl is not None or osl is not None:
        workload = inputs.read_workload(
            trace=trace,
            layout=layout,
            drop_longer_than=drop_longer_than,
            isl=isl,
            osl=osl,
            rate=rate,
            slo=slo,
            quiet=quiet,
        )
    elif rate == "trace" or layout is not None or drop_longer_than is not None:
        raise typer.BadParameter("the plan holds a summary of its requests only: give --trace", param_hint="--trace")
    else:
        workload = workload.with_slo(slo)
        workload = workload if rate is None else workload.with_rate(inputs.rate_of(rate))
    _price(
        sink,
        model=load_model(stated.model.name, weight_dtype=stated.model.weight_dtype, kv_dtype=stated.model.kv_dtype),
        cluster=load_cluster(cluster or stated.cluster.name),
        engine=load_engine(engine or stated.engine.name),
        workload=workload,
        replicas=[
            [(stage.devices, stage.layers[1] - stage.layers[0]) for stage in replica.stages]
            for replica in given.replicas
        ],
    )


def _price(
    sink: PlanSink,
    *,
    model: ModelSpec,
    cluster: Cluster,
    engine: EngineProfile,
    workload: Workload,
    replicas: Sequence[Sequence[tuple[Sequence[str], int]]],
) -> None:
    from planner.api import estimate

    priced = estimate(model, cluster, workload, replicas, engine=engine)
    from planner.report.serving import serving_report

    sink.put(priced, lambda: serving_report(priced, model, cluster, engine))
