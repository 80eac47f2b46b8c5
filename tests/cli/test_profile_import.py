"""`planner profile import`: what is written, said and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planner.profiling.tables import read_measured
from tests.cli.conftest import Run
from tests.profiling.test_importers import helix, nccl_tests, put, sailor, write


def test_tables_and_their_provenance_are_written(run: Run, tmp_path: Path) -> None:
    result = run("profile", "import", "sailor", str(sailor(tmp_path / "in")), "-o", str(tmp_path / "out"))
    assert result.code == 0
    assert "a100_sxm_40" in result.stdout
    assert "plausible" in result.stdout
    written = sorted(path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*"))
    assert written == [
        "a100_sxm_40/sailor_layers.csv",
        "a100_sxm_40/sailor_layers.yaml",
        "a100_sxm_40/sailor_links.csv",
        "a100_sxm_40/sailor_links.yaml",
        "any/sailor_layer_sizes.csv",
        "any/sailor_layer_sizes.yaml",
    ]
    table = read_measured(tmp_path / "out" / "a100_sxm_40" / "sailor_links.csv")
    assert table["linear"][0] == 16.40103598  # to the last digit
    assert (table.origin.licence, table.origin.date) == ("MIT", "2025-08")


def test_json_lists_tables_and_warnings(run: Run, tmp_path: Path) -> None:
    folder = helix(tmp_path / "in")
    # four of eight hundred steps would be noise; one of two is told
    write(folder / "llama2_70b" / "t4x2" / "prompt_bs2time.csv", "0,0\n250,10\n500,18\n750,14\n1000,30\n")
    result = run("profile", "import", "helix", str(folder), "-o", str(tmp_path / "out"), "--json", "--quiet")
    assert result.code == 0
    assert result.stderr == ""
    (table,) = json.loads(result.stdout)["tables"]
    assert (table["device"], table["table"], table["rows"]) == ("t4", "serving_layer", 6)
    assert table["range"]["seconds"] == [0.0038, 0.03]
    assert "prompt_bs2time.csv:4" in table["warnings"][0]


def test_nothing_is_overwritten_unless_forced(run: Run, tmp_path: Path) -> None:
    command = ("profile", "import", "nccl_tests", str(nccl_tests(tmp_path / "in")), "-o", str(tmp_path / "out"))
    assert run(*command).code == 0
    file = tmp_path / "out" / "h100_sxm" / "nccl_tests.csv"
    file.write_text("mine")
    refused = run(*command)
    assert refused.code == 4
    assert "--force" in refused.stderr
    assert file.read_text() == "mine"
    assert run(*command, "--force").code == 0
    assert len(read_measured(file)) == 2


def test_a_table_that_cannot_be_true_is_refused_whole(run: Run, tmp_path: Path) -> None:
    folder = sailor(tmp_path / "in")
    fit = [[0.8, 16.4, 33.0], 248876169884.0839e3]  # milliseconds
    put(folder / "network_coeffs_all_homo.json", {"intra": {"A100-40": {"2": fit}}, "inter": {"A100-40": {"1": fit}}})
    result = run("profile", "import", "sailor", str(folder), "-o", str(tmp_path / "out"))
    assert result.code == 4
    assert "intra.A100-40.2" in result.stderr
    assert not (tmp_path / "out").exists()  # not even the tables that would have been right


def test_implausible_tables_can_be_taken_with_a_warning(run: Run, tmp_path: Path) -> None:
    folder = helix(tmp_path / "in")
    write(folder / "llama2_70b" / "t4x2" / "prompt_bs2time.csv", "0,0\n250,0.01\n500,0.018\n")
    command = ("profile", "import", "helix", str(folder), "-o", str(tmp_path / "out"))
    refused = run(*command)
    assert refused.code == 4
    assert "milliseconds for seconds?" in refused.stderr
    assert "prompt_bs2time.csv:" in refused.stderr
    taken = run(*command, "--implausible")
    assert taken.code == 0
    assert "warning" in taken.stderr
    assert "times the data sheet" in taken.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("sailer", "."), 4, "sailor"),
        (("sailor", "no/such/folder"), 4, "no such file or folder"),
        (("helix",), 4, "needs a PATH"),
        (("muxserve", ".", "--device", "h100_smx"), 4, "h100_sxm"),
        ((), 2, "KIND"),
    ],
)
def test_mistakes_end_with_a_message(run: Run, arguments: tuple[str, ...], code: int, told: str) -> None:
    result = run("profile", "import", *arguments)
    assert result.code == code
    assert told in result.stderr
    assert "Traceback" not in result.stderr


def test_kinds_say_what_path_is(run: Run) -> None:
    data = json.loads(run("profile", "kinds", "--json").stdout)
    assert {"sailor", "helix", "metis", "vidur", "distserve", "muxserve", "nccl_tests", "aiconfigurator"} == {
        entry["kind"] for entry in data
    }
    assert all(entry["path"] for entry in data)
