"""`planner compare`: plans side by side, or methods side by side on one problem."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from planner.cli import options as opt

if TYPE_CHECKING:
    from planner.search.problem import ServingProblem
    from planner.search.side_by_side import MethodOutcome
    from planner.workload import Workload

__all__ = ["compare"]

_METHODS: Final = "Compare methods instead of plans"
_PICTURES: Final = (".png", ".pdf", ".svg")


def compare(
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[PLAN.json…]", help="Plans of one kind, at least two.", show_default=False),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            "--methods",
            metavar="NAME,NAME,…",
            help="Search methods to run on one serving problem: exact, hexgen, helr, even, pools, petals, swarm …"
            " or all.",
            rich_help_panel=_METHODS,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="NAME|FILE|FOLDER",
            help="As for planner serving.",
            autocompletion=opt.names_of("model"),
            rich_help_panel=_METHODS,
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            "--cluster",
            "-c",
            metavar="NAME|FILE",
            help="As for planner serving.",
            autocompletion=opt.names_of("cluster"),
            rich_help_panel=_METHODS,
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE.png",
            help="Draw throughput against latency and cost, with the Pareto frontier; .pdf, .png or .svg.",
            rich_help_panel=_METHODS,
        ),
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
    engine: opt.EngineName = "vllm",
    weight_dtype: opt.WeightDtype = None,
    kv_dtype: opt.KvDtype = None,
    assume: opt.Assume = None,
    max_stages: opt.MaxStages = None,
    time_limit: opt.TimeLimit = 60.0,
    seed: opt.Seed = 0,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Lay plans side by side, or run methods on one problem and lay what they find side by side.

    Of plans, differences are told against the first. Of methods, the time limit holds for each; the gap is to the bound
    that the exact method proves.

    [dim]planner compare vllm.json generic.json[/dim]
    [dim]planner compare --methods all -m llama-3.1-70b -c a100-l40s-l4-24 -t azure-conv-2023 --rate max --ttft 2
    --tpot 0.1 --plot frontier.png[/dim]
    """
    if methods is None:
        given = [name for name, value in (("--model", model), ("--cluster", cluster), ("--plot", plot)) if value]
        if given:
            raise typer.BadParameter("goes with --methods", param_hint=given[0])
        _plans(files or [], json=json)
        return
    if files:
        raise typer.BadParameter("give plan files or --methods, not both", param_hint="--methods")
    for name, value in (("--model", model), ("--cluster", cluster)):
        if value is None:
            raise typer.BadParameter("is needed with --methods", param_hint=name)
    _check_picture(plot)
    from planner.cli import inputs
    from planner.cli.output import note, print_data, print_table, search_progress
    from planner.search.problem import Budget
    from planner.search.side_by_side import run_methods

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
    loaded = inputs.read_model(str(model), weight_dtype, kv_dtype, assume)
    problem = _problem(loaded, str(cluster), engine, workload, max_stages)
    with search_progress(quiet=quiet) as progress:
        budget = Budget(time_limit=time_limit, seed=seed, progress=progress)
        outcomes = run_methods(problem, _names(methods), budget)
    from planner.report.frontier import plan_curve
    from planner.report.methods import methods_data, methods_table

    curves = []
    if plot is not None or json:
        curves = [plan_curve(one.method, one.plan, problem) for one in outcomes if one.plan is not None]
    if json:
        print_data(methods_data(problem, outcomes, curves))
    else:
        print_table(methods_table(problem, outcomes))
    if plot is not None:
        from planner.report.plots.frontier import plot_frontier

        title = f"{problem.model.name} on {problem.cluster.name} under {problem.engine.title}, {workload.name}"
        figure = plot_frontier(curves, workload.slo, title=title)
        figure.savefig(plot)
        if not quiet:
            note(f"wrote {plot}")
    _nothing_found(outcomes)


def _plans(files: list[Path], *, json: bool) -> None:
    if len(files) < 2:
        raise typer.BadParameter(
            "one plan alone cannot be compared; name at least two, or methods with --methods",
            param_hint="PLAN.json…",
        )
    from planner.cli.output import print_data, print_table
    from planner.plan import load_plan
    from planner.report.compare import check_comparable, comparison, comparison_data

    named = [(str(file), load_plan(file)) for file in files]
    check_comparable(named)
    if json:
        print_data(comparison_data(named))
    else:
        print_table(comparison(named))


def _names(text: str) -> list[str]:
    from planner.search.registry import COMPARED

    if text == "all":
        return list(COMPARED)
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise typer.BadParameter("names no method", param_hint="--methods")
    return list(dict.fromkeys(names))


def _check_picture(plot: Path | None) -> None:
    """Tell before the search, not after it, that a picture cannot be drawn."""
    if plot is None:
        return
    if plot.suffix.lower() not in _PICTURES:
        raise typer.BadParameter(f"{plot.name!r} does not end in {', '.join(_PICTURES)}", param_hint="--plot")
    from planner.errors import InputError
    from planner.report.plots.placed import need_matplotlib

    if plot.is_dir():
        raise InputError("is a folder", where=plot, expected="a file to write to")
    if not plot.parent.is_dir():
        raise InputError("no such folder", where=plot.parent, hint="create it, or name another file")
    need_matplotlib()


def _problem(model: object, cluster: str, engine: str, workload: Workload, max_stages: int | None) -> ServingProblem:
    from planner.api import serving_problem

    return serving_problem(model, cluster, workload, engine=engine, max_stages=max_stages)  # type: ignore[arg-type]


def _nothing_found(outcomes: list[MethodOutcome]) -> None:
    """Exit as a search without a plan does, if no method found any."""
    if all(one.plan is None for one in outcomes):
        raise typer.Exit(3)
