"""Prefill and decode apart: against brute force with a linear program for the flows, invariants, the check."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from planner import plan_serving
from planner.cluster import Cluster, load_cluster
from planner.cost.replica import Operation, ReplicaPricer
from planner.cost.roles import DecodeReplica, PrefillReplica, kv_path
from planner.engine import load_engine
from planner.errors import InputError
from planner.plan import ServingPlan, parse_plan, plan_to_json
from planner.report.fleet import UNCONFIRMED, fleet_report
from planner.report.terminal import console_for
from planner.search.fleet import search_fleet, zone_links
from planner.search.problem import Budget, FleetProblem, Roles, ServedModel
from planner.search.role_templates import equal_stages, role_templates
from planner.search.templates import stage_kinds
from planner.verifier import verify
from planner.verifier.routes import check_network
from planner.verifier.serving import check_serving
from planner.workload import Slo, Workload, fixed_workload
from tests.search.small import cluster_text, small_cluster, tiny_model

ENGINE = load_engine("vllm")


def chat(rate: float | str = "max", isl: int = 1024, ttft: float = 0.5, tpot: float = 0.03) -> Workload:
    return fixed_workload(isl, 128, rate=rate, slo=Slo(ttft=ttft, tpot=tpot))  # type: ignore[arg-type]


def problem(cluster: Cluster, roles: Roles, models: int = 1, *, isl: int = 1024, **fields: Any) -> FleetProblem:
    small = replace(tiny_model(layers=8), name="small")
    large = replace(tiny_model(layers=12, hidden=4096, heads=32), name="large")
    served = (
        ServedModel(model=small, workload=chat(8.0, isl)),
        ServedModel(model=large, workload=chat(3.0, isl, ttft=1.0, tpot=0.06)),
    )
    fields = {"max_stages": 2, "objective": "scale", **fields}
    return FleetProblem(served=served[:models], cluster=cluster, engine=ENGINE, roles=roles, **fields)


def solve(asked: FleetProblem, **budget: object) -> ServingPlan:
    plan = search_fleet(asked, Budget(**budget)).plan  # type: ignore[arg-type]
    assert check_serving(plan, [one.model for one in asked.served], asked.cluster, asked.engine) == []
    return plan


Option = tuple[int, str, int, int, tuple[int, ...], float]  # model, role, from, to, GPUs by class, requests/s


def options(asked: FleetProblem) -> list[Option]:
    """Every replica of equal stages with every layer split, the best of each role, places and GPUs."""
    best: dict[tuple[Any, ...], float] = defaultdict(float)
    cluster = asked.cluster
    classes = range(len(cluster.classes))
    for a, one in enumerate(asked.served):
        alone = asked.alone(a)
        common = (one.model, asked.engine, one.workload)
        for kind in stage_kinds(alone):
            room = cluster.classes[kind.node_class].num_gpus // kind.tp
            for stages in range(1, min(asked.max_stages or 1, room) + 1):
                gpus = tuple(kind.tp * stages if c == kind.node_class else 0 for c in classes)
                for cuts in itertools.combinations(range(1, one.model.num_layers), stages - 1):
                    placed = equal_stages(alone, kind, (0, *cuts, one.model.num_layers))
                    found: list[tuple[str, int, int, float]] = []
                    own = kind.node_class
                    if asked.roles != "disaggregated":
                        whole = ReplicaPricer(*common, placed).goodput()
                        found.append(("both", -1, -1, whole.rate if isinstance(whole, Operation) else 0.0))
                    if asked.roles != "colocated":
                        # all network cards are alike here, so that whoever prefills may send to all classes
                        assert (
                            len({(p.latency, p.out, p.link) for p in (kv_path(cluster, own, w) for w in classes)}) == 1
                        )
                        sending = PrefillReplica(*common, placed, kv_path(cluster, own, own)).goodput()
                        found.append(("prefill", own, -1, sending))
                        taking = DecodeReplica(*common, placed, kv_path(cluster, own, own)).goodput()
                        found.append(("decode", -1, own, taking.rate if isinstance(taking, Operation) else 0.0))
                    for role, source, target, rate in found:
                        key = (a, role, source, target, gpus)
                        best[key] = max(best[key], rate)
    return [(*key, rate) for key, rate in best.items() if rate > 0]


def brute_force(asked: FleetProblem) -> float:
    """Greatest scale over all numbers of all options, with a linear program for the flows."""
    all_options = options(asked)
    room = [c.num_gpus for c in asked.cluster.classes]
    best = 0.0

    def extend(at: int, left: list[int], chosen: list[tuple[Option, int]]) -> None:
        nonlocal best
        if at == len(all_options):
            # a choice that leaves room for one more replica is part of a larger one
            if not any(all(n <= m for n, m in zip(option[4], left, strict=True)) for option in all_options):
                best = max(best, scale_of(asked, chosen))
            return
        need = all_options[at][4]
        most = min(m // n for n, m in zip(need, left, strict=True) if n)
        for copies in range(most + 1):
            rest = [m - copies * n for n, m in zip(need, left, strict=True)]
            extend(at + 1, rest, [*chosen, (all_options[at], copies)] if copies else chosen)

    extend(0, room, [])
    return best


def scale_of(asked: FleetProblem, chosen: list[tuple[Option, int]]) -> float:
    from scipy.optimize import linprog

    demand = [one.workload.rate or 1.0 for one in asked.served]
    done: dict[tuple[int, str, int, int], float] = defaultdict(float)
    for (a, role, source, target, _, rate), copies in chosen:
        done[a, role, source, target] += rate * copies
    senders = [key for key in done if key[1] == "prefill"]
    flows = [(sender, w) for sender in senders for w in range(len(asked.cluster.classes))]
    rows, limits = [], []
    for sender in senders:
        rows.append([1.0 if f[0] == sender else 0.0 for f in flows] + [0.0])
        limits.append(done[sender])
    for a in range(len(demand)):
        for w in range(len(asked.cluster.classes)):
            rows.append([1.0 if (f[0][0], f[1]) == (a, w) else 0.0 for f in flows] + [0.0])
            limits.append(done[a, "decode", -1, w])
        rows.append([-1.0 if f[0][0] == a else 0.0 for f in flows] + [demand[a]])
        limits.append(done[a, "both", -1, -1])
    answer = linprog(
        [0.0] * len(flows) + [-1.0],
        A_ub=np.array(rows),
        b_ub=np.array(limits),
        bounds=[(0.0, None)] * (len(flows) + 1),
    )
    assert answer.status == 0
    return float(-answer.fun)


CLUSTERS = (
    [("l4", 1, 4)],
    [("l4", 1, 2), ("l40s", 1, 2)],
    [("t4", 2, 2), ("l40s", 1, 2)],
    [("l40s", 1, 2), ("a100_sxm_40", 1, 2)],
)


@pytest.mark.parametrize("roles", ["disaggregated", "any"])
@pytest.mark.parametrize("case", range(len(CLUSTERS)))
def test_one_model_equals_brute_force(case: int, roles: Roles) -> None:
    """Up to 6 GPUs of two types."""
    asked = problem(small_cluster(CLUSTERS[case]), roles, isl=(512, 2048)[case % 2], max_stages=1)
    expected = brute_force(asked)
    assert expected > 0
    certificate = solve(asked).certificate
    assert certificate.value == pytest.approx(expected * 8.0, rel=1e-3)
    assert certificate.bound >= expected * 8.0 * (1 - 1e-6)


@pytest.mark.parametrize("case", range(2))
def test_two_models_equal_brute_force(case: int) -> None:
    asked = problem(
        small_cluster([[("l40s", 1, 4)], [("l4", 1, 2), ("l40s", 1, 2)]][case]), "disaggregated", 2, max_stages=1
    )
    expected = brute_force(asked)
    assert expected > 0
    certificate = solve(asked).certificate
    assert certificate.value == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("stages", [1, 2])
def test_templates_of_one_role_have_the_best_split(stages: int) -> None:
    """No template is better by any layer split than what the search priced, or what its templates replace it by."""
    asked = problem(small_cluster([("l4", 2, 2), ("l40s", 1, 2)]), "disaggregated", max_stages=stages)
    kinds = stage_kinds(asked.alone(0))
    found = role_templates(asked.alone(0), kinds, stages)
    gpus_T = [kinds[k].tp * n for k, n in zip(found.kind_T, found.stages_T, strict=True)]
    for _, role, source, target, need, rate in options(asked):
        code = 1 if role == "prefill" else 2
        alike = (found.role_T == code) & (found.from_T == source)
        if role == "decode":
            alike &= found.to_T == target
        reach = [sum(need) // gpus_T[t] * found.rate_T[t] for t in np.flatnonzero(alike) if sum(need) // gpus_T[t]]
        assert max(reach) >= rate * (1 - 2e-3)
        assert (found.bound_T[alike] >= found.rate_T[alike] * (1 - 1e-12)).all()


@pytest.mark.parametrize("models", [1, 2])
def test_any_is_never_worse(models: int) -> None:
    """Both choices are among those of ``any``."""
    cluster = small_cluster([("l40s", 2, 2), ("l4", 2, 3), ("a100_sxm_40", 2, 2)])
    value = {r: solve(problem(cluster, r, models)).certificate for r in ("colocated", "disaggregated", "any")}  # type: ignore[arg-type]
    for roles in ("colocated", "disaggregated"):
        assert value["any"].value >= value[roles].value * (1 - 1e-3)
        assert value["any"].bound >= value[roles].value * (1 - 1e-9)
    assert "no replay has confirmed" in value["any"].family
    assert "no replay has confirmed" not in value["colocated"].family


def zoned(bandwidth: str) -> Cluster:
    """Two zones, each with GPUs of one type, and a link between them."""
    import tempfile
    from pathlib import Path

    text = cluster_text([("a100_sxm_40", 1, 2), ("l4", 1, 6)])
    lines = text.replace("  - name: g1\n", "  - name: g1\n    zone: far\n").replace(
        "  - name: g0\n", "  - name: g0\n    zone: near\n"
    )
    lines += f"links:\n  tiers:\n    cross_zone: {{bandwidth: {bandwidth}, latency: 1 ms}}\n"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "zoned.yaml"
        path.write_text(lines, encoding="utf-8")
        return load_cluster(path)


def test_a_slow_link_between_zones_is_a_constraint() -> None:
    """A faster link never hurts; what passes over it is what it carries at most."""
    values = []
    for bandwidth in ("10 Mb/s", "2 Gb/s", "100 Gb/s"):
        cluster = zoned(bandwidth)
        asked = problem(cluster, "disaggregated", isl=2048)
        plan = solve(asked)
        values.append(plan.certificate.value)
        (link,) = [one for one in zone_links(cluster) if (0, 1) in one.pairings]
        zones = {r.id: cluster.class_of_node(cluster.node_of(r.stages[0].devices[0])).zone for r in plan.replicas}
        across = sum(x.share for x in plan.routes if (zones[x.prefill], zones[x.decode]) == ("near", "far"))
        bytes_ = asked.served[0].model.kv_bytes_per_token * 2048
        assert across * plan.predicted["goodput"].value * bytes_ <= link.capacity * (1 + 1e-6)
    assert values[0] <= values[1] * (1 + 1e-3) and values[1] <= values[2] * (1 + 1e-3)
    assert values[0] < values[2]


def test_the_check_sees_faults_of_roles() -> None:
    asked = problem(small_cluster([("l40s", 2, 2), ("l4", 1, 3)]), "disaggregated")
    plan = solve(asked)
    models = [one.model for one in asked.served]

    def codes(edit: Any) -> set[str]:
        data = json.loads(plan_to_json(plan))
        edit(data)
        changed = parse_plan(json.dumps(data))
        assert isinstance(changed, ServingPlan)
        return {finding.code for finding in check_serving(changed, models, asked.cluster, ENGINE)}

    def role(data: Any, name: str) -> Any:
        return next(replica for replica in data["replicas"] if replica["role"] == name)

    assert codes(lambda data: None) == set()
    assert "flow" in codes(lambda data: data["routes"].pop())
    assert "route" in codes(lambda data: data["routes"][0].update(decode="r99"))
    assert "route" in codes(lambda data: data["routes"].append(data["routes"][0]))
    assert {"route", "shares"} <= codes(lambda data: role(data, "prefill").update(role="decode"))
    assert "flow" in codes(lambda data: role(data, "decode").update(share=0.01))
    assert "figure-changed" in codes(lambda data: role(data, "prefill")["predicted"]["ttft"].update(value=0.1))
    assert "arguments" in codes(
        lambda data: role(data, "prefill")["engine_arguments"].update({"--kv-transfer-config": "{}"})
    )
    assert "role" in codes(lambda data: [r.update(role="both") for r in data["replicas"] if r["role"] == "decode"])
    # ten thousand times the requests would not pass the network
    goodput = {models[0].name: 1e4 * plan.predicted["goodput"].value}
    assert {f.code for f in check_network(plan, models, asked.cluster, ENGINE, goodput)} == {"kv-link"}


def test_plans_tell_the_engine_and_the_reader() -> None:
    """vLLM is told who produces KV caches; the report says that nothing confirmed the gain."""
    plan = plan_serving(
        "llama-3.1-8b", "l40s-l4-16", fixed_workload(2048, 256, slo=Slo(ttft=1.0, tpot=0.05)), roles="disaggregated"
    )
    assert verify(plan) == []
    told = {r.role: r.engine_arguments["--kv-transfer-config"] for r in plan.replicas}
    assert "kv_producer" in str(told["prefill"]) and "kv_consumer" in str(told["decode"])
    console = console_for(stderr=False)
    from planner.model import load_model

    with console.capture() as captured:
        console.print(fleet_report(plan, [load_model("llama-3.1-8b")], load_cluster("l40s-l4-16"), ENGINE))
    text = " ".join(captured.get().split())
    assert UNCONFIRMED in text and "prefill only" in text and "decode only" in text
    assert plan_to_json(plan) == plan_to_json(parse_plan(plan_to_json(plan)))


def test_demands_are_met_at_least_cost_in_roles() -> None:
    """Fewest GPUs, and no dearer than colocated replicas where both are allowed."""
    cluster = small_cluster([("l40s", 1, 6), ("l4", 1, 6)])
    costs = {r: solve(problem(cluster, r, objective="cost")).certificate for r in ("colocated", "any")}  # type: ignore[arg-type]
    assert costs["any"].value <= costs["colocated"].value * (1 + 1e-9)
    fewest = solve(problem(cluster, "disaggregated", objective="gpus"))
    assert fewest.certificate.objective == "gpus"
    assert fewest.predicted["goodput"].value >= 8.0 * (1 - 1e-9)


def test_what_roles_cannot_be_asked_for() -> None:
    asked = fixed_workload(512, 64, slo=Slo(ttft=1.0, tpot=0.05))
    with pytest.raises(InputError, match="among colocated replicas only"):
        plan_serving("llama-3.1-8b", "4xl4", asked, roles="any", objective="tpot")
    with pytest.raises(InputError, match="places no prefill or decode replicas"):
        plan_serving("llama-3.1-8b", "4xl4", asked, roles="any", method="hexgen")
    with pytest.raises(InputError, match="unknown choice of roles 'both'"):
        plan_serving("llama-3.1-8b", "4xl4", asked, roles="both")  # type: ignore[arg-type]
