"""`planner report`: lay out a plan again, and what it does over time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from planner.cli import options as opt

if TYPE_CHECKING:
    from planner.cluster import Cluster
    from planner.plan import ServingPlan, TrainingPlan
    from planner.simulate import TrainingTimeline

__all__ = ["report"]

_PICTURES: Final = (".pdf", ".png", ".svg")
_TRACE: Final = ".json"


def report(
    file: Annotated[Path, typer.Argument(metavar="PLAN.json", help="The plan.", show_default=False)],
    timeline: Annotated[
        Path | None,
        typer.Option(
            "--timeline",
            metavar="OUT.png|OUT.json",
            help="Draw one iteration of a training plan (.png, .pdf or .svg), or write it as a trace for Perfetto and"
            " chrome://tracing (.json).",
        ),
    ] = None,
    model: opt.ModelNow = None,
    cluster: opt.ClusterNow = None,
    engine: opt.EngineNow = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Lay out a plan; of a training plan also what every stage does in an iteration, computed anew.

    [dim]planner report plan.json --timeline timeline.png[/dim]
    """
    from planner.cli.output import print_data, print_table
    from planner.cluster import load_cluster
    from planner.engine import load_engine
    from planner.errors import InputError
    from planner.model import load_model
    from planner.plan import ServingPlan, load_plan, plan_to_json

    if timeline is not None:
        if timeline.suffix.lower() not in (*_PICTURES, _TRACE):
            known = ", ".join((*_PICTURES, _TRACE))
            raise typer.BadParameter(f"{timeline.name!r} does not end in {known}", param_hint="--timeline")
        if not timeline.parent.is_dir():
            raise InputError("no such folder", where=timeline.parent, hint="create it, or name another file")
    plan = load_plan(file)
    if timeline is not None and isinstance(plan, ServingPlan):
        raise InputError(
            "is a serving plan, which has no timeline: requests come as they please",
            where=file,
            expected="a training plan for --timeline",
            hint="planner report without --timeline, or a plan of planner training",
        )
    stated = plan.inputs
    if isinstance(plan, ServingPlan) and (len(plan.inputs.served) > 1 or plan.routes):
        _fleet(plan, model, cluster, engine, json=json, quiet=quiet)
        return
    loaded_model = load_model(
        model or stated.model.name, weight_dtype=stated.model.weight_dtype, kv_dtype=stated.model.kv_dtype
    )
    loaded_cluster = load_cluster(cluster or stated.cluster.name)
    loaded_engine = load_engine(engine or stated.engine.name)
    if isinstance(plan, ServingPlan):
        if json:
            typer.echo(plan_to_json(plan), nl=False)
        elif not quiet:
            from planner.report.serving import serving_report

            print_table(serving_report(plan, loaded_model, loaded_cluster, loaded_engine))
        return
    from planner.report.timeline import timeline_data, timeline_report
    from planner.report.training import training_report
    from planner.simulate import plan_timeline

    found = plan_timeline(plan, loaded_model, loaded_cluster, loaded_engine)
    if json:
        print_data(timeline_data(found))
    elif not quiet:
        print_table(training_report(plan, loaded_model, loaded_cluster, loaded_engine))
        print_table(timeline_report(found, plan))
    if timeline is not None:
        _write(found, plan, loaded_cluster, timeline, quiet=quiet)


def _fleet(
    plan: ServingPlan, model: str | None, cluster: str | None, engine: str | None, *, json: bool, quiet: bool
) -> None:
    """Lay out a plan for several models, or with prefill and decode apart."""
    from planner.cli.output import print_table
    from planner.cluster import load_cluster
    from planner.engine import load_engine
    from planner.model import load_model
    from planner.plan import plan_to_json
    from planner.report.fleet import fleet_report

    served = [one.model for one in plan.inputs.served]
    if model is not None and len(served) > 1:
        raise typer.BadParameter("the plan is for several models; report it where it was made", param_hint="--model")
    models = [load_model(model or m.name, weight_dtype=m.weight_dtype, kv_dtype=m.kv_dtype) for m in served]
    loaded = load_cluster(cluster or plan.inputs.cluster.name), load_engine(engine or plan.inputs.engine.name)
    if json:
        typer.echo(plan_to_json(plan), nl=False)
    elif not quiet:
        print_table(fleet_report(plan, models, *loaded))


def _write(timeline: TrainingTimeline, plan: TrainingPlan, cluster: Cluster, path: Path, *, quiet: bool) -> None:
    from planner.cli.output import note
    from planner.plan.files import write_atomically
    from planner.report.timeline import stage_names

    names = stage_names(plan, cluster)
    title = f"{Path(plan.inputs.model.name).name} on {cluster.name}"
    if path.suffix.lower() == _TRACE:
        from planner.report.trace_events import trace_events

        write_atomically(path, trace_events(timeline, names, title))
    else:
        from planner.report.plots.timeline import plot_timeline

        plot_timeline(timeline, names, title).savefig(path)
    if not quiet:
        note(f"wrote {path}")
