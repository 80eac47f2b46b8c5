"""Rows with expert parallelism, data-parallel attention, and prefill and decode apart: how they are read."""

from __future__ import annotations

import numpy as np
import pytest

from planner.cost.parallelism import ReplicaParallelism
from planner.profiling.accuracy.degrees import gpus_of, parallelism_of, requests_of
from planner.profiling.accuracy.records import SkipRowError
from planner.profiling.accuracy.registry import accuracy_of, load_truth
from planner.profiling.accuracy.table import Row


def row(**fields: object) -> Row:
    return Row(number=1, line=2, where="made.csv", fields={name: str(value) for name, value in fields.items()})


def test_products_are_undone_where_the_id_says_what_ran() -> None:
    written = {"tp_size": 64, "attention_dp_size": "1.0", "moe_tp_size": 8, "moe_ep_size": 8}
    assert parallelism_of(row(id="2026_04_06_x_c4_tp8_ep8_954", **written)) == ReplicaParallelism(tp=8, moe_ep=8)
    apart = written | {"tp_size": 1, "attention_dp_size": "64.0"}
    one = row(id="2026_04_06_x_c256_tp8_ep8_2011", batch_size=4, **apart)
    assert parallelism_of(one) == ReplicaParallelism(attention_dp=8, moe_ep=8)
    # the batch of the row goes with its own ranks: 4 on each of 64 are 256 requests
    assert requests_of(one) == 256


def test_degrees_that_go_together_stay() -> None:
    plain = {"tp_size": 8, "attention_dp_size": 1, "moe_tp_size": 1, "moe_ep_size": 8}
    assert parallelism_of(row(id="x_tp8_0_ep8_0_12", **plain)) == ReplicaParallelism(tp=8, moe_ep=8)
    unnamed = {"tp_size": 4, "moe_tp_size": 2, "moe_ep_size": 2}
    assert parallelism_of(row(id="x_tp4_epnone_3", **unnamed)) == ReplicaParallelism(tp=4, moe_tp=2, moe_ep=2)
    dense = {"tp_size": 2, "moe_tp_size": 1, "moe_ep_size": 1}
    assert parallelism_of(row(id="dense", **dense)) == ReplicaParallelism(tp=2)


def test_the_same_measurement_under_two_ids_is_read_alike() -> None:
    table = load_truth("serving_silicon_moe")
    found: dict[tuple[str, str], set[tuple[ReplicaParallelism, float]]] = {}
    for one in table.rows:
        key = one.text("silicon_ttft_ms"), one.text("silicon_tpot_ms")
        found.setdefault(key, set()).add((parallelism_of(one), requests_of(one)))
    twice = [alike for alike in found.values() if len(alike) > 1]
    assert not twice, twice[:3]
    assert len(found) < len(table.rows)  # some are there twice


def test_concurrency_of_disaggregated_rows_is_what_their_ids_say() -> None:
    told = [r for r in load_truth("serving_silicon_disagg").rows if r.text("decode_num_workers")]
    assert len(told) > 20
    for one in told:
        clients = int(one.text("id").split("_c")[1].split("_")[0])
        assert requests_of(one) == clients
        assert gpus_of(one) % 8 == 0


def test_rows_that_do_not_say_how_many_workers_are_not_predicted() -> None:
    accuracy = accuracy_of("serving_silicon_disagg")
    assert {skipped.why for skipped in accuracy.skipped} == {
        "the row does not say how many prefill and decode workers there are"
    }
    tpot = [one for one in accuracy.comparisons if one.figure == "tpot"]
    assert len(tpot) == 28
    assert np.median([abs(one.deviation) for one in tpot]) < 0.2


def test_nonsense_is_skipped() -> None:
    with pytest.raises(SkipRowError):
        parallelism_of(row(id="x", tp_size=8, moe_tp_size=2, moe_ep_size=3))
