"""`planner profile measure`: measure this machine with torch, and write a device profile."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Final

import typer

from planner.cli import options as opt

__all__ = ["measure"]

_OUTPUT: Final = "Output"


def measure(
    device: Annotated[
        str, typer.Option("--device", metavar="cpu|cuda[:N]", help="What to measure: the host, or one GPU.")
    ] = "cuda",
    quick: Annotated[bool, typer.Option("--quick", help="A few small sizes: seconds instead of many minutes.")] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="NAME|config.json",
            help="Measure the sizes of this model's layers at TP 1 to 8. Default: those of common models.",
            autocompletion=opt.names_of("model"),
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            "--only",
            metavar="NAME,...",
            help="Some of: gemm, attention, copy, elementwise, launch, training_layer, serving_layer, cipher,"
            " collectives.",
        ),
    ] = None,
    gpus: Annotated[
        int | None,
        typer.Option(
            "--gpus",
            metavar="NUMBER",
            min=1,
            help="Largest group whose collectives are measured. Default: all GPUs; two processes on a host.",
        ),
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option(
            "--time-limit", metavar="SECONDS", min=0.0, help="Begin no more points after this time; run again to go on."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Folder for tables, profile and journal. Default: measured/<device>.",
            rich_help_panel=_OUTPUT,
        ),
    ] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Forget what an earlier run has measured there.")] = False,
    json: opt.Json = False,
    quiet: opt.Quiet = False,
) -> None:
    r"""Measure this machine and write a device profile that cluster files can name.

    Every point is kept as soon as it is measured: interrupt with Ctrl-C, run again, and it goes on where it was. Needs
    the extra: pip install 'hetplan\[profile]'.

    [dim]planner profile measure --device cpu --quick -o measured/my_cpu[/dim]
    """
    from planner.cli.group import INTERRUPTED
    from planner.cli.output import note, print_data, print_table, warn
    from planner.profiling.measure import Options
    from planner.profiling.measure import measure as run
    from planner.report.measured import measured_data, measured_report

    chosen = tuple(name.strip() for name in only.split(",") if name.strip()) if only else ()
    options = Options(
        device=device,
        quick=quick,
        model=model,
        only=chosen,
        gpus=gpus,
        time_limit=time_limit,
        output=output,
        restart=restart,
    )
    with _progress(quiet=quiet) as progress:
        result = run(options, progress=progress)
    if json:
        print_data(measured_data(result))
    if not quiet:
        print_table(measured_report(result), stderr=True)
    for doubt in result.warnings:
        warn(doubt)
    if not quiet and result.left:
        kept = result.total - result.left
        note(f"{kept} of {result.total} points are kept in {result.folder}; run the same again to measure the rest")
    if result.interrupted:
        raise typer.Exit(INTERRUPTED)


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[int, int, str], None] | None]:
    """Show points done, and the time that is left, if stderr is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from planner.report.terminal import console_for

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("left"))
    with Progress(*columns, TimeRemainingColumn(), console=console_for(stderr=True), transient=True) as bar:
        task = bar.add_task("measuring", total=None)

        def report(done: int, total: int, what: str) -> None:
            bar.update(task, description=what, completed=done, total=total)

        yield report
