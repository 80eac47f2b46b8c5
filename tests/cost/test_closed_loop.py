"""Closed loops: Little's law, limits, the split of a latency, and agreement with the open loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cluster import load_device, load_link
from planner.cost.closed_loop import LoadPattern, closed_loop
from planner.cost.network import collective_for
from planner.cost.replica import PipelineStage, ReplicaPricer
from planner.engine import load_engine
from planner.errors import InfeasibleError, InputError
from planner.model import load_model
from planner.workload import fixed_workload

SPREAD = LoadPattern()


def replica(
    isl: int = 1024,
    osl: int = 256,
    *,
    model: str = "llama-3.1-8b",
    gpu: str = "h100_sxm",
    engine: str = "trtllm",
    tp: int = 1,
    pp: int = 1,
) -> ReplicaPricer:
    device, spec = load_device(gpu), load_model(model)
    link = load_link(device.link).link()
    cuts = np.linspace(0, spec.num_layers, pp + 1).round().astype(int)
    stages = [
        PipelineStage(
            device=device,
            collective=collective_for(device, tp, link, native=True),
            layers=(int(cuts[s]), int(cuts[s + 1])),
            hop=link if pp > 1 else None,
        )
        for s in range(pp)
    ]
    return ReplicaPricer(spec, load_engine(engine), fixed_workload(isl, osl), stages)


@settings(deadline=None, max_examples=15, derandomize=True)
@given(
    isl=st.integers(16, 16_000),
    osl=st.integers(1, 4_000),
    synchrony=st.floats(0, 1),
    slot_wait=st.floats(0, 2),
    prompt_wait=st.floats(0, 2),
    stream=st.floats(0, 30),
    pp=st.sampled_from([1, 2]),
    engine=st.sampled_from(["trtllm", "vllm", "sglang"]),
)
def test_little(
    isl: int, osl: int, synchrony: float, slot_wait: float, prompt_wait: float, stream: float, pp: int, engine: str
) -> None:
    """C = rate x latency, and latency = TTFT + OSL TPOT, whatever the load."""
    load = LoadPattern(synchrony=synchrony, slot_wait=slot_wait, prompt_wait=prompt_wait, stream_interval=stream)
    concurrency = np.array([1.0, 2.0, 7.5, 64.0, 4000.0])
    loop = closed_loop(replica(isl, osl, pp=pp, engine=engine), concurrency, load)
    assert loop.rate_B * loop.latency_B == pytest.approx(concurrency, rel=1e-9)
    assert loop.ttft_B + osl * loop.tpot_B == pytest.approx(loop.latency_B, rel=1e-9)
    assert (loop.ttft_B > 0).all()
    assert (loop.tpot_B > 0).all()
    assert (loop.running_B <= concurrency * (1 + 1e-9)).all()
    assert (loop.decoding_B <= loop.running_B * (1 + 1e-9)).all()


def test_more_clients_get_more_until_the_slots_are_full() -> None:
    pricer = replica(2048, 1024)
    loop = closed_loop(pricer, 2.0 ** np.arange(13), SPREAD)
    free = ~loop.limited_B
    assert free[0]
    assert loop.limited_B[-1]
    assert (np.diff(loop.rate_B[free]) > 0).all()
    assert (np.diff(loop.tpot_B[free]) > 0).all()
    full = np.flatnonzero(loop.limited_B)
    assert np.ptp(loop.rate_B[full]) == pytest.approx(0, abs=1e-9)
    # beyond the slots nothing changes but the wait, which is part of TTFT
    assert np.ptp(loop.tpot_B[full]) == pytest.approx(0, abs=1e-12)
    waits = (loop.ttft_B[full] - loop.ttft_B[full[0]]) * loop.rate_B[full]
    assert waits == pytest.approx(loop.concurrency_B[full] - loop.concurrency_B[full[0]], rel=1e-6)


def test_slots_are_what_the_engine_reserves() -> None:
    """TensorRT-LLM keeps room for the whole answer, vLLM for what is there."""
    for engine, share in (("trtllm", 1.0), ("sglang", 0.6)):
        pricer = replica(1000, 4000, engine=engine)
        loop = closed_loop(pricer, [100_000.0], SPREAD)
        assert loop.running_B[0] == pytest.approx(pricer.kv_capacity() / (1000 + share * 4000), rel=1e-9)
    assert closed_loop(replica(16, 16, engine="vllm"), [100_000.0], SPREAD).running_B[0] == 256  # its sequence limit


def test_one_client_meets_nobody() -> None:
    """Alone, a request waits for no other's prompt: TTFT is its own prompt, TPOT an iteration of one."""
    pricer = replica(1024, 256)
    loop = closed_loop(pricer, [1.0], SPREAD)
    lonely = closed_loop(replica(1, 256), [1.0], SPREAD)
    assert loop.tpot_B[0] == pytest.approx(lonely.tpot_B[0], rel=0.02)
    assert loop.ttft_B[0] > lonely.ttft_B[0]
    for synchrony in (0.0, 0.5, 1.0):
        same = closed_loop(pricer, [1.0], LoadPattern(synchrony=synchrony))
        assert same.ttft_B[0] == pytest.approx(loop.ttft_B[0], rel=1e-9)


@pytest.mark.parametrize("pp", [1, 2])
def test_agrees_with_the_open_loop(pp: int) -> None:
    """With many clients, the rate is that of an open loop with as many sequences decoding."""
    pricer = replica(512, 512, pp=pp)
    loop = closed_loop(pricer, [64.0, 256.0], SPREAD)
    state = pricer.state(loop.decoding_B / pp)
    assert loop.rate_B == pytest.approx(state.rate_B, rel=0.02)
    assert loop.tpot_B == pytest.approx(state.tpot_B, rel=0.03)


def test_synchrony_moves_time_to_the_first_token() -> None:
    pricer = replica(2048, 128)
    loops = [closed_loop(pricer, [32.0], LoadPattern(synchrony=s)) for s in (0.0, 0.25, 0.5, 0.75, 1.0)]
    ttft, tpot, latency = (np.array([getattr(x, f"{n}_B")[0] for x in loops]) for n in ("ttft", "tpot", "latency"))
    assert (np.diff(ttft) > 0).all()
    assert (np.diff(tpot) < 0).all()
    assert np.ptp(latency) / latency[0] < 0.12
    assert ttft[-1] > 3 * ttft[0]


def test_a_burst_is_a_wave() -> None:
    pricer = replica(1024, 128)
    burst = closed_loop(pricer, [16.0], LoadPattern(arrival="burst"))
    wave = closed_loop(pricer, [16.0], LoadPattern(synchrony=1.0))
    assert burst.ttft_B[0] == wave.ttft_B[0]
    assert burst.decoding_B[0] == pytest.approx(burst.running_B[0], rel=1e-6)  # all of them decode together


def test_streaming_in_lumps_delays_the_first_token_only() -> None:
    pricer = replica(1024, 1024)
    plain, lumps = (closed_loop(pricer, [16.0], LoadPattern(stream_interval=x)) for x in (0.0, 20.0))
    assert lumps.latency_B[0] == pytest.approx(plain.latency_B[0], rel=1e-12)
    assert lumps.ttft_B[0] - plain.ttft_B[0] == pytest.approx(20 * lumps.tpot_B[0], rel=1e-9)


def test_waiting_outside_leaves_fewer_inside() -> None:
    assert (
        closed_loop(replica(), [1.0], LoadPattern(slot_wait=1.0)).ttft_B == closed_loop(replica(), [1.0], SPREAD).ttft_B
    )
    pricer = replica(1024, 256)
    plain, waiting = (closed_loop(pricer, [8.0], LoadPattern(slot_wait=x)) for x in (0.0, 1.0))
    assert waiting.running_B[0] == pytest.approx(plain.running_B[0] - 1, abs=0.05)
    assert waiting.ttft_B[0] > plain.ttft_B[0]
    assert waiting.rate_B[0] < plain.rate_B[0]


def test_offline_requests_cost_no_host_time() -> None:
    pricer = replica(1024, 128, engine="vllm")
    served, offline = (closed_loop(pricer, [8.0], LoadPattern(offline=x)) for x in (False, True))
    overhead = pricer.engine.overhead
    host = overhead.first_token.value + overhead.prompt.value
    assert served.ttft_B[0] - offline.ttft_B[0] == pytest.approx(host, rel=0.05)
    assert served.rate_B[0] < offline.rate_B[0]


def test_filling_and_draining() -> None:
    pricer = replica(128, 128)
    long, short, none = (closed_loop(pricer, [64.0], LoadPattern(requests=n)) for n in (10**6, 128, None))
    assert none.mean_rate_B[0] == none.rate_B[0] == long.rate_B[0]
    assert long.mean_rate_B[0] == pytest.approx(long.rate_B[0], rel=1e-4)
    assert short.mean_rate_B[0] == pytest.approx(short.rate_B[0] / 1.25, rel=0.02)


def test_bad_input() -> None:
    pricer = replica()
    with pytest.raises(InputError, match="open loop"):
        closed_loop(pricer, [1.0], LoadPattern(arrival="open"))
    for concurrency in ([0.5], [], [math.nan]):
        with pytest.raises(InputError, match="below 1"):
            closed_loop(pricer, concurrency, SPREAD)
    for wrong in ({"synchrony": 1.5}, {"slot_wait": -1.0}, {"stream_interval": math.inf}, {"requests": 0}):
        with pytest.raises(InputError):
            LoadPattern(**wrong)  # type: ignore[arg-type]


def test_what_does_not_fit() -> None:
    with pytest.raises(InfeasibleError, match="one request of 100,500 tokens does not fit"):
        closed_loop(replica(100_000, 500, model="llama-3.1-8b", gpu="l4"), [1.0], SPREAD)
    with pytest.raises(InfeasibleError, match="of 0 tokens"):
        closed_loop(replica(model="llama-3.1-70b"), [1.0], SPREAD)
