"""`planner estimate training --plan-from metis`: what a plan of Metis really costs, and whether it is one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import typer

if TYPE_CHECKING:
    from planner.cost.metis_results import MetisResult, PlacedMetisPlan

__all__ = ["price_metis_plan"]

_DOES_NOT_HOLD: Final = 3


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
