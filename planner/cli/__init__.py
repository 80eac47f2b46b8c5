"""The command line: ``planner``. One file per command; everything heavy is imported by the command that needs it."""

from planner.cli.app import app

__all__ = ["app"]
