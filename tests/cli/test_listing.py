"""Models, GPU types, clusters, engines, traces and schemas on stdout, for people and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from planner.cluster import list_clusters, list_devices
from planner.engine import list_engines
from planner.model import list_models
from planner.workload import list_traces
from tests.cli.conftest import Run

NAMES = {
    "models": list_models(),
    "devices": list_devices(),
    "topology": list_clusters(),
    "engines": list_engines(),
    "traces": list_traces(),
}


@pytest.mark.parametrize("what", NAMES)
def test_list_names_everything_that_ships(what: str, run: Run) -> None:
    outcome = run(what, "list")
    assert (outcome.code, outcome.stderr) == (0, "")
    shown = [line.split()[0] for line in outcome.stdout.splitlines() if line.strip()]
    assert set(NAMES[what]) <= set(shown)
    assert max(map(len, outcome.stdout.splitlines())) <= 100
    assert run(what).stdout == outcome.stdout
    listed = json.loads(run(what, "list", "--json").stdout)
    key = "source" if what == "topology" else "name"
    assert [entry[key] for entry in listed] == list(NAMES[what])


def test_every_model_can_be_shown(run: Run) -> None:
    for name in ("llama-3.1-70b", "deepseek-v3", "gpt-oss-20b"):
        assert run("models", "show", name).code == 0
    text = run("models", "show", "deepseek-v3").stdout
    for shown in ("671,026,419,200", "70,272 bytes per token", "8 of 256", "mla", "fp8"):
        assert shown in text, shown
    data = json.loads(run("models", "show", "llama-3.1-70b", "--weight-dtype", "fp8", "--json").stdout)
    assert data["kv_bytes_per_token"] == 327_680 and data["weight_dtype"] == "fp8"
    assert sum(kind["layers"] for kind in data["kinds"]) == data["layers"] == 80


def test_every_device_can_be_shown(run: Run) -> None:
    for name in list_devices():
        outcome = run("devices", "show", name)
        assert outcome.code == 0
        assert "GEMM" in outcome.stdout
    text = run("devices", "show", "NVIDIA H100 80GB HBM3").stdout
    for shown in ("h100_sxm", "989 TFLOP/s", "3.35 TB/s", "spec", "measured", "2023-04", "6.88 USD/h", "all-reduce"):
        assert shown in text, shown
    data = json.loads(run("devices", "show", "h100", "--json").stdout)
    assert data["memory_bandwidth"]["value"] == 3.35e12
    assert data["measured_tables"] == []


def test_a_device_shows_what_was_measured_on_it(run: Run, tmp_path: Path) -> None:
    text = " ".join(run("devices", "show", "v100").stdout.split())
    for shown in ("Measured tables", "training_layer", "link_fit", "serving_layer", "Sailor", "Helix", "2025-08"):
        assert shown in text, shown
    tables = json.loads(run("devices", "show", "v100", "--json").stdout)["measured_tables"]
    assert {table["table"] for table in tables} == {"training_layer", "link_fit", "serving_layer"}
    assert all(table["rows"] > 100 and table["licence"] for table in tables)


def test_a_roofline_is_drawn_where_asked_for(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert run("devices", "show", "l4", "--plot", tmp_path / "roofline.png").code == 0
    assert (tmp_path / "roofline.png").stat().st_size > 10_000
    assert run("devices", "show", "l4", "--plot", tmp_path / "roofline.xls").code == 2
    assert run("devices", "show", "l4", "--plot", tmp_path / "no" / "roofline.png").code == 4


def test_every_cluster_can_be_shown(run: Run) -> None:
    for name in list_clusters():
        if "512" not in name:  # alike, only larger
            assert run("topology", "show", name).code == 0
    text = run("topology", "show", "a100-l40s-l4-24").stdout
    for shown in ("8 a100_sxm_80", "12.5 GB/s", "20.0 us", "one node", "USD/h"):
        assert shown in text, shown
    data = json.loads(run("topology", "show", "a100-l40s-l4-24", "--json").stdout)
    assert data["gpus"] == 24
    assert ["a100", "a100"] not in [link["between"] for link in data["links"]]
    assert len(data["links"]) == 5


def test_engines_and_traces_can_be_shown(run: Run) -> None:
    for name in list_engines():
        assert run("engines", "show", name).code == 0
    assert "--tensor-parallel-size" in run("engines", "show", "vllm").stdout
    text = run("traces", "show", "azure-conv-2023").stdout
    assert "19,366" in text and "14,089" in text
    data = json.loads(run("traces", "show", "azure-conv-2023", "--drop-longer-than", "4096", "--json").stdout)
    assert data["requests"] == 17_754


@pytest.mark.parametrize("what", ["plan", "cluster", "device", "workload", "engine"])
def test_schemas_are_valid(what: str, run: Run) -> None:
    outcome = run("schema", what)
    assert (outcome.code, outcome.stderr) == (0, "")
    schema = json.loads(outcome.stdout)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"].endswith("2020-12/schema")


def test_unknown_schema_is_misuse(run: Run) -> None:
    assert run("schema", "plans").code == 2
