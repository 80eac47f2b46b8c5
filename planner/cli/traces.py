"""`planner traces`: the request traces that ship, and any trace file."""

from __future__ import annotations

from typing import Annotated

import typer

from planner.cli import options as opt

__all__ = ["app", "list_", "show"]

app = typer.Typer(help="Request traces: list the shipped ones, summarise one.", invoke_without_command=True)


@app.callback()
def _default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_()


@app.command("list")
def list_(json: opt.Json = False) -> None:
    """List the shipped traces."""
    from planner.cli.output import print_data, print_table
    from planner.report.workload import trace_table
    from planner.workload import list_traces, trace_source

    sources = [trace_source(name) for name in list_traces()]
    if json:
        print_data([source.model_dump(mode="json") for source in sources])
    else:
        print_table(trace_table(sources))


@app.command("show")
def show(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME|FILE",
            help="Shipped trace, or a CSV or JSON-lines file, plain or gzipped.",
            autocompletion=opt.names_of("trace"),
            show_default=False,
        ),
    ],
    layout: opt.Layout = None,
    drop_longer_than: opt.DropLongerThan = None,
    json: opt.Json = False,
) -> None:
    """Summarise one trace: rate, burstiness, lengths."""
    from planner.cli.output import print_data, print_table
    from planner.report.workload import workload_report
    from planner.workload import load_trace

    trace = load_trace(name, layout=layout)
    if drop_longer_than is not None:
        trace = trace.within(drop_longer_than)
    workload = trace.summary(rate="max" if trace.rate is None else "trace")
    if json:
        print_data(workload.model_dump(mode="json"))
    else:
        print_table(workload_report(workload))
