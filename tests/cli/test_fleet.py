"""`planner serving --models` and `--roles`: plans, reports, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planner.search.fleet_file import EXAMPLE
from tests.cli.conftest import Run


@pytest.fixture
def models(tmp_path: Path) -> Path:
    path = tmp_path / "models.yaml"
    path.write_text(EXAMPLE, encoding="utf-8")
    return path


def test_several_models_are_planned_written_and_checked(run: Run, models: Path, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    done = run("serving", "--models", models, "-c", "a100-l40s-l4-24", "-o", plan)
    assert done.code == 0, done
    assert done.stdout == ""
    for said in (
        "llama-3.1-70b",
        "llama-3.1-8b",
        "All models together",
        "all demands can be multiplied by",
        "weight 0.2",
    ):
        assert said in done.stderr
    data = json.loads(plan.read_text(encoding="utf-8"))
    assert set(data["per_model"]) == {"llama-3.1-70b", "llama-3.1-8b"}
    checked = run("verify", plan)
    assert checked.code == 0, checked
    told = run("report", plan)
    assert told.code == 0 and "All models together" in told.stdout
    assert "llama-3.1-70b, bf16; llama-3.1-8b, bf16" in " ".join(run("compare", plan, plan).stdout.split())
    refused = run("estimate", "plan", plan, "--tpot", "1 s")
    assert refused.code == 4 and "is for several models" in refused.stderr
    data["per_model"]["llama-3.1-8b"]["tpot"]["value"] *= 2
    plan.write_text(json.dumps(data), encoding="utf-8")
    assert run("verify", plan).code == 3


def test_json_lists_of_models_and_unmet_demands(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "models.json"
    entry = {"isl": 512, "osl": 128, "rate": 900, "tpot": "50 ms"}
    path.write_text(
        json.dumps({"models": [{"model": name, **entry} for name in ("llama-3.1-8b", "qwen3-8b")]}), encoding="utf-8"
    )
    done = run("serving", "--models", path, "-c", "4xl4", "--json")
    assert done.code == 0, done
    plan = json.loads(done.stdout)
    assert plan["certificate"]["objective"] == "demand_scale" and plan["certificate"]["value"] < 1
    assert "for qwen3-8b is not met" in done.stderr


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("--isl", "512"), 2, "says this for each model"),
        (("--objective", "tpot"), 2, "auto, scale, goodput, cost or gpus"),
        (("--method", "hexgen"), 2, "places one model only"),
    ],
)
def test_options_that_do_not_go_with_a_list(
    run: Run, models: Path, options: tuple[str, ...], code: int, says: str
) -> None:
    done = run("serving", "--models", models, "-c", "4xl4", *options)
    assert done.code == code
    assert says in " ".join(done.stderr.replace("│", " ").split())


def test_a_list_that_is_wrong_names_its_field(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text("models: [{model: llama-3.1-8b, isl: 8, osl: 8, rate: fast}]\n", encoding="utf-8")
    done = run("serving", "--models", path, "-c", "4xl4")
    assert done.code == 4
    assert "models.0.rate: 'fast' is no rate" in done.stderr
    assert run("serving", "--models", tmp_path / "none.yaml", "-c", "4xl4").code == 4
    assert run("serving", "-c", "4xl4", "--isl", "8", "--osl", "8").code == 2


def test_roles_are_planned_and_said_to_be_unconfirmed(run: Run, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    lengths = ("--isl", "2048", "--osl", "128", "--ttft", "1 s", "--tpot", "50 ms")
    done = run("serving", "-m", "llama-3.1-8b", "-c", "l40s-l4-16", *lengths, "--roles", "disaggregated", "-o", plan)
    assert done.code == 0, done
    text = " ".join(done.stderr.split())
    assert "prefill only" in text and "a prediction that no replay has confirmed" in text
    data = json.loads(plan.read_text(encoding="utf-8"))
    assert data["routes"] and {replica["role"] for replica in data["replicas"]} == {"prefill", "decode"}
    assert run("verify", plan).code == 0
    assert "prefill only" in run("report", plan).stdout
    alone = run("serving", "-m", "llama-3.1-8b", "-c", "l40s-l4-16", *lengths, "--objective", "scale")
    assert alone.code == 2


def test_the_schema_of_a_list(run: Run) -> None:
    done = run("schema", "models")
    assert done.code == 0
    assert "ttft" in json.loads(done.stdout)["$defs"]["ModelEntry"]["properties"]
