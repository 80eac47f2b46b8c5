"""The pool of multisets and what bounds it: against plain enumeration, placed replicas and the layer partition."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cluster import Cluster
from planner.engine import load_engine
from planner.model import ModelSpec, load_model
from planner.search.problem import ServingProblem
from planner.search.template_caps import CapacityForm
from planner.search.template_pool import enumerate_multisets, orders
from planner.search.template_pricer import TemplatePricer
from planner.search.templates import enumerate_templates, stage_kinds
from planner.workload import Slo, fixed_workload
from tests.search.small import small_cluster, tiny_model


def problem_of(model: ModelSpec, cluster: Cluster, engine: str, ttft: float = 2.0, tpot: float = 0.1) -> ServingProblem:
    workload = fixed_workload(512, 128, rate="max", slo=Slo(ttft=ttft, tpot=tpot))
    return ServingProblem(model=model, cluster=cluster, engine=load_engine(engine), workload=workload)


def test_multisets_are_those_of_all_sequences() -> None:
    cluster = small_cluster([("l4", 2, 2), ("t4", 4, 1)])
    for engine in ("generic", "vllm"):
        problem = problem_of(tiny_model(layers=8), cluster, engine)
        kinds = stage_kinds(problem)
        pool = enumerate_multisets(problem, kinds, 4)
        assert pool.complete
        found = [
            tuple(sorted(Counter({int(j): int(n) for j, n in zip(k, c, strict=True) if j >= 0}).items()))
            for k, c in zip(pool.kind_MD, pool.count_MD, strict=True)
        ]
        sequences = enumerate_templates(
            problem, kinds, max_stages=4, max_kinds=4, uniform=problem.engine.tensor_parallel == "uniform"
        )
        assert len(found) == len(set(found))
        assert set(found) == {tuple(sorted(Counter(q).items())) for q in sequences}


def test_a_pool_too_large_stops_at_fewer_kinds_and_says_so() -> None:
    problem = problem_of(tiny_model(layers=8), small_cluster([("l4", 4, 2), ("t4", 4, 2)]), "generic")
    pool = enumerate_multisets(problem, stage_kinds(problem), 8, most=10)
    assert not pool.complete
    assert pool.most_kinds == 2
    assert (pool.kind_MD >= 0).sum(axis=1).max() == 2


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_order_of_a_multiset_is_priced_above_its_bounds(data: st.DataObject) -> None:
    """Rough bound, capacities, capacities in an order: each may only be looser than what is priced exactly."""
    gpus = data.draw(
        st.lists(st.sampled_from(["l4", "t4", "a100_sxm_40", "l40s"]), min_size=2, max_size=3, unique=True)
    )
    cluster = small_cluster(
        [(gpu, data.draw(st.sampled_from([1, 2, 4])), data.draw(st.integers(1, 3))) for gpu in gpus],
        bandwidth=data.draw(st.sampled_from(["1 Gb/s", "25 Gb/s", "400 Gb/s"])),
    )
    model = data.draw(
        st.sampled_from(
            [
                tiny_model(layers=7),
                tiny_model(layers=24, hidden=4096, heads=32),
                load_model("gemma-3-27b"),  # layers with and without a window
                load_model("llama-3.1-8b"),
            ]
        )
    )
    problem = problem_of(
        model,
        cluster,
        data.draw(st.sampled_from(["vllm", "generic"])),
        ttft=data.draw(st.sampled_from([0.3, 2.0, 10.0])),
        tpot=data.draw(st.sampled_from([0.02, 0.05, 0.1, 0.4])),
    )
    kinds = stage_kinds(problem)
    pool = enumerate_multisets(problem, kinds, 6)
    rows = np.array(
        sorted(
            data.draw(st.sets(st.integers(0, len(pool.kind_MD) - 1), min_size=1, max_size=min(12, len(pool.kind_MD))))
        )
    )
    pool = pool.take(rows)
    pricer = TemplatePricer(problem, kinds)
    form = CapacityForm(pricer.tables, 6)
    rough_M, quick_M, bound_M = form.rough(pool), form.bound(pool, scans=0), form.bound(pool)
    sequences = [(m, q) for m in range(len(rows)) for q in orders(pool.kind_MD[m], pool.count_MD[m])[:6]]
    priced = pricer.price([q for _, q in sequences])
    owner = np.array([m for m, _ in sequences])
    ordered_B = form.bound_orders(pool.take(owner), priced.kinds_BS)
    slack = 1 + 1e-9
    assert (priced.rate_B <= ordered_B * slack).all()
    assert (priced.rate_B <= bound_M[owner] * slack).all()
    assert (priced.rate_B <= quick_M[owner] * slack).all()
    assert (priced.rate_B <= rough_M[owner] * slack).all()
