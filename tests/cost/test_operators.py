"""Operators on a GPU and collectives on links: limits that follow from physics, and published figures."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cluster import Link, list_devices, load_cluster, load_device, load_link
from planner.cost.device import DeviceOperators, compute_dtype
from planner.cost.layer import PARTS, LayerPricer, Load
from planner.cost.network import Collective, collective_for, group_collective, node_collective, point_to_point
from planner.model import load_model

DEVICES = list_devices()


def operators(name: str) -> DeviceOperators:
    return DeviceOperators(load_device(name))


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(DEVICES),
    st.integers(1, 16384),
    st.sampled_from([512, 4096, 28672]),
    st.sampled_from([1024, 8192]),
    st.sampled_from(["bf16", "fp8", "int4"]),
)
def test_no_gemm_beats_the_roofline(name: str, m: int, n: int, k: int, stored: str) -> None:
    ops = operators(name)
    dtype = compute_dtype(ops.device, stored)  # type: ignore[arg-type]
    time = float(ops.gemm(np.array(float(m)), n, k, stored, "bf16"))  # type: ignore[arg-type]
    compute = 2.0 * m * n * k / ops.device.flops[dtype].value
    assert time >= compute
    assert time <= 1.0


@pytest.mark.parametrize("name", DEVICES)
def test_gemm_grows_with_tokens(name: str) -> None:
    """A larger batch takes longer; where memory bounds, measured efficiencies may gain a tenth on the way."""
    m = np.geomspace(1, 32768, 16)
    time = operators(name).gemm(m, 8192, 8192, "bf16", "bf16")
    assert (time[1:] > 0.85 * time[:-1]).all()
    assert (np.diff(time[m >= 1024]) > 0).all()
    assert (np.diff(m / time) > 0)[:5].all()  # more tokens per second as the batch grows


def test_zero_tokens_take_no_time() -> None:
    ops = operators("h100_sxm")
    assert ops.gemm(np.zeros(3), 4096, 4096, "bf16", "bf16").tolist() == [0.0, 0.0, 0.0]
    assert float(ops.decode_attention(np.zeros(1), np.ones(1), 1.0, 1.0)[0]) == 0.0


def test_a_decode_gemm_is_bound_by_memory_and_a_prefill_gemm_by_compute() -> None:
    """H100, 8192 x 8192 bf16: 134 MB at 3.35 TB/s are 40 us; 8,192 tokens are 1.1 TFLOP at 989 TFLOP/s, 1.11 ms."""
    ops = operators("h100_sxm")
    one, many = ops.gemm(np.array([1.0, 8192.0]), 8192, 8192, "bf16", "bf16")
    assert 40e-6 < one < 60e-6
    assert 1.11e-3 < many < 1.5e-3


def test_formats_without_units_are_unpacked() -> None:
    assert compute_dtype(load_device("a100_sxm_80"), "fp8") == "bf16"
    assert compute_dtype(load_device("v100_sxm_16"), "bf16") == "fp16"
    assert compute_dtype(load_device("h100_sxm"), "fp8") == "fp8"
    assert compute_dtype(load_device("h100_sxm"), "int4") == "bf16"


def test_experts_are_read_as_far_as_they_are_visited() -> None:
    """128 experts, 8 of them for one token: one token reads 8, a thousand read all."""
    ops = operators("h100_sxm")
    grouped = ops.grouped_gemm(np.array([1.0, 1000.0]), 4096, 1536, 128, 8, "bf16", "bf16")
    single = float(ops.gemm(np.array(1.0), 4096, 1536, "bf16", "bf16"))
    floor = float(ops.gemm(np.array(1e-6), 1, 1, "bf16", "bf16"))  # no work: the start of a kernel
    assert float(grouped[0]) - floor == pytest.approx(8 * (single - floor), rel=0.01)
    assert float(grouped[1]) > 10 * float(grouped[0])


def test_decode_attention_reads_the_cache_once() -> None:
    """8 GB of KV cache on an H100 take between peak and twice the peak time."""
    ops = operators("h100_sxm")
    time = float(ops.decode_attention(np.array([64.0]), np.array([32768.0]), 4096.0, 1.0)[0])
    peak = 64 * 32768 * 4096.0 / ops.device.memory_bandwidth.value
    assert peak < time < 2 * peak


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 16), st.floats(1e3, 1e9), st.floats(1e9, 1e12), st.floats(0, 1e-4))
def test_rings(size: int, message: float, bandwidth: float, latency: float) -> None:
    ring = Collective(size, latency, bandwidth, 0.0, "spec")
    reduce = float(ring.all_reduce(np.array(message)))
    assert reduce == pytest.approx(latency + 2 * (size - 1) / size * message / bandwidth)
    assert float(Collective(1, latency, bandwidth, 0.0, "spec").all_reduce(np.array(message))) == 0.0


def test_measured_all_reduce_is_met_at_its_points() -> None:
    """Eight H100, 1 MiB: 13.47 us in vLLM's table; the fastest of all collections, within the stated error."""
    device = load_device("h100_sxm")
    group = collective_for(device, 8, load_link(device.link).link(), native=True)
    assert float(group.all_reduce(np.array(float(2**20)))) == pytest.approx(13.467e-6, rel=group.error)
    assert group.error < 0.15
    assert group.provenance == "fitted"
    slow = collective_for(device, 8, Link(bandwidth=1e9, latency=1e-5), native=False)
    assert slow.provenance == "spec"
    assert float(slow.all_reduce(np.array(1e8))) > 0.1


def test_a_group_over_two_nodes_runs_at_the_network() -> None:
    cluster = load_cluster("a100-l40s-l4-24")
    inside = group_collective(cluster, cluster.gpus_of("l40s-0")[:2])
    across = group_collective(cluster, ("l40s-0/0", "l40s-1/0"))
    assert inside.provenance == node_collective(cluster.class_of_node("l40s-0"), 2).provenance == "fitted"
    assert across.provenance == "spec"
    message = np.array(1e8)
    assert float(across.all_reduce(message)) > float(inside.all_reduce(message))


def test_sharing_a_card_divides_it() -> None:
    device, link = load_device("a100_sxm_80"), Link(bandwidth=1e10, latency=0.0)
    alone, shared = (collective_for(device, 4, link, native=False, sharing=n) for n in (1, 4))
    message = np.array(1e9)
    assert float(shared.all_reduce(message)) == pytest.approx(4 * float(alone.all_reduce(message)))


def test_point_to_point_is_latency_plus_bytes() -> None:
    link = Link(bandwidth=1e9, latency=1e-3)
    assert float(point_to_point(np.array(0.0), link)) == 1e-3
    assert float(point_to_point(np.array(1e9), link)) > 1.0


def pricer(model: str, device: str, tp: int) -> LayerPricer:
    profile = load_device(device)
    return LayerPricer(
        load_model(model), profile, collective_for(profile, tp, load_link(profile.link).link(), native=True)
    )


def load(decode: float = 0.0, prefill: float = 0.0, context: float = 1024.0) -> Load:
    return Load(
        decode=np.array([decode]),
        decode_context=np.array([context]),
        prefill=np.array([prefill]),
        prefill_context=np.array([context / 2]),
    )


def test_parts_sum_to_the_time_of_a_layer() -> None:
    priced = pricer("llama-3.1-70b", "a100_sxm_80", 4)
    parts = priced.parts_PKB(load(decode=16, prefill=512))
    assert parts.shape == (len(PARTS), 1, 1)
    assert (parts > 0).all()
    assert np.allclose(parts.sum(axis=0), priced.time_KB(load(decode=16, prefill=512)))


def test_batches_are_priced_as_their_members_are() -> None:
    priced = pricer("qwen3-235b-a22b", "h100_sxm", 8)
    loads = [(1.0, 0.0), (64.0, 0.0), (32.0, 2048.0)]
    together = priced.time_KB(
        Load(
            decode=np.array([d for d, _ in loads]),
            decode_context=np.full(3, 1024.0),
            prefill=np.array([p for _, p in loads]),
            prefill_context=np.full(3, 512.0),
        )
    )
    apart = [float(priced.time_KB(load(d, p))[0, 0]) for d, p in loads]
    assert together[0].tolist() == pytest.approx(apart, rel=1e-12)


def test_tensor_parallelism_shortens_a_layer_with_diminishing_returns() -> None:
    times = [float(pricer("llama-3.1-70b", "h100_sxm", tp).time_KB(load(decode=8))[0, 0]) for tp in (1, 2, 4, 8)]
    assert times == sorted(times, reverse=True)
    speedups = [times[0] / t for t in times]
    assert speedups[-1] < 8
    assert speedups[1] > speedups[3] / 4


def test_a_70b_token_on_four_a100_takes_at_least_the_weights() -> None:
    """70.55e9 x 2 B over four times 2.04 TB/s are 17 ms; a served token at batch 1 is known to take 20 to 30."""
    priced = pricer("llama-3.1-70b", "a100_sxm_80", 4)
    token = 80 * float(priced.time_KB(load(decode=1))[0, 0]) + float(priced.head_time_B(np.array([1.0]))[0])
    assert 0.0173 < token < 0.030


def test_sliding_windows_bound_attention() -> None:
    priced = pricer("gpt-oss-120b", "h100_sxm", 1)
    short, long = (priced.parts_PKB(load(decode=64, context=c)) for c in (1024.0, 65536.0))
    attention = PARTS.index("decode_attention")
    windowed = [i for i, kind in enumerate(priced.model.kinds) if kind.attention.window]
    full = [i for i, kind in enumerate(priced.model.kinds) if not kind.attention.window]
    assert windowed and full
    assert np.allclose(short[attention, windowed], long[attention, windowed])
    assert (long[attention, full] > 5 * short[attention, full]).all()
