"""`planner training --metis-…`: a plan for Metis' own input files under its published cost."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Any

__all__ = ["plan_metis_inputs"]


def plan_metis_inputs(
    hostfile: Path,
    clusterfile: Path,
    profiles: Path,
    *,
    batch: int,
    sequence_length: int,
    hidden: int,
    max_stages: int | None,
    time_limit: float,
    output: Path | None,
    json: bool,
    quiet: bool,
) -> None:
    """Search, print a table on stderr, and JSON where asked for."""
    from planner.cli.output import search_progress
    from planner.plan.files import write_atomically
    from planner.search.problem import Budget
    from planner.search.training.metis_files import read_metis_job
    from planner.search.training.metis_referee import search_metis_referee

    job = read_metis_job(
        hostfile,
        clusterfile,
        profiles,
        batch=batch,
        sequence_length=sequence_length,
        hidden=hidden,
        max_stages=max_stages,
    )
    with search_progress(quiet=quiet) as progress:
        stages, microbatches, answer = search_metis_referee(
            job, Budget(time_limit=time_limit, progress=progress), tolerance=1e-4
        )
    found: dict[str, Any] = {
        "cost_model": "metis",
        "iteration_time": answer.seconds,
        "bound": answer.bound,
        "gap": answer.gap,
        "proven": answer.closed and answer.bound == answer.seconds,
        "microbatches": microbatches,
        "stages": [
            {
                "layers": list(stage.layers),
                "replicas": [
                    {"gpu": one.device, "tp": one.tp, "count": one.count, "microbatch": one.share}
                    for one in stage.replicas
                ],
            }
            for stage in stages
        ],
    }
    text = json_module.dumps(found, indent=2) + "\n"
    if output is not None and str(output) != "-":
        write_atomically(output, text)
    if json or (output is not None and str(output) == "-"):
        print(text, end="")
    if not quiet:
        _table(found)


def _table(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    title = (
        f"{found['iteration_time'] * 1e3:.1f} ms by Metis' formula, {found['microbatches']} microbatches;"
        f" nothing is more than {found['gap']:.2%} faster"
    )
    table = Table(title=title, title_justify="left")
    for column in ("stage", "layers", "replicas", "GPU", "TP", "sequences each"):
        table.add_column(column, justify="left" if column == "GPU" else "right")
    for number, stage in enumerate(found["stages"]):
        first, end = stage["layers"]
        for one in stage["replicas"]:
            table.add_row(
                str(number), f"{first}-{end - 1}", str(one["count"]), one["gpu"], str(one["tp"]), str(one["microbatch"])
            )
    Console(stderr=True).print(table)
