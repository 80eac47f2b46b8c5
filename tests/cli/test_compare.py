"""`planner compare --methods`: methods side by side on one problem."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import SLO, Run

PROBLEM = ("-m", "llama-3.1-8b", "-c", "4xl4", "--isl", "512", "--osl", "128", *SLO)


def test_methods_side_by_side(run: Run) -> None:
    outcome = run("compare", "--methods", "exact,helr,pools,even-vllm", *PROBLEM)
    assert outcome.code == 0
    for shown in ("exact", "helr", "pools", "even-vllm", "goodput", "TTFT", "TPOT", "cost", "GPUs", "search", "gap"):
        assert shown in outcome.stdout, shown


def test_the_exact_plan_is_set_against_what_people_do_by_hand(run: Run) -> None:
    """Four GPUs that each hold the model: there is nothing to be better at. Uneven GPUs are no even split."""
    told = " ".join(run("compare", "--methods", "exact,pools,even-vllm", *PROBLEM).stdout.split())
    assert "exact equals pools, equals even-vllm" in told
    cluster = ("-m", "llama-3.1-8b", "-c", "l40s-l4-16", "--isl", "512", "--osl", "128", *SLO)
    told = " ".join(run("compare", "--methods", "exact,even-vllm", *cluster).stdout.split())
    assert re.search(r"exact serves [1-9]\.\d\d times what even-vllm does", told)
    assert "exact serves" not in run("compare", "--methods", "exact,pools", *PROBLEM, "--rate", "1").stdout


def test_json_tells_all_that_the_table_tells(apart: Run) -> None:
    outcome = apart("compare", "--methods", "pools,exact", *PROBLEM, "--json", "-q")
    assert (outcome.code, outcome.stderr) == (0, "")
    told = json.loads(outcome.stdout)
    assert [one["method"] for one in told["methods"]] == ["pools", "exact"]
    exact = told["methods"][1]
    assert exact["certificate"] == told["bound"]
    assert exact["gap"] == pytest.approx(exact["certificate"]["gap"], abs=1e-9)
    for one in told["methods"]:
        goodput = one["predicted"]["goodput"]["value"]
        assert one["gap"] == pytest.approx(1 - goodput / told["bound"]["bound"], abs=1e-12)
        assert one["curve"]["loads"][-1]["rate"] == pytest.approx(goodput)
        assert one["seconds"] > 0
    assert set(told["frontier"]) == {"ttft", "tpot", "cost"}


def test_with_a_demand_the_gap_is_to_the_least_cost(run: Run) -> None:
    told = json.loads(run("compare", "--methods", "exact,pools", *PROBLEM, "--rate", "1", "--json", "-q").stdout)
    assert told["bound"]["objective"] == "cost_per_hour"
    for one in told["methods"]:
        assert one["predicted"]["goodput"]["value"] >= 1
        assert one["gap"] >= -1e-9


def test_picture(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / "frontier.png"
    outcome = run("compare", "--methods", "pools,helr", *PROBLEM, "--plot", path)
    assert outcome.code == 0
    assert f"wrote {path}" in outcome.stderr.replace("\n", "")
    assert path.stat().st_size > 10_000


def test_a_method_without_a_plan_is_told_beside_the_others(run: Run) -> None:
    """Llama-3.1-70B fits four L4 in no way."""
    arguments = ("-m", "llama-3.1-70b", "-c", "4xl4", "--isl", "512", "--osl", "128")
    outcome = run("compare", "--methods", "pools,petals", *arguments)
    assert outcome.code == 3
    assert outcome.stdout.count("no plan") == 2
    assert "pools: one pool of equal replicas" in outcome.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--methods", "nonsense", *PROBLEM), 4, "nonsense"),
        (("--methods", ",", *PROBLEM), 2, "names no method"),
        (("--methods", "pools", "-c", "4xl4", "--isl", "5", "--osl", "5"), 2, "--model"),
        (("--methods", "pools", "-m", "llama-3.1-8b", "--isl", "5", "--osl", "5"), 2, "--cluster"),
        (("--methods", "pools", *PROBLEM, "--plot", "picture.txt"), 2, "picture.txt"),
        (("--methods", "pools", *PROBLEM, "--plot", "nowhere/picture.png"), 4, "no such folder"),
        (("plan.json", "--methods", "pools", *PROBLEM), 2, "not both"),
        (("-m", "llama-3.1-8b", "a.json", "b.json"), 2, "goes with --methods"),
        ((), 2, "--methods"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: tuple[str, ...], code: int, said: str, run: Run) -> None:
    outcome = run("compare", *arguments)
    assert outcome.code == code, outcome
    assert said in " ".join(outcome.stderr.replace("│", " ").split())
