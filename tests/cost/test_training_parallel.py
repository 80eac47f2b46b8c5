"""Interleaving, context and expert parallelism and sharded state: what must hold whatever the constants are."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from planner.cluster import Cluster
from planner.cost.training import TrainingPrediction, predict_training
from planner.cost.training_experts import expert_collectives, expert_fault, expert_parameters_K
from planner.cost.training_links import gradient_rings
from planner.cost.training_memory import state_bytes
from planner.cost.training_options import RunOptions
from planner.cost.training_replica import PlacedTrainingStage
from planner.engine import load_engine
from planner.engine.chunks import chunk_fault, chunk_layers
from planner.model import ModelSpec
from planner.plan import Schedule, TrainingJob
from tests.search.small import small_cluster, tiny_model
from tests.search.training_small import mixed_layers

EIGHT = small_cluster([("h100_sxm", 8, 1)])
SIXTEEN = small_cluster([("h100_sxm", 8, 2)])


def price(
    model: ModelSpec,
    cluster: Cluster,
    *,
    tp: int = 1,
    pp: int = 1,
    cp: int = 1,
    micro: int = 1,
    zero: int = 1,
    batch: int = 32,
    options: RunOptions | None = None,
    **schedule: Any,
) -> TrainingPrediction:
    groups, each = cluster.num_gpus // tp // pp, model.num_layers // pp
    stages = [
        PlacedTrainingStage(
            devices=cluster.gpus[s * groups * tp : (s + 1) * groups * tp],
            layers=(s * each, (s + 1) * each),
            tp=tp,
            dp=groups,
            microbatch_shares=(micro,) * groups,
        )
        for s in range(pp)
    ]
    job = TrainingJob(global_batch=batch, sequence_length=2048, zero_stage=zero)  # type: ignore[arg-type]
    fields = {"recompute": "none", "sequence_parallel": tp > 1, "context_parallel": cp} | schedule
    plan = Schedule(microbatch_size=micro, microbatches=batch * cp // groups // micro, **fields)
    return predict_training(
        model, cluster, load_engine("generic"), job, stages, plan, *([] if options is None else [options])
    )


@given(layers=st.lists(st.integers(1, 12), min_size=1, max_size=6), chunks=st.integers(1, 5))
def test_chunks_hold_every_layer_once_in_the_order_of_the_pipeline(layers: list[int], chunks: int) -> None:
    held = chunk_layers(layers, chunks)
    assert [sum(end - first for first, end in stage) for stage in held] == layers
    order = [held[s][v] for v in range(chunks) for s in range(len(layers))]
    assert order[0][0] == 0 and order[-1][1] == sum(layers)
    assert all(before[1] == after[0] for before, after in pairwise(order))
    if chunk_fault(layers, chunks) is None:
        sizes = [{end - first for first, end in stage} for stage in held]
        assert all(len(one) == 1 or s in (0, len(layers) - 1) for s, one in enumerate(sizes))
        assert all(max(one) - min(one) <= 1 for one in sizes)


def test_an_interleaved_stage_holds_the_kinds_of_its_chunks() -> None:
    """Plain, the first stage has all layers without experts; interleaved, either stage has half of them."""
    model = mixed_layers(8, 1024, 4, 16)  # four dense, four with experts
    plain, two, four = (price(model, EIGHT, pp=2, virtual_stages=v).work_S for v in (1, 2, 4))
    assert two == pytest.approx(four, rel=1e-12) and two.sum() == pytest.approx(plain.sum(), rel=1e-12)
    assert abs(two[0] - plain[0]) > 0.03 * plain[0]


def test_interleaving_shrinks_the_bubble_for_more_hops_and_memory() -> None:
    model = tiny_model(layers=16, hidden=4096)
    one, two, four = (price(model, EIGHT, pp=4, virtual_stages=v) for v in (1, 2, 4))
    assert one.breakdown.bubble > 1.7 * two.breakdown.bubble > 2.9 * four.breakdown.bubble
    assert one.breakdown.hops < two.breakdown.hops < four.breakdown.hops
    assert one.memory_S[0].value < four.memory_S[0].value < two.memory_S[0].value  # Korthikanti et al., 4.2.3


def test_the_name_of_a_schedule_follows_its_chunks() -> None:
    facts = {"microbatch_size": 1, "microbatches": 8, "recompute": "none", "sequence_parallel": False}
    assert Schedule(**facts).name == "1f1b" and Schedule(**facts, virtual_stages=2).name == "interleaved"  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="1f1b with 2 virtual stages"):
        Schedule(name="1f1b", virtual_stages=2, **facts)  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="interleaved with 1 virtual stages"):
        Schedule.model_validate({"name": "interleaved", **facts})


@pytest.mark.parametrize("zero", range(4))
def test_state_is_divided_as_zero_says(zero: int) -> None:
    """Rajbhandari et al. 2020, figure 1, with gradients in fp32."""
    job = TrainingJob(global_batch=8, sequence_length=128, zero_stage=zero)  # type: ignore[arg-type]
    assert state_bytes(job, 1) == 18.0
    assert state_bytes(job, 8) == (18.0, 6.0 + 12 / 8, 2.0 + 16 / 8, 18 / 8)[zero]
    assert state_bytes(job, 8, RunOptions(gradient_bytes=2.0)) <= state_bytes(job, 8)
    assert state_bytes(job, 8, RunOptions(frozen_weights=True)) == (2.0 if zero < 3 else 0.25)


def test_dividing_more_state_saves_memory_and_sends_more() -> None:
    model = tiny_model(layers=16, hidden=4096)
    prices = [price(model, SIXTEEN, zero=zero, batch=64) for zero in range(4)]
    memory = [one.memory_S[0].value for one in prices]
    assert memory == sorted(memory, reverse=True) and len(set(memory)) == 4
    sharding = [one.breakdown.sharding for one in prices]
    assert sharding[0] == sharding[1] == 0 < sharding[2] < sharding[3]
    sync = [one.breakdown.gradient_sync for one in prices]
    assert sync[0] > sync[1] > sync[2] > sync[3] == 0


def test_context_parallelism_divides_activations_and_passes_keys_around() -> None:
    model = tiny_model(layers=8, hidden=4096)
    one, two, four = (price(model, EIGHT, cp=cp) for cp in (1, 2, 4))
    assert one.breakdown.context_parallel == 0 < two.breakdown.context_parallel < four.breakdown.context_parallel
    # the same state; half and a quarter of the activations
    saved = [one.memory_S[0].value - two.memory_S[0].value, two.memory_S[0].value - four.memory_S[0].value]
    assert saved[0] == pytest.approx(2 * saved[1]) and saved[1] > 0
    # as many tokens on each GPU in all: the same kernels but for their size
    assert two.breakdown.compute == pytest.approx(one.breakdown.compute, rel=0.1)


def test_experts_are_divided_and_nothing_else() -> None:
    model = mixed_layers(8, 1024, 1, 16)
    experts = float(expert_parameters_K(model, 1) @ np.bincount(model.kind_of_layer))
    assert experts / model.params > 0.5
    job = TrainingJob(global_batch=32, sequence_length=2048, zero_stage=0)
    state = [price(model, EIGHT, expert_parallel=ep, zero=0, recompute="full").memory_S[0].value for ep in (1, 8)]
    # all of the state of seven eighths of the experts, less what the busiest GPU's share of tokens adds while at work
    assert state[0] - state[1] == pytest.approx(state_bytes(job, 1) * experts * 7 / 8, rel=0.05)


def test_expert_parallelism_sends_tokens_and_fills_experts() -> None:
    model = mixed_layers(8, 1024, 1, 16)
    near, across, none = (price(model, SIXTEEN, expert_parallel=ep) for ep in (8, 16, 1))
    assert none.breakdown.expert_parallel == 0 < near.breakdown.expert_parallel < across.breakdown.expert_parallel
    # gradients of experts are summed over fewer GPUs: none at all where no two hold the same
    assert across.breakdown.gradient_sync < near.breakdown.gradient_sync < none.breakdown.gradient_sync


def test_rings_of_the_same_experts() -> None:
    """Every second group: two rings of half the size, which share the cards that one ring had."""
    groups = [[(gpu,) for gpu in SIXTEEN.gpus]]
    whole, half = gradient_rings(SIXTEEN, groups)[0], gradient_rings(SIXTEEN, groups, every=2)[0]
    assert (whole.size, half.size) == (16, 8)
    assert half.bandwidth == pytest.approx(whole.bandwidth / 2)
    assert gradient_rings(EIGHT, [[(gpu,) for gpu in EIGHT.gpus]], every=4)[0].size == 2


def test_all_to_all_by_hand() -> None:
    """16 GPUs on two nodes, one message each: half of it leaves through a card that eight share."""
    exchange = expert_collectives(SIXTEEN, [[(gpu,) for gpu in SIXTEEN.gpus]], 16)[0]
    assert exchange is not None and exchange.size == 16
    latency = SIXTEEN.node_link("g0-0", "g0-1").latency  # once: messages start together
    message, card = 1e9, 0.8 * 12.5e9  # 100 Gb/s at the share that transfers get of a link
    assert float(exchange.all_to_all(np.array(message))) == pytest.approx(8 * message / 2 / card + latency)
    inside = expert_collectives(SIXTEEN, [[(gpu,) for gpu in SIXTEEN.gpus]], 8)[0]
    assert inside is not None and float(inside.all_to_all(np.array(message))) < 0.1 * 8 * message / 2 / card
    assert expert_collectives(SIXTEEN, [[(gpu,) for gpu in SIXTEEN.gpus]], 1) == [None]


def test_expert_faults() -> None:
    model = mixed_layers(4, 1024, 1, 16)
    assert expert_fault(model, 1, 3) is None and expert_fault(model, 4, 8) is None
    assert "does not divide the 16 experts" in (expert_fault(model, 3, 6) or "")
    assert "does not divide the 6 groups" in (expert_fault(model, 4, 6) or "")
    assert "no experts" in (expert_fault(tiny_model(), 2, 2) or "")


@given(
    tp=st.sampled_from([1, 2]),
    pp=st.sampled_from([1, 2, 4]),
    cp=st.sampled_from([1, 2]),
    chunks=st.sampled_from([1, 2]),
    zero=st.integers(0, 3),
    recompute=st.sampled_from(["none", "selective", "full"]),
    experts=st.booleans(),
)
def test_a_breakdown_adds_up(tp: int, pp: int, cp: int, chunks: int, zero: int, recompute: str, experts: bool) -> None:
    if 16 // tp // pp < cp or (chunks > 1 and pp == 1):
        return
    model = mixed_layers(8, 1024, 1, 16) if experts else tiny_model(layers=8)
    facts = {"virtual_stages": chunks, "recompute": recompute, "expert_parallel": 2 if experts else 1}
    if facts["expert_parallel"] == 2 and 16 // tp // pp % 2:
        return
    options = RunOptions(overlap=True, stragglers=True, matrix_format="fp8")
    found = price(model, SIXTEEN, tp=tp, pp=pp, cp=cp, zero=zero, options=options, **facts)
    assert found.breakdown.total == pytest.approx(found.iteration_time, rel=1e-12)
    parts = found.breakdown.items()
    assert min(parts.values()) >= -1e-12 * found.iteration_time
    assert (parts["tensor_parallel"] > 1e-12) == (tp > 1)
    assert (parts["context_parallel"] > 0) == (cp > 1)
    assert (parts["expert_parallel"] > 0) == experts
    assert (parts["recomputation"] > 0) == (recompute != "none")
    assert (parts["hops"] > 0) == (pp > 1) == (parts["bubble"] > 0)


def test_narrow_formats_keep_narrow_inputs() -> None:
    model = tiny_model(layers=8, hidden=4096)
    formats = ("16bit", "fp8", "nvfp4")
    wide, eight, four = (price(model, EIGHT, options=RunOptions(matrix_format=f)).memory_S[0].value for f in formats)  # type: ignore[arg-type]
    assert wide > eight > four
    held = 2048 * 8
    # inputs of both blocks' first matrices and of the last one; attention's output twice
    assert wide - eight == pytest.approx(held * (2 * 4096 + 4 * 4096 - 4096), rel=1e-9)


def test_defaults_are_a_plain_plan() -> None:
    """What plans said before the new fields: nothing changes by naming their defaults."""
    model = tiny_model()
    named = {"virtual_stages": 1, "context_parallel": 1, "expert_parallel": 1}
    plain, told = price(model, EIGHT, pp=2, tp=2), price(model, EIGHT, pp=2, tp=2, **named)
    assert replace(plain, work_S=told.work_S, hop_S=told.hop_S, update_S=told.update_S).figures == told.figures
