"""Runs the command line from a checkout: `python cli.py serving …`."""

from planner.cli import app

if __name__ == "__main__":
    app()
