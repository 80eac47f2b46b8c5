"""The table of uniform configurations beside a training plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from planner.cluster import Cluster
    from planner.engine import EngineProfile
    from planner.model import ModelSpec
    from planner.plan import TrainingPlan

__all__ = ["Table", "Top", "put_configurations"]

_PANEL = "Configurations"

Top = Annotated[
    int,
    typer.Option(
        "--top",
        min=0,
        metavar="NUMBER",
        help="Uniform configurations to show beside the plan, for engines with one tensor-parallel degree; 0: none.",
        rich_help_panel=_PANEL,
    ),
]
Table = Annotated[
    Path | None,
    typer.Option(
        "--table",
        metavar="FILE.csv",
        help="Write every legal uniform configuration with its predicted time and memory.",
        rich_help_panel=_PANEL,
    ),
]


def put_configurations(
    plan: TrainingPlan,
    model: ModelSpec,
    cluster: Cluster,
    engine: EngineProfile,
    *,
    max_stages: int | None,
    time_limit: float,
    top: int,
    file: Path | None,
    quiet: bool,
) -> None:
    """Print the best uniform configurations of each pool on stderr, and write all of them to a file if one is named.

    Parameters
    ----------
    plan, model, cluster, engine
        The plan that was found, and what for.
    max_stages, time_limit
        As the search had them.
    top, file, quiet
        Rows to print for each pool; where all go; whether nothing is to be printed.
    """
    wanted = top > 0 and not quiet and engine.tensor_parallel == "uniform"
    if not wanted and file is None:
        return
    from planner.cli.output import note, print_table, search_progress
    from planner.plan import write_atomically
    from planner.report.configurations import configurations_csv, configurations_report
    from planner.search.problem import Budget, TrainingProblem
    from planner.search.training.uniform import uniform_table

    problem = TrainingProblem(model=model, cluster=cluster, engine=engine, job=plan.inputs.job, max_stages=max_stages)
    with search_progress(quiet=quiet) as progress:
        budget = Budget(time_limit=time_limit, progress=progress)
        tables = [uniform_table(problem, pool, budget=budget) for pool in range(len(cluster.classes))]
    if file is not None:
        write_atomically(file, configurations_csv(tables))
        if not quiet:
            note(f"wrote {file}")
    if wanted:
        print_table(configurations_report(tables, plan, top=top), stderr=True)
