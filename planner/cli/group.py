"""How every command fails: one message on stderr, the exit code that is documented, and no traceback."""

from __future__ import annotations

import os
import sys
from typing import Any, Final

import typer
from typer.core import TyperGroup

from planner.errors import PlannerError

__all__ = ["INTERRUPTED", "READER_GONE", "ErrorReportingGroup"]

INTERRUPTED: Final = 130  # 128 + SIGINT, as shells count
READER_GONE: Final = 141  # 128 + SIGPIPE: `planner models list | head -1`


class ErrorReportingGroup(TyperGroup):
    """Runs a command and turns what it raises into a message and an exit code."""

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]  # typer hides the type it derives from
        """Run the command that was asked for."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except (typer.Exit, typer.Abort, typer.TyperException):
            raise  # typer's own ways to end, and errors of usage
        except PlannerError as error:
            _tell(str(error))
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            _tell("interrupted")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # Nobody reads on: what is still buffered must not fail again when Python ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(READER_GONE) from None
        except Exception as error:
            if ctx.params.get("traceback"):
                raise
            what = f"{type(error).__name__}: {error}".strip().removesuffix(":")
            _tell(f"internal error: {what}\ntry: planner --traceback …, and report what it shows")
            raise typer.Exit(PlannerError.exit_code) from None


def _tell(message: str) -> None:
    from rich.text import Text

    from planner.report.terminal import console_for

    # Soft wrap: a path or a name in a message stays in one piece, so that it can be searched and copied.
    console_for(stderr=True).print(Text("error: ", style="bold red") + Text(message), soft_wrap=True)
