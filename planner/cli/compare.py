"""`planner compare`: plans side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from planner.cli import options as opt

__all__ = ["compare"]


def compare(
    files: Annotated[
        list[Path], typer.Argument(metavar="PLAN.json…", help="Plans of one kind, at least two.", show_default=False)
    ],
    json: opt.Json = False,
) -> None:
    """Lay plans side by side; differences are told against the first.

    [dim]planner compare vllm.json generic.json[/dim]
    """
    if len(files) < 2:
        raise typer.BadParameter("one plan alone cannot be compared; name at least two", param_hint="PLAN.json…")
    from planner.cli.output import print_data, print_table
    from planner.plan import load_plan
    from planner.report.compare import check_comparable, comparison, comparison_data

    named = [(str(file), load_plan(file)) for file in files]
    check_comparable(named)
    if json:
        print_data(comparison_data(named))
    else:
        print_table(comparison(named))
