"""`planner accuracy`: tables, JSON, files, pictures, and what it refuses."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from planner.profiling.accuracy import list_truth
from planner.profiling.accuracy.names import truth_dir
from tests.cli.conftest import Run

SMALL = "trtllm_first_token_latency"


def test_tables(run: Run) -> None:
    outcome = run("accuracy", SMALL)
    assert outcome.code == 0, outcome
    for part in ("rows    22, of which 22 are predicted", "median APE", "llama-7b", "within band"):
        assert part in outcome.stdout
    assert "errors on these are errors of a fit" in " ".join(outcome.stdout.split())
    assert outcome.stderr == ""


def test_says_what_was_fitted(run: Run) -> None:
    plain = " ".join(run("accuracy", "serving_silicon_disagg").stdout.split())
    assert "were fitted to the shipped rows of this layout" in plain
    assert "156 rows" in plain or "156 the row does not say" in plain
    outcome = run("accuracy", "serving_silicon_disagg", "--json")
    assert "were fitted to the shipped rows" in " ".join(outcome.stderr.split())
    assert len(json.loads(outcome.stdout)["skipped"]) == 156


def test_left_out_rows_are_predicted_without_their_group(run: Run) -> None:
    fitted = json.loads(run("accuracy", SMALL, "--json").stdout)["overall"][0]
    outcome = run("accuracy", SMALL, "--left-out", "--json")
    unseen = json.loads(outcome.stdout)["overall"][0]
    assert unseen["n"] == fitted["n"]
    assert unseen["mean_ape"] > fitted["mean_ape"]
    assert "without its group" in " ".join(outcome.stderr.split())


def test_json_is_what_programs_expect(run: Run) -> None:
    data = json.loads(run("accuracy", SMALL, "--json").stdout)
    assert sorted(data) == ["groups", "overall", "rows", "skipped"]
    (overall,) = data["overall"]
    assert overall["figure"] == "ttft"
    assert overall["n"] == 22
    assert set(overall) == {"figure", "n", "mean_ape", "median_ape", "bias", "coverage90"}
    assert all({"model", "device", "engine", *overall} == set(group) for group in data["groups"])
    assert {skipped["row"] for skipped in data["skipped"]} <= set(range(1, 23))


def test_file_by_path_gives_the_same(run: Run) -> None:
    by_path = run("accuracy", truth_dir() / f"{SMALL}.csv", "--json").stdout
    assert by_path == run("accuracy", SMALL, "--json").stdout


def test_predictions_and_picture(run: Run, tmp_path: Path) -> None:
    table, picture = tmp_path / "out.csv", tmp_path / "out.png"
    outcome = run("accuracy", SMALL, "-o", table, "--plot", picture)
    assert outcome.code == 0, outcome
    with table.open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 22
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"wrote {table}" in outcome.stderr.replace("\n", "")
    outcome = run("accuracy", SMALL, "-o", "-", "--quiet")
    assert outcome.stdout == table.read_text(encoding="utf-8")
    assert outcome.stderr == ""


def test_all(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    few = (SMALL, "training_mlsys23_table5_itertime")
    monkeypatch.setattr("planner.profiling.accuracy.list_truth", lambda: few)
    assert list(json.loads(run("accuracy", "all", "--json").stdout)) == list(few)
    text = run("accuracy", "all").stdout
    assert "iteration time" in text
    assert "fitted" in text
    assert list_truth() != few


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", ("has columns of no known layout", "serving_silicon", "training_sailor", "try: ")),
        ("model,gpu\n1,2\n3\n", (":3: 1 fields where the header has 2", "cut short")),
        ("", ("is empty",)),
    ],
)
def test_bad_files(run: Run, tmp_path: Path, text: str, said: tuple[str, ...]) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text, encoding="utf-8")
    outcome = run("accuracy", path)
    assert outcome.code == 4, outcome
    assert outcome.stdout == ""
    for part in said:
        assert part in outcome.stderr


def test_truncated_copy(run: Run, tmp_path: Path) -> None:
    """A shipped file cut off in the middle of a row: the line is named."""
    whole = (truth_dir() / "training_sailor.csv").read_text(encoding="utf-8")
    path = tmp_path / "cut.csv"
    path.write_text(whole[: whole.index("clariden/OPT-350/N16/plan_config_N16_D4")], encoding="utf-8")
    outcome = run("accuracy", path)
    assert outcome.code == 4
    assert "cut.csv:5" in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("accuracy", "serving_silicon"), 4, "unknown truth file 'serving_silicon'"),
        (("accuracy", "nowhere.csv"), 4, "no such file"),
        (("accuracy", SMALL, "-o", "nowhere/out.csv"), 4, "no such folder"),
        (("accuracy", SMALL, "--plot", "out.bmp"), 2, "does not end in"),
        (("accuracy", SMALL, "-o", "-", "--json"), 2, "two kinds of data"),
        (("accuracy", "training_mlsys23_fig7_activation_pct", "--plot", "out.png"), 4, "no row was predicted"),
    ],
)
def test_refuses(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = run(*arguments)
    assert outcome.code == code, outcome
    assert said in outcome.stderr
    assert list(tmp_path.iterdir()) == []
