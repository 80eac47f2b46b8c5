"""Pricing all multisets by a dynamic program: against every one of them, enumerated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cluster import load_cluster
from planner.engine import load_engine
from planner.model import load_model
from planner.search.problem import Budget, ServingProblem
from planner.search.template_caps import CapacityForm
from planner.search.template_choice import TemplateChooser
from planner.search.template_dp import Prices, TemplateDp
from planner.search.template_pool import MultisetPool, enumerate_multisets
from planner.search.template_pricer import TemplatePricer
from planner.search.templates import stage_kinds
from planner.workload import Slo, fixed_workload, load_trace
from tests.search.small import small_cluster, tiny_model

EVERYTHING = 10**9
NEARLY = 1.0021  # what the capacity bound allows itself where it does not look at every batch


def problem_of(data: st.DataObject) -> ServingProblem:
    gpus = data.draw(
        st.lists(st.sampled_from(["l4", "t4", "a100_sxm_40", "l40s"]), min_size=2, max_size=3, unique=True)
    )
    classes = [(gpu, data.draw(st.sampled_from([1, 2, 4])), data.draw(st.integers(1, 2))) for gpu in gpus]
    model = data.draw(
        st.sampled_from([tiny_model(layers=9), tiny_model(layers=24, hidden=4096, heads=32), load_model("gemma-3-27b")])
    )
    slo = Slo(ttft=data.draw(st.sampled_from([0.5, 10.0])), tpot=data.draw(st.sampled_from([0.03, 0.1, 0.4])))
    return ServingProblem(
        model=model,
        cluster=small_cluster(classes, bandwidth=data.draw(st.sampled_from(["10 Gb/s", "400 Gb/s"]))),
        engine=load_engine(data.draw(st.sampled_from(["vllm", "generic"]))),
        workload=fixed_workload(512, 128, rate="max", slo=slo),
    )


def with_dp(problem: ServingProblem, depth: int) -> tuple[MultisetPool, CapacityForm, TemplateDp, int]:
    kinds = stage_kinds(problem)
    pool = enumerate_multisets(problem, kinds, depth, most=EVERYTHING)
    assert pool.complete
    form = CapacityForm(TemplatePricer(problem, kinds).tables, depth)
    return pool, form, TemplateDp(form, problem, kinds, depth), len(kinds)


@settings(max_examples=6, deadline=None)
@given(st.data())
def test_nothing_in_the_family_is_worth_more_than_the_program_says(data: st.DataObject) -> None:
    """No multiset's capacity bound exceeds the largest ratio, and what is worth its price is listed."""
    pool, form, dp, J = with_dp(problem_of(data), 4)
    price_J = np.array([data.draw(st.integers(1, 40)) / 10 for _ in range(J)])
    prices = Prices(stage_J=price_J)
    bound_M, price_M = form.bound(pool), pool.chunks_MJ(J) @ price_J
    quick, exact = dp.ratio(prices, least=0.0), dp.ratio(prices, least=0.0, exact=True)
    assert quick >= exact * (1 - 1e-9)
    best = float((bound_M / price_M).max())
    assert best <= exact * NEARLY
    share = data.draw(st.sampled_from([0.3, 0.8, 1.0]))
    listed = dp.worthwhile(prices, lambda worth_E: worth_E / (share * exact + 1e-12), 10**6)
    assert listed is not None
    found = {tuple(row) for row in listed.tolist()}
    everything = [tuple(row) for row in pool.chunks_MJ(J).tolist()]
    assert found <= set(everything)
    missing = np.array([way not in found for way in everything])
    assert (bound_M[missing] <= price_M[missing] * share * exact * NEARLY + 1e-9).all()


@settings(max_examples=6, deadline=None)
@given(st.data())
def test_columns_by_the_program_reach_the_relaxation_over_everything(data: st.DataObject) -> None:
    """From two kinds at most: the same as over the whole family, enumerated; for goodput, and for a demand."""
    problem = problem_of(data)
    kinds = stage_kinds(problem)
    pricer = TemplatePricer(problem, kinds)
    cost_J = np.array([data.draw(st.integers(1, 9)) for _ in kinds], dtype=float)

    def chooser(most: int) -> TemplateChooser:
        return TemplateChooser(problem, kinds, pricer, enumerate_multisets(problem, kinds, 4, most=most), 4, Budget())

    whole = chooser(EVERYTHING).relax(cost_J)
    by_columns = chooser(1)
    found = by_columns.relax(cost_J)
    if whole is None:
        assert found is None
        return
    assert found is not None
    assert found.value == pytest.approx(whole.value, rel=1e-6)
    demand = data.draw(st.sampled_from([0.3, 0.9])) * whole.value
    cheapest, again = chooser(EVERYTHING).relax(cost_J, demand), by_columns.relax(cost_J, demand)
    assert cheapest is not None
    assert again is not None
    assert again.value == pytest.approx(cheapest.value, rel=1e-6)


@pytest.mark.parametrize(("cluster", "tpot"), [("a100-l40s-l4-24", 0.2), ("a100-l40s-l4-t4-64", 0.4)])
def test_on_shipped_clusters_up_to_six_stages(cluster: str, tpot: float) -> None:
    problem = ServingProblem(
        model=load_model("llama-3.1-70b"),
        cluster=load_cluster(cluster),
        engine=load_engine("generic"),
        workload=load_trace("azure-conv-2023").summary(Slo(ttft=20 * tpot, tpot=tpot), rate="max"),
    )
    kinds = stage_kinds(problem)
    pricer = TemplatePricer(problem, kinds)
    values = []
    for most in (EVERYTHING, 1):
        pool = enumerate_multisets(problem, kinds, 6, most=most)
        relaxed = TemplateChooser(problem, kinds, pricer, pool, 6, Budget()).relax(np.ones(len(kinds)))
        assert relaxed is not None
        values.append(relaxed.value)
    assert values[1] == pytest.approx(values[0], rel=1e-6)


def test_a_program_that_is_late_lists_nothing() -> None:
    problem = ServingProblem(
        model=tiny_model(layers=9),
        cluster=small_cluster([("l4", 2, 1), ("t4", 2, 1)]),
        engine=load_engine("generic"),
        workload=fixed_workload(512, 128, rate="max", slo=Slo(ttft=2.0, tpot=0.1)),
    )
    _, _, dp, J = with_dp(problem, 3)
    assert dp.worthwhile(Prices(stage_J=np.ones(J)), lambda worth_E: worth_E, 1000, lambda: True) is None
