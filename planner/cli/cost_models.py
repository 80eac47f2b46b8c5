"""`planner training --cost-model`: whose prices count, and what goes with what."""

from __future__ import annotations

import json as json_module
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import typer

if TYPE_CHECKING:
    from planner.cluster import Cluster
    from planner.cost.metis import MetisJob
    from planner.search.problem import Budget
    from planner.search.training.referees import MeasuredPlan
    from planner.search.training.sailor import SailorJob

__all__ = [
    "Asked",
    "CostModel",
    "Prices",
    "Sink",
    "chosen_prices",
    "metis_job",
    "plan_measured",
    "refuse_options",
    "sailor_job",
]

CostModel = Literal["own", "metis", "sailor"]

# What a price by measured layers does not know of, and what only Metis' inputs ask for.
_OPERATORS_ONLY: Final = {
    "engine": "--engine",
    "zero": "--zero",
    "method": "--method",
    "weight_dtype": "--weight-dtype",
    "assume": "--assume",
    "top": "--top",
    "table": "--table",
}
_SHIPPED: Final = "shipped"


@dataclass(frozen=True, slots=True)
class Prices:
    """What layers cost, and who adds them up: the operator model, or measured layers of one of two sources."""

    layers: Literal["operators", "metis", "sailor"]
    terms: CostModel


@dataclass(frozen=True, slots=True)
class Asked:
    """The job's size, whatever it is priced by."""

    batch: int
    sequence_length: int
    max_stages: int | None


@dataclass(frozen=True, slots=True)
class Sink:
    """How long to search, and where the plan goes."""

    time_limit: float
    output: Path | None
    json: bool
    quiet: bool


def chosen_prices(asked: CostModel | None, *, metis: bool, sailor: bool) -> Prices:
    """Decide whose prices count.

    Parameters
    ----------
    asked
        ``--cost-model``; None: the cost that belongs to the profiles given, our own where there are none.
    metis, sailor
        Whether profiles of either are given.

    Raises
    ------
    typer.BadParameter
        If these do not go together.
    """

    def wrong(text: str) -> typer.BadParameter:
        return typer.BadParameter(text, param_hint="--cost-model")

    if metis and sailor:
        raise wrong("profiles of Metis and of Sailor are given; give one of them")
    if metis:
        if asked == "sailor":
            raise wrong(
                "sailor needs Sailor's network fits and layer sizes, which Metis' inputs do not hold: metis or own"
            )
        return Prices("metis", asked or "metis")
    if asked == "metis":
        raise wrong("metis needs its inputs: --metis-hostfile, --metis-clusterfile, --metis-profiles and --hidden-size")
    if sailor or asked == "sailor":
        return Prices("sailor", asked or "sailor")
    return Prices("operators", "own")


def refuse_options(context: typer.Context, prices: Prices) -> None:
    """Refuse options that the chosen prices know nothing of."""

    def given(name: str) -> bool:
        source = context.get_parameter_source(name)
        return source is not None and source.name == "COMMANDLINE"

    if prices.layers != "metis" and given("hidden_size"):
        raise typer.BadParameter("goes with --metis-profiles", param_hint="--hidden-size")
    for name, option in _OPERATORS_ONLY.items():
        if prices.layers != "operators" and given(name):
            raise typer.BadParameter(
                f"does not go with measured layers of {prices.layers.capitalize()}: they were measured under one engine"
                " in one way",
                param_hint=option,
            )


def metis_job(
    hostfile: Path | None,
    clusterfile: Path | None,
    profiles: Path | None,
    asked: Asked,
    hidden: int | None,
) -> MetisJob:
    """Read a job from Metis' inputs."""
    if not (hostfile and clusterfile and profiles and hidden):
        raise typer.BadParameter(
            "--metis-hostfile, --metis-clusterfile, --metis-profiles and --hidden-size go together"
        )
    from planner.search.training.metis_files import read_metis_job

    return read_metis_job(
        hostfile,
        clusterfile,
        profiles,
        batch=asked.batch,
        sequence_length=asked.sequence_length,
        hidden=hidden,
        max_stages=asked.max_stages,
    )


def sailor_job(folder: Path | None, model: str, cluster: Cluster, asked: Asked) -> SailorJob:
    """Make a job of Sailor's tables and a cluster."""
    from planner.cost.sailor_tables import load_sailor_tables
    from planner.search.training.sailor import sailor_job_of

    root = None if folder is None or str(folder) == _SHIPPED else folder
    tables = load_sailor_tables(model, root)
    return sailor_job_of(
        tables,
        cluster,
        batch=asked.batch,
        sequence_length=asked.sequence_length,
        max_stages=asked.max_stages,
    )


def plan_measured(job: MetisJob | SailorJob, prices: Prices, to: Sink) -> None:
    """Search under prices of measured layers; a table on stderr, JSON where asked for."""
    import time

    from planner.cli.output import print_table, search_progress, searched_in_words
    from planner.plan.files import write_atomically
    from planner.search.problem import Budget

    if to.output is not None and str(to.output) != "-" and not to.output.parent.is_dir():
        from planner.errors import InputError

        raise InputError("no such folder", where=to.output.parent, hint="create it, or name another file")
    started = time.monotonic()
    with search_progress(quiet=to.quiet) as progress:
        plan = _searched(job, prices, Budget(time_limit=to.time_limit, progress=progress))
    text = json_module.dumps(plan.as_data(), indent=2) + "\n"
    if to.output is not None and str(to.output) != "-":
        write_atomically(to.output, text)
    if to.json or (to.output is not None and str(to.output) == "-"):
        typer.echo(text, nl=False)
    if not to.quiet:
        from planner.report.measured_plan import measured_plan_report

        searched = searched_in_words(time.monotonic() - started, {})
        print_table(measured_plan_report(plan, searched=searched), stderr=True)


def _searched(job: MetisJob | SailorJob, prices: Prices, budget: Budget) -> MeasuredPlan:
    from planner.cost.metis import MetisJob
    from planner.search.training.measured import search_measured
    from planner.search.training.metis_referee import search_metis_referee
    from planner.search.training.referees import metis_plan, own_plan, sailor_plan
    from planner.search.training.sailor import search_sailor

    if isinstance(job, MetisJob):
        own = prices.terms == "own"
        stages, microbatches, answer = search_metis_referee(job, budget, tolerance=1e-4, own=own)
        return metis_plan(job, stages, microbatches, answer, cost_model=prices.terms)
    return (
        own_plan(job, search_measured(job, budget))
        if prices.terms == "own"
        else sailor_plan(job, search_sailor(job, budget))
    )
