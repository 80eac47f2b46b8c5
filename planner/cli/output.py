"""Where results go: plans and data to stdout or a file, tables of plans and progress to stderr."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from planner.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from rich.console import RenderableType

    from planner.plan import Plan

__all__ = ["PlanSink", "note", "print_data", "print_table", "search_progress", "searched_in_words", "warn"]


class PlanSink:
    """Where a command puts its plan.

    Parameters
    ----------
    output
        ``-o``: a file, ``-`` for stdout, or None.
    json
        ``--json``: on stdout, whatever `output` says.
    quiet
        ``--quiet``: nothing on stderr but errors.

    Raises
    ------
    InputError
        If the file could not be written: told before the search, not after it.
    """

    def __init__(self, output: Path | None, *, json: bool, quiet: bool) -> None:
        self.to_stdout = json or (output is not None and str(output) == "-")
        self.file = None if output is None or str(output) == "-" else output
        self.quiet = quiet
        if self.file is not None:
            if self.file.is_dir():
                raise InputError("is a folder", where=self.file, expected="a file to write to")
            if not self.file.parent.is_dir():
                raise InputError("no such folder", where=self.file.parent, hint="create it, or name another file")

    def put(self, plan: Plan, table: Callable[[], RenderableType]) -> None:
        """Write the plan, and lay it out on stderr unless that is unwanted.

        Parameters
        ----------
        plan
            The plan.
        table
            Makes the table; not called if nobody will see it.
        """
        from planner.plan import plan_to_json, save_plan

        if self.file is not None:
            save_plan(plan, self.file)
        if self.to_stdout:
            typer.echo(plan_to_json(plan), nl=False)
        if not self.quiet:
            print_table(table(), stderr=True)
            if self.file is not None:
                note(f"wrote {self.file}")


def print_table(table: RenderableType, *, stderr: bool = False) -> None:
    """Print a table for people."""
    from planner.report.terminal import console_for

    console_for(stderr=stderr).print(table)


def print_data(data: object) -> None:
    """Print JSON on stdout."""
    import json

    typer.echo(json.dumps(data, indent=2, ensure_ascii=False))


def note(text: str) -> None:
    """Tell something beside the result, on stderr."""
    from rich.text import Text

    from planner.report.terminal import console_for

    console_for(stderr=True).print(Text(text, style="dim"), soft_wrap=True)


def warn(text: str) -> None:
    """Tell on stderr what nobody should miss, quiet or not."""
    from rich.text import Text

    from planner.report.terminal import console_for

    console_for(stderr=True).print(Text(f"warning: {text}", style="bold yellow"), soft_wrap=True)


@contextmanager
def search_progress(*, quiet: bool) -> Iterator[Callable[[str, float], None] | None]:
    """Show a progress bar on stderr while a search runs, if stderr is a terminal.

    What solvers print to stdout on their own goes to stderr meanwhile: stdout carries data only.

    Parameters
    ----------
    quiet
        Show nothing.

    Yields
    ------
    callable or None
        For `planner.Budget.progress`.
    """
    with _stdout_to_stderr():
        if quiet or not sys.stderr.isatty():
            yield None
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        from planner.report.terminal import console_for

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
        with Progress(*columns, TimeElapsedColumn(), console=console_for(stderr=True), transient=True) as progress:
            task = progress.add_task("searching", total=1.0)

            def report(what: str, share: float) -> None:
                progress.update(task, description=what, completed=share)

            yield report


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Point file descriptor 1 to stderr: native code writes there past `sys.stdout`."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:  # no stdout at all: nothing to protect
        yield
        return
    try:
        os.dup2(2, 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def searched_in_words(seconds: float, counts: Mapping[str, int]) -> str:
    """Say what a search took.

    Examples
    --------
    >>> searched_in_words(0.643, {"templates": 979, "feasible": 257})
    'searched for 0.64 s: 979 templates, 257 feasible'
    """
    looked_at = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())
    return f"searched for {seconds:.2f} s" + (f": {looked_at}" if looked_at else "")
