"""Our own terms on Sailor's tables: the search equals every plan, and prices are those of the cost, plan by plan."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import combinations, product
from pathlib import Path

import pytest
from typer.testing import CliRunner

from planner.cli import app
from planner.cost.sailor import SailorReplica, SailorStage, sailor_price
from planner.cost.sailor_tables import SailorTables, load_sailor_tables
from planner.cost.training_measured import MeasuredConstants, MeasuredStage, measured_peak_memory, measured_price
from planner.search.problem import Budget
from planner.search.training.measured import measured_memory, measured_stages, reprice, search_measured
from planner.search.training.sailor import SailorJob, SailorPlan, search_sailor
from tests.cli.conftest import run_apart
from tests.search.small import cluster_text
from tests.search.training.test_sailor import MEMORY, job

CONSTANTS = MeasuredConstants.fitted()


def groups_of(small: SailorJob, degree: int) -> list[tuple[SailorReplica, ...]]:
    """Every way to make up a stage."""
    pairs = [(name, tp) for name in small.gpus for tp in (1, 2, 4) if tp <= small.gpus[name]]
    groups = [(SailorReplica(*pair, degree),) for pair in pairs]
    for (a, b), n in product(combinations(pairs, 2), range(1, degree)):
        if a[0] != b[0]:
            groups.append((SailorReplica(*a, n), SailorReplica(*b, degree - n)))
    return groups


def best_of_two_stages(small: SailorJob) -> float:
    """Every plan of one or two stages and every degree, priced by the cost alone."""
    tables, best, L = small.tables, math.inf, small.tables.num_layers
    for degree in range(1, sum(small.gpus.values()) + 1):
        groups = groups_of(small, degree)
        for layers in (((0, L),), *(((0, cut), (cut, L)) for cut in range(1, L))):
            for chosen in product(groups, repeat=len(layers)):
                used = dict.fromkeys(small.gpus, 0)
                for one in (one for group in chosen for one in group):
                    used[one.device] += one.count * one.tp
                if any(used[name] > small.gpus[name] for name in used):
                    continue
                stages = measured_stages([SailorStage(*pair) for pair in zip(layers, chosen, strict=True)])
                for size in tables.microbatches("a100_sxm_40", 1):
                    if any((kind, tp, size) not in tables.times for s in stages for kind, tp in s.kinds):
                        continue
                    count = math.ceil(small.batch / (degree * size))
                    work = {"microbatch": size, "microbatches": count, "constants": CONSTANTS}
                    if fits(small, stages, size, count):
                        best = min(best, measured_price(tables, stages, **work).seconds)  # type: ignore[arg-type]
    return best


def fits(small: SailorJob, stages: list[MeasuredStage], size: int, count: int) -> bool:
    """By one kind of GPU at a time, others given all memory there is."""
    for s, stage in enumerate(stages):
        for device, tp in stage.kinds:
            alone = [MeasuredStage((0, 0), ("none",), 1)] * s + [replace(stage, devices=(device,), tp=tp, tps=(tp,))]
            alone += [MeasuredStage((0, 0), ("none",), 1)] * (len(stages) - s - 1)
            held = measured_peak_memory(small.tables, alone, microbatch=size, microbatches=count, constants=CONSTANTS)
            if held > small.memory[device]:
                return False
    return True


def test_equals_every_plan_of_two_stages() -> None:
    small = job(2, 2, 8, max_stages=2)
    plan = search_measured(small, Budget(), tolerance=0.0)
    assert plan.answer.closed and plan.answer.gap == 0
    assert plan.seconds == pytest.approx(plan.answer.seconds, rel=1e-12)
    assert plan.seconds == pytest.approx(best_of_two_stages(small), rel=1e-9)


def test_both_answers_and_both_prices() -> None:
    """Either search is better under its own price, and no better under the other's than that one's answer."""
    small = job(4, 8, 16, max_stages=2)
    theirs, ours = search_sailor(small, Budget()), search_measured(small, Budget())
    assert ours.seconds == pytest.approx(ours.answer.seconds, rel=1e-12)
    assert ours.seconds <= reprice(small, theirs).seconds * (1 + 1e-3)
    price = sailor_price(small.tables, ours.stages, microbatch=ours.microbatch, batch=small.batch).seconds
    assert theirs.seconds <= price * (1 + 1e-3)
    for held in measured_memory(small, ours):
        assert all(value <= MEMORY[device] for (device, _), value in held.items())


def test_sharing_a_network_card_costs() -> None:
    """Under Sailor's price TP 4 divides the all-reduce by 4; under ours its rings share the card."""
    small = job(0, 16, 64)

    def sync(tp: int) -> tuple[float, float]:
        stages = (SailorStage((0, 26), (SailorReplica("v100_sxm_16", tp, 4),)),)
        theirs = sailor_price(small.tables, stages, microbatch=1, batch=64)
        plan = SailorPlan(stages=stages, microbatch=1, seconds=0.0, answer=None)  # type: ignore[arg-type]
        return float(theirs.sync_S[0]), float(reprice(small, plan).sync_S[0])

    (theirs_1, ours_1), (theirs_4, ours_4) = sync(1), sync(4)
    assert theirs_4 < 0.3 * theirs_1
    assert ours_4 > 0.3 * ours_1


def without(tables: SailorTables, device: str, tp: int, microbatch: int) -> SailorTables:
    return replace(tables, times={key: value for key, value in tables.times.items() if key != (device, tp, microbatch)})


def test_what_was_not_measured_is_interpolated_and_says_so() -> None:
    tables = load_sailor_tables("opt-350m")
    stages = [MeasuredStage((0, 26), ("a100_sxm_40",) * 4, 1)]

    def price(tables: SailorTables, microbatch: int) -> tuple[float, str]:
        found = measured_price(tables, stages, microbatch=microbatch, microbatches=8, constants=CONSTANTS)
        return found.seconds, found.provenance

    measured, label = price(tables, 2)
    assert label == "measured"
    between, label = price(without(tables, "a100_sxm_40", 1, 2), 2)
    assert label == "fitted"
    assert between == pytest.approx(measured, rel=0.1)
    three, label = price(tables, 3)
    assert label == "fitted" and price(tables, 2)[0] < three < price(tables, 4)[0]
    assert price(tables, 16)[1] == "spec"  # twice as large as anything measured


def test_command_line_prices(tmp_path: Path) -> None:
    """Same clusters under both cost models from the command line, the same bytes on any hash seed."""
    arguments = [
        "training",
        "-m",
        "opt-350m",
        "-c",
        "4xt4",
        "-b",
        "8",
        "-s",
        "2048",
        "--max-stages",
        "2",
        "--json",
        "-q",
    ]
    outcome = CliRunner().invoke(app, [*arguments, "--cost-model", "sailor"])
    assert outcome.exit_code == 4 and "was not measured on t4" in outcome.stderr
    (tmp_path / "two.yaml").write_text(cluster_text([("a100_sxm_40", 4, 1), ("v100_sxm_16", 4, 1)]))
    arguments[4] = str(tmp_path / "two.yaml")
    found = {}
    for terms in ("sailor", "own"):
        text = CliRunner().invoke(app, [*arguments, "--cost-model", terms, "--sailor-profiles", "shipped"]).stdout
        found[terms] = json.loads(text)
        assert found[terms]["cost_model"] == terms and found[terms]["layer_times"] == "measured"
    again = run_apart(*arguments, "--cost-model", "own", "--sailor-profiles", "shipped", PYTHONHASHSEED="7")
    assert again.stdout == text
    assert found["own"]["iteration_time"] != found["sailor"]["iteration_time"]
