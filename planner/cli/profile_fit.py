"""`planner profile fit`: surfaces from measured tables, with the error on what was left out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from planner.cli import options as opt

__all__ = ["fit"]


def fit(
    folder: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER",
            help="Measured tables: FOLDER/<GPU>/<table>.csv, or systems/data of aiconfigurator-core.",
            show_default=False,
        ),
    ],
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            "-d",
            metavar="NAME",
            help="GPU type, by any of its spellings; all that were measured otherwise.",
            autocompletion=opt.names_of("device"),
        ),
    ] = None,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FOLDER", help="Where <GPU>/<family>.npz and .yaml go.", rich_help_panel="Output"
        ),
    ] = Path("profiles/measured"),
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Fit surfaces to measured kernels, and say how far they miss shapes that were left out.

    The cost model reads what is written: the share of the roofline by the sizes that decide it, for each engine.

    [dim]planner profile fit aiconfigurator_core/systems/data --device h200[/dim]
    """
    from planner.cli.output import note, print_data, print_table, search_progress
    from planner.cluster import load_device
    from planner.errors import InputError
    from planner.profiling.fit.dense import fit_dense, write_dense
    from planner.profiling.fit.mixture import fit_mixture, write_mixture
    from planner.profiling.fit.sources import tables_by_device
    from planner.report.fits import fitted_as_data, fitted_table

    if output.exists() and not output.is_dir():
        raise InputError("is a file", where=output, expected="a folder for the surfaces")
    only = None if device is None else load_device(device).name
    written = []
    with search_progress(quiet=quiet) as report:
        for number, (name, tables) in enumerate(tables_by_device(folder, only)):
            if report is not None:
                report(f"fitting {name}", 1.0 - 1.0 / (number + 1))
            gpu, origin = load_device(name), tables[0].origin
            written += write_dense(fit_dense(tables, gpu), name, origin, output)
            written += write_mixture(fit_mixture(tables, gpu), name, origin, output)
    if not written:
        raise InputError("no table can be fitted", where=folder, expected="40 rows at least")
    if json:
        print_data(fitted_as_data(written))
    elif not quiet:
        print_table(fitted_table(written))
        note(f"wrote {len(written)} files of surfaces below {output}")
