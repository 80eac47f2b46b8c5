"""`planner devices`: the GPU types that ship, and any profile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from planner.cli import options as opt

__all__ = ["app", "list_", "show"]

_PICTURES: Final = (".pdf", ".png", ".svg")

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
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot", metavar="FILE.png", help="Draw the roofline, and what kernels reach; .pdf, .png or .svg."
        ),
    ] = None,
    json: opt.Json = False,
) -> None:
    """Show one GPU type: data sheet, price, efficiencies, and what was measured on it, each with kind, date and source.

    [dim]planner devices show h100_sxm --plot roofline.png[/dim]
    """
    from planner.cli.output import note, print_data, print_table
    from planner.cluster import load_device
    from planner.errors import InputError
    from planner.profiling.tables import list_measured, read_measured
    from planner.report.devices import device_report

    if plot is not None:
        if plot.suffix.lower() not in _PICTURES:
            raise typer.BadParameter(f"{plot.name!r} does not end in {', '.join(_PICTURES)}", param_hint="--plot")
        if not plot.parent.is_dir():
            raise InputError("no such folder", where=plot.parent, hint="create it, or name another file")
    device = load_device(name)
    tables = [read_measured(path) for path in list_measured(device.name)]
    if json:
        measured = [table.origin.model_dump(mode="json") | {"rows": len(table)} for table in tables]
        print_data(device.model_dump(mode="json") | {"measured_tables": measured})
    else:
        print_table(device_report(device, tables))
    if plot is not None:
        from planner.report.plots.roofline import plot_roofline

        plot_roofline(device).savefig(plot)
        note(f"wrote {plot}")
