"""Template pricing against plain enumeration, and against the pricing of placed replicas."""

from __future__ import annotations

from itertools import combinations, pairwise, permutations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cluster import Cluster
from planner.cost.prediction import PlacedStage, pipeline
from planner.cost.replica import Operation, ReplicaPricer
from planner.engine import EngineProfile, load_engine
from planner.model import ModelSpec
from planner.search.problem import ServingProblem
from planner.search.template_pricer import TemplatePricer
from planner.search.templates import StageKind, enumerate_templates, stage_kinds
from planner.workload import Slo, fixed_workload
from tests.search.small import small_cluster, tiny_model


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


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_goodput_and_bound_enclose_the_best_of_all_layer_splits(data: st.DataObject) -> None:
    """No split beats the bound, and the one that is chosen is within 3 % of the best."""
    model = tiny_model(layers=data.draw(st.integers(4, 7)))
    # one node per class, so that no template is priced for links that these GPUs do not have
    cluster = small_cluster(
        [(data.draw(st.sampled_from(["l4", "t4", "a100_sxm_40", "l40s"])), 4, 1) for _ in range(2)],
        bandwidth=data.draw(st.sampled_from(["100 Gb/s", "400 Gb/s"])),
    )
    problem = problem_of(
        model,
        cluster,
        load_engine("generic"),
        ttft=data.draw(st.sampled_from([0.2, 2.0])),
        tpot=data.draw(st.sampled_from([0.01, 0.03, 0.1])),
    )
    kinds = stage_kinds(problem)
    sequences = list(enumerate_templates(problem, kinds, max_stages=3, max_kinds=2, uniform=False))
    sequence = data.draw(st.sampled_from(sequences))
    priced = TemplatePricer(problem, kinds).price([sequence])
    best = best_by_enumeration(problem, kinds, sequence)
    assert priced.bound_B[0] >= best * (1 - 1e-9)
    assert priced.rate_B[0] <= best * (1 + 1e-9)
    assert priced.rate_B[0] >= best * 0.97


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
