"""`planner estimate training`, and the table beside `planner training`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from planner.cli import app
from planner.plan import TrainingPlan, load_plan

JOB = ["-m", "llama-3.1-8b", "-c", "8xh100", "-b", "64", "-s", "4096"]


def run(*arguments: str):  # type: ignore[no-untyped-def]
    return CliRunner().invoke(app, list(arguments))


def test_a_configuration_is_priced_and_its_plan_is_sound(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    degrees = ["--tp", "2", "--pp", "2", "--vpp", "4", "--cp", "2"]
    outcome = run("estimate", "training", *JOB, *degrees, "-o", str(file))
    assert outcome.exit_code == 0, outcome.output
    for shown in ("interleaved over 4 chunks a stage", "context 2", "TP traffic", "bubble", "an iteration's time"):
        assert shown in outcome.stderr
    plan = load_plan(file)
    assert isinstance(plan, TrainingPlan)
    schedule = plan.schedule
    assert (schedule.name, schedule.virtual_stages, schedule.context_parallel) == ("interleaved", 4, 2)
    told = plan.engine_arguments
    assert told["--context-parallel-size"] == 2
    assert told["--pipeline-model-parallel-layout"] == "Et*4|t*4|t*4|t*4|t*4|t*4|t*4|t*4,L"
    assert run("verify", str(file)).exit_code == 0


@pytest.mark.parametrize("zero", range(4))
def test_zero_stages(zero: int, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    outcome = run("estimate", "training", *JOB, "--tp", "4", "--zero", str(zero), "-o", str(file), "--quiet")
    if zero == 0:
        assert outcome.exit_code in (0, 3)
        return
    assert outcome.exit_code == 0, outcome.output
    told = json.loads(file.read_text(encoding="utf-8"))["engine_arguments"]
    assert "--use-distributed-optimizer" in told
    assert told.get("--data-parallel-sharding-strategy") == (None, None, "optim_grads", "optim_grads_params")[zero]
    assert run("verify", str(file)).exit_code == 0


def test_experts(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    job = ["-m", "mixtral-8x7b", "-c", "h100-a100-32", "--pool", "h100", "-b", "64", "-s", "4096"]
    outcome = run("estimate", "training", *job, "--tp", "2", "--ep", "8", "--recompute", "full", "-o", str(file))
    assert outcome.exit_code == 0, outcome.output
    assert "experts 8" in outcome.stderr and "EP traffic" in outcome.stderr
    assert load_plan(file).engine_arguments["--expert-model-parallel-size"] == 8  # type: ignore[union-attr]
    assert run("verify", str(file)).exit_code == 0


@pytest.mark.parametrize(
    ("more", "code", "message"),
    [
        (
            ["--pp", "2", "--vpp", "3", "--layers", "16,16"],
            3,
            "3 virtual stages do not divide the 16 layers of stage 0",
        ),
        (["--tp", "3"], 3, "TP 3 does not divide"),
        (["--pp", "2", "--zero", "3"], 3, "ZeRO 3 without pipeline stages only"),
        (["--tp", "2", "--ep", "2"], 3, "the model has no experts"),
        (["--tp", "2", "--dp", "8"], 3, "are 16 GPUs; there are 8"),
        (["--pp", "2", "--layers", "16,17"], 3, "stages of 33 layers for the 32"),
        (["--pp", "2", "--layers", "32"], 2, "1 numbers for 2 stages"),
        (["--pp", "2", "--layers", "a,b"], 2, "is no list of layers"),
        (["--micro-batch-size", "3"], 3, "do not divide the batch of 64"),
        (["--pool", "h200"], 4, "node group"),
        ([], 3, "which offers"),
    ],
)
def test_what_cannot_be_is_said(more: list[str], code: int, message: str) -> None:
    outcome = run("estimate", "training", *JOB, *more)
    assert outcome.exit_code == code
    assert message in " ".join(outcome.stderr.replace("│", " ").split())
    assert "Traceback" not in outcome.output


def test_planner_training_shows_configurations_and_writes_all(tmp_path: Path) -> None:
    file = tmp_path / "all.csv"
    outcome = run("training", *JOB, "--top", "3", "--table", str(file), "--json")
    assert outcome.exit_code == 0, outcome.output
    assert json.loads(outcome.stdout)["kind"] == "training"
    for shown in ("Uniform configurations on 8 GPUs", "loses by", "the plan found:", "legal configurations fit"):
        assert shown in outcome.stderr
    assert len(file.read_text(encoding="utf-8").splitlines()) > 100
    without = run("training", *JOB, "--top", "0")
    assert without.exit_code == 0 and "Uniform configurations" not in without.stderr
    other = run("training", *JOB, "--engine", "generic")
    assert other.exit_code == 0 and "Uniform configurations" not in other.stderr


def test_the_best_row_can_be_planned(tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    outcome = run("training", *JOB, "--method", "uniform", "-o", str(file))
    assert outcome.exit_code == 0, outcome.output
    assert "as fast as the best row" in outcome.stderr and "proven optimal" in outcome.stderr
    assert run("verify", str(file)).exit_code == 0
