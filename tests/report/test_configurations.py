"""The table of uniform configurations: what it says of each, and that what it says adds up."""

from __future__ import annotations

import csv
import io
import re

import pytest
from rich.console import Console

from planner.report.configurations import configurations_csv, configurations_report, loses_by
from planner.search.problem import Budget
from planner.search.training.uniform import UniformTable, search_uniform, uniform_table
from tests.search.small import small_cluster, tiny_model
from tests.search.training_small import mixed_layers, training_problem


def table(**more: object) -> UniformTable:
    cluster = small_cluster([("a100_sxm_40", 8, 1)])
    return uniform_table(training_problem(tiny_model(hidden=4096), cluster, engine="megatron", batch=64, **more), 0)  # type: ignore[arg-type]


def text_of(tables: list[UniformTable], plan: object = None, top: int = 5) -> str:
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(configurations_report(tables, plan, top=top))  # type: ignore[arg-type]
    return console.export_text()


def test_rows_are_ranked_and_say_why_they_lose() -> None:
    found = table()
    text = text_of([found])
    assert "Uniform configurations on 8 GPUs of g0" in text and "legal configurations fit" in text
    slower = [float(one) for one in re.findall(r"\+(\d+\.\d) %", text)]
    assert len(slower) == 4 and slower == sorted(slower)
    rows = [line for line in text.splitlines() if re.match(r"\s+[2-5] ", line)]
    words = "kernels|TP traffic|CP traffic|bubble|hops|uneven stages|gradient sync|optimizer|recomputation"
    assert len(rows) == 4 and all(re.search(words, row) for row in rows)


def test_reasons_add_up_to_the_difference() -> None:
    found = table()
    best, *others = (found.placed(c).predict(found.problem) for c in found.best_of_cells()[:6])
    for other in others:
        parts = [other.breakdown.items()[name] - seconds for name, seconds in best.breakdown.items().items()]
        assert sum(parts) == pytest.approx(other.iteration_time - best.iteration_time, abs=1e-9 * best.iteration_time)
        worst = max(parts) / best.iteration_time
        if worst >= 0.01:
            assert f"{worst:+.1%}" in loses_by(best.breakdown, other.breakdown)


def test_what_would_be_faster_is_named_with_its_memory() -> None:
    cluster = small_cluster([("t4", 8, 1)])
    found = uniform_table(
        training_problem(tiny_model(hidden=2048), cluster, engine="megatron", batch=64, length=4096), 0
    )
    too_large = found.best_of_cells(fitting=False)
    faster = too_large[found.seconds_C[too_large] < found.seconds_C[found.ranked()[0]]]
    assert len(faster)
    text = text_of([found])
    assert "would be faster but do not fit, the closest:" in text
    assert f"{found.memory_C[faster].min() / 2**30:.1f} of" in text


def test_degrees_that_are_one_everywhere_have_no_column() -> None:
    assert "EP" not in text_of([table()])
    experts = training_problem(
        mixed_layers(6, 1024, 1, 16), small_cluster([("a100_sxm_40", 4, 1)]), engine="megatron", batch=16
    )
    assert "EP" in text_of([uniform_table(experts, 0)], top=20)


def test_the_plan_stands_beside() -> None:
    found = table()
    plan = search_uniform(found.problem, Budget()).plan
    assert "as fast as the best row" in text_of([found], plan)
    figure = plan.predicted["iteration_time"]
    for factor, words in ((2.0, "slower than the best row"), (0.5, "faster than the best row")):
        other = figure.model_copy(update={"value": figure.value * factor})
        changed = plan.model_copy(update={"predicted": plan.predicted | {"iteration_time": other}})
        assert words in text_of([found], changed)


def test_nothing_fits() -> None:
    cluster = small_cluster([("t4", 1, 1)])
    found = uniform_table(training_problem(tiny_model(hidden=4096), cluster, engine="megatron", batch=8), 0)
    text = text_of([found])
    assert "0 of" in text and "do not fit, the closest:" in text and "would be faster" not in text


def test_csv_has_every_legal_configuration() -> None:
    found = table()
    rows = list(csv.DictReader(io.StringIO(configurations_csv([found, found]))))
    assert len(rows) == 2 * len(found)
    first = rows[0]
    assert float(first["seconds"]) == found.seconds_C[found.ranked()[0]] and first["fits"] == "True"
    placed = found.placed(int(found.ranked()[0])).predict(found.problem)
    assert float(first["mfu"]) == pytest.approx(placed.figures["mfu"].value, rel=1e-9)
    for row in rows[:: max(1, len(rows) // 50)]:
        degrees = [int(row[name]) for name in ("tp", "pp", "cp", "dp")]
        assert degrees[0] * degrees[1] * degrees[2] * degrees[3] == int(row["gpus"])
        assert degrees[3] * int(row["microbatch"]) * int(row["microbatches"]) == 64
        assert sum(map(int, row["layers"].split("|"))) == 8
        assert (float(row["memory_bytes"]) <= float(row["memory_limit_bytes"])) == (row["fits"] == "True")
