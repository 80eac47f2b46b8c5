"""Several models on one cluster: against brute force over all templates, against the search for one model, checked."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner import plan_fleet
from planner.cluster import Cluster
from planner.engine import load_engine
from planner.errors import InfeasibleError, InputError
from planner.model import ModelSpec
from planner.plan import ServingPlan, parse_plan, plan_to_json
from planner.search.fleet import search_fleet
from planner.search.fleet_file import EXAMPLE, load_models_file
from planner.search.problem import Budget, FleetProblem, ServedModel
from planner.search.serving import search_templates
from planner.search.template_pricer import TemplatePricer
from planner.search.templates import enumerate_templates, stage_kinds
from planner.verifier import verify
from planner.verifier.serving import check_serving
from planner.workload import Slo, Workload, fixed_workload
from tests.search.small import small_cluster, tiny_model


def chat(rate: float | str = "max", ttft: float = 2.0, tpot: float = 0.1, isl: int = 512) -> Workload:
    return fixed_workload(isl, 128, rate=rate, slo=Slo(ttft=ttft, tpot=tpot))  # type: ignore[arg-type]


def named(model: ModelSpec, name: str) -> ModelSpec:
    return replace(model, name=name)


def pair(rates: tuple[float | str, float | str] = (10.0, 4.0), weights: tuple[float, float] = (1.0, 1.0)) -> Any:
    """Two small models with different requests."""
    return (
        ServedModel(model=named(tiny_model(layers=16), "small"), workload=chat(rates[0]), weight=weights[0]),
        ServedModel(
            model=named(tiny_model(layers=48, hidden=4096, heads=32), "large"),
            workload=chat(rates[1], isl=1024),
            weight=weights[1],
        ),
    )


def solve(problem: FleetProblem, **budget: object) -> ServingPlan:
    plan = search_fleet(problem, Budget(**budget)).plan  # type: ignore[arg-type]
    models = [one.model for one in problem.served]
    assert check_serving(plan, models, problem.cluster, problem.engine) == []
    return plan


def frontier(problem: FleetProblem, index: int) -> dict[tuple[int, ...], float]:
    """Most that a model is served by the GPUs of each vector, going through all templates of the family."""
    alone = problem.alone(index)
    kinds = stage_kinds(alone)
    uniform = problem.engine.tensor_parallel == "uniform"
    sequences = list(enumerate_templates(alone, kinds, max_stages=3, max_kinds=3, uniform=uniform))
    priced = TemplatePricer(alone, kinds).price(sequences)
    room = tuple(c.num_gpus for c in problem.cluster.classes)
    value: dict[tuple[int, ...], float] = {}
    for sequence, rate in zip(sequences, priced.rate_B, strict=True):
        need = [0] * len(room)
        for j in sequence:
            need[kinds[j].node_class] += kinds[j].tp
        value[tuple(need)] = max(value.get(tuple(need), 0.0), float(rate))

    @cache
    def best(left: tuple[int, ...]) -> float:
        fitting = [(n, r) for n, r in value.items() if r > 0 and all(x <= y for x, y in zip(n, left, strict=True))]
        return max((r + best(tuple(y - x for x, y in zip(n, left, strict=True))) for n, r in fitting), default=0.0)

    return {vector: best(vector) for vector in np.ndindex(*(n + 1 for n in room))}


def brute_force(problem: FleetProblem, objective: str) -> float | None:
    """Best over all ways to divide the GPUs between the models; TP degrees divide the nodes, so counts decide."""
    room = tuple(c.num_gpus for c in problem.cluster.classes)
    tables = [frontier(problem, index) for index in range(len(problem.served))]
    demand = [one.workload.rate or np.inf for one in problem.served]
    price = [c.price_per_gpu_hour or 1.0 for c in problem.cluster.classes]
    found: list[float] = []
    for first in tables[0]:
        rest = tuple(n - m for n, m in zip(room, first, strict=True))
        for second in tables[1] if len(tables) > 1 else [(0,) * len(room)]:
            if any(m > n for m, n in zip(second, rest, strict=True)):
                continue
            served = [table[vector] for table, vector in zip(tables, (first, second), strict=False)]
            if objective == "scale":
                found.append(min(s / d for s, d in zip(served, demand, strict=True)))
            elif objective == "goodput":
                weights = [one.weight for one in problem.served]
                found.append(sum(w * min(s, d) for w, s, d in zip(weights, served, demand, strict=True)))
            elif all(s >= d for s, d in zip(served, demand, strict=True)):
                found.append(-sum(p * (m + n) for p, m, n in zip(price, first, second, strict=True)))
    return max(found, default=None)


@pytest.mark.parametrize("seed", range(12))
def test_two_models_equal_brute_force(seed: int) -> None:
    """Up to 6 GPUs of two types: scale of the demands, weighted goodput, least cost."""
    random = np.random.default_rng(seed)
    cluster = small_cluster(
        [(str(random.choice(["l4", "t4"])), 2, int(random.integers(1, 3))), ("l40s", 1, int(random.integers(1, 3)))]
    )
    rates = (float(random.uniform(1, 8)), float(random.uniform(0.2, 2)))
    objective = ("scale", "goodput", "cost")[seed % 3]
    problem = FleetProblem(
        served=pair(rates, weights=(1.0, float(random.uniform(1, 9)))),
        cluster=cluster,
        engine=load_engine(("vllm", "generic")[seed % 2]),
        max_stages=3,
        objective=objective,  # type: ignore[arg-type]
    )
    expected = brute_force(problem, objective)
    if not expected:
        try:
            plan = solve(problem)
        except InfeasibleError:
            return
        assert expected is None and plan.certificate.objective == "demand_scale" and plan.certificate.value < 1
        return
    certificate = solve(problem).certificate
    value = -certificate.value if objective == "cost" else certificate.value
    assert value == pytest.approx(expected, rel=3e-4)
    better = -certificate.bound if objective == "cost" else certificate.bound
    assert better >= expected * (1 - 1e-6) if objective != "cost" else better >= expected - 1e-6 * abs(expected)


@pytest.mark.parametrize("rate", ["max", 20.0, 1e4])
def test_one_model_is_served_as_by_the_search_for_one(rate: float | str) -> None:
    """The same goodput, or cost, and the same kind of plan."""
    served = ServedModel(model=tiny_model(layers=16), workload=chat(rate))
    cluster = small_cluster([("l4", 1, 4), ("a100_sxm_40", 2, 1)])
    problem = FleetProblem(served=(served,), cluster=cluster, engine=load_engine("vllm"))
    plan = solve(problem)
    alone = problem.alone(0)
    single = search_templates(
        type(alone)(
            model=served.model, cluster=cluster, engine=problem.engine, workload=served.workload, objective="auto"
        ),
        Budget(),
    ).plan
    assert plan.certificate.objective == single.certificate.objective
    assert plan.certificate.value == pytest.approx(single.certificate.value, rel=3e-4)
    assert plan.certificate.bound == pytest.approx(single.certificate.bound, rel=3e-4)
    assert set(plan.predicted) == set(single.predicted)
    assert not plan.per_model and not plan.inputs.further


def test_demands_met_at_least_cost_else_scaled() -> None:
    cluster = small_cluster([("l40s", 2, 3), ("l4", 2, 2)])
    engine = load_engine("vllm")
    met = solve(FleetProblem(served=pair((2.0, 0.5)), cluster=cluster, engine=engine))
    assert met.certificate.objective == "cost_per_hour"
    assert met.predicted["demand_scale"].value >= 1 - 1e-9
    short = solve(FleetProblem(served=pair((2000.0, 500.0)), cluster=cluster, engine=engine))
    assert short.certificate.objective == "demand_scale"
    assert short.certificate.value < 1
    most = solve(FleetProblem(served=pair(("max", "max")), cluster=cluster, engine=engine))
    assert most.certificate.objective == "weighted_goodput"
    fewest = solve(FleetProblem(served=pair((2.0, 0.5)), cluster=cluster, engine=engine, objective="gpus"))
    assert fewest.certificate.objective == "gpus"
    assert fewest.predicted["gpus"].value <= met.predicted["gpus"].value


def test_a_model_that_is_worth_nothing_beside_the_other_gets_nothing() -> None:
    """The weighted goodput may leave a model out; the plan says so and still holds."""
    cluster = small_cluster([("l40s", 1, 2)])
    problem = FleetProblem(
        served=pair(("max", "max"), weights=(1.0, 1e-3)), cluster=cluster, engine=load_engine("vllm")
    )
    plan = solve(problem)
    assert {replica.model for replica in plan.replicas} == {"small"}
    assert "goodput" not in plan.per_model["large"]


def fleet_plan() -> tuple[ServingPlan, list[ModelSpec], Cluster]:
    cluster = small_cluster([("l40s", 2, 3)])
    problem = FleetProblem(served=pair(), cluster=cluster, engine=load_engine("vllm"), objective="scale")
    return solve(problem), [one.model for one in problem.served], cluster


def test_the_check_sees_faults_across_models() -> None:
    plan, models, cluster = fleet_plan()
    engine = load_engine("vllm")

    def codes(edit: Any) -> set[str]:
        data = json.loads(plan_to_json(plan))
        edit(data)
        changed = parse_plan(json.dumps(data))
        assert isinstance(changed, ServingPlan)
        return {finding.code for finding in check_serving(changed, models, cluster, engine)}

    def of(data: Any, name: str) -> Any:
        return next(replica for replica in data["replicas"] if replica["model"] == name)

    def same_gpu(data: Any) -> None:
        of(data, "large")["stages"][0]["devices"][0] = of(data, "small")["stages"][0]["devices"][0]

    assert codes(lambda data: None) == set()
    assert "gpu-twice" in codes(same_gpu)
    assert "model" in codes(lambda data: of(data, "large").update(model="huge"))
    assert "shares" in codes(lambda data: of(data, "large").update(share=0.5))
    assert "figure-changed" in codes(lambda data: data["per_model"]["large"]["goodput"].update(value=1.0))
    assert "figure-missing" in codes(lambda data: data["per_model"].pop("large"))
    assert "figure-changed" in codes(lambda data: data["predicted"]["demand_scale"].update(value=9.0))
    assert "figure-unknown" in codes(lambda data: data["per_model"].update(other=data["per_model"]["large"]))
    assert "figure-changed" in codes(lambda data: data["inputs"]["further"][0].update(weight=2.0))
    assert "certificate" in codes(lambda data: data["certificate"].update(objective="weighted_goodput"))
    with pytest.raises(InputError, match="1 models are given for a plan with 2"):
        verify(plan, model=models[0], cluster=cluster)


def test_plans_of_one_model_read_as_before() -> None:
    """Nothing new is written where there is nothing new, and plans without the new fields are read."""
    plan, _, _ = fleet_plan()
    data = json.loads(plan_to_json(plan))
    assert plan_to_json(parse_plan(json.dumps(data))) == plan_to_json(plan)
    assert {"further", "weight"} <= set(data["inputs"]) and "per_model" in data and "routes" not in data
    del data["inputs"]["further"], data["inputs"]["weight"], data["per_model"]
    old = parse_plan(json.dumps(data))
    assert isinstance(old, ServingPlan)
    assert json.loads(plan_to_json(old)) == data
    assert len(old.inputs.served) == 1


def test_same_plan_twice() -> None:
    cluster = small_cluster([("l40s", 2, 3)])
    problem = FleetProblem(served=pair(), cluster=cluster, engine=load_engine("vllm"), objective="scale")
    assert plan_to_json(solve(problem)) == plan_to_json(solve(problem))


def test_models_that_do_not_fit_are_named() -> None:
    engine = load_engine("vllm")
    slow = ServedModel(model=named(tiny_model(), "slow"), workload=chat(1.0, tpot=1e-4))
    with pytest.raises(InfeasibleError, match="slow: no replica decodes a token within the TPOT"):
        search_fleet(
            FleetProblem(served=(pair()[0], slow), cluster=small_cluster([("l4", 1, 2)]), engine=engine), Budget()
        )
    with pytest.raises(InfeasibleError, match="small, large do not all fit small at once"):
        search_fleet(FleetProblem(served=pair(), cluster=small_cluster([("l40s", 1, 1)]), engine=engine), Budget())
    with pytest.raises(InputError, match="needs a rate for every model; small has none"):
        search_fleet(
            FleetProblem(
                served=pair(("max", 1.0)), cluster=small_cluster([("l40s", 1, 2)]), engine=engine, objective="cost"
            ),
            Budget(),
        )
    with pytest.raises(InputError, match="small listed more than once"):
        FleetProblem(served=(pair()[0], pair()[0]), cluster=small_cluster([("l40s", 1, 1)]), engine=engine)


def test_the_example_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(EXAMPLE, encoding="utf-8")
    large, small = load_models_file(path)
    assert (large.model.name, large.workload.rate, large.workload.slo.ttft) == ("llama-3.1-70b", 2.0, 2.0)
    assert (small.model.name, small.workload.prompt.mean, small.weight) == ("llama-3.1-8b", 1024.0, 0.2)
    plan = plan_fleet(path, "a100-l40s-l4-24")
    assert set(plan.per_model) == {"llama-3.1-70b", "llama-3.1-8b"}
    assert verify(plan) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("models: []", "lists no model"),
        ("model: llama-3.1-8b", "model: is not a known field"),
        ("models: [{model: llama-3.1-8b}]", "says nothing of its requests"),
        ("models: [{model: llama-3.1-8b, isl: 8, osl: 8, rate: -1}]", "models.0.rate: -1 is no rate"),
        ("models: [{model: llama-3.1-8b, isl: 8, osl: 8, trace: azure-conv-2023}]", "a trace and fixed lengths"),
        ("models: [{model: llama-3.1-8b, isl: 8, osl: 8, rate: trace}]", "rate: trace without a trace"),
        ("models: [{model: llama-3.1-8b, isl: 8, osl: 8, tpto: 1}]", "models.0.tpto: is not a known field"),
        ("models: [{model: llama-3.1-8b, isl: 8, osl: 8, weight: 0}]", "models.0.weight"),
        ("models: [{model: llama-9, isl: 8, osl: 8}]", "unknown model 'llama-9'"),
    ],
)
def test_mistakes_in_the_file_are_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_models_file(path)
    assert says in str(caught.value)
