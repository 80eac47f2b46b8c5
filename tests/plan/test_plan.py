"""Plans as data: schema, round trip, certificate, files."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError

from planner.cluster import load_cluster
from planner.engine import load_engine
from planner.errors import InputError
from planner.plan import certify, load_plan, parse_plan, plan_schema, plan_to_json, save_plan, weakest, write_atomically
from planner.search.problem import Budget, ServingProblem
from planner.search.serving import search_templates
from planner.workload import Slo, fixed_workload
from tests.search.small import tiny_model


@pytest.fixture(scope="module")
def text() -> str:
    problem = ServingProblem(
        model=tiny_model(),
        cluster=load_cluster("4xl4"),
        engine=load_engine("vllm"),
        workload=fixed_workload(512, 128, rate="max", slo=Slo(ttft=1.0, tpot=0.1)),
    )
    return plan_to_json(search_templates(problem, Budget()).plan)


def test_a_plan_follows_its_published_schema(text: str) -> None:
    schema = plan_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.Draft202012Validator(schema).validate(json.loads(text))


def test_a_plan_round_trips_to_the_same_bytes(text: str) -> None:
    assert plan_to_json(parse_plan(text)) == text


def test_the_schema_rejects_what_the_reader_rejects(text: str) -> None:
    data = json.loads(text)
    data["replicas"][0]["role"] = "spectator"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(plan_schema()).validate(data)
    with pytest.raises(ValidationError):
        parse_plan(json.dumps(data))


def test_a_plan_has_no_room_for_unknown_fields(text: str) -> None:
    data = json.loads(text)
    data["seconds"] = 3.0
    with pytest.raises(ValidationError, match="seconds"):
        parse_plan(json.dumps(data))


def test_a_bad_plan_file_names_file_and_field(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text.replace('"tp": 1', '"tp": "one"', 1), encoding="utf-8")
    with pytest.raises(InputError, match=r"plan\.json.*replicas\.0\.stages\.0\.tp"):
        load_plan(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"plan\.json"):
        load_plan(path)
    with pytest.raises(InputError, match="no such file"):
        load_plan(tmp_path / "none.json")


def test_saving_replaces_the_whole_file_or_nothing(tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "plan.json"
    path.write_text("before", encoding="utf-8")

    def broken(_self: Path, _target: Path) -> Path:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", broken)
        with pytest.raises(InputError, match="No space left"):
            write_atomically(path, "after")
    assert path.read_text(encoding="utf-8") == "before"
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]
    save_plan(parse_plan(text), path)
    assert path.read_text(encoding="utf-8") == text
    with pytest.raises(InputError, match="folder"):
        write_atomically(tmp_path / "missing" / "plan.json", text)


def test_a_certificate_never_claims_to_beat_its_bound() -> None:
    facts = {"objective": "goodput", "unit": "requests/s", "proven": True, "method": "m", "family": "f"}
    assert certify(sense="max", value=9.0, bound=10.0, **facts).gap == pytest.approx(0.1)  # type: ignore[arg-type]
    assert certify(sense="min", value=11.0, bound=10.0, **facts).gap == pytest.approx(0.1)  # type: ignore[arg-type]
    for sense, value in (("max", 10.1), ("min", 9.9)):
        with pytest.raises(ValidationError, match="beats its own bound"):
            certify(sense=sense, value=value, bound=10.0, **facts)  # type: ignore[arg-type]


def test_the_weakest_provenance_counts() -> None:
    assert weakest("measured", "fitted") == "fitted"
    assert weakest("measured") == "measured"
