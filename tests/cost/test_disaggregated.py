"""Disaggregated serving: limits with one side infinitely fast, Little's law, and what workers add."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cluster import Link, load_device, load_link
from planner.cost.closed_loop import LoadPattern
from planner.cost.disaggregated import WorkerPool, disaggregated_loop, transfer_bytes
from planner.cost.network import collective_for
from planner.cost.parallelism import ReplicaParallelism
from planner.cost.replica import PipelineStage, ReplicaPricer
from planner.engine import load_engine
from planner.errors import InfeasibleError, InputError
from planner.model import load_model
from planner.workload import fixed_workload

SPREAD, WIRE = LoadPattern(), Link(bandwidth=50e9, latency=5e-3)


def worker(
    isl: int = 1024, osl: int = 256, *, model: str = "llama-3.1-8b", layout: ReplicaParallelism | None = None
) -> ReplicaPricer:
    device, spec = load_device("h200"), load_model(model)
    layout = layout or ReplicaParallelism()
    collective = collective_for(device, layout.gpus, load_link(device.link).link(), native=True)
    stage = PipelineStage(
        device=device, collective=collective, layers=(0, spec.num_layers), hop=None, parallelism=layout
    )
    return ReplicaPricer(spec, load_engine("trtllm"), fixed_workload(isl, osl), [stage])


class Instant(ReplicaPricer):
    """A prefill worker that takes no time."""

    def prompt_time(self, tokens: float) -> float:
        return 0.0 * tokens


def instant(isl: int = 1024, osl: int = 256) -> WorkerPool:
    real = worker(isl, osl)
    overhead = real.engine.overhead
    free = overhead.model_copy(update={"first_token": overhead.first_token.model_copy(update={"value": 0.0})})
    return WorkerPool(
        Instant(real.model, real.engine.model_copy(update={"overhead": free}), real.workload, real.stages), 1
    )


@pytest.mark.parametrize("clients", [1, 16, 200])
def test_infinitely_fast_prefill_leaves_decoding_alone(clients: int) -> None:
    decode = WorkerPool(worker(), 1, step_overhead=2e-3)
    loop = disaggregated_loop(instant(), decode, [clients], SPREAD, None)
    alone = worker()
    alone.demand = replace(alone.demand, prefill_per_decode=0.0, output=np.inf)
    step = float(alone.state(loop.decoding_B).tpot_B[0]) + 2e-3
    assert float(loop.tpot_B[0]) == pytest.approx(step, rel=2e-3)
    # all clients decode, but for the one step that a request waits to join
    assert float(loop.decoding_B[0]) == pytest.approx(clients * 256 / 257, rel=1e-3)
    assert float(loop.prefilling_B[0]) == 0.0


def test_one_prefill_worker_bounds_the_rate() -> None:
    prefill, decode = worker(8192, 16), worker(8192, 16)
    loop = disaggregated_loop(WorkerPool(prefill, 1), WorkerPool(decode, 4), [1, 8, 64, 512], SPREAD, WIRE)
    bound = 1.0 / prefill.prompt_time(8192)
    assert (loop.rate_B <= bound * (1 + 1e-9)).all()
    assert float(loop.rate_B[-1]) == pytest.approx(bound, rel=0.01)
    assert float(loop.prefill_load_B[-1]) > 0.99
    # all but those that decode wait for it
    assert float(loop.ttft_B[-1]) == pytest.approx((512 - float(loop.decoding_B[-1])) / bound, rel=0.02)
    twice = disaggregated_loop(WorkerPool(prefill, 2), WorkerPool(decode, 4), [512], SPREAD, WIRE)
    assert float(twice.rate_B[0]) == pytest.approx(2 * bound, rel=0.02)


@settings(deadline=None, max_examples=25, derandomize=True)
@given(
    isl=st.integers(32, 8000),
    osl=st.integers(2, 2000),
    prefill=st.integers(1, 4),
    decode=st.integers(1, 4),
    clients=st.floats(1, 400),
)
def test_little(isl: int, osl: int, prefill: int, decode: int, clients: float) -> None:
    one = worker(isl, osl)
    loop = disaggregated_loop(WorkerPool(one, prefill), WorkerPool(one, decode), [clients, clients + 1], SPREAD, WIRE)
    assert loop.rate_B * loop.latency_B == pytest.approx(loop.concurrency_B, rel=1e-6)
    assert loop.latency_B == pytest.approx(loop.ttft_B + osl * loop.tpot_B, rel=1e-6)
    assert loop.rate_B[1] >= loop.rate_B[0] * (1 - 1e-9)
    assert (loop.ttft_B >= one.prompt_time(isl)).all()
    assert (loop.decoding_B + loop.prefilling_B <= loop.concurrency_B * (1 + 1e-9)).all()
    more = disaggregated_loop(WorkerPool(one, prefill + 1), WorkerPool(one, decode + 1), [clients], SPREAD, WIRE)
    assert float(more.rate_B[0]) >= float(loop.rate_B[0]) * (1 - 1e-9)


def test_a_request_alone_waits_for_nobody() -> None:
    one = worker()
    loop = disaggregated_loop(WorkerPool(one, 1), WorkerPool(one, 1), [1], SPREAD, WIRE)
    sent = WIRE.latency + transfer_bytes(one, 1024) / (0.8 * WIRE.bandwidth)
    first = one.engine.overhead.first_token.value + one.prompt_time(1024) + sent
    assert float(loop.ttft_B[0]) == pytest.approx(first + float(loop.tpot_B[0]), rel=1e-6)


def test_decode_workers_without_room_make_requests_wait() -> None:
    one = worker()
    loop = disaggregated_loop(WorkerPool(one, 8), WorkerPool(one, 1, sequences=4), [4, 64], SPREAD, None)
    assert loop.limited_B.tolist() == [False, True]
    assert float(loop.decoding_B[1]) == pytest.approx(4)
    assert float(loop.ttft_B[1]) > 5 * float(loop.ttft_B[0])
    assert float(loop.tpot_B[1]) == pytest.approx(float(loop.tpot_B[0]), rel=0.05)


def test_ranks_of_attention_are_servers_of_prompts() -> None:
    apart = ReplicaParallelism(attention_dp=8, moe_ep=8)
    worker_dp = worker(8192, 64, model="deepseek-r1", layout=apart)
    loop = disaggregated_loop(WorkerPool(worker_dp, 1), WorkerPool(worker_dp, 8), [2048], SPREAD, WIRE)
    assert float(loop.rate_B[0]) == pytest.approx(8 / worker_dp.prompt_time(8192), rel=0.02)


def test_a_cache_is_sent_once_whatever_holds_copies_of_it() -> None:
    cut = ReplicaParallelism(tp=8)
    latent, whole = load_model("deepseek-r1"), load_model("llama-3.1-70b")
    assert transfer_bytes(worker(model="deepseek-r1", layout=cut), 1000) == pytest.approx(
        latent.kv_bytes_per_token * 1000
    )
    assert transfer_bytes(worker(model="llama-3.1-70b", layout=cut), 1000) == pytest.approx(
        whole.kv_bytes_per_token * 1000
    )


def test_waves_wait_for_a_burst() -> None:
    one = worker(2048, 2000)
    spread, waves = (
        disaggregated_loop(WorkerPool(one, 1), WorkerPool(one, 2), [128], LoadPattern(synchrony=s), WIRE)
        for s in (0, 1)
    )
    assert float(waves.ttft_B[0]) > float(spread.ttft_B[0])


def test_what_makes_no_sense_is_refused() -> None:
    one = worker()
    with pytest.raises(InputError, match="no concurrency"):
        disaggregated_loop(WorkerPool(one, 1), WorkerPool(one, 1), [1], LoadPattern(arrival="open"), None)
    with pytest.raises(InputError, match="below 1"):
        disaggregated_loop(WorkerPool(one, 1), WorkerPool(one, 1), [0.5], SPREAD, None)
    with pytest.raises(InputError):
        WorkerPool(one, 0)
    long = worker(4_000_000, 10)
    with pytest.raises(InfeasibleError, match="does not fit"):
        disaggregated_loop(WorkerPool(one, 1), WorkerPool(long, 1), [1], SPREAD, None)
