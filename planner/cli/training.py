"""`planner training`: plan how a model is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from planner.cli import options as opt
from planner.cli.configurations import Table, Top
from planner.cli.cost_models import (
    Asked,
    CostModel,
    Sink,
    chosen_prices,
    metis_job,
    plan_measured,
    refuse_options,
    sailor_job,
)

__all__ = ["training"]


def training(
    context: typer.Context,
    global_batch_size: Annotated[
        int,
        typer.Option(
            "--global-batch-size",
            "-b",
            min=1,
            metavar="SEQUENCES",
            help="Sequences per optimizer step.",
            rich_help_panel="Job",
        ),
    ],
    seq_len: Annotated[
        int,
        typer.Option(
            "--seq-len",
            "-s",
            min=1,
            metavar="TOKENS",
            help="Tokens per sequence.",
            rich_help_panel="Job",
        ),
    ],
    model: opt.ModelName = "",
    cluster: opt.ClusterName = "",
    metis_hostfile: Annotated[
        Path | None,
        typer.Option(
            "--metis-hostfile",
            metavar="FILE",
            help="Nodes as Metis has them, '<address> slots=<GPUs>' a line; with the next two instead of --model"
            " and --cluster.",
            rich_help_panel="Measured layers",
        ),
    ] = None,
    metis_clusterfile: Annotated[
        Path | None,
        typer.Option(
            "--metis-clusterfile",
            metavar="FILE",
            help="JSON by address: instance_type, inter_bandwidth, intra_bandwidth, memory.",
            rich_help_panel="Measured layers",
        ),
    ] = None,
    metis_profiles: Annotated[
        Path | None,
        typer.Option(
            "--metis-profiles",
            metavar="FOLDER",
            help="Profiles DeviceType.<GPU>_tp<TP>_bs<size>.json.",
            rich_help_panel="Measured layers",
        ),
    ] = None,
    hidden_size: Annotated[
        int | None,
        typer.Option(
            "--hidden-size",
            min=1,
            metavar="NUMBER",
            help="Width of the activations between stages, which the profiles do not say.",
            rich_help_panel="Measured layers",
        ),
    ] = None,
    cost_model: Annotated[
        CostModel | None,
        typer.Option(
            "--cost-model",
            help="Whose prices count: own; metis, its published formula on --metis-profiles; sailor, its simulator's on"
            " --sailor-profiles. Left out: the one that the profiles belong to, own without any.",
            rich_help_panel="Measured layers",
        ),
    ] = None,
    sailor_profiles: Annotated[
        Path | None,
        typer.Option(
            "--sailor-profiles",
            metavar="FOLDER|shipped",
            help="Tables that planner profile import sailor has written, or those that ship.",
            rich_help_panel="Measured layers",
        ),
    ] = None,
    engine: opt.EngineName = "megatron",
    zero: Annotated[
        int | None,
        typer.Option(
            "--zero",
            min=0,
            max=3,
            metavar="0-3",
            help="What is divided over data parallelism: 1 optimizer state, 2 gradients too, 3 weights too (FSDP)."
            " Default: 1, or the most that the engine has.",
            rich_help_panel="Job",
        ),
    ] = None,
    method: opt.Method = "exact",
    weight_dtype: opt.WeightDtype = None,
    assume: opt.Assume = None,
    max_stages: opt.MaxStages = None,
    time_limit: opt.TimeLimit = 60.0,
    seed: opt.Seed = 0,
    workers: opt.Workers = 1,
    top: Top = 10,
    table: Table = None,
    output: opt.Output = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Plan training: stages, tensor and data parallelism, layers, microbatches.

    The plan is laid out on stderr. Its JSON goes to stdout with --json, to a file with -o FILE. For Megatron-Core the
    best uniform configurations of each GPU type stand beside it, with what the next ones lose by.

    [dim]planner training -m llama-2-7b -c a100-v100-t4-32 --global-batch-size 256 --seq-len 2048 -o plan.json[/dim]
    """
    metis = bool(metis_hostfile or metis_clusterfile or metis_profiles)
    prices = chosen_prices(cost_model, metis=metis, sailor=sailor_profiles is not None)
    refuse_options(context, prices)
    asked, to = Asked(global_batch_size, seq_len, max_stages), Sink(time_limit, output, json, quiet)
    if prices.layers == "metis":
        files = metis_hostfile, metis_clusterfile, metis_profiles
        plan_measured(metis_job(*files, asked, hidden_size), prices, to)
        return
    for option, value in (("--model", model), ("--cluster", cluster)):
        if not value:
            raise typer.BadParameter("is missing", param_hint=option)
    if prices.layers == "sailor":
        from planner.cluster import load_cluster

        plan_measured(sailor_job(sailor_profiles, model, load_cluster(cluster), asked), prices, to)
        return
    from planner.cli import inputs
    from planner.cli.output import PlanSink, search_progress, searched_in_words

    sink = PlanSink(output, json=json, quiet=quiet)
    from planner.api import search_training
    from planner.cluster import load_cluster
    from planner.engine import load_engine
    from planner.search.problem import Budget

    loaded_model = inputs.read_model(model, weight_dtype, None, assume)
    loaded_cluster, loaded_engine = load_cluster(cluster), load_engine(engine)
    with search_progress(quiet=quiet) as progress:
        result = search_training(
            loaded_model,
            loaded_cluster,
            global_batch=global_batch_size,
            sequence_length=seq_len,
            engine=loaded_engine,
            zero_stage=loaded_engine.default_zero_stage if zero is None else zero,
            method=method,
            max_stages=max_stages,
            budget=Budget(time_limit=time_limit, seed=seed, workers=workers, progress=progress),
        )
    from planner.report.training import training_report

    searched = searched_in_words(result.seconds, result.counts)
    sink.put(
        result.plan,
        lambda: training_report(result.plan, loaded_model, loaded_cluster, loaded_engine, searched=searched),
    )
    from planner.cli.configurations import put_configurations

    put_configurations(
        result.plan,
        loaded_model,
        loaded_cluster,
        loaded_engine,
        max_stages=max_stages,
        time_limit=time_limit,
        top=top,
        file=table,
        quiet=quiet,
    )
