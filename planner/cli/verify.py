"""`planner verify`: check a plan without the code that made it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from planner.cli import options as opt

__all__ = ["verify"]

_DOES_NOT_HOLD: Final = 3


def verify(
    file: Annotated[Path, typer.Argument(metavar="PLAN.json", help="The plan.", show_default=False)],
    model: opt.ModelNow = None,
    cluster: opt.ClusterNow = None,
    engine: opt.EngineNow = None,
    json: opt.Json = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing; the exit code tells.")] = False,
) -> None:
    """Check a plan: every layer once, no GPU twice, memory, engine, and every figure computed anew.

    Model, cluster and engine are loaded under the names that the plan gives, unless told otherwise. Ends with exit
    code 3 if the plan does not hold.

    [dim]planner verify plan.json[/dim]
    """
    from planner.cli.output import print_data, print_table
    from planner.cluster import load_cluster
    from planner.engine import load_engine
    from planner.model import load_model
    from planner.plan import load_plan
    from planner.report.findings import checked_in_words, findings_report
    from planner.verifier import verify as findings_of

    plan = load_plan(file)
    stated = plan.inputs.model
    findings = findings_of(
        plan,
        model=None if model is None else load_model(model, weight_dtype=stated.weight_dtype, kv_dtype=stated.kv_dtype),
        cluster=None if cluster is None else load_cluster(cluster),
        engine=None if engine is None else load_engine(engine),
    )
    if json:
        listed = [{"code": f.code, "where": f.where, "message": f.message} for f in findings]
        print_data({"plan": str(file), "holds": not findings, "findings": listed})
    elif not quiet:
        print_table(findings_report(str(file), findings) if findings else checked_in_words(str(file), plan))
    if findings:
        raise typer.Exit(_DOES_NOT_HOLD)
