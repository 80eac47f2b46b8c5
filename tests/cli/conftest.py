from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from planner.cli import app

Run = Callable[..., "Outcome"]

SERVING = ("serving", "--model", "llama-3.1-8b", "--cluster", "1xh100", "--isl", "512", "--osl", "128")
SLO = ("--ttft", "2 s", "--tpot", "100 ms")
TRAINING = ("training", "--model", "opt-350m", "--cluster", "4xt4", "--global-batch-size", "8", "--seq-len", "512")


class Outcome:
    """What a command left behind: exit code, and the two streams apart."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code, self.stdout, self.stderr = code, stdout, stderr

    def __repr__(self) -> str:
        return f"Outcome({self.code},\nstdout: {self.stdout}\nstderr: {self.stderr})"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process."""
    monkeypatch.delenv("PLANNER_TRACEBACK", raising=False)
    monkeypatch.setenv("COLUMNS", "100")

    def _run(*arguments: str | Path) -> Outcome:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], prog_name="planner")
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return _run


def run_apart(*arguments: str | Path, code: str = "", **environment: str) -> Outcome:
    """Run a command in a fresh interpreter, as a shell does; `code` runs before it."""
    script = f"{code}\nfrom planner.cli import app\napp(prog_name='planner')"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=os.environ | environment,
        timeout=120,
        check=False,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def apart() -> Run:
    """Run a command in a fresh interpreter."""
    return run_apart


@pytest.fixture(scope="session")
def serving_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A serving plan, written by the command."""
    path = tmp_path_factory.mktemp("plans") / "serving.json"
    result = CliRunner().invoke(app, [*SERVING, *SLO, "--rate", "2", "--quiet", "-o", str(path)])
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture(scope="session")
def training_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training plan, written by the command."""
    path = tmp_path_factory.mktemp("plans") / "training.json"
    result = CliRunner().invoke(app, [*TRAINING, "--quiet", "-o", str(path)])
    assert result.exit_code == 0, result.output
    return path
