"""Plans of Metis' printed list, in its format: priced on their ranks, and named where they are none."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from typer.testing import CliRunner

from planner.cli import app
from planner.cost.metis_format import read_metis_nodes
from planner.cost.metis_results import PlacedMetisPlan, place_metis_plan, read_metis_results
from planner.errors import InputError
from planner.search.training.metis_files import read_metis_job
from tests.search.training.test_metis_files import write_inputs

TYPES = "(<DeviceType.A100: 'a100'>, <DeviceType.T4: 't4'>)"
GIB_PER_S = 1e3 * 2.0**20


def line(rank: int, cost: float, groups: str, strategies: str, batches: int, cuts: str, types: str = TYPES) -> str:
    return f"{rank}, {cost}, {types}, {groups}, {strategies}, {batches}, {cuts}\n"


def placed(folder: Path, text: str) -> PlacedMetisPlan:
    """The one plan of a list, for 8 A100 and 4 T4 of `write_inputs`."""
    if not (folder / "profiles").exists():
        write_inputs(folder)
    (folder / "results").write_text(text)
    (result,) = read_metis_results(folder / "results")
    inputs = folder / "hostfile", folder / "clusterfile.json"
    job = read_metis_job(*inputs, folder / "profiles", batch=16, sequence_length=1024, hidden=2048)
    return place_metis_plan(result, job, read_metis_nodes(*inputs))


def test_price_is_the_formula_with_every_stage_and_link(tmp_path: Path) -> None:
    found = placed(tmp_path, line(1, 99.0, "[8, 4]", "[(4, 2), [2, 2]]", 4, "[0, 5, 6]"))
    assert found.faults == () and found.price is not None
    a100 = [1e-3 * (20.0 + layer) / 2**0.9 for layer in range(6)]  # TP 2, one sequence on each of 4 replicas
    t4 = [4e-3 * 2 * (20.0 + layer) / 2**0.9 for layer in range(6)]  # TP 2, two sequences on each of 2
    t = [sum(a100[:5]), t4[5]]
    u = [2 * 0.030 / 2 * 5 / 6, 2 * 0.030 / 2 / 6]
    inter, intra_t4 = 10 * GIB_PER_S, 20 * GIB_PER_S
    d = [2 * 3 / 4 * 5 * 2e8 / 2 / inter, 2 * 1 / 2 * 2e8 / 2 / intra_t4]  # 4 replicas on two nodes; 2 on one
    p = 2 * 1024 * 2048 / inter
    expected = 3 * max(t) + sum(t) + 4 * 1e-3 + max(u) + max(d) + p + 4 * 0.2e-3
    assert found.price.seconds == pytest.approx(expected, rel=1e-12)


def test_slower_links_between_nodes_cost_more(tmp_path: Path) -> None:
    text = line(1, 99.0, "[8, 4]", "[(4, 2), (2, 2)]", 4, "[0, 5, 6]")
    seconds = []
    for inter in (10.0, 0.1):
        folder = tmp_path / str(inter)
        folder.mkdir()
        write_inputs(folder, inter=inter)
        price = placed(folder, text).price
        assert price is not None
        seconds.append(price.seconds)
    assert seconds[1] > 2 * seconds[0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (line(1, 9.0, "[8, 4]", "[(4, 2), (2, 2)]", 4, "[0, 3, 5]"), "loses layers: it holds 5 of 6, 5 nowhere"),
        (line(1, 9.0, "[8, 4]", "[(4, 2), (2, 2)]", 4, "[1, 3, 6]"), "loses layers: it holds 5 of 6, 0 nowhere"),
        (line(1, 9.0, "[4, 4, 4]", "[(2, 2), (2, 2), (2, 2)]", 4, "[0, 3, 3, 6]"), "stage 1 holds no layer"),
        (line(1, 9.0, "[8, 4]", "[(8, 1), (4, 1)]", 2, "[0, 2, 6]"), "needs .* MB on each t4"),
        (line(1, 9.0, "[8, 4]", "[(8, 1), (4, 1)]", 4, "[0, 3, 6]"), "cannot share a microbatch of 4"),
        (line(1, 9.0, "[8, 4]", "[(4, 1), (4, 1)]", 4, "[0, 3, 6]"), "DP 4 times TP 1 are not its 8 GPUs"),
        (line(1, 9.0, "[8, 8]", "[(8, 1), (8, 1)]", 2, "[0, 3, 6]"), "take 16 GPUs of 12"),
        (line(1, 9.0, "[8, 4]", "[(2, 4), (1, 4)]", 3, "[0, 3, 6]"), "do not divide the batch"),
        (line(1, 9.0, "[2, 4, 2, 4]", "[(2, 1), (1, 4), (2, 1), (2, 2)]", 8, "[0, 2, 4, 5, 6]"), "across nodes"),
        (line(1, 9.0, "[12]", "[(3, 4)]", 4, "[0, 6]", TYPES.replace("T4", "P100")), "names p100"),
    ],
)
def test_what_is_no_plan_is_named(tmp_path: Path, text: str, told: str) -> None:
    found = placed(tmp_path, text)
    assert any(re.search(told, fault) for fault in found.faults), found.faults


def test_mixed_stage_shares_by_speed(tmp_path: Path) -> None:
    """12 replicas of both types: the slow ones get less; every sequence is somewhere."""
    found = placed(tmp_path, line(1, 9.0, "[12]", "[(12, 1)]", 1, "[0, 6]"))
    assert found.stages
    (stage,) = found.stages
    assert sum(one.count * one.share for one in stage.replicas) == 16
    most = {name: max((o.share for o in stage.replicas if o.device == name), default=0) for name in ("a100", "t4")}
    assert most["a100"] > most["t4"]


@pytest.mark.parametrize("text", ["nothing here\n", "1, 2.0, (<DeviceType.A100: 'a100'>), [8], [(8, 1)], 2\n"])
def test_bad_lists(tmp_path: Path, text: str) -> None:
    (tmp_path / "results").write_text(text)
    with pytest.raises(InputError, match=r"holds no plan|found"):
        read_metis_results(tmp_path / "results")


def test_command(tmp_path: Path) -> None:
    arguments = write_inputs(tmp_path)
    (tmp_path / "results").write_text(
        "Hostfile:\n10.0.0.1 slots=4\nlen(costs): 2\nrank, cost, node_sequence\n"
        + line(1, 5.0, "[8, 4]", "[(4, 2), (2, 2)]", 4, "[0, 3, 5]")
        + line(2, 250.0, "[8, 4]", "[(4, 2), (2, 2)]", 4, "[0, 5, 6]")
    )
    common = ["estimate", "training", "--plan-from", "metis", str(tmp_path / "results"), *arguments[1:13]]
    first = CliRunner().invoke(app, common)
    assert first.exit_code == 3
    assert "loses layers" in first.stdout and "rank 2" in first.stdout and "1 of 2 plans" in first.stdout
    second = CliRunner().invoke(app, [*common, "--rank", "2", "--json"])
    assert second.exit_code == 0
    data = json.loads(second.stdout)
    assert data["holds"] and data["stated_ms"] == 250.0
    assert CliRunner().invoke(app, [*common, "--rank", "3"]).exit_code == 4
    ours = json.loads(CliRunner().invoke(app, arguments).stdout)
    assert ours["iteration_time"] <= data["iteration_time"] * (1 + 1e-4)
    assert all(a["layers"][1] == b["layers"][0] for a, b in pairwise(ours["stages"]))
