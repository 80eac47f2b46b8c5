"""`planner profile fit`: surfaces from a folder of measured tables, and what it says about them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from planner.cluster.measured import read_fitted
from tests.cli.conftest import Run

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


def test_tables_in_the_common_layout(run: Run, tmp_path: Path) -> None:
    result = run("profile", "fit", str(FIXTURES / "kernels"), "-o", str(tmp_path), "--json")
    assert result.code == 0
    data = json.loads(result.stdout)
    assert {one["family"] for one in data} == {"gemm", "attention", "collectives"}
    for one in data:
        file, surfaces = read_fitted(Path(one["file"]))
        assert file.device == one["device"] == "h200"
        assert set(surfaces) == set(one["surfaces"])
        for facts in one["surfaces"].values():
            assert 0 < facts["error"] < 0.5
            assert "left out" in facts["error_basis"]
    assert (tmp_path / "h200" / "gemm.npz").stat().st_size < 100_000


def test_tables_as_aiconfigurator_keeps_them(run: Run, tmp_path: Path) -> None:
    arguments = ("profile", "fit", str(FIXTURES / "aiconfigurator"), "--device", "H100", "-o", str(tmp_path))
    result = run(*arguments)
    assert result.code == 0
    assert "all_reduce/vllm" in result.stdout
    assert (tmp_path / "h100_sxm" / "collectives.yaml").is_file()


@pytest.mark.parametrize(
    ("folder", "what"),
    [("missing", "no such folder"), ("empty", "holds no tables that can be fitted")],
)
def test_nothing_to_fit(run: Run, tmp_path: Path, folder: str, what: str) -> None:
    (tmp_path / "empty").mkdir()
    result = run("profile", "fit", str(tmp_path / folder), "-o", str(tmp_path / "out"))
    assert result.code == 4
    assert what in result.stderr


def test_a_table_without_its_provenance_is_refused(run: Run, tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "kernels", tmp_path / "in")
    (tmp_path / "in" / "h200" / "gemm-vllm.yaml").unlink()
    result = run("profile", "fit", str(tmp_path / "in"), "-o", str(tmp_path / "out"))
    assert result.code == 4
    assert "gemm-vllm.yaml" in result.stderr
