"""Plans from the command line: where they go, and what is shown of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from planner.plan import ServingPlan, TrainingPlan, load_plan, parse_plan
from tests.cli.conftest import SERVING, SLO, TRAINING, Run


def test_table_goes_to_stderr_and_nothing_to_stdout(run: Run) -> None:
    outcome = run(*SERVING, *SLO, "--rate", "2")
    assert (outcome.code, outcome.stdout) == (0, "")
    for shown in (
        "llama-3.1-8b",
        "1xh100",
        "node-0/0",
        "h100_sxm",
        "0-31 (32)",
        "goodput within the SLO",
        "TTFT, p90",
        "TPOT",
        "memory of the fullest GPU",
        "cost per million output tokens",
        "± ",
        "idle GPUs: none",
        "Certificate",
        "searched for",
    ):
        assert shown in outcome.stderr, shown


def test_json_is_a_plan_and_nothing_else_is_on_stdout(apart: Run) -> None:
    outcome = apart(*SERVING, *SLO, "--json")
    assert outcome.code == 0
    plan = parse_plan(outcome.stdout)
    assert isinstance(plan, ServingPlan)
    assert "Certificate" in outcome.stderr


def test_quiet_json_leaves_stderr_empty(run: Run) -> None:
    outcome = run(*SERVING, "--json", "--quiet")
    assert outcome.stderr == ""
    assert json.loads(outcome.stdout)["kind"] == "serving"


def test_output_file_holds_what_json_prints(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    outcome = run(*SERVING, *SLO, "-o", path)
    assert (outcome.code, outcome.stdout) == (0, "")
    assert f"wrote {path}" in outcome.stderr
    assert run(*SERVING, *SLO, "-q", "-o", "-").stdout == path.read_text(encoding="utf-8")
    assert [file.name for file in tmp_path.iterdir()] == ["plan.json"]


def test_native_code_cannot_write_into_the_data(apart: Run) -> None:
    noisy = (
        "import os\n"
        "import planner.search.serving as serving\n"
        "search = serving.search_templates\n"
        "def noisy(problem, budget):\n"
        "    os.write(1, b'solver banner')\n"
        "    return search(problem, budget)\n"
        "import planner.search.registry as registry\n"
        "registry.SERVING_METHODS['templates'] = noisy\n"
    )
    outcome = apart(*SERVING, "--json", code=noisy)
    assert outcome.code == 0, outcome
    assert json.loads(outcome.stdout)["kind"] == "serving"
    assert "solver banner" in outcome.stderr


def test_demand_that_is_not_met_is_said(run: Run) -> None:
    outcome = run(*SERVING, *SLO, "--rate", "1000000")
    assert outcome.code == 0
    assert "the demand is not met" in outcome.stderr
    assert "1,000,000 requests/s" in outcome.stderr


def test_percentile_and_targets_reach_the_plan(run: Run) -> None:
    outcome = run(*SERVING, "--ttft", "1500 ms", "--tpot", "0.05", "--percentile", "0.95", "--json", "-q")
    slo = json.loads(outcome.stdout)["inputs"]["workload"]["slo"]
    assert slo == {"ttft": 1.5, "tpot": 0.05, "percentile": 0.95}


def test_requests_longer_than_the_context_are_told_and_can_be_dropped(run: Run) -> None:
    serving = ("serving", "-m", "llama-2-7b", "-c", "1xh100", "-t", "azure-conv-2023", "--rate", "1")
    outcome = run(*serving)
    assert outcome.code == 3
    assert "14,089 tokens" in outcome.stderr and "context of 4,096" in outcome.stderr
    assert "--drop-longer-than 4096" in outcome.stderr
    outcome = run(*serving, "--drop-longer-than", "4096", "--json")
    assert outcome.code == 0
    assert json.loads(outcome.stdout)["inputs"]["workload"]["total"]["quantiles"][-1] <= 4096
    assert "left out 1,612 of 19,366 requests" in outcome.stderr


def test_training_plan(run: Run, training_file: Path) -> None:
    plan = load_plan(training_file)
    assert isinstance(plan, TrainingPlan)
    outcome = run(*TRAINING, "--json")
    assert outcome.stdout == training_file.read_text(encoding="utf-8")
    for shown in ("8 sequences of 512 tokens", plan.schedule.name, "time of an iteration", "MFU", "Certificate"):
        assert shown in outcome.stderr, shown


def test_training_without_zero(run: Run) -> None:
    outcome = run(*TRAINING, "--zero", "0", "--json", "-q")
    assert json.loads(outcome.stdout)["inputs"]["job"]["zero_stage"] == 0


@pytest.mark.parametrize("kind", ["serving_file", "training_file"])
def test_verify_accepts_what_was_planned(kind: str, run: Run, request: pytest.FixtureRequest) -> None:
    file = request.getfixturevalue(kind)
    outcome = run("verify", file)
    assert (outcome.code, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith("plan holds")
    assert json.loads(run("verify", file, "--json").stdout) == {"plan": str(file), "holds": True, "findings": []}
    assert run("verify", file, "--quiet").stdout == ""


def test_verify_lists_what_is_wrong(run: Run, serving_file: Path, tmp_path: Path) -> None:
    plan = json.loads(serving_file.read_text(encoding="utf-8"))
    plan["replicas"][0]["stages"][0]["layers"] = [0, 31]
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(plan), encoding="utf-8")
    outcome = run("verify", broken)
    assert outcome.code == 3
    text = " ".join(outcome.stdout.split())  # a long path breaks the line
    assert "does not hold: 1 fault" in text and "layer-missing" in text
    (finding,) = json.loads(run("verify", broken, "--json").stdout)["findings"]
    assert finding["code"] == "layer-missing" and finding["where"] == "r0"
    assert run("verify", broken, "-q").stdout == ""


def test_verify_against_another_cluster(run: Run, serving_file: Path) -> None:
    outcome = run("verify", serving_file, "--cluster", "8xh100")
    assert outcome.code == 3
    assert "input-changed" in outcome.stdout


def test_estimate_of_named_replicas(run: Run) -> None:
    arguments = ("estimate", "serving", "-m", "llama-3.1-8b", "-c", "a100-l40s-l4-24", "--isl", "512", "--osl", "128")
    outcome = run(*arguments, "-r", "a100-0/0:20,l4-0/1+l4-0/3:12", "-r", "l40s-0/0-1", "--engine", "generic", "--json")
    assert outcome.code == 0, outcome
    plan = parse_plan(outcome.stdout)
    assert isinstance(plan, ServingPlan)
    placed = [[(stage.devices, stage.layers) for stage in replica.stages] for replica in plan.replicas]
    assert placed == [
        [(("a100-0/0",), (0, 20)), (("l4-0/1", "l4-0/3"), (20, 32))],
        [(("l40s-0/0", "l40s-0/1"), (0, 32))],
    ]
    assert "searched for" not in outcome.stderr


@pytest.mark.parametrize(
    ("replica", "code", "said"),
    [
        ("a100", 2, "no stage"),
        ("a100-0/3-1:32", 2, "no stage"),
        ("a100-0/0:20,a100-0/1", 2, "every stage or of none"),
        ("a100-0/0:31", 4, "32 layers"),
        ("a100-0/9:32", 4, "no GPU 'a100-0/9'"),
        ("a100-0/0:16,a100-0/0:16", 4, "used twice"),
    ],
)
def test_estimate_of_replicas_that_make_no_sense(replica: str, code: int, said: str, run: Run) -> None:
    arguments = ("estimate", "serving", "-m", "llama-3.1-8b", "-c", "a100-l40s-l4-24", "--isl", "512", "--osl", "128")
    outcome = run(*arguments, "--replica", replica)
    assert outcome.code == code
    assert said in " ".join(outcome.stderr.replace("│", " ").split())


def test_estimate_of_a_plan_changes_only_what_is_given(run: Run, serving_file: Path) -> None:
    before = json.loads(serving_file.read_text(encoding="utf-8"))
    same = json.loads(run("estimate", "plan", serving_file, "--json", "-q").stdout)
    assert same["predicted"] == before["predicted"]
    busier = json.loads(run("estimate", "plan", serving_file, "--rate", "20", "--json", "-q").stdout)
    assert busier["predicted"]["tpot"]["value"] > before["predicted"]["tpot"]["value"]
    assert busier["inputs"]["workload"]["slo"] == before["inputs"]["workload"]["slo"]
    longer = json.loads(run("estimate", "plan", serving_file, "--isl", "4000", "--osl", "64", "--json", "-q").stdout)
    assert longer["inputs"]["workload"]["prompt"]["mean"] == 4000
    assert run("estimate", "plan", serving_file, "--rate", "trace").code == 2


def test_estimate_of_a_training_plan_is_refused(run: Run, training_file: Path) -> None:
    outcome = run("estimate", "plan", training_file)
    assert outcome.code == 4
    assert "expected: a serving plan" in outcome.stderr


def test_compare(run: Run, serving_file: Path, tmp_path: Path) -> None:
    other = tmp_path / "faster.json"
    run(*SERVING, *SLO, "--rate", "max", "-q", "-o", other)
    outcome = run("compare", serving_file, other)
    assert (outcome.code, outcome.stderr) == (0, "")
    for shown in ("goodput", "TTFT", "TPOT", "cost", "GPUs used", "replicas", "gap", "%)"):
        assert shown in outcome.stdout, shown
    compared = json.loads(run("compare", serving_file, other, "--json").stdout)
    assert compared["kind"] == "serving"
    assert [plan["name"] for plan in compared["plans"]] == [str(serving_file), str(other)]
    assert all("gap" in plan["certificate"] for plan in compared["plans"])


def test_compare_training_plans(run: Run, training_file: Path) -> None:
    outcome = run("compare", training_file, training_file)
    assert outcome.code == 0
    for shown in ("time of an iteration", "throughput", "MFU", "memory of the fullest GPU"):
        assert shown in outcome.stdout, shown


def test_compare_refuses_plans_of_different_kinds(run: Run, serving_file: Path, training_file: Path) -> None:
    outcome = run("compare", serving_file, training_file)
    assert outcome.code == 4
    assert "is a training plan" in outcome.stderr
    assert run("compare", serving_file).code == 2
