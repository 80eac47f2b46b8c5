"""The application: its commands, and what holds for all of them."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from planner.cli import (
    accuracy,
    compare,
    devices,
    engines,
    estimate,
    models,
    profile,
    report,
    schema,
    serving,
    topology,
    traces,
    training,
    verify,
)
from planner.cli.group import ErrorReportingGroup

__all__ = ["EPILOG", "app"]

EPILOG: Final = """\
Data goes to stdout, tables of plans and progress to stderr. [bold]--json[/bold] prints data for programs and nothing \
else; [bold]-o FILE[/bold] replaces a file only when the new one is complete. NO_COLOR turns colour off.

[bold]Exit codes[/bold]
  0  done
  1  internal error ([bold]planner --traceback …[/bold] shows where)
  2  the command was not understood
  3  no plan exists, or the plan that was checked does not hold
  4  an input is wrong: the message names file, field and what was expected
  5  the time limit passed before any plan was found"""

app = typer.Typer(
    name="planner",
    cls=ErrorReportingGroup,
    help="Place large language models on heterogeneous GPU clusters, for serving and for training.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from planner.version import __version__

        typer.echo(f"hetplan {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
    traceback: Annotated[
        bool,
        typer.Option("--traceback", help="Show where an internal error arose.", envvar="PLANNER_TRACEBACK"),
    ] = False,
) -> None:
    """Options before the command; `ErrorReportingGroup` reads ``traceback``."""


_PLAN: Final = "Plan"
_CHECK: Final = "Look at plans"
_KNOWN: Final = "Look at what is known"

app.command("serving", rich_help_panel=_PLAN)(serving.serving)
app.command("training", rich_help_panel=_PLAN)(training.training)
app.add_typer(estimate.app, name="estimate", rich_help_panel=_PLAN)
app.command("verify", rich_help_panel=_CHECK)(verify.verify)
app.command("report", rich_help_panel=_CHECK)(report.report)
app.command("compare", rich_help_panel=_CHECK)(compare.compare)
app.command("accuracy", rich_help_panel=_CHECK)(accuracy.accuracy)
app.add_typer(profile.app, name="profile", rich_help_panel=_KNOWN)
app.add_typer(models.app, name="models", rich_help_panel=_KNOWN)
app.add_typer(devices.app, name="devices", rich_help_panel=_KNOWN)
app.add_typer(profile.app, name="profile", rich_help_panel=_KNOWN)
app.add_typer(topology.app, name="topology", rich_help_panel=_KNOWN)
app.add_typer(engines.app, name="engines", rich_help_panel=_KNOWN)
app.add_typer(traces.app, name="traces", rich_help_panel=_KNOWN)
app.command("schema", rich_help_panel=_KNOWN)(schema.schema)
