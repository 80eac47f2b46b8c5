"""The serving search: against an independent optimum over all templates, and its invariants."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cluster import load_cluster
from planner.engine import load_engine
from planner.errors import InfeasibleError
from planner.model import load_model
from planner.plan import ServingPlan, plan_to_json
from planner.search.problem import Budget, ServingProblem
from planner.search.serving import search_templates
from planner.search.template_choice import TemplateChooser
from planner.search.template_pool import enumerate_multisets
from planner.search.template_pricer import TemplatePricer
from planner.search.templates import StageKind, enumerate_templates, stage_kinds
from planner.verifier.serving import check_serving
from planner.workload import Slo, Workload, fixed_workload, load_trace
from tests.search.small import examples, small_cluster, tiny_model


def solve(problem: ServingProblem, **budget: object) -> ServingPlan:
    return search_templates(problem, Budget(**budget)).plan  # type: ignore[arg-type]


def chat(rate: float | str = "max", ttft: float = 2.0, tpot: float = 0.1) -> Workload:
    return fixed_workload(512, 128, rate=rate, slo=Slo(ttft=ttft, tpot=tpot))  # type: ignore[arg-type]


def best_over_gpu_vectors(
    problem: ServingProblem, kinds: list[StageKind], pricer: TemplatePricer
) -> tuple[float, float]:
    """Optimum of what templates reach, and of what they are bounded by: a program over GPUs used of each class."""
    uniform = problem.engine.tensor_parallel == "uniform"
    sequences = list(enumerate_templates(problem, kinds, max_stages=4, max_kinds=4, uniform=uniform))
    if not sequences:
        return 0.0, 0.0
    priced = pricer.price(sequences)
    room = tuple(c.num_gpus for c in problem.cluster.classes)
    return _best(kinds, sequences, priced.rate_B, room), _best(kinds, sequences, priced.bound_B, room)


def _best(
    kinds: list[StageKind], sequences: list[tuple[int, ...]], rates: Iterable[float], room: tuple[int, ...]
) -> float:
    value: dict[tuple[int, ...], float] = {}
    for sequence, rate in zip(sequences, rates, strict=True):
        need = [0] * len(room)
        for j in sequence:
            need[kinds[j].node_class] += kinds[j].tp
        value[tuple(need)] = max(value.get(tuple(need), 0.0), float(rate))

    @cache
    def best(left: tuple[int, ...]) -> float:
        fitting = [
            (need, rate)
            for need, rate in value.items()
            if rate > 0 and all(n <= m for n, m in zip(need, left, strict=True))
        ]
        return max(
            (rate + best(tuple(m - n for n, m in zip(need, left, strict=True))) for need, rate in fitting), default=0.0
        )

    return best(room)


@settings(max_examples=examples(60, 200), deadline=None)
@given(st.data())
def test_the_choice_equals_an_independent_program_over_gpu_vectors(data: st.DataObject) -> None:
    """Up to 8 GPUs of 3 types in 2 to 3 classes; TP degrees divide the nodes, so GPU counts decide what fits.

    Every template of the family is priced, and the greatest value of what they reach found by going through all GPU
    vectors. The choice reaches as much, and its bound lies between that and the same of the templates' bounds.
    """
    gpus = data.draw(
        st.lists(st.sampled_from(["l4", "t4", "a100_sxm_40", "l40s"]), min_size=1, max_size=3, unique=True)
    )
    classes = [(gpu, data.draw(st.sampled_from([1, 2, 4])), 1) for gpu in gpus]
    if sum(size for _, size, _ in classes) <= 4:
        classes[0] = (*classes[0][:2], 2)
    if sum(size * count for _, size, count in classes) > 8:
        classes = classes[:2]
    cluster = small_cluster(classes, bandwidth=data.draw(st.sampled_from(["10 Gb/s", "400 Gb/s"])))
    model = tiny_model(layers=data.draw(st.sampled_from([6, 24])), hidden=data.draw(st.sampled_from([2048, 4096])))
    engine = load_engine(data.draw(st.sampled_from(["vllm", "sglang", "generic"])))
    workload = chat(tpot=data.draw(st.sampled_from([0.03, 0.1, 0.4])))
    problem = ServingProblem(model=model, cluster=cluster, engine=engine, workload=workload, max_stages=4)
    kinds = stage_kinds(problem)
    pricer = TemplatePricer(problem, kinds)
    # all of the family, or now and then two kinds at most, and the rest by the dynamic program
    pool = enumerate_multisets(problem, kinds, 4, most=data.draw(st.sampled_from([1, *[100_000] * 9])))
    chooser = TemplateChooser(problem, kinds, pricer, pool, 4, Budget())
    choice = chooser.choose(np.ones(len(kinds)))
    reached, bound = best_over_gpu_vectors(problem, kinds, pricer)
    if reached == 0:
        assert choice is None
        return
    assert choice is not None
    value = float(choice.templates.rate_B @ choice.copies_T)
    assert value == pytest.approx(reached, rel=2e-5)
    assert reached * (1 - 1e-9) <= choice.bound <= bound * (1 + 3e-6)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_plans_verify_and_keep_to_their_certificate(data: st.DataObject) -> None:
    gpus = data.draw(st.lists(st.sampled_from(["l4", "t4", "l40s"]), min_size=1, max_size=2, unique=True))
    classes = [(gpu, data.draw(st.sampled_from([1, 2, 4])), data.draw(st.integers(1, 2))) for gpu in gpus]
    cluster = small_cluster(classes, bandwidth="400 Gb/s")
    model = tiny_model(layers=data.draw(st.sampled_from([6, 24])), hidden=data.draw(st.sampled_from([2048, 4096])))
    engine = load_engine(data.draw(st.sampled_from(["vllm", "sglang"])))
    problem = ServingProblem(model=model, cluster=cluster, engine=engine, workload=chat())
    try:
        plan = solve(problem)
    except InfeasibleError:
        return
    assert plan.certificate.gap < 0.08
    assert check_serving(plan, model, cluster, engine) == []


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_more_of_anything_never_lowers_the_optimum(data: st.DataObject) -> None:
    """More nodes, faster links, more memory, a looser SLO, an engine that can be told more."""
    gpu = data.draw(st.sampled_from(["l4", "l40s", "a100_sxm_40"]))
    layers = data.draw(st.sampled_from([16, 48]))
    bandwidths = ("10 Gb/s", "100 Gb/s")

    def optimum(nodes: int, bandwidth: str, tpot: float, engine: str = "vllm", gpu: str = gpu) -> float:
        cluster = small_cluster([(gpu, 2, nodes), ("t4", 1, 2)], bandwidth=bandwidth)
        problem = ServingProblem(
            model=tiny_model(layers=layers), cluster=cluster, engine=load_engine(engine), workload=chat(tpot=tpot)
        )
        try:
            return solve(problem).certificate.bound
        except InfeasibleError:
            return 0.0

    nodes, tpot = data.draw(st.integers(1, 2)), data.draw(st.sampled_from([0.03, 0.06, 0.1]))
    base = optimum(nodes, bandwidths[0], tpot) * (1 - 2e-5)
    assert optimum(nodes + 1, bandwidths[0], tpot) >= base
    assert optimum(nodes, bandwidths[1], tpot) >= base
    assert optimum(nodes, bandwidths[0], tpot * 1.5) >= base
    assert optimum(nodes, bandwidths[0], tpot, "generic") >= base
    if gpu == "a100_sxm_40":
        assert optimum(nodes, bandwidths[0], tpot, gpu="a100_sxm_80") >= base


def test_a_second_is_enough_for_a_plan_with_an_honest_bound() -> None:
    """At 1,024 GPUs; without the limit the same family has a bound that is no greater."""
    cluster = small_cluster([("a100_sxm_80", 8, 16), ("l40s", 4, 64), ("l4", 4, 80), ("t4", 4, 80)])
    assert cluster.num_gpus == 1024
    problem = ServingProblem(
        model=load_model("llama-3.1-70b"),
        cluster=cluster,
        engine=load_engine("vllm"),
        workload=load_trace("azure-conv-2023").summary(Slo(ttft=8.0, tpot=0.4), rate="max"),
    )
    hurried, patient = solve(problem, time_limit=1.0), solve(problem)
    assert check_serving(hurried, problem.model, cluster, problem.engine) == []
    assert hurried.certificate.value <= patient.certificate.bound * (1 + 1e-6)
    assert hurried.certificate.bound >= patient.certificate.value * (1 - 1e-6)


def test_a_model_that_one_gpu_serves_gets_one_gpu() -> None:
    problem = ServingProblem(
        model=load_model("llama-3.1-8b"),
        cluster=load_cluster("a100-l40s-l4-24"),
        engine=load_engine("vllm"),
        workload=chat(rate=0.5),
    )
    plan = solve(problem)
    assert [len(stage.devices) for replica in plan.replicas for stage in replica.stages] == [1]
    assert plan.certificate.objective == "cost_per_hour"
    assert plan.predicted["rate"].value == 0.5
    assert plan.predicted["goodput"].value >= 0.5


def test_a_demand_is_met_at_least_cost() -> None:
    """The plan costs no more than any other number of replicas of one kind that meets the demand."""
    cluster = small_cluster([("l4", 1, 6), ("a100_sxm_40", 1, 2)])  # 1 and 2 USD/h
    model = tiny_model(layers=16)
    engine = load_engine("vllm")
    problem = ServingProblem(model=model, cluster=cluster, engine=engine, workload=chat(rate=20.0))
    plan = solve(problem)
    single = {
        gpu: solve(ServingProblem(model=model, cluster=small_cluster([(gpu, 1, 1)]), engine=engine, workload=chat()))
        .predicted["goodput"]
        .value
        for gpu in ("l4", "a100_sxm_40")
    }
    options = [
        n * 1.0 + m * 2.0 for n in range(7) for m in range(3) if n * single["l4"] + m * single["a100_sxm_40"] >= 20.0
    ]
    assert plan.certificate.value <= min(options) + 1e-9
    assert plan.predicted["goodput"].value >= 20.0


def test_a_demand_beyond_the_cluster_is_served_as_far_as_it_goes() -> None:
    cluster = small_cluster([("l4", 1, 2)])
    problem = ServingProblem(
        model=tiny_model(layers=16), cluster=cluster, engine=load_engine("vllm"), workload=chat(rate=1e4)
    )
    plan = solve(problem)
    assert plan.certificate.objective == "goodput"
    assert plan.predicted["rate"].value == pytest.approx(plan.predicted["goodput"].value)
    assert {gpu for r in plan.replicas for s in r.stages for gpu in s.devices} == set(cluster.gpus)


def test_a_link_a_thousand_times_slower_changes_prediction_and_plan() -> None:
    """A model that needs two nodes suffers; one that fits a node stays inside it."""
    model = load_model("llama-3.1-70b")
    engine = load_engine("vllm")
    workload = load_trace("azure-conv-2023").summary(Slo(ttft=10.0, tpot=1.0), rate="max")
    plans = [
        solve(
            ServingProblem(
                model=model,
                cluster=small_cluster([("l40s", 4, 2), ("l4", 4, 2)], bandwidth=bandwidth),
                engine=engine,
                workload=workload,
            )
        )
        for bandwidth in ("100 Gb/s", "100 Mb/s")
    ]
    assert plans[1].predicted["goodput"].value < 0.9 * plans[0].predicted["goodput"].value
    shapes = [[[stage.devices for stage in r.stages] for r in plan.replicas] for plan in plans]
    assert shapes[0] != shapes[1]


def test_the_slow_link_keeps_replicas_inside_nodes() -> None:
    model = tiny_model(layers=32, hidden=4096)
    plan = solve(
        ServingProblem(
            model=model,
            cluster=small_cluster([("l4", 4, 2)], bandwidth="20 Mb/s"),
            engine=load_engine("vllm"),
            workload=chat(),
        )
    )
    for replica in plan.replicas:
        assert len({gpu.split("/")[0] for stage in replica.stages for gpu in stage.devices}) == 1


def test_same_plan_twice_and_with_workers() -> None:
    problem = ServingProblem(
        model=load_model("llama-3.1-70b"),
        cluster=load_cluster("a100-l40s-l4-24"),
        engine=load_engine("vllm"),
        workload=load_trace("azure-conv-2023").summary(Slo(ttft=2.0, tpot=0.1), rate="max"),
    )
    first, second = solve(problem), solve(problem, workers=2)
    assert plan_to_json(first) == plan_to_json(second)


def test_infeasible_problems_name_the_constraint() -> None:
    model = load_model("llama-3.1-70b")

    def fail(cluster: str, workload: Workload) -> str:
        with pytest.raises(InfeasibleError) as caught:
            solve(
                ServingProblem(
                    model=model, cluster=load_cluster(cluster), engine=load_engine("vllm"), workload=workload
                )
            )
        return str(caught.value)

    memory = fail("4xl4", chat())
    assert "needs 13" in memory and "GiB of weights" in memory and "fp8" in memory
    tpot = fail("8xa100", chat(tpot=0.001))
    assert "TPOT of 1.0 ms" in tpot and "best is" in tpot and "a100_sxm_80" in tpot
    ttft = fail("8xa100", chat(ttft=0.01))
    assert "TTFT of 10.0 ms" in ttft and "best is" in ttft


def test_progress_is_reported() -> None:
    seen: list[tuple[str, float]] = []
    problem = ServingProblem(
        model=tiny_model(), cluster=small_cluster([("l4", 2, 1)]), engine=load_engine("vllm"), workload=chat()
    )
    solve(problem, progress=lambda what, share: seen.append((what, share)))
    assert seen and seen[-1][1] == 1.0
    assert np.all([0.0 <= share <= 1.0 for _, share in seen])


def test_objectives() -> None:
    """The same demand at least cost, on fewest GPUs, at the least TPOT: each is the best at its own."""
    cluster = small_cluster([("l4", 1, 6), ("a100_sxm_40", 1, 2)])  # 1 and 2 USD/h
    base = {"model": tiny_model(layers=16), "cluster": cluster, "engine": load_engine("vllm")}
    plans = {
        objective: solve(ServingProblem(**base, workload=chat(rate=20.0), objective=objective))  # type: ignore[arg-type]
        for objective in ("cost", "gpus", "tpot", "goodput")
    }
    figures = {name: plan.predicted for name, plan in plans.items()}
    assert figures["goodput"]["goodput"].value >= max(f["goodput"].value for f in figures.values()) * (1 - 1e-6)
    for name in ("cost", "gpus", "tpot"):
        assert figures[name]["goodput"].value >= 20.0 * (1 - 1e-9)
    assert figures["cost"]["cost_per_hour"].value <= figures["gpus"]["cost_per_hour"].value + 1e-9
    assert figures["gpus"]["gpus"].value <= figures["cost"]["gpus"].value
    assert plans["gpus"].certificate.objective == "gpus"
    least = plans["tpot"].certificate
    assert least.objective == "tpot"
    assert least.bound <= least.value
    # nothing serves the demand within the bound
    slo = Slo(ttft=2.0, tpot=least.bound * (1 - 1e-6))
    try:
        served = solve(ServingProblem(**base, workload=fixed_workload(512, 128, rate="max", slo=slo)))
    except InfeasibleError:
        return
    assert served.certificate.value < 20.0


def test_an_explanation_names_what_binds() -> None:
    problem = ServingProblem(
        model=load_model("llama-3.1-70b"),
        cluster=load_cluster("a100-l40s-l4-24"),
        engine=load_engine("vllm"),
        workload=load_trace("azure-conv-2023").summary(Slo(ttft=2.0, tpot=0.1), rate="max"),
    )
    result = search_templates(problem, Budget())
    told = result.explanation
    assert told is not None
    assert [b.replica for b in told.bindings] == [r.id for r in result.plan.replicas]
    assert {b.constraint for b in told.bindings} <= {"KV cache", "TPOT", "TTFT", "prefill", "tokens of an iteration"}
    for binding in told.bindings:
        assert binding.needed > binding.had
    # by duality the GPUs are worth the optimum without whole numbers, which no plan exceeds
    worth = sum(p * c.num_gpus for p, c in zip(told.price_C, problem.cluster.classes, strict=True))
    assert worth >= result.plan.certificate.value * (1 - 1e-6)
    for other in told.alternatives:
        assert other.rate <= other.worth * (1 + 1e-6)
    assert all(alone <= worth * (1 + 1e-6) for alone in told.alone_C)
