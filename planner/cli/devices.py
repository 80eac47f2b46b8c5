"""`planner devices`: the GPU types that ship, and any profile."""

from __future__ import annotations

from typing import Annotated

import typer

from planner.cli import options as opt

__all__ = ["app", "list_", "show"]

app = typer.Typer(help="GPU types: list the shipped ones, show one with all sources.", invoke_without_command=True)


@app.callback()
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_(json: opt.Json = False) -> None:
    """List the shipped GPU types."""
    from planner.cli.output import print_data, print_table
    from planner.cluster import list_devices, load_device
    from planner.report.devices import device_table

    devices = [load_device(name) for name in list_devices()]
    if json:
        print_data([device.model_dump(mode="json", exclude={"efficiency"}) for device in devices])
    else:
        print_table(device_table(devices))


@app.command("show")
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE",
            help="Shipped GPU type, by any of its spellings, or a YAML file.",
            autocompletion=opt.names_of("device"),
            show_default=False,
        ),
    ],
    json: opt.Json = False,
) -> None:
    """Show one GPU type: data sheet, price and efficiencies, each with kind, date and source."""
    from planner.cli.output import print_data, print_table
    from planner.cluster import load_device
    from planner.report.devices import device_report

    device = load_device(name)
    if json:
        print_data(device.model_dump(mode="json"))
    else:
        print_table(device_report(device))
