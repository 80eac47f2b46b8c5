"""Steady state of a replica: conservation laws, limits, and memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cluster import load_cluster
from planner.cost.memory import embedding_bytes, head_bytes, kv_bytes_per_token_L, weight_bytes_L
from planner.cost.prediction import PlacedStage, pipeline, predict_serving
from planner.cost.replica import Operation, ReplicaPricer, Shortfall
from planner.cost.serving import BATCH_GRID, Demand
from planner.engine import load_engine
from planner.model import list_models, load_model
from planner.workload import Slo, Workload, fixed_workload, load_trace

CLUSTER = load_cluster("a100-l40s-l4-24")
A100 = CLUSTER.gpus_of("a100-0")


def chat(rate: float | str = "max", **slo: float) -> Workload:
    return fixed_workload(1024, 256, rate=rate, slo=Slo(**slo))  # type: ignore[arg-type]


def two_stages(workload: Workload, engine: str = "vllm", split: int = 40) -> ReplicaPricer:
    stages = [PlacedStage(A100[:4], (0, split)), PlacedStage(A100[4:], (split, 80))]
    return ReplicaPricer(load_model("llama-3.1-70b"), load_engine(engine), workload, pipeline(CLUSTER, stages))


def test_littles_law_over_the_decoding_sequences() -> None:
    pricer = two_stages(chat())
    batch = np.array([1.0, 8.0, 40.0])
    state = pricer.state(batch)
    assert np.allclose(state.rate_B * 256 * state.tpot_B, 2 * batch)


def test_the_cycle_is_never_shorter_than_its_parts() -> None:
    pricer = two_stages(chat())
    batch = np.asarray(BATCH_GRID[:60], dtype=float)
    state = pricer.state(batch)
    assert (np.diff(state.tpot_B) > 0).all()
    assert (np.diff(state.rate_B) > 0).all()
    assert (state.utilisation_B < 1).all()
    assert (np.diff(state.ttft_B) > -1e-3).all()


def test_prefill_is_part_of_every_token() -> None:
    """The same decode batch with four times the prompt per output takes longer per token."""
    light = fixed_workload(256, 256, rate="max", slo=Slo())
    heavy = fixed_workload(4096, 256, rate="max", slo=Slo())
    short, long = (two_stages(w).state(np.array([16.0])).tpot_B[0] for w in (light, heavy))
    assert long > 1.5 * short


def test_operating_below_the_goodput_is_easier() -> None:
    pricer = two_stages(chat(ttft=2.0, tpot=0.1))
    capacity = pricer.goodput()
    assert isinstance(capacity, Operation)
    assert capacity.tpot <= 0.1 and capacity.ttft <= 2.0
    half = pricer.at_rate(capacity.rate / 2)
    assert half.rate == pytest.approx(capacity.rate / 2, rel=1e-3)
    assert half.tpot < capacity.tpot and half.ttft < capacity.ttft
    assert half.in_flight == pytest.approx(half.rate * (half.ttft_mean + 256 * half.tpot))


def test_goodput_is_the_best_of_the_grid_that_meets_the_slo() -> None:
    pricer = two_stages(chat(ttft=2.0, tpot=0.06))
    capacity = pricer.goodput()
    assert isinstance(capacity, Operation)
    tighter = two_stages(chat(ttft=2.0, tpot=capacity.tpot * 1.0000001)).goodput()
    assert isinstance(tighter, Operation)
    assert tighter.rate == pytest.approx(capacity.rate)
    below = two_stages(chat(ttft=2.0, tpot=capacity.tpot * 0.999)).goodput()
    assert isinstance(below, Operation)
    assert below.rate < capacity.rate


def test_shortfalls_name_what_binds() -> None:
    assert isinstance(two_stages(chat(tpot=1e-4)).goodput(), Shortfall)
    slow = two_stages(chat(tpot=1e-4)).goodput()
    assert isinstance(slow, Shortfall) and slow.constraint == "tpot" and slow.had > slow.needed
    first = two_stages(chat(ttft=1e-3)).goodput()
    assert isinstance(first, Shortfall) and first.constraint == "ttft"
    l4 = CLUSTER.gpus_of("l4-0")
    fat = ReplicaPricer(
        load_model("llama-3.1-70b"), load_engine("vllm"), chat(), pipeline(CLUSTER, [PlacedStage(l4, (0, 80))])
    ).goodput()
    assert isinstance(fat, Shortfall) and fat.constraint == "memory" and fat.needed > fat.had


def test_a_slower_link_never_helps() -> None:
    stages = [PlacedStage(A100[:4], (0, 40)), PlacedStage(CLUSTER.gpus_of("l40s-0"), (40, 80))]
    import dataclasses

    placed = pipeline(CLUSTER, stages)
    assert placed[0].hop is not None
    slow = [
        dataclasses.replace(
            placed[0], hop=placed[0].hop.model_copy(update={"bandwidth": placed[0].hop.bandwidth / 1e3})
        ),
        placed[1],
    ]
    fast_state, slow_state = (
        ReplicaPricer(load_model("llama-3.1-70b"), load_engine("vllm"), chat(), p).state(np.array([8.0]))
        for p in (placed, slow)
    )
    assert slow_state.tpot_B[0] > fast_state.tpot_B[0]
    assert slow_state.ttft_B[0] > 2 * fast_state.ttft_B[0]


def test_memory_is_weights_cache_and_what_is_set_aside() -> None:
    """Half of Llama-3.1-70B on four GPUs: 40 x 1.71 GB / 4 and half of the embedding's two ends."""
    pricer = two_stages(chat())
    model = load_model("llama-3.1-70b")
    weights = float(weight_bytes_L(model, 4)[:40].sum()) + embedding_bytes(model, 4)
    longest = 1280 * 327680 / 2 / 4  # one request at least
    assert pricer.memory_S(0.0)[0] == pytest.approx(weights + pricer.budgets[0].fixed + longest)
    ten, twenty = pricer.memory_S(10.0), pricer.memory_S(20.0)
    context = pricer.demand.decode_context
    assert twenty[0] - ten[0] == pytest.approx(1.05 * 2 * 10 * context * 327680 / 2 / 4)
    batch = pricer.kv_capacity() / context / 1.05 / 2
    assert (pricer.memory_S(batch * 0.999) < pricer.limit_S).all()
    assert (pricer.memory_S(batch * 1.001) > pricer.limit_S).any()


@pytest.mark.parametrize("name", list_models())
def test_tensor_parallelism_divides_weights_and_replicates_no_less_than_it_must(name: str) -> None:
    model = load_model(name)
    whole = weight_bytes_L(model, 1)
    kinds = np.array([model.kinds[k].weight_bytes for k in model.kind_of_layer])
    assert np.allclose(whole, kinds)
    for tp in (2, 4, 8):
        part = weight_bytes_L(model, tp)
        assert (part >= whole / tp * (1 - 1e-12)).all()
        assert (part < whole).all()
    total = float(whole.sum()) + embedding_bytes(model, 1) + (0 if model.tied_embeddings else head_bytes(model, 1))
    assert total == pytest.approx(model.weight_bytes, rel=0.01)


def test_kv_heads_are_replicated_beyond_their_number() -> None:
    model = load_model("llama-3.1-70b")
    assert float(kv_bytes_per_token_L(model, 8).sum()) == 327680 / 8
    assert float(kv_bytes_per_token_L(model, 16).sum()) == 327680 / 8
    latent = load_model("deepseek-v3")
    assert float(kv_bytes_per_token_L(latent, 8).sum()) == float(kv_bytes_per_token_L(latent, 1).sum())


def test_shares_follow_goodput_and_equal_replicas_are_equal() -> None:
    model, engine = load_model("llama-3.1-8b"), load_engine("vllm")
    placed = [[PlacedStage((gpu,), (0, 32))] for gpu in (A100[0], A100[1], "l4-0/0")]
    prediction = predict_serving(model, CLUSTER, engine, chat(ttft=2.0, tpot=0.1), placed)
    assert sum(prediction.shares) == pytest.approx(1.0)
    assert prediction.shares[0] == prediction.shares[1] > prediction.shares[2]
    goodput = sum(r.figures["goodput"].value for r in prediction.replicas)
    assert prediction.figures["goodput"].value == pytest.approx(goodput)
    price = prediction.figures["cost_per_hour"].value
    tokens = prediction.figures["output_throughput"].value
    assert prediction.figures["cost_per_million_output_tokens"].value == pytest.approx(price / tokens / 3600 * 1e6)
    assert prediction.figures["gpus"].value == 3


def test_demand_of_the_real_trace() -> None:
    workload = load_trace("azure-conv-2023").summary(Slo(ttft=2.0, tpot=0.1))
    demand = Demand.of(workload, load_engine("vllm"))
    batch = np.array(0.0)
    assert demand.chunks(batch) == 2  # a prompt of 2,734 tokens at the 90th percentile, 2,048 per iteration
    assert demand.chunk(batch) * demand.chunks(batch) == pytest.approx(demand.tail_prompt)
    assert demand.chunks(np.array(1500.0)) == 5
    assert demand.prefill_per_decode == pytest.approx(1154.7 / 211.1, rel=1e-3)


@settings(max_examples=60, deadline=None)
@given(st.integers(16, 8192), st.integers(2, 2048), st.floats(0.5, 0.99))
def test_any_fixed_workload_has_a_sound_state(isl: int, osl: int, percentile: float) -> None:
    workload = fixed_workload(isl, osl, rate="max", slo=Slo(percentile=percentile))
    state = two_stages(workload).state(np.asarray(BATCH_GRID, dtype=float))
    assert (state.tpot_B > 0).all() and (state.rate_B > 0).all()
    assert (state.ttft_B > 0).all()
    assert np.isfinite(state.tpot_B).all()
