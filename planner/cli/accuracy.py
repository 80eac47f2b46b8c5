"""`planner accuracy`: predict what was measured, and print the error."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from planner.cli import options as opt

__all__ = ["accuracy"]

_ALL: Final = "all"
_PICTURES: Final = (".pdf", ".png", ".svg")


def _names(incomplete: str) -> list[str]:
    from planner.profiling.accuracy import list_truth

    return [name for name in (_ALL, *list_truth()) if name.startswith(incomplete)]


def accuracy(
    truth: Annotated[
        str,
        typer.Argument(
            metavar="TRUTH.csv|NAME|all",
            help="Measured rows: a CSV file whose columns tell its layout, a shipped one, or all that ship.",
            autocompletion=_names,
            show_default=False,
        ),
    ],
    left_out: Annotated[
        bool,
        typer.Option(
            "--left-out",
            help="Predict each row by constants that were fitted without its model, GPU type and engine.",
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.csv",
            help="Write the rows with the predictions beside them; - is stdout, where the tables then are not.",
            rich_help_panel="Output",
        ),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            "--plot",
            metavar="FILE.png",
            help="Draw predicted against measured; .pdf, .png or .svg.",
            rich_help_panel="Output",
        ),
    ] = None,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    """Predict measured rows and tell how far off the predictions are.

    Prints mean and median absolute percentage error, bias, and how often the stated 90 % band holds; by figure, model,
    GPU type and engine. Rows that are not predicted are listed with the reason.

    [dim]planner accuracy serving_silicon_dense --plot accuracy.png[/dim]
    """
    from planner.cli.output import note, print_data, print_table, search_progress
    from planner.errors import InputError
    from planner.plan import write_atomically
    from planner.profiling.accuracy import accuracy_of, list_truth, predictions_csv
    from planner.report.accuracy import accuracy_report, accuracy_summary

    csv_to_stdout = output is not None and str(output) == "-"
    if csv_to_stdout and json:
        raise typer.BadParameter("two kinds of data on stdout: name a file, or leave out --json", param_hint="--output")
    if plot is not None and plot.suffix.lower() not in _PICTURES:
        raise typer.BadParameter(f"{plot.name!r} does not end in {', '.join(_PICTURES)}", param_hint="--plot")
    for file in (None if csv_to_stdout else output, plot):
        if file is not None and file.is_dir():
            raise InputError("is a folder", where=file, expected="a file to write to")
        if file is not None and not file.parent.is_dir():
            raise InputError("no such folder", where=file.parent, hint="create it, or name another file")
    if plot is not None:
        from planner.report.plots.placed import need_matplotlib

        need_matplotlib()

    names = list_truth() if truth == _ALL else (truth,)
    results = []
    with search_progress(quiet=quiet) as report:
        for index, name in enumerate(names):
            if report is not None:
                report(name, index / len(names))
            results.append(accuracy_of(name, left_out=left_out))
    if output is not None:
        text = predictions_csv(results)
        if csv_to_stdout:
            typer.echo(text, nl=False)
        else:
            write_atomically(output, text)
    if json:
        data = {result.table.name: result.as_data() for result in results}
        print_data(data if truth == _ALL else results[0].as_data())
    elif not (csv_to_stdout and quiet):
        print_table(
            accuracy_summary(results) if truth == _ALL else accuracy_report(results[0]),
            stderr=csv_to_stdout,
        )
    if plot is not None:
        from planner.report.plots.accuracy import plot_accuracy

        plot_accuracy(results).savefig(plot)
    if not quiet:
        if json and truth != _ALL:
            note(results[0].fitted)
        for file in (None if csv_to_stdout else output, plot):
            if file is not None:
                note(f"wrote {file}")
