"""`planner report`: plans laid out again, timelines."""

from __future__ import annotations

import json
from pathlib import Path

from planner.plan import TrainingPlan, load_plan
from tests.cli.conftest import Run


def test_training_plan(run: Run, training_file: Path) -> None:
    outcome = run("report", training_file)
    assert outcome.code == 0
    plan = load_plan(training_file)
    assert isinstance(plan, TrainingPlan)
    for shown in ("Training plan", f"Timeline ({plan.schedule.name}", "bubble", "closed form", "optimizer"):
        assert shown in outcome.stdout, shown


def test_serving_plan_has_no_timeline(run: Run, serving_file: Path, tmp_path: Path) -> None:
    assert "Replicas" in run("report", serving_file).stdout
    outcome = run("report", serving_file, "--timeline", tmp_path / "t.json")
    assert outcome.code == 4
    assert "no timeline" in outcome.stderr
    assert not (tmp_path / "t.json").exists()


def test_timeline_as_trace_and_picture(run: Run, training_file: Path, tmp_path: Path) -> None:
    trace, picture = tmp_path / "t.json", tmp_path / "t.png"
    told = json.loads(run("report", training_file, "--timeline", trace, "--json", "-q").stdout)
    assert run("report", training_file, "--timeline", picture, "-q").stdout == ""
    assert picture.read_bytes().startswith(b"\x89PNG")
    seconds = json.loads(trace.read_text())["otherData"]["iteration_seconds"]
    assert seconds == told["iteration_time"]
    plan = load_plan(training_file)
    assert told["closed_form"] == plan.predicted["iteration_time"].value
    assert len(told["stages"]) == len(plan.stages)  # type: ignore[union-attr]
    before = trace.read_text()
    run("report", training_file, "--timeline", trace, "-q")
    assert trace.read_text() == before


def test_other_endings_are_refused(run: Run, training_file: Path) -> None:
    outcome = run("report", training_file, "--timeline", "t.txt")
    assert outcome.code == 2
    assert ".json" in outcome.stderr
