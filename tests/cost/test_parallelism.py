"""Sharing a layer: what adds up over GPUs, what data-parallel attention repeats, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from planner.cluster import load_device, load_link
from planner.cost.layer import PARTS, LayerPricer, Load
from planner.cost.memory import embedding_bytes, head_bytes, weight_bytes_L
from planner.cost.network import collective_for
from planner.cost.parallelism import ReplicaParallelism
from planner.cost.replica import PipelineStage, ReplicaPricer
from planner.engine import load_engine
from planner.errors import InputError
from planner.model import ModelSpec, load_model
from planner.workload import fixed_workload

LAYOUTS = [
    ReplicaParallelism(tp=8),
    ReplicaParallelism(tp=8, moe_ep=8),
    ReplicaParallelism(tp=8, moe_ep=2),
    ReplicaParallelism(tp=1, attention_dp=8, moe_ep=8),
    ReplicaParallelism(tp=2, attention_dp=4, moe_ep=4),
]


def replica(layout: ReplicaParallelism, model: ModelSpec, *, isl: int = 1024, osl: int = 1024) -> ReplicaPricer:
    device = load_device("h200")
    collective = collective_for(device, layout.gpus, load_link(device.link).link(), native=True)
    stage = PipelineStage(
        device=device, collective=collective, layers=(0, model.num_layers), hop=None, parallelism=layout
    )
    return ReplicaPricer(model, load_engine("trtllm"), fixed_workload(isl, osl), [stage])


def experts_bytes(model: ModelSpec) -> float:
    return sum(
        sum(g.weights for g in model.kinds[k].gemms if g.experts > 1) * 1.0  # fp8
        for k in model.kind_of_layer
    )


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_experts_add_up_over_the_gpus_however_they_lie(layout: ReplicaParallelism) -> None:
    model = load_model("deepseek-r1")
    attention_only = weight_bytes_L(model, layout.tp, layout).sum() - experts_bytes(model) / layout.gpus
    whole = weight_bytes_L(model, 1).sum() - experts_bytes(model)
    replicated = sum(
        kind.weight_bytes - sum(g.weights for g in kind.gemms if g.split != "replicated")
        for kind in (model.kinds[k] for k in model.kind_of_layer)
    )
    assert attention_only == pytest.approx((whole - replicated) / layout.tp + replicated, rel=1e-9)


def test_plain_layouts_cost_what_they_did_without_one() -> None:
    model = load_model("mixtral-8x7b")
    for tp in (1, 2, 8):
        plain = weight_bytes_L(model, tp, ReplicaParallelism(tp=tp))
        assert np.array_equal(plain, weight_bytes_L(model, tp))


def test_each_rank_of_attention_holds_a_whole_cache() -> None:
    model = load_model("deepseek-r1", kv_dtype="fp8")
    cut, apart = (replica(layout, model) for layout in (LAYOUTS[1], LAYOUTS[3]))
    # one latent is not divided by TP: eight ranks hold eight times the tokens in the same free memory
    free = float(apart.cache_bytes_S()[0] / cut.cache_bytes_S()[0])
    assert apart.kv_capacity() == pytest.approx(8 * free * cut.kv_capacity(), rel=1e-9)
    # which is less by the attention, embedding and head that every rank repeats
    attention = weight_bytes_L(model, 1, LAYOUTS[3]).sum() - weight_bytes_L(model, 8, LAYOUTS[1]).sum()
    ends = sum(each(model, 1) - each(model, 8) for each in (embedding_bytes, head_bytes))
    lost = float(cut.cache_bytes_S()[0] - apart.cache_bytes_S()[0])
    assert lost == pytest.approx(attention + ends, rel=0.25)


def test_kv_of_grouped_heads_gains_nothing_from_ranks() -> None:
    model = load_model("qwen3-235b-a22b-fp8", kv_dtype="fp8")
    cut, apart = (
        replica(layout, model)
        for layout in (ReplicaParallelism(tp=4, moe_ep=4), ReplicaParallelism(attention_dp=4, moe_ep=4))
    )
    # 4 KV heads over 4 GPUs, or whole on each: the same bytes in all; what differs is repeated attention weights
    assert apart.kv_capacity() < cut.kv_capacity()


def test_ranks_share_attention_and_meet_at_the_experts() -> None:
    model, device = load_model("deepseek-r1", kv_dtype="fp8"), load_device("h200")
    load = Load(
        decode=np.array([256.0]),
        decode_context=np.array([2048.0]),
        prefill=np.zeros(1),
        prefill_context=np.ones(1),
    )
    link = load_link(device.link).link()
    eight, one = (collective_for(device, n, link, native=True) for n in (8, 1))
    apart = LayerPricer(model, device, eight, parallelism=LAYOUTS[3], engine="trtllm").parts_PKB(load)
    alone = LayerPricer(model, device, one, engine="trtllm").parts_PKB(
        Load(
            decode=load.decode / 8,
            decode_context=load.decode_context,
            prefill=load.prefill,
            prefill_context=load.prefill_context,
        )
    )
    attention, reduce = PARTS.index("decode_attention"), PARTS.index("all_reduce")
    assert apart[attention] == pytest.approx(alone[attention])
    assert (alone[reduce] == 0).all()
    dense, moe = (
        next(k for k, kind in enumerate(model.kinds) if bool(kind.experts) == is_moe) for is_moe in (False, True)
    )
    assert apart[reduce, dense, 0] == 0
    message = 256 * model.hidden * (1.0 + 2.0) / 2  # gathered in fp8, scattered back in 16 bit
    assert apart[reduce, moe, 0] == pytest.approx(float(eight.all_reduce(np.array(message))))


def test_degrees_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(InputError, match="the same GPUs"):
        ReplicaParallelism(tp=8, moe_tp=2, moe_ep=2)
    with pytest.raises(InputError):
        ReplicaParallelism(tp=0)
    assert "does not divide the 256 experts" in str(ReplicaParallelism(tp=3, moe_ep=3).fault(load_model("deepseek-r1")))
    assert ReplicaParallelism(tp=8, moe_ep=8).fault(load_model("deepseek-r1")) is None
    assert "no experts" in str(ReplicaParallelism(tp=8, moe_ep=8).fault(load_model("llama-3.1-70b")))
