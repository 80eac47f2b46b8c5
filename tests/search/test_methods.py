"""Heuristic methods and baselines: prices that the prediction confirms, and plans that hold."""

from __future__ import annotations

from collections.abc import Callable
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cluster import load_cluster
from planner.cost.prediction import predict_serving
from planner.engine import check_runnable, default_split, load_engine
from planner.errors import InfeasibleError
from planner.model import load_model
from planner.plan import plan_to_json
from planner.plan.certificate import ALONE
from planner.search.chain_plan import place_chains
from planner.search.chains import ChainPricer, ChainStage, PricedChain
from planner.search.hexgen import search_hexgen
from planner.search.problem import Budget, ServingProblem
from planner.search.registry import SERVING_METHODS, serving_method
from planner.search.volunteers import _chains as chains_of
from planner.search.volunteers import _petals as petals_rule
from planner.search.volunteers import _Server as Server
from planner.search.volunteers import _swarm as swarm_rule
from planner.verifier.serving import check_serving
from planner.workload import Slo, Workload, fixed_workload
from tests.search.small import small_cluster, tiny_model

HEURISTICS = [name for name in SERVING_METHODS if name not in ("templates", "exact")]


def quick(name: str) -> Callable:
    """Few generations where there are any."""
    if name == "hexgen":
        return lambda problem, budget: search_hexgen(problem, budget, generations=12, population=12, offspring=6)
    return serving_method(name)


def chat(rate: float | str = "max", ttft: float | None = 2.0, tpot: float | None = 0.1) -> Workload:
    return fixed_workload(512, 128, rate=rate, slo=Slo(ttft=ttft, tpot=tpot))  # type: ignore[arg-type]


@st.composite
def problems(draw: st.DrawFn, rate: float | str = "max") -> ServingProblem:
    gpus = draw(st.lists(st.sampled_from(["l4", "t4", "a100_sxm_40", "l40s"]), min_size=1, max_size=3, unique=True))
    classes = [(gpu, draw(st.sampled_from([1, 2, 3, 4])), draw(st.integers(1, 2))) for gpu in gpus]
    return ServingProblem(
        model=tiny_model(layers=draw(st.sampled_from([6, 24])), hidden=draw(st.sampled_from([2048, 4096]))),
        cluster=small_cluster(classes, bandwidth=draw(st.sampled_from(["1 Gb/s", "100 Gb/s"]))),
        engine=load_engine(draw(st.sampled_from(["vllm", "sglang", "trtllm", "generic"]))),
        workload=chat(rate, ttft=draw(st.sampled_from([0.5, 2.0])), tpot=draw(st.sampled_from([0.03, 0.1]))),
    )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_chain_costs_what_the_prediction_says(data: st.DataObject) -> None:
    problem = data.draw(problems())
    pricer = ChainPricer(problem)
    free = [problem.cluster.classes[c].gpus_per_node for c in pricer.class_of_node]
    stages = []
    for _ in range(data.draw(st.integers(1, 4))):
        able = [n for n, left in enumerate(free) if any(tp <= left for tp in pricer.degrees(pricer.class_of_node[n]))]
        if not able:
            break
        node = data.draw(st.sampled_from(able))
        tp = data.draw(st.sampled_from([t for t in pricer.degrees(pricer.class_of_node[node]) if t <= free[node]]))
        free[node] -= tp
        stages.append(ChainStage(node, tp))
    if not stages:
        return
    cuts = sorted(data.draw(st.sets(st.integers(1, problem.model.num_layers - 1), min_size=len(stages) - 1,
                                    max_size=len(stages) - 1)))  # fmt: skip
    layers = tuple(b - a for a, b in zip([0, *cuts], [*cuts, problem.model.num_layers], strict=True))
    one = PricedChain(tuple(stages), layers, 1.0)
    predicted = predict_serving(
        problem.model, problem.cluster, problem.engine, problem.workload, place_chains(pricer, [one])
    ).figures
    goodput = predicted["goodput"].value if "goodput" in predicted else 0.0
    assert pricer.goodputs([(one.chain, layers)])[0] == pytest.approx(goodput, rel=1e-9)


@pytest.mark.parametrize("name", HEURISTICS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_plans_of_all_methods_hold(name: str, data: st.DataObject) -> None:
    problem = data.draw(problems(data.draw(st.sampled_from(["max", 3.0]))))
    try:
        plan = quick(name)(problem, Budget(seed=1)).plan
    except InfeasibleError:
        return
    assert check_serving(plan, problem.model, problem.cluster, problem.engine) == []
    assert plan.certificate.family == ALONE
    assert not plan.certificate.proven
    for replica in plan.replicas:
        assert not check_runnable(
            problem.engine,
            tp_per_stage=[stage.tp for stage in replica.stages],
            layers_per_stage=[stage.layers[1] - stage.layers[0] for stage in replica.stages],
            device_types_per_stage=[problem.cluster.device_of(stage.devices[0]).name for stage in replica.stages],
            task="serving",
        )


@pytest.mark.parametrize("name", [name for name in HEURISTICS if not name.startswith("even")])
def test_every_method_serves_where_it_is_easy(name: str) -> None:
    """The property above must not hold for want of plans."""
    problem = ServingProblem(
        model=tiny_model(layers=16),
        cluster=small_cluster([("a100_sxm_40", 2, 1), ("l4", 2, 2)]),
        engine=load_engine("vllm"),
        workload=chat(),
    )
    exact = serving_method("exact")(problem, Budget()).plan.certificate
    value = quick(name)(problem, Budget()).plan.certificate.value
    assert 0.2 * exact.value < value <= exact.bound * (1 + 1e-9)


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_none_beats_the_bound_of_the_exact_method(data: st.DataObject) -> None:
    """Wherever a plan is of the exact method's family: short pipelines with equal stages side by side."""
    problem = data.draw(problems())
    try:
        bound = serving_method("exact")(problem, Budget()).plan.certificate
    except InfeasibleError:
        with pytest.raises(InfeasibleError):
            serving_method("pools")(problem, Budget())
        return
    for name in ("pools", "hexgen", "helr"):
        try:
            plan = quick(name)(problem, Budget()).plan
        except InfeasibleError:
            continue
        kinds = [
            [problem.cluster.class_of_node(problem.cluster.node_of(stage.devices[0])).name for stage in replica.stages]
            for replica in plan.replicas
        ]
        side_by_side = all(len(list(groupby(each))) == len(set(each)) for each in kinds)
        uniform = all(len({stage.tp for stage in replica.stages}) == 1 for replica in plan.replicas)
        if side_by_side and uniform and max(len(each) for each in kinds) <= 8:
            assert plan.certificate.value <= bound.bound * (1 + 1e-9), name


def test_a_demand_leaves_out_what_it_does_not_need() -> None:
    problem = ServingProblem(
        model=load_model("gpt-j-6b"), cluster=load_cluster("4xl4"), engine=load_engine("vllm"), workload=chat(0.2)
    )
    for name in ("helr", "helr-he", "helr-lr", "pools"):
        plan = serving_method(name)(problem, Budget()).plan
        assert [len(stage.devices) for replica in plan.replicas for stage in replica.stages] == [1], name


def test_a_model_that_one_gpu_holds_is_not_spread() -> None:
    """A 6B-class model on four equal GPUs that fit it: UELLM's own deployments ended up there too."""
    problem = ServingProblem(
        model=load_model("gpt-j-6b"), cluster=load_cluster("4xl4"), engine=load_engine("vllm"), workload=chat(tpot=None)
    )
    for name in ("helr", "helr-he", "helr-lr"):
        plan = serving_method(name)(problem, Budget()).plan
        assert [len(replica.stages) for replica in plan.replicas] == [1] * len(plan.replicas), name


def test_layers_are_split_as_each_engine_does_untold() -> None:
    """61 layers on four stages: vLLM and SGLang disagree about who takes the one over."""
    problem = ServingProblem(
        model=tiny_model(layers=61, hidden=4096, heads=32),
        cluster=small_cluster([("l4", 1, 4)]),
        engine=load_engine("vllm"),
        workload=chat(tpot=None, ttft=None),
    )
    for name in ("vllm", "sglang"):
        plan = serving_method(f"even-{name}")(problem, Budget()).plan
        depth = len(plan.replicas[0].stages)
        layers = tuple(s.layers[1] - s.layers[0] for s in plan.replicas[0].stages)
        assert layers == default_split(load_engine(name), 61, depth)
        assert sum(len(s.devices) for r in plan.replicas for s in r.stages) == 4
        assert depth > 1
    assert default_split(load_engine("vllm"), 61, depth) != default_split(load_engine("sglang"), 61, depth)


def test_swarm_and_petals_never_use_a_gpu_twice_on_a_geo_cluster() -> None:
    problem = ServingProblem(
        model=load_model("llama-2-70b"),
        cluster=load_cluster("helix-3region-24"),
        engine=load_engine("generic"),
        workload=chat(ttft=None, tpot=None),
    )
    for name in ("petals", "swarm"):
        plan = serving_method(name)(problem, Budget()).plan
        gpus = [gpu for replica in plan.replicas for stage in replica.stages for gpu in stage.devices]
        assert len(gpus) == len(set(gpus))
        assert check_serving(plan, problem.model, problem.cluster, problem.engine) == []


def test_the_genetic_method_never_falls_and_is_repeatable() -> None:
    problem = ServingProblem(
        model=tiny_model(layers=24, hidden=4096, heads=32),
        cluster=small_cluster([("a100_sxm_40", 4, 1), ("l4", 4, 2), ("t4", 2, 1)]),
        engine=load_engine("generic"),
        workload=chat(),
    )
    first = search_hexgen(problem, Budget(seed=3), generations=40)
    again = search_hexgen(problem, Budget(seed=3), generations=40)
    assert plan_to_json(first.plan) == plan_to_json(again.plan)
    assert first.history == again.history
    assert list(first.history) == sorted(first.history)
    assert len(first.history) == 41
    assert first.plan.certificate.value == pytest.approx(first.history[-1], rel=1e-9)


def test_the_genetic_method_keeps_to_its_time() -> None:
    problem = ServingProblem(
        model=load_model("llama-2-70b"), cluster=load_cluster("hexgen-58"), engine=load_engine("vllm"),
        workload=chat(ttft=5.0, tpot=0.2),
    )  # fmt: skip
    result = search_hexgen(problem, Budget(time_limit=0.2))
    assert result.plan.certificate.value > 0
    assert result.counts["generations"] < 300


def test_petals_and_swarm_place_servers_where_layers_have_the_least_throughput() -> None:
    """By hand: four servers of half the model, then a faster one; and a server that only one of three stages fits."""
    model = tiny_model(layers=8)
    problem = ServingProblem(
        model=model, cluster=small_cluster([("l4", 1, 6)]), engine=load_engine("vllm"), workload=chat()
    )
    pricer = ChainPricer(problem)
    half = [Server(ChainStage(node, 1), 4, 10.0) for node in range(4)]
    placed = petals_rule(pricer, [*half, Server(ChainStage(4, 1), 8, 99.0)], 0)
    assert [(one.first, one.end) for one in placed] == [(0, 4), (4, 8), (0, 4), (4, 8), (0, 8)]
    uneven = [Server(ChainStage(0, 1), 2, 10.0), Server(ChainStage(1, 1), 3, 10.0), Server(ChainStage(2, 1), 3, 10.0)]
    # vLLM untold: 3, 3, 2 layers
    assert default_split(problem.engine, 8, 3) == (3, 3, 2)
    assert [(one.first, one.end) for one in swarm_rule(pricer, uneven, 3)] == [(6, 8), (0, 3), (3, 6)]
    chains = chains_of(pricer, placed)
    assert [one.chain for one in chains] == [
        (ChainStage(4, 1),),
        (ChainStage(0, 1), ChainStage(1, 1)),
        (ChainStage(2, 1), ChainStage(3, 1)),
    ]
    assert [one.layers for one in chains] == [(8,), (4, 4), (4, 4)]
