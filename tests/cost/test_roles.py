"""Prefill and decode replicas: queueing formulas, the measured closed-loop cost of one pair, network and memory."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from planner.cluster import Cluster
from planner.cost.closed_loop import LoadPattern
from planner.cost.disaggregated import WorkerPool, decode_step, disaggregated_loop, transfer_bytes
from planner.cost.prediction import PlacedStage, pipeline
from planner.cost.replica import Operation, ReplicaPricer
from planner.cost.role_prediction import predict_roles
from planner.cost.roles import (
    DecodeReplica,
    KvPath,
    PlacedReplica,
    PlacedRoute,
    PrefillReplica,
    kv_path,
    prefill_share,
    step_share,
)
from planner.engine import load_engine
from planner.model import ModelSpec
from planner.workload import Slo, Workload, fixed_workload, load_trace
from tests.search.small import small_cluster, tiny_model

FAST = KvPath(latency=0.0, out=math.inf, into=math.inf, link=math.inf)
ENGINE = load_engine("vllm")


def workload(ttft: float | None = 1.0, tpot: float | None = 0.05, rate: float | str = "max") -> Workload:
    return fixed_workload(1024, 128, rate=rate, slo=Slo(ttft=ttft, tpot=tpot))  # type: ignore[arg-type]


def node(gpus: int = 4, bandwidth: str = "100 Gb/s", nodes: int = 1) -> Cluster:
    return small_cluster([("a100_sxm_40", gpus, nodes)], bandwidth=bandwidth)


def stages(cluster: Cluster, model: ModelSpec, first: int, count: int) -> list[PlacedStage]:
    """One GPU a stage, from the first node's GPU of some index."""
    cuts = np.linspace(0, model.num_layers, count + 1).round().astype(int).tolist()
    return [PlacedStage((cluster.gpus[first + s],), (cuts[s], cuts[s + 1])) for s in range(count)]


def prefill(path: KvPath = FAST, asked: Workload | None = None, count: int = 1) -> PrefillReplica:
    cluster, model = node(), tiny_model(layers=16)
    placed = pipeline(cluster, stages(cluster, model, 0, count))
    return PrefillReplica(model, ENGINE, asked or workload(), placed, path)


def test_equal_prompts_wait_as_in_an_m_d_1_queue() -> None:
    """Mean wait rho D / (2 (1 - rho)), on top of the prompt itself."""
    one = prefill()
    for load in (0.1, 0.5, 0.9):
        mean = one.ttft(load / one.interval)[1]
        assert mean - one.ttft(0.0)[1] == pytest.approx(load * one.interval / (2 * (1 - load)), rel=1e-9)
    assert one.interval == pytest.approx(one.pricer.prompt_time(1024), rel=1e-12)  # a single stage does not overlap
    assert one.ttft(1.0 / one.interval) == (math.inf, math.inf)


def test_stages_work_on_prompts_at_the_same_time() -> None:
    """Two stages take prompts almost twice as often, though one of them takes as long as before or longer."""
    one, two = prefill(), prefill(count=2)
    assert two.interval < 0.75 * one.interval
    assert two.pricer.prompt_time(1024) > 0.95 * one.pricer.prompt_time(1024)


@pytest.mark.parametrize("ttft", [0.2, 0.5, 2.0])
def test_goodput_of_a_prefill_replica_just_meets_its_part_of_the_ttft(ttft: float) -> None:
    one = prefill(asked=workload(ttft=ttft))
    rate = one.goodput()
    limit = prefill_share(Slo(ttft=ttft, tpot=0.05))
    assert limit == pytest.approx(ttft - 0.05)
    assert one.ttft(rate)[0] <= limit
    assert rate == pytest.approx(0.95 / one.interval) or one.ttft(rate * 1.001)[0] > limit


def test_a_network_card_bounds_both_sides() -> None:
    """A hundredth of the bandwidth makes the transfer the bottleneck: rate times bytes is what the card carries."""
    cluster, model = node(nodes=2, bandwidth="1 Gb/s"), tiny_model(layers=16)
    path = kv_path(cluster, 0, 0)
    assert path.out == path.into == pytest.approx(125e6 / 4)
    placed = pipeline(cluster, stages(cluster, model, 0, 1))
    loose = workload(ttft=60.0, tpot=1.0)
    one = PrefillReplica(model, ENGINE, loose, placed, path)
    bytes_ = transfer_bytes(one.pricer, 1024)
    assert one.goodput() * bytes_ == pytest.approx(0.8 * path.out, rel=1e-9)
    assert one.mean_sending == pytest.approx(path.latency + bytes_ / (0.8 * path.out), rel=1e-9)
    taking = DecodeReplica(model, ENGINE, loose, placed, path).goodput()
    assert isinstance(taking, Operation)
    assert taking.rate * bytes_ == pytest.approx(0.8 * path.into, rel=1e-3)
    inside = kv_path(node(), 0, 0)  # one node: over its own links
    assert inside.link == math.inf and inside.out > 100 * path.out


def test_a_pair_agrees_with_the_cost_that_measured_servers_were_compared_with() -> None:
    """The same decode batch, TPOT and prefill load as a closed loop of clients at the same rate; the same idle TTFT."""
    cluster, model = node(), tiny_model(layers=16)
    asked, path = workload(), kv_path(node(nodes=2), 0, 0)
    first, second = (pipeline(cluster, stages(cluster, model, g, 1)) for g in (0, 1))
    one, other = PrefillReplica(model, ENGINE, asked, first, path), DecodeReplica(model, ENGINE, asked, second, path)
    link = type(cluster.classes[0].nic).model_construct(bandwidth=path.out, latency=path.latency)
    pools = [WorkerPool(ReplicaPricer(model, ENGINE, asked, placed), 1) for placed in (first, second)]
    loop = disaggregated_loop(pools[0], pools[1], [1, 8, 40, 100], LoadPattern(), link)
    for b in range(4):
        rate = float(loop.rate_B[b])
        now = other.pricer.at_rate(rate)
        assert now.tpot == pytest.approx(float(loop.tpot_B[b]), rel=3e-3)  # the loop interpolates between batches
        assert now.batch == pytest.approx(float(loop.decoding_B[b]), rel=3e-3)
        assert rate * one.interval == pytest.approx(float(loop.prefill_load_B[b]), rel=1e-9)
    idle = one.mean_passage + one.mean_sending + float(loop.tpot_B[0])
    assert idle == pytest.approx(float(loop.ttft_B[0]), rel=1e-3)


def test_a_decode_step_is_that_of_a_server_without_prompts() -> None:
    cluster, model = node(), tiny_model(layers=16)
    placed = pipeline(cluster, stages(cluster, model, 0, 1))
    apart = DecodeReplica(model, ENGINE, workload(), placed, FAST).pricer
    alone = ReplicaPricer(model, ENGINE, workload(), placed)
    alone.demand = replace(alone.demand, prefill_per_decode=0.0, output=math.inf)
    batch = np.array([1.0, 7.0, 64.0])
    assert apart.state(batch).tpot_B == pytest.approx(alone.state(batch).tpot_B + decode_step(), rel=1e-12)
    together = ReplicaPricer(model, ENGINE, workload(), placed).state(batch).tpot_B
    assert apart.state(batch).tpot_B[-1] < together[-1]  # what prompts take of a step is more than what it takes longer


def test_parts_of_the_slo() -> None:
    assert (step_share(Slo(ttft=1.0, tpot=0.1)), prefill_share(Slo(ttft=1.0, tpot=0.1))) == (0.1, 0.9)
    assert (step_share(Slo(ttft=1.0)), prefill_share(Slo(ttft=1.0))) == (0.1, 0.9)
    assert (step_share(Slo(tpot=0.1)), prefill_share(Slo(tpot=0.1))) == (0.1, math.inf)
    assert (step_share(Slo()), prefill_share(Slo())) == (math.inf, math.inf)


@pytest.mark.parametrize("rate", ["max", 2.0])
def test_prediction_of_a_pair(rate: float | str) -> None:
    """The slower of the two sides makes the goodput; figures keep the SLO; TTFT holds transfer and first step."""
    cluster, model = node(), tiny_model(layers=16)
    asked = workload(rate=rate)
    replicas = [
        PlacedReplica(stages=stages(cluster, model, 0, 1), role="prefill"),
        PlacedReplica(stages=stages(cluster, model, 1, 1), role="decode"),
    ]
    found = predict_roles(
        model,
        cluster,
        ENGINE,
        asked,
        replicas,
        shares=[1.0, 1.0],
        routes=[PlacedRoute(prefill=0, decode=1, share=1.0)],
    )
    first, second = (one.figures for one in found.replicas)
    assert found.figures["goodput"].value == min(first["goodput"].value, second["goodput"].value)
    assert found.figures["rate"].value == (2.0 if rate == 2.0 else found.figures["goodput"].value)
    assert found.figures["ttft"].value <= 1.0 and found.figures["tpot"].value <= 0.05
    assert found.figures["ttft"].value == first["ttft"].value
    assert first["ttft"].value > first["kv_transfer"].value + second["tpot"].value
    assert found.figures["tpot"].error >= 0.12 and found.figures["ttft"].error >= 2  # as measured disaggregated servers
    assert found.figures["gpus"].value == 2.0
    # a prefill replica keeps a few prompts, a decode replica all that it decodes
    assert found.replicas[0].memory_S[0].value < found.replicas[1].memory_S[0].value


def test_lengths_of_a_trace_make_prompts_wait_longer() -> None:
    """Prompts of different lengths queue longer than equal ones of the same mean."""
    trace = load_trace("azure-conv-2023").within(8000).summary(Slo(ttft=4.0, tpot=0.1), rate="max")
    equal = fixed_workload(round(trace.prompt.mean), round(trace.output.mean), slo=Slo(ttft=4.0, tpot=0.1))
    spread, even = prefill(asked=trace), prefill(asked=equal)
    for one in (spread, even):
        assert one.goodput() > 0
    waits = [one.ttft(0.5 / one.interval)[1] - one.ttft(0.0)[1] for one in (spread, even)]
    assert waits[0] > 1.5 * waits[1]
