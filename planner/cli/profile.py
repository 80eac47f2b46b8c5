"""`planner profile`: bring measurements in, from others or from this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from planner.cli import options as opt
from planner.cli.profile_fit import fit
from planner.cli.profile_measure import measure

__all__ = ["app", "import_", "kinds"]

app = typer.Typer(
    help="Measured profiles of GPUs: import what others measured, measure what is here, fit surfaces.",
    no_args_is_help=True,
)
app.command("measure")(measure)
app.command("fit")(fit)


def _kinds(incomplete: str) -> list[str]:
    from planner.profiling.importers import SOURCES

    return [name for name in SOURCES if name.startswith(incomplete)]


@app.command("import")
def import_(
    kind: Annotated[
        str,
        typer.Argument(
            metavar="KIND",
            help="Who measured: sailor, helix, metis, vidur, distserve, muxserve, nccl_tests, aiconfigurator.",
            autocompletion=_kinds,
            show_default=False,
        ),
    ],
    path: Annotated[
        Path | None,
        typer.Argument(
            metavar="PATH", help="File or folder to read; planner profile kinds says which.", show_default=False
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            "-d",
            metavar="NAME",
            help="GPU type, by any of its spellings: what it was measured on, or the only one to import.",
            autocompletion=opt.names_of("device"),
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Where the tables go, in a folder for each GPU type.",
            rich_help_panel="Output",
        ),
    ] = Path("profiles/measured"),
    force: Annotated[
        bool, typer.Option("--force", help="Replace tables that are there.", rich_help_panel="Output")
    ] = False,
    implausible: Annotated[
        bool, typer.Option("--implausible", help="Take tables that the data sheet rules out, with a warning.")
    ] = False,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Bring what others measured into the common layout, one table per GPU type and kind of measurement.

    Every table is held against the data sheet of its GPU first: what is faster than that, or off by 1000 or 8, is
    refused with the unit that is likely wrong.

    [dim]planner profile import sailor simulations/profiles[/dim]
    """
    from planner.cli.output import note, print_data, print_table, search_progress, warn
    from planner.errors import InputError
    from planner.profiling.importers import import_tables
    from planner.profiling.plausibility import check
    from planner.profiling.tables import write_measured
    from planner.report.profile import imported_as_data, imported_table

    if output.exists() and not output.is_dir():
        raise InputError("is a file", where=output, expected="a folder for the tables")
    results = []
    with search_progress(quiet=quiet) as report:
        for number, one in enumerate(import_tables(kind, path, device=device)):
            if report is not None:
                report(f"{one.table.origin.device}: {one.name}", 1.0 - 1.0 / (number + 1))
            file = output / one.table.origin.device / f"{one.name}.csv"
            results.append((one, file, check(one.table, where=one.where, places=one.places, lenient=implausible)))
    if not results:
        raise InputError("holds nothing to import", where=path, hint="leave out --device to see what it holds")
    there = [file for _, file, _ in results if file.exists() or file.with_suffix(".yaml").exists()]
    if there and not force:
        raise InputError("is there already", where=there[0], hint="--force replaces it, -o writes elsewhere")
    for one, file, _ in results:
        write_measured(one.table, file, digits=one.digits)
    if json:
        print_data(imported_as_data(kind, results))
    elif not quiet:
        print_table(imported_table(results))
    for _, file, warnings in results:
        for text in warnings:
            if not json:
                warn(f"{file}: {text}")
    if not quiet:
        note(f"wrote {len(results)} tables below {output}")


@app.command("kinds")
def kinds(json: opt.Json = False) -> None:
    """List who can be imported from, and what PATH is then."""
    from planner.cli.output import print_data, print_table
    from planner.profiling.importers import SOURCES
    from planner.report.profile import source_table

    if json:
        print_data(
            [
                {"kind": name, "title": source.title, "path": source.path, "needs_device": source.needs_device}
                for name, source in SOURCES.items()
            ]
        )
    else:
        print_table(source_table(SOURCES))
