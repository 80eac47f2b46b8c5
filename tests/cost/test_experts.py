"""Routed experts: routing against a simulation, kernels against measured rows, and what must hold of any of them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cluster import load_device, load_link
from planner.cost.experts import ExpertKernel, expert_roofline
from planner.cost.layer import LayerPricer, Load
from planner.cost.measured import TRANSFER_ERROR, kernel_surfaces
from planner.cost.network import collective_for
from planner.cost.parallelism import ReplicaParallelism
from planner.cost.routing import Routing, _chances
from planner.model import load_model
from planner.profiling.fit.moe import drawn_loads, rooflines_R
from planner.profiling.tables import read_measured

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
SHAPES = {"deepseek-r1": (7168, 2048, 8, 256), "gpt-oss-120b": (2880, 2880, 4, 128), "qwen3": (4096, 1536, 8, 128)}


def simulated(routing: Routing, tokens: int, groups: int, draws: int = 200) -> tuple[float, float]:
    """Mean experts touched, and visits of the busiest group, over draws of tokens that choose without replacement."""
    generator = np.random.default_rng(7)
    popularity_E = _chances(routing.experts, routing.top_k, routing.skew)
    touched, most = [], []
    for _ in range(draws):
        # Gumbel's trick draws `top_k` experts without replacement in proportion to popularity
        noise_TE = generator.gumbel(size=(tokens, routing.experts))
        order_E = generator.permutation(routing.experts)  # experts lie on groups without regard to popularity
        chosen_TK = np.argpartition(-(np.log(popularity_E) + noise_TE), routing.top_k, axis=1)[:, : routing.top_k]
        load_E = np.bincount(chosen_TK.ravel(), minlength=routing.experts)[order_E]
        touched.append(np.count_nonzero(load_E))
        most.append(load_E.reshape(groups, -1).sum(axis=1).max())
    return float(np.mean(touched)), float(np.mean(most))


@pytest.mark.parametrize(("skew", "tokens"), list(itertools.product([0.0, 0.6, 1.0], [1, 4, 16, 64, 256])))
def test_touched_experts_as_in_a_simulation(skew: float, tokens: int) -> None:
    routing = Routing(256, 8, skew)
    touched, _ = simulated(routing, tokens, 8, draws=60)
    assert float(routing.touched(tokens)) == pytest.approx(touched, rel=0.06)


@pytest.mark.parametrize(("skew", "tokens"), list(itertools.product([0.0, 1.0], [4, 32, 512])))
def test_busiest_group_as_in_a_simulation(skew: float, tokens: int) -> None:
    routing = Routing(128, 8, skew)
    _, most = simulated(routing, tokens, 8, draws=60)
    assert float(routing.on_busiest(tokens, 8)[1]) == pytest.approx(most, rel=0.12)


def test_even_routing_is_the_closed_form() -> None:
    tokens = np.array([1.0, 7.0, 100.0])
    assert Routing(64, 6, 0.0).touched(tokens) == pytest.approx(64 * (1 - (1 - 6 / 64) ** tokens))
    assert float(Routing(256, 8).touched(1)) == pytest.approx(8)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    experts=st.sampled_from([8, 64, 128, 256]),
    top_k=st.integers(1, 8),
    skew=st.floats(0, 2),
    tokens=st.floats(1, 20_000),
    groups=st.sampled_from([1, 2, 8]),
)
def test_skew_touches_fewer_and_loads_the_busiest_more(
    experts: int, top_k: int, skew: float, tokens: float, groups: int
) -> None:
    even, skewed = Routing(experts, top_k, 0.0), Routing(experts, top_k, skew)
    assert float(skewed.touched(tokens)) <= float(even.touched(tokens)) * (1 + 1e-9)
    assert float(skewed.busiest(tokens, groups)) >= float(even.busiest(tokens, groups)) * (1 - 1e-9)
    touched, visits = (float(x) for x in skewed.on_busiest(tokens, groups))
    assert touched <= min(experts / groups, visits) * (1 + 1e-9)
    assert visits <= tokens * min(top_k, experts / groups) * (1 + 1e-9)


@pytest.mark.parametrize("engine", ["trtllm", "sglang", "vllm"])
def test_measured_rows_come_back(engine: str) -> None:
    table, device = read_measured(FIXTURES / f"moe_h200_{engine}.csv"), load_device("h200")
    each_R, work_R = rooflines_R(table, device)
    misses = []
    for r in range(len(table)):
        name = str(table["dtype"][r])
        one = kernel_surfaces(device, "moe")[f"{name}/{engine}"]
        shape = "x".join(str(table[column][r]) for column in ("hidden", "intermediate", "top_k", "experts"))
        place, width = list(one.named).index(shape) + 1, table["intermediate"][r] / table["tp"][r]
        assert one.corrections is not None
        share = one.surface.at(each_R[r], width, work_R[r], table["ep"][r])
        share = share * one.corrections.at(place, each_R[r], width, table["ep"][r])
        misses.append(abs(work_R[r] / float(share) / table["seconds"][r] - 1.0))
    assert np.median(misses) < 0.12  # DeepSeek-R1, gpt-oss-120b and Qwen3-235B from 1 to 8,192 tokens
    assert np.quantile(misses, 0.9) < 0.45
    errors = [error for one in kernel_surfaces(device, "moe").values() for error in one.named.values()]
    assert 0.02 < np.median(errors) < 0.12


@pytest.mark.parametrize(("model", "engine"), list(itertools.product(SHAPES, ["trtllm", "vllm", "sglang"])))
@pytest.mark.parametrize(("tp", "ep"), [(1, 1), (8, 1), (1, 8), (2, 4)])
def test_more_tokens_do_not_take_less(model: str, engine: str, tp: int, ep: int) -> None:
    hidden, intermediate, top_k, experts = SHAPES[model]
    kernel = ExpertKernel(
        load_device("h200"), engine, "mxfp4" if model == "gpt-oss-120b" else "fp8", hidden, intermediate
    )
    routing = Routing(experts, top_k)
    time_B = kernel.time_B(np.geomspace(1, 65536, 60), routing, tp, ep)
    error = kernel.band(routing)[0]
    assert (time_B[1:] >= time_B[:-1] * (1 - error)).all()
    assert (time_B > 0).all()
    assert float(kernel.time_B(np.zeros(1), routing, tp, ep)[0]) == 0.0


def test_more_skew_is_never_faster_once_all_experts_are_touched() -> None:
    kernel = ExpertKernel(load_device("h200"), "trtllm", "fp8", 7168, 2048)
    even, skewed = (kernel.time_B(np.array([4096.0, 16384.0]), Routing(256, 8, s), 1, 8) for s in (0.0, 1.0))
    assert (skewed >= even).all()


def test_roofline_reads_weights_or_multiplies() -> None:
    few = expert_roofline(np.array(8.0), np.array(8.0), 7168, 2048, 1.0, 2e15, 4.8e12)
    assert float(few) == pytest.approx(8 * 3 * 7168 * 2048 / 4.8e12, rel=0.01)
    many = expert_roofline(np.array(8.0), np.array(1e6), 7168, 2048, 1.0, 2e15, 4.8e12)
    assert float(many) == pytest.approx(1e6 * 6 * 7168 * 2048 / 2e15)


def test_loads_are_drawn_as_the_tables_say() -> None:
    assert drawn_loads(4, 256, 8, 1, "balanced") == (32.0, 32.0)
    assert drawn_loads(1024, 256, 8, 8, "balanced") == (32.0, 1024.0)
    touched, visits = drawn_loads(1024, 256, 8, 8, "power_law_1.2")
    assert touched <= 32 and visits > 1.2 * 1024
    whole = drawn_loads(1024, 256, 8, 1, "power_law_1.01")
    assert whole[1] == pytest.approx(8192) and whole[0] < 256


def test_a_gpu_without_tables_takes_a_relative_and_says_so() -> None:
    own, lent = (kernel_surfaces(load_device(name), "moe")["fp8_block/trtllm"] for name in ("h200", "h20"))
    assert own.provenance == "fitted"
    assert lent.provenance == "spec"
    assert lent.error >= TRANSFER_ERROR
    assert not kernel_surfaces(load_device("mi300x"), "moe")
    assert not ExpertKernel(load_device("mi300x"), "sglang", "fp8", 4096, 1536).known


def test_layers_without_a_table_keep_the_grouped_product_under_expert_parallelism() -> None:
    model, device = load_model("mixtral-8x7b"), load_device("mi300x")
    eight = collective_for(device, 8, load_link(device.link).link(), native=True)
    load = Load(
        decode=np.array([64.0]), decode_context=np.array([512.0]), prefill=np.zeros(1), prefill_context=np.ones(1)
    )
    cut, apart = (
        LayerPricer(model, device, eight, parallelism=layout, engine="vllm").time_KB(load)[0, 0]
        for layout in (ReplicaParallelism(tp=8), ReplicaParallelism(tp=8, moe_ep=8))
    )
    assert apart == pytest.approx(cut, rel=0.5)
