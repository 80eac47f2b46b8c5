"""`planner estimate training`: one uniform training configuration, as a person would set it by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from planner.cli import options as opt

if TYPE_CHECKING:
    from planner.cluster import Cluster
    from planner.search.problem import TrainingProblem

__all__ = ["training"]

_DEGREES = "Degrees"
_JOB = "Job"
_METIS = "Metis' inputs"


def _degree(name: str, what: str) -> typer.models.OptionInfo:
    option: typer.models.OptionInfo = typer.Option(
        f"--{name}", min=1, metavar="NUMBER", help=what, rich_help_panel=_DEGREES
    )
    return option


def training(
    global_batch_size: Annotated[
        int,
        typer.Option(
            "--global-batch-size",
            "-b",
            min=1,
            metavar="SEQUENCES",
            help="Sequences per optimizer step.",
            rich_help_panel=_JOB,
        ),
    ],
    seq_len: Annotated[
        int,
        typer.Option("--seq-len", "-s", min=1, metavar="TOKENS", help="Tokens per sequence.", rich_help_panel=_JOB),
    ],
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="With --plan-from: the list, as Metis prints it.", show_default=False),
    ] = None,
    model: opt.ModelName = "",
    cluster: opt.ClusterName = "",
    tp: Annotated[int, _degree("tp", "Tensor parallelism.")] = 1,
    pp: Annotated[int, _degree("pp", "Pipeline stages.")] = 1,
    cp: Annotated[int, _degree("cp", "Context parallelism.")] = 1,
    ep: Annotated[int, _degree("ep", "Expert parallelism, within data and context parallelism.")] = 1,
    dp: Annotated[int | None, _degree("dp", "Data parallelism. Default: what the pool has left.")] = None,
    vpp: Annotated[int, _degree("vpp", "Virtual stages: model chunks on each stage (interleaved 1F1B).")] = 1,
    micro_batch_size: Annotated[int, _degree("micro-batch-size", "Sequences of a microbatch.")] = 1,
    layers: Annotated[
        str | None,
        typer.Option(
            "--layers",
            metavar="N,N,…",
            help="Layers of each stage. Default: equal ones; embedding and head count as a layer where that divides.",
            rich_help_panel=_DEGREES,
        ),
    ] = None,
    recompute: Annotated[
        Literal["none", "selective", "full"],
        typer.Option("--recompute", help="What the backward pass makes anew.", rich_help_panel=_JOB),
    ] = "none",
    zero: Annotated[
        int,
        typer.Option(
            "--zero",
            min=0,
            max=3,
            metavar="0-3",
            help="What is divided over data parallelism: 1 optimizer state, 2 gradients too, 3 weights too (FSDP).",
            rich_help_panel=_JOB,
        ),
    ] = 1,
    pool: Annotated[
        str | None,
        typer.Option(
            "--pool", metavar="NAME", help="Node group of the cluster. Default: its only one.", rich_help_panel=_JOB
        ),
    ] = None,
    plan_from: Annotated[
        Literal["metis"] | None,
        typer.Option(
            "--plan-from",
            help="Price another planner's plan instead: one of Metis' printed result list, on its own inputs.",
            rich_help_panel=_METIS,
        ),
    ] = None,
    metis_hostfile: Annotated[
        Path | None, typer.Option("--metis-hostfile", metavar="FILE", help="Its hostfile.", rich_help_panel=_METIS)
    ] = None,
    metis_clusterfile: Annotated[
        Path | None,
        typer.Option("--metis-clusterfile", metavar="FILE", help="Its clusterfile.", rich_help_panel=_METIS),
    ] = None,
    metis_profiles: Annotated[
        Path | None, typer.Option("--metis-profiles", metavar="FOLDER", help="Its profiles.", rich_help_panel=_METIS)
    ] = None,
    hidden_size: Annotated[
        int | None,
        typer.Option(
            "--hidden-size", min=1, metavar="NUMBER", help="Width of the activations.", rich_help_panel=_METIS
        ),
    ] = None,
    rank: Annotated[
        int,
        typer.Option("--rank", min=1, metavar="NUMBER", help="Which plan of the list.", rich_help_panel=_METIS),
    ] = 1,
    engine: opt.EngineName = "megatron",
    weight_dtype: opt.WeightDtype = None,
    assume: opt.Assume = None,
    output: opt.Output = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Price one training configuration: time, MFU, memory, and where the time goes.

    With --plan-from, a plan that another planner has made; exit code 3 if it does not hold.

    [dim]planner estimate training -m llama-3.1-8b -c 8xh100 -b 128 -s 8192 --tp 2 --pp 2 --vpp 4[/dim]

    [dim]planner estimate training --plan-from metis results.txt --metis-hostfile hostfile --metis-clusterfile
    cluster.json --metis-profiles profiles --hidden-size 4096 -b 128 -s 1024[/dim]
    """
    if plan_from is not None:
        named = {
            "FILE": file,
            "--metis-hostfile": metis_hostfile,
            "--metis-clusterfile": metis_clusterfile,
            "--metis-profiles": metis_profiles,
            "--hidden-size": hidden_size,
        }
        for option, value in named.items():
            if value is None:
                raise typer.BadParameter("is missing", param_hint=option)
        from planner.cli.estimate_metis import price_metis_plan

        price_metis_plan(
            cast("Path", file),
            (cast("Path", metis_hostfile), cast("Path", metis_clusterfile), cast("Path", metis_profiles)),
            batch=global_batch_size,
            sequence_length=seq_len,
            hidden=cast("int", hidden_size),
            rank=rank,
            json=json,
            quiet=quiet,
        )
        return
    for option, name in (("--model", model), ("--cluster", cluster)):
        if not name:
            raise typer.BadParameter("is missing", param_hint=option)
    from planner.cli import inputs
    from planner.cli.output import PlanSink

    sink = PlanSink(output, json=json, quiet=quiet)
    from rich.console import Group
    from rich.text import Text

    from planner.cluster import load_cluster
    from planner.engine import load_engine
    from planner.plan import TrainingJob
    from planner.report.configurations import breakdown_table
    from planner.report.training import training_report
    from planner.search.problem import TrainingProblem
    from planner.search.training.uniform import estimate_uniform
    from planner.search.training.uniform_space import Cell, UniformConfiguration

    problem = TrainingProblem(
        model=inputs.read_model(model, weight_dtype, None, assume),
        cluster=load_cluster(cluster),
        engine=load_engine(engine),
        job=TrainingJob(global_batch=global_batch_size, sequence_length=seq_len),
    )
    index = _pool(problem.cluster, pool)
    members = problem.cluster.classes[index]
    have = len(members.nodes) * members.gpus_per_node
    cell = Cell(
        tp=tp,
        cp=cp,
        dp=max(have // (tp * pp * cp), 1) if dp is None else dp,
        ep=ep,
        virtual_stages=vpp,
        layers=_layers(layers, pp, vpp, problem),
        sequence_parallel=tp > 1 and seq_len % (tp * cp) == 0,
    )
    one = UniformConfiguration(
        cell=cell,
        microbatch=micro_batch_size,
        recompute=recompute,
        zero_stage=zero,  # type: ignore[arg-type]
    )
    plan, prediction = estimate_uniform(problem, index, one)
    sink.put(
        plan,
        lambda: Group(
            training_report(plan, problem.model, problem.cluster, problem.engine),
            Text(),
            breakdown_table(prediction.breakdown),
        ),
    )


def _pool(cluster: Cluster, name: str | None) -> int:
    """Position of a node group.

    Raises
    ------
    InputError
        If there is none of that name, or several and no name.
    """
    from planner.errors import InputError, unknown_name

    names = [members.name for members in cluster.classes]
    if name is None:
        if len(names) > 1:
            raise InputError(
                f"{cluster.name} has {len(names)} node groups", field="--pool", expected=f"one of {', '.join(names)}"
            )
        return 0
    if name not in names:
        raise unknown_name("node group", name, names)
    return names.index(name)


def _layers(text: str | None, stages: int, virtual_stages: int, problem: TrainingProblem) -> tuple[int, ...]:
    """Layers of each stage, as they are given or as they divide."""
    from planner.errors import UnsupportedError
    from planner.search.training.uniform_space import layer_splits

    if text is not None:
        if re.fullmatch(r"\d+(,\d+)*", text.replace(" ", "")) is None:
            raise typer.BadParameter(f"{text!r} is no list of layers such as 9,8,8,7", param_hint="--layers")
        found = tuple(int(part) for part in text.split(","))
        if len(found) != stages:
            raise typer.BadParameter(f"{len(found)} numbers for {stages} stages", param_hint="--layers")
        return found
    splits = layer_splits(problem.model.num_layers, stages, virtual_stages, uneven=problem.engine.uneven_layers)
    if not splits:
        raise UnsupportedError(
            f"{problem.model.num_layers} layers do not divide over {stages} stages of {virtual_stages} chunks; --layers"
            " names them"
        )
    return splits[0]
