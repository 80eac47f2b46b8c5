"""Files in Metis' format, generated, through the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from planner.cli import app
from planner.errors import InputError
from planner.search.training.metis_files import read_metis_job
from tests.cli.conftest import run_apart

LAYERS = 6


def write_inputs(folder: Path, *, inter: float = 10) -> list[str]:
    """Two nodes of 4 fast GPUs and one of 4 slow ones."""
    nodes = {"10.0.0.1": "A100", "10.0.0.2": "A100", "10.0.0.3": "T4"}
    (folder / "hostfile").write_text("".join(f"{one} slots=4\n" for one in nodes))
    (folder / "clusterfile.json").write_text(
        json.dumps(
            {
                one: {
                    "instance_type": name,
                    "inter_bandwidth": inter,
                    "intra_bandwidth": 46 if name == "A100" else 20,
                    "memory": 24 if name == "A100" else 15,
                }
                for one, name in nodes.items()
            }
        )
    )
    (folder / "profiles").mkdir()
    for name, slower in (("A100", 1.0), ("T4", 4.0)):
        for tp in (1, 2, 4):
            for size in (1, 2):
                times = [slower * size * (20.0 + layer) / tp**0.9 for layer in range(LAYERS)]
                profile: dict[str, Any] = {
                    "model": {
                        "model_name": "made-up",
                        "num_layers": LAYERS,
                        "parameters": {"parameters_per_layer_bytes": [2e8] * LAYERS},
                    },
                    "execution_time": {
                        "forward_backward_time_ms": sum(times) + 1.0,
                        "layer_compute_total_ms": times,
                        "optimizer_time_ms": 30.0 / tp,
                        "batch_generator_time_ms": 0.2,
                    },
                    "execution_memory": {"layer_memory_total_mb": [(4000.0 + 500 * size) / tp] * LAYERS},
                }
                file = folder / "profiles" / f"DeviceType.{name}_tp{tp}_bs{size}.json"
                file.write_text(json.dumps(profile))
    return [
        "training",
        "--metis-hostfile",
        str(folder / "hostfile"),
        "--metis-clusterfile",
        str(folder / "clusterfile.json"),
        "--metis-profiles",
        str(folder / "profiles"),
        "--hidden-size",
        "2048",
        "--global-batch-size",
        "16",
        "--seq-len",
        "1024",
        "--json",
        "--quiet",
    ]


def test_plans_from_its_files(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, write_inputs(tmp_path))
    assert result.exit_code == 0, result.output
    plan = json.loads(result.stdout)
    layers = [stage["layers"] for stage in plan["stages"]]
    assert layers[0][0] == 0 and layers[-1][1] == LAYERS
    assert plan["gap"] <= 1.1e-4
    for stage in plan["stages"]:
        held = (stage["layers"][1] - stage["layers"][0]) * 4500
        assert all(held / one["tp"] <= 24 * 1024 for one in stage["replicas"])


def test_own_terms_on_its_profiles(tmp_path: Path) -> None:
    arguments = write_inputs(tmp_path)
    own, formula = (
        json.loads(CliRunner().invoke(app, [*arguments, "--cost-model", name]).stdout) for name in ("own", "metis")
    )
    assert own["cost_model"] == "own" and formula["cost_model"] == "metis"
    assert own["iteration_time"] != formula["iteration_time"]
    table = CliRunner().invoke(app, [*arguments[:-2], "--cost-model", "own"], env={"COLUMNS": "120"}).stderr
    assert "this planner's own terms" in table and "measured" in table


def test_same_plan_on_any_hash_seed(tmp_path: Path) -> None:
    arguments = write_inputs(tmp_path)
    texts = {run_apart(*arguments, PYTHONHASHSEED=seed).stdout for seed in ("0", "3")}
    assert len(texts) == 1 and json.loads(texts.pop())["cost_model"] == "metis"


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (("--cost-model", "sailor"), "network fits"),
        (("--sailor-profiles", "shipped"), "of Metis and of Sailor"),
        (("--engine", "generic"), "does not go with measured layers"),
        (("--zero", "0"), "does not go with measured layers"),
    ],
)
def test_combinations_that_cannot_be(tmp_path: Path, more: tuple[str, ...], told: str) -> None:
    result = CliRunner().invoke(app, [*write_inputs(tmp_path), *more], env={"COLUMNS": "200"})
    assert result.exit_code == 2
    assert told in " ".join(result.stderr.replace("│", " ").split())


def test_some_of_its_files_are_not_enough(tmp_path: Path) -> None:
    arguments = write_inputs(tmp_path)
    result = CliRunner().invoke(app, [arguments[0], *arguments[3:]])
    assert result.exit_code == 2


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("hostfile", "10.0.0.1 8\n", "slots="),
        ("hostfile", "10.0.0.9 slots=4\n", "not in the clusterfile"),
        ("hostfile", "\n", "names no node"),
        ("clusterfile.json", "{", "is not valid JSON"),
        ("profiles/DeviceType.T4_tp1_bs1.json", '{"model": {"model_name": "x"}}', "is missing"),
    ],
)
def test_bad_input(tmp_path: Path, file: str, text: str, message: str) -> None:
    write_inputs(tmp_path)
    (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=message):
        read_metis_job(
            tmp_path / "hostfile",
            tmp_path / "clusterfile.json",
            tmp_path / "profiles",
            batch=16,
            sequence_length=1024,
            hidden=2048,
        )
