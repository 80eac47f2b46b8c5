"""Template pricing against plain enumeration, and against the pricing of placed replicas."""

from __future__ import annotations

from itertools import combinations, pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cluster import Cluster
from planner.cost.prediction import PlacedStage, pipeline
from planner.cost.replica import Operation, ReplicaPricer
from planner.engine import EngineProfile, load_engine
from planner.model import ModelSpec
from planner.search.problem import ServingProblem
from planner.search.split_search import splits_within
from planner.search.template_pool import enumerate_multisets, orders
from planner.search.template_pricer import TemplatePricer
from planner.search.templates import StageKind, enumerate_templates, stage_kinds
from planner.workload import Slo, fixed_workload
from tests.search.small import examples, small_cluster, tiny_model


def problem_of(
    model: ModelSpec, cluster: Cluster, engine: EngineProfile, *, ttft: float | None = 2.0, tpot: float | None = 0.1
) -> ServingProblem:
    workload = fixed_workload(512, 128, rate="max", slo=Slo(ttft=ttft, tpot=tpot))
    return ServingProblem(model=model, cluster=cluster, engine=engine, workload=workload)


def best_by_enumeration(problem: ServingProblem, kinds: list[StageKind], sequence: tuple[int, ...]) -> float:
    """Try every layer split of a template on GPUs that give it the fastest links."""
    layers, stages = problem.model.num_layers, len(sequence)
    used: dict[str, int] = {}
    devices = []
    for j in sequence:
        node_class = problem.cluster.classes[kinds[j].node_class]
        first = used.get(node_class.name, 0)
        used[node_class.name] = first + kinds[j].tp
        gpus = [gpu for node in node_class.nodes for gpu in problem.cluster.gpus_of(node)]
        devices.append(tuple(gpus[first : first + kinds[j].tp]))
    best = 0.0
    for cuts in combinations(range(1, layers), stages - 1):
        edges = (0, *cuts, layers)
        placed = [PlacedStage(d, (a, b)) for d, a, b in zip(devices, edges, edges[1:], strict=False)]
        capacity = ReplicaPricer(
            problem.model, problem.engine, problem.workload, pipeline(problem.cluster, placed)
        ).goodput()
        if isinstance(capacity, Operation):
            best = max(best, capacity.rate)
    return best


@settings(max_examples=examples(50, 300), deadline=None)
@given(st.data())
def test_splits_and_orders_equal_brute_force(data: st.DataObject) -> None:
    """Up to 8 GPUs in 2 or 3 classes: every layer split of every order of a multiset of stages, priced as placed.

    Each order is priced as the best of its splits, and so is the best order; the bound is no looser than that.
    """
    gpus = data.draw(st.lists(st.sampled_from(["l4", "t4", "a100_sxm_40", "l40s"]), min_size=2, max_size=3))
    # one node per class, so that no template is priced for links that these GPUs do not have
    sizes = [4, 4] if len(gpus) == 2 else data.draw(st.sampled_from([[4, 2, 2], [2, 4, 1], [1, 2, 4]]))
    problem = problem_of(
        tiny_model(layers=data.draw(st.integers(4, 7)), hidden=data.draw(st.sampled_from([2048, 4096]))),
        small_cluster(
            [(gpu, size, 1) for gpu, size in zip(gpus, sizes, strict=True)],
            bandwidth=data.draw(st.sampled_from(["100 Mb/s", "1 Gb/s", "10 Gb/s", "400 Gb/s"])),
        ),
        load_engine(data.draw(st.sampled_from(["generic", "vllm", "sglang"]))),
        ttft=data.draw(st.sampled_from([0.2, 2.0])),
        tpot=data.draw(st.sampled_from([0.01, 0.03, 0.1])),
    )
    kinds = stage_kinds(problem)
    pool = enumerate_multisets(problem, kinds, 4)
    row = data.draw(st.integers(0, len(pool.kind_MD) - 1))
    sequences = orders(pool.kind_MD[row], pool.count_MD[row])
    priced = TemplatePricer(problem, kinds).price(sequences)
    best = [best_by_enumeration(problem, kinds, sequence) for sequence in sequences]
    assert priced.rate_B == pytest.approx(best, rel=1e-9)
    assert priced.bound_B == pytest.approx(best, rel=1e-8)


@settings(max_examples=examples(30, 200), deadline=None)
@given(st.data())
def test_all_splits_within_a_limit_are_found(data: st.DataObject) -> None:
    stages, layers = data.draw(st.integers(1, 4)), data.draw(st.integers(4, 8))
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    time_SL, memory_SL = rng.uniform(0.5, 1.5, (stages, layers)), rng.uniform(0.5, 1.5, (stages, layers))
    fixed_S, room_S = rng.uniform(0, 1, stages), rng.uniform(2, 6, stages)
    longest = float(rng.uniform(2, 6))
    found = splits_within(time_SL, fixed_S, longest, memory_SL, room_S, alike=[False] * stages, most=10_000)
    assert found is not None
    expected = []
    for cuts in combinations(range(1, layers), stages - 1):
        edges = [0, *cuts, layers]
        spans = [slice(a, b) for a, b in pairwise(edges)]
        if all(
            time_SL[s, span].sum() + fixed_S[s] <= longest and memory_SL[s, span].sum() <= room_S[s]
            for s, span in enumerate(spans)
        ):
            expected.append(edges)
    assert found.tolist() == expected
    if len(expected) > 1:
        args = (time_SL, fixed_S, longest, memory_SL, room_S)
        assert splits_within(*args, alike=[False] * stages, most=len(expected) - 1) is None


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_no_placement_beats_its_template(data: st.DataObject) -> None:
    model = tiny_model(layers=8)
    cluster = small_cluster([("l4", 2, 3), ("t4", 4, 2)], bandwidth=data.draw(st.sampled_from(["1 Gb/s", "100 Gb/s"])))
    problem = problem_of(model, cluster, load_engine("vllm"))
    kinds = stage_kinds(problem)
    sequences = list(enumerate_templates(problem, kinds, max_stages=4, max_kinds=2, uniform=True))
    sequence = data.draw(st.sampled_from(sequences))
    priced = TemplatePricer(problem, kinds).price([sequence])
    if priced.rate_B[0] == 0:
        return
    # any GPUs of the right class, in any order
    pools = {
        c: data.draw(st.permutations([g for n in k.nodes for g in cluster.gpus_of(n)]))
        for c, k in enumerate(cluster.classes)
    }
    stages = []
    for s, j in enumerate(sequence):
        kind = kinds[j]
        if kind.tp > 1:  # keep TP groups inside nodes
            nodes = list(cluster.classes[kind.node_class].nodes)
            free = [[g for g in pools[kind.node_class] if g.startswith(f"{n}/")] for n in nodes]
            group = next((f[: kind.tp] for f in free if len(f) >= kind.tp), None)
            if group is None:
                return
        else:
            group = pools[kind.node_class][:1]
        pools[kind.node_class] = [g for g in pools[kind.node_class] if g not in group]
        bounds = priced.bounds_BS1[0]
        stages.append(PlacedStage(tuple(group), (int(bounds[s]), int(bounds[s + 1]))))
    capacity = ReplicaPricer(model, problem.engine, problem.workload, pipeline(cluster, stages)).goodput()
    if isinstance(capacity, Operation):
        assert capacity.rate <= priced.rate_B[0] * (1 + 1e-9)


def test_enumeration_is_complete_and_without_repeats() -> None:
    cluster = small_cluster([("l4", 2, 2), ("t4", 4, 1)])
    problem = problem_of(tiny_model(layers=8), cluster, load_engine("generic"))
    kinds = stage_kinds(problem)
    found = list(enumerate_templates(problem, kinds, max_stages=3, max_kinds=3, uniform=False))
    assert len(found) == len(set(found))
    expected = set()
    for stages in (1, 2, 3):
        for sequence in np.ndindex(*(len(kinds),) * stages):
            used = [0, 0]
            for j in sequence:
                used[kinds[j].node_class] += kinds[j].tp
            grouped = sum(a != b for a, b in pairwise(sequence)) == len(set(sequence)) - 1
            if grouped and used[0] <= 4 and used[1] <= 4:
                expected.add(tuple(int(j) for j in sequence))
    assert set(found) == expected


def test_uniform_engines_get_one_tp() -> None:
    cluster = small_cluster([("l4", 4, 1), ("t4", 4, 1)])
    problem = problem_of(tiny_model(layers=8), cluster, load_engine("vllm"))
    kinds = stage_kinds(problem)
    for sequence in enumerate_templates(problem, kinds, max_stages=3, max_kinds=2, uniform=True):
        assert len({kinds[j].tp for j in sequence}) == 1


def test_every_order_of_the_groups_is_priced() -> None:
    cluster = small_cluster([("l4", 4, 1), ("t4", 4, 1)])
    problem = problem_of(tiny_model(layers=8), cluster, load_engine("generic"))
    kinds = stage_kinds(problem)
    found = set(enumerate_templates(problem, kinds, max_stages=2, max_kinds=2, uniform=False))
    mixed = [q for q in found if len(set(q)) == 2]
    assert mixed
    assert all(order in found for q in mixed for order in permutations(q))
