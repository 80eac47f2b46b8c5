"""Notebooks run from top to bottom, and are committed without what they print."""

from __future__ import annotations

import os
import tempfile
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


def execute(path: Path) -> Any:
    from jupyter_client import AsyncKernelManager
    from nbclient import NotebookClient

    notebook = read(path)
    with tempfile.TemporaryDirectory(prefix="nb") as folder:
        # Over IPC: a notebook needs no port. The sockets' paths must be short, so not in pytest's own folders.
        manager = AsyncKernelManager(kernel_name="python3", transport="ipc", ip=str(Path(folder) / "kernel"))
        where = {"metadata": {"path": str(REPOSITORY)}}
        client = NotebookClient(notebook, km=manager, timeout=180, resources=where)
        client.execute(env=os.environ | {"PYTHONPATH": str(REPOSITORY)})
    return notebook


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
def test_runs(path: Path) -> None:
    notebook = execute(path)
    printed = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "Warning" not in printed
    pictures, lines = SHOWS.get(path.stem, (0, ()))
    assert len(outputs(notebook, "image/png")) >= pictures
    assert [line for line in lines if line not in printed] == []
