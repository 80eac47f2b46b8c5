"""The profiler on this machine's CPU: it runs, resumes, and a plan is made with what it wrote."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from planner.cluster import load_device
from planner.profiling.measure import FAMILIES
from planner.profiling.measure.backend import open_backend
from planner.profiling.measure.layer import Layer
from planner.profiling.measure.setup import Setup
from planner.profiling.measure.shapes import LayerShape, shapes_of
from planner.profiling.measure.timing import TimeBudget
from planner.profiling.tables import read_measured

torch = pytest.importorskip("torch")

COMMAND = [sys.executable, "-W", "error", "-c", "from planner.cli import app; app(prog_name='planner')"]
# One thread: the tests beside this one have the other cores.
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}


def planner(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, env=ENVIRONMENT, timeout=240, check=False
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("measured") / "my_cpu"
    done = planner("profile", "measure", "--device", "cpu", "--quick", "--json", "--quiet", "-o", folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), folder


def test_everything_is_measured(measured: tuple[dict, Path]) -> None:
    data, folder = measured
    assert data["points"]["left"] == 0 and data["not_measurable"] == []
    assert data["points"]["measured"] == data["points"]["total"] > 50
    tables = {name: read_measured(Path(entry["file"])) for name, entry in data["tables"].items()}
    assert set(tables) == {
        *("gemm", "prefill_attention", "decode_attention", "copy", "elementwise", "launch"),
        *("training_layer", "serving_layer", "cipher", "collective"),
    }
    assert sum(map(len, tables.values())) == data["points"]["total"]
    assert all("torch" in table.origin.software for table in tables.values())
    assert set(tables["collective"]["operation"]) == {
        *("all_reduce", "all_gather", "reduce_scatter", "all_to_all", "send_recv")
    }
    layers = tables["training_layer"]
    assert (layers["backward"] > 0).all() and (layers["update"] > 0).all() and set(layers["tp"]) == {2, 32}
    assert not list(folder.glob(".*"))  # nothing half written


def test_the_profile_can_be_shown_and_planned_with(measured: tuple[dict, Path], tmp_path: Path) -> None:
    data, _ = measured
    device = load_device(Path(data["profile"]))
    assert device.efficiency.kind == device.memory.kind == "measured" and device.link == "shared_memory"
    assert 1e9 < device.flops["fp32"].value < 1e14 and 1e8 < device.memory_bandwidth.value < 1e13
    assert set(device.efficiency.all_reduce) == {2}
    shown = planner("devices", "show", data["profile"])
    assert shown.returncode == 0 and "planner profile measure" in shown.stdout, shown.stderr
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text(
        f"name: mine\nnodes:\n  - {{name: host, gpu: '{data['profile']}', gpus_per_node: 1, count: 2,"
        " nic: {bandwidth: 10 Gb/s, latency: 30 us}}\n"
    )
    plan = planner(
        *("serving", "--model", "opt-350m", "--cluster", cluster, "--engine", "generic", "--isl", 128, "--osl", 16),
        *("--rate", "max", "--ttft", "60 s", "--tpot", "10 s", "--json", "--quiet"),
    )
    assert plan.returncode == 0, plan.stderr
    assert json.loads(plan.stdout)["kind"] == "serving"


def test_a_second_run_measures_nothing(measured: tuple[dict, Path]) -> None:
    data, folder = measured
    before = (folder / "journal.jsonl").read_text()
    done = planner("profile", "measure", "--device", "cpu", "--quick", "--json", "-o", folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["points"] == {
        **data["points"],
        "kept": data["points"]["total"],
        "measured": 0,
    }
    assert "kept from an earlier run" in done.stderr
    assert (folder / "journal.jsonl").read_text() == before


def test_ctrl_c_keeps_what_is_done(tmp_path: Path) -> None:
    arguments = ["profile", "measure", "--device", "cpu", "--quick", "--only", "gemm,copy", "-o", str(tmp_path)]
    journal = tmp_path / "journal.jsonl"
    process = subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    end = time.monotonic() + 120
    while not (journal.exists() and journal.read_text().count("\n") > 4) and time.monotonic() < end:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert "run the same again to measure the rest" in told
    kept = journal.read_text().count("\n") - 1
    done = planner(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    points = json.loads(done.stdout)["points"]
    assert points["kept"] == kept >= 4 and points["measured"] == points["total"] - kept > 0
    keys = [str(json.loads(line)["settings"]) for line in journal.read_text().splitlines()[1:]]
    assert max(Counter(keys).values()) == 1 and len(keys) == points["total"]


def setup_here() -> Setup:
    backend = open_backend("cpu", quick=True)
    return Setup(backend, shapes_of(None, quick=True), True, (2,), TimeBudget(seconds=0.01, least=2, most=2))


def test_a_decoded_token_equals_the_last_of_a_prompt() -> None:
    """Oracle of the layer: with its cache filled, one token gives what the whole prompt gives there."""
    setup = setup_here()
    shape = LayerShape(model="m", tp=1, hidden=64, heads=4, kv_heads=2, head_dim=16, ffn=96, gated=False)
    torch.manual_seed(1)
    with torch.no_grad():
        layer = Layer(setup, shape, train=False)
        layer.weights = {name: weight.float() * 10 for name, weight in layer.weights.items()}
        x = torch.randn(3, 7, 64)
        whole = layer.forward(x)
        normed = torch.nn.functional.layer_norm(x, (64,), layer.weights["norm1"], layer.weights["norm1_bias"])
        projected = torch.nn.functional.linear(normed, layer.weights["qkv"], layer.weights["qkv_bias"])
        _, key, value = projected.split([64, 32, 32], dim=-1)
        cache = tuple(part.reshape(3, 7, 2, 16).transpose(1, 2).clone() for part in (key, value))
        for part in cache:
            part[:, :, -1] = 0.0
        one = layer.forward(x[:, -1:], cache)
    torch.testing.assert_close(one, whole[:, -1:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("gated", [True, False])
def test_every_weight_of_a_layer_takes_a_gradient(gated: bool) -> None:
    setup = setup_here()
    shape = LayerShape(model="m", tp=1, hidden=64, heads=4, kv_heads=2, head_dim=16, ffn=96, gated=gated)
    layer = Layer(setup, shape, train=True)
    layer.forward(setup.random(2, 5, 64, dtype="bf16")).sum().backward()
    assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in layer.weights.values())


def test_every_family_has_points_here() -> None:
    setup = setup_here()
    for name, family in FAMILIES.items():
        points = list(family.points(setup))
        assert points and all(point.family == name for point in points)
        assert len({point.key for point in points}) == len(points)
