"""`planner engines`: what each engine can be told to run."""

from __future__ import annotations

from typing import Annotated

import typer

from planner.cli import options as opt

__all__ = ["app", "list_", "show"]

app = typer.Typer(help="Engines: list the known ones, show what one can run.", invoke_without_command=True)


@app.callback()
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_(json: opt.Json = False) -> None:
    """List the engines."""
    from planner.cli.output import print_data, print_table
    from planner.engine import list_engines, load_engine
    from planner.report.engines import engine_table

    engines = [load_engine(name) for name in list_engines()]
    if json:
        print_data([engine.model_dump(mode="json") for engine in engines])
    else:
        print_table(engine_table(engines))


@app.command("show")
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE",
            help="Engine, or a YAML file.",
            autocompletion=opt.names_of("engine"),
            show_default=False,
        ),
    ],
    json: opt.Json = False,
) -> None:
    """Show one engine: abilities, defaults, overheads, and the flags that tell it a plan."""
    from planner.cli.output import print_data, print_table
    from planner.engine import load_engine
    from planner.report.engines import engine_report

    engine = load_engine(name)
    if json:
        print_data(engine.model_dump(mode="json"))
    else:
        print_table(engine_report(engine))
