"""Many configurations in one call: the same as one at a time, and what cannot run says why."""

from __future__ import annotations

import numpy as np
import pytest

from planner import LoadPattern, ServingEstimator, load_device, load_engine, load_model
from planner.cost.closed_loop import closed_loop
from planner.cost.node_replica import node_replica
from planner.cost.parallelism import ReplicaParallelism
from planner.errors import InputError
from planner.workload import fixed_workload


def estimator(model: str = "llama-3.1-8b", gpu: str = "h100_sxm", engine: str = "vllm") -> ServingEstimator:
    return ServingEstimator(load_model(model), load_device(gpu), load_engine(engine))


def test_a_thousand_at_once_are_the_same_as_one_at_a_time() -> None:
    random = np.random.default_rng(7)
    many = estimator()
    size = 1000
    asked = {
        "tp": random.choice([1, 2, 4], size),
        "pp": random.choice([1, 2], size),
        "isl": random.integers(16, 8000, size),
        "osl": random.integers(16, 2000, size),
        "concurrency": random.integers(1, 200, size),
    }
    load = LoadPattern(synchrony=0.1)
    together = many(**asked, load=load)
    assert together.feasible_B.all()
    for b in range(0, size, 97):
        alone = many(**{name: values[b] for name, values in asked.items()}, load=load)
        for name in ("ttft_B", "tpot_B", "rate_B"):
            assert getattr(alone, name)[0] == pytest.approx(getattr(together, name)[b], rel=1e-12)
        pricer = node_replica(
            many.model,
            many.device,
            many.engine,
            ReplicaParallelism(tp=int(asked["tp"][b])),
            pp=int(asked["pp"][b]),
            workload=fixed_workload(int(asked["isl"][b]), int(asked["osl"][b])),
        )
        loop = closed_loop(pricer, [float(asked["concurrency"][b])], load)
        assert together.ttft_B[b] == pytest.approx(loop.ttft_B[0], rel=1e-9)
        assert together.tpot_B[b] == pytest.approx(loop.tpot_B[0], rel=1e-9)
    assert together.latency_B == pytest.approx(together.ttft_B + asked["osl"] * together.tpot_B, rel=1e-9)
    assert set(together.errors) == {"ttft", "tpot", "e2e"}
    assert all(0 < error < 2 for error in together.errors.values())


def test_what_cannot_run_is_no_number_and_says_why() -> None:
    found = estimator("llama-3.1-70b")(tp=[1, 3, 8, 8], pp=[1, 1, 1, 2], isl=1000, osl=100, concurrency=4)
    assert found.feasible_B.tolist() == [False, False, True, False]
    assert np.isnan(found.tpot_B).tolist() == [True, True, False, True]
    assert "does not divide" in found.why[3, 1]
    assert "16 GPUs span nodes" in found.why[8, 2]
    nothing = estimator()(tp=16, isl=1, osl=1, concurrency=1)
    assert not nothing.feasible_B.any()
    assert nothing.errors == {}


def test_prefixes_and_slots_are_part_of_the_load() -> None:
    price = estimator()
    asked = {"tp": 1, "isl": 4000, "osl": 200, "concurrency": 64}
    plain, cached, few = (
        price(**asked, load=load) for load in (LoadPattern(), LoadPattern(prefix_share=0.5), LoadPattern(slot_limit=8))
    )
    assert cached.ttft_B[0] < plain.ttft_B[0]
    assert cached.rate_B[0] > plain.rate_B[0]
    assert few.running_B[0] == pytest.approx(8)
    assert few.tpot_B[0] < plain.tpot_B[0]
    assert few.ttft_B[0] > plain.ttft_B[0]


@pytest.mark.parametrize("wrong", [{"tp": 0}, {"tp": 1.5}, {"isl": 0}, {"osl": float("nan")}, {"concurrency": 0.5}])
def test_impossible_sizes_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError):
        estimator()(**({"tp": 1, "isl": 100, "osl": 100, "concurrency": 1} | wrong))
