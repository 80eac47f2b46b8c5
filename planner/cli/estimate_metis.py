"""`planner estimate training --plan-from metis`: what a plan of Metis really costs, and whether it is one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from planner.cli import options as opt

if TYPE_CHECKING:
    from planner.cost.metis_results import MetisResult, PlacedMetisPlan

__all__ = ["price_metis_plan", "training"]

_DOES_NOT_HOLD: Final = 3
_PANEL: Final = "Metis' inputs"


def training(
    plan_from: Annotated[
        Literal["metis"], typer.Option("--plan-from", help="Whose plan it is: one of Metis' printed result list.")
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The list, as Metis prints it.", show_default=False)],
    metis_hostfile: Annotated[
        Path, typer.Option("--metis-hostfile", metavar="FILE", help="Its hostfile.", rich_help_panel=_PANEL)
    ],
    metis_clusterfile: Annotated[
        Path, typer.Option("--metis-clusterfile", metavar="FILE", help="Its clusterfile.", rich_help_panel=_PANEL)
    ],
    metis_profiles: Annotated[
        Path, typer.Option("--metis-profiles", metavar="FOLDER", help="Its profiles.", rich_help_panel=_PANEL)
    ],
    hidden_size: Annotated[
        int,
        typer.Option(
            "--hidden-size", min=1, metavar="NUMBER", help="Width of the activations.", rich_help_panel=_PANEL
        ),
    ],
    global_batch_size: Annotated[
        int, typer.Option("--global-batch-size", "-b", min=1, metavar="SEQUENCES", help="Its --gbs.")
    ],
    seq_len: Annotated[int, typer.Option("--seq-len", "-s", min=1, metavar="TOKENS", help="Its --sequence_length.")],
    rank: Annotated[int, typer.Option("--rank", min=1, metavar="NUMBER", help="Which plan of the list.")] = 1,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Price a plan that another planner has made, and say why it is none if so. Exit code 3 if it does not hold.

    [dim]planner estimate training --plan-from metis results.txt --metis-hostfile hostfile --metis-clusterfile
    cluster.json --metis-profiles profiles --hidden-size 4096 -b 128 -s 1024[/dim]
    """
    price_metis_plan(
        file,
        (metis_hostfile, metis_clusterfile, metis_profiles),
        batch=global_batch_size,
        sequence_length=seq_len,
        hidden=hidden_size,
        rank=rank,
        json=json,
        quiet=quiet,
    )


def price_metis_plan(
    file: Path,
    inputs: tuple[Path, Path, Path],
    *,
    batch: int,
    sequence_length: int,
    hidden: int,
    rank: int,
    json: bool,
    quiet: bool,
) -> None:
    """Read, price and print; `inputs` are hostfile, clusterfile and profiles."""
    from planner.cli.output import print_data, print_table
    from planner.cost.metis_format import read_metis_nodes
    from planner.cost.metis_results import place_metis_plan, read_metis_results
    from planner.errors import InputError
    from planner.report.measured_plan import metis_result_report, metis_results_in_words
    from planner.search.training.metis_files import read_metis_job

    results = read_metis_results(file)
    ranks = [result.rank for result in results]
    if rank not in ranks:
        raise InputError(
            f"holds no plan of rank {rank}", where=file, expected=f"a rank from {min(ranks)} to {max(ranks)} (--rank)"
        )
    hostfile, clusterfile, _ = inputs
    job = read_metis_job(*inputs, batch=batch, sequence_length=sequence_length, hidden=hidden)
    nodes = read_metis_nodes(hostfile, clusterfile)
    placed = [(result, place_metis_plan(result, job, nodes)) for result in results]
    result, plan = placed[ranks.index(rank)]
    if json:
        print_data(_data(result, plan))
    elif not quiet:
        print_table(metis_result_report(result, plan))
        print_table(metis_results_in_words(placed))
    if plan.faults:
        raise typer.Exit(_DOES_NOT_HOLD)


def _data(result: MetisResult, plan: PlacedMetisPlan) -> dict[str, Any]:
    return {
        "rank": result.rank,
        "stated_ms": result.cost,
        "iteration_time": None if plan.price is None else plan.price.seconds,
        "holds": not plan.faults,
        "faults": list(plan.faults),
        "microbatches": result.microbatches,
        "stages": [
            {
                "layers": list(stage.layers),
                "replicas": [
                    {"gpu": one.device, "tp": one.tp, "count": one.count, "microbatch": one.share}
                    for one in stage.replicas
                ],
                "memory": plan.memory_S[s],
                "memory_limit": plan.limit_S[s],
            }
            for s, stage in enumerate(plan.stages)
        ],
    }
