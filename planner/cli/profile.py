"""`planner profile`: measurements of this and of other machines."""

from __future__ import annotations

import typer

from planner.cli.profile_measure import measure

__all__ = ["app"]

app = typer.Typer(help="Measure this machine.", no_args_is_help=True)
app.command("measure")(measure)
