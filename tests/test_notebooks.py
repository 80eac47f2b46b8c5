"""Notebooks run from top to bottom, and are committed without what they print."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))

# How many pictures a notebook draws at least, and what it is about that it prints.
SHOWS = {"01_quickstart": (4, ("findings: []", "layer 79 is nowhere", "requests/s now"))}


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def outputs(notebook: Any, mime: str) -> list[Any]:
    return [
        output.data[mime]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if mime in output.get("data", {})
    ]


# In a process of its own, whose sockets end with it. Over IPC: a notebook needs no port, and the sockets' paths must be
# short, so they are not in pytest's own folders.
EXECUTE = """
import sys, tempfile
from pathlib import Path
import nbformat
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient

source, target, where = sys.argv[1:]
notebook = nbformat.read(source, as_version=4)
with tempfile.TemporaryDirectory(prefix="nb") as folder:
    manager = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=str(Path(folder) / "kernel"))
    NotebookClient(notebook, km=manager, timeout=180, resources={"metadata": {"path": where}}).execute()
nbformat.write(notebook, target)
"""


def execute(path: Path, target: Path) -> Any:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-c", EXECUTE, str(path), str(target), str(REPOSITORY)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return read(target)


def test_there_are_notebooks() -> None:
    assert "01_quickstart" in [path.stem for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_without_outputs(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        assert cell.metadata == {}
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path: Path, tmp_path: Path) -> None:
    notebook = execute(path, tmp_path / "executed.ipynb")
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "Warning" not in printed
    pictures, lines = SHOWS.get(path.stem, (0, ()))
    assert len(outputs(notebook, "image/png")) >= pictures
    assert [line for line in lines if line not in printed] == []
