"""The check accepts what the search makes and rejects each fault with its own code."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from planner.cluster import load_cluster
from planner.engine import load_engine
from planner.model import load_model
from planner.plan import ServingPlan, parse_plan, plan_to_json
from planner.search.problem import Budget, ServingProblem
from planner.search.serving import search_templates
from planner.verifier import verify
from planner.workload import Slo, load_trace

Edit = Callable[[dict[str, Any]], None]


@cache
def plan_text(engine: str = "vllm", cluster: str = "a100-l40s-l4-24", model: str = "llama-3.1-70b") -> str:
    problem = ServingProblem(
        model=load_model(model),
        cluster=load_cluster(cluster),
        engine=load_engine(engine),
        workload=load_trace("azure-conv-2023").summary(Slo(ttft=2.0, tpot=0.1), rate="max"),
    )
    return plan_to_json(search_templates(problem, Budget()).plan)


def edited(edit: Edit, **which: str) -> ServingPlan:
    data = json.loads(plan_text(**which))
    edit(data)
    plan = parse_plan(json.dumps(data))
    assert isinstance(plan, ServingPlan)
    return plan


def codes(plan: ServingPlan) -> set[str]:
    return {finding.code for finding in verify(plan)}


@pytest.mark.parametrize("engine", ["vllm", "sglang", "generic", "trtllm"])
def test_accepts_what_the_search_makes(engine: str) -> None:
    assert verify(parse_plan(plan_text(engine=engine))) == []


def test_accepts_models_with_their_own_formats() -> None:
    text = plan_text(model="gpt-oss-120b", cluster="8xh100")
    assert verify(parse_plan(text)) == []


def _piped(data: dict[str, Any]) -> int:
    """Position of the first replica with two stages."""
    return next(i for i, replica in enumerate(data["replicas"]) if len(replica["stages"]) == 2)


def _stage(data: dict[str, Any], stage: int = 0) -> dict[str, Any]:
    return data["replicas"][_piped(data)]["stages"][stage]  # type: ignore[no-any-return]


def _missing(data: dict[str, Any]) -> None:
    _stage(data, 1)["layers"][0] += 1


def _missing_at_the_end(data: dict[str, Any]) -> None:
    _stage(data, 1)["layers"][1] -= 1


def _twice(data: dict[str, Any]) -> None:
    _stage(data, 1)["layers"][0] -= 1


def _gpu_twice(data: dict[str, Any]) -> None:
    _stage(data)["devices"][1] = _stage(data)["devices"][0]


def _empty(data: dict[str, Any]) -> None:
    first, second = _stage(data, 0), _stage(data, 1)
    first["layers"] = [0, 80]
    second["layers"] = [80, 80]


def _unknown_gpu(data: dict[str, Any]) -> None:
    _stage(data)["devices"][0] = "a100-7/0"


def _tp_three(data: dict[str, Any]) -> None:
    for stage in data["replicas"][_piped(data)]["stages"]:
        stage["devices"] = stage["devices"][:3]
        stage["tp"] = 3


def _tp_not_devices(data: dict[str, Any]) -> None:
    _stage(data)["devices"] = _stage(data)["devices"][:2]


def _tp_per_stage(data: dict[str, Any]) -> None:
    stage = _stage(data)
    stage["devices"], stage["tp"] = stage["devices"][:2], 2


def _figure(data: dict[str, Any]) -> None:
    data["predicted"]["goodput"]["value"] *= 1 + 1e-6


def _replica_figure(data: dict[str, Any]) -> None:
    data["replicas"][0]["predicted"]["tpot"]["value"] *= 1 - 1e-6


def _memory_figure(data: dict[str, Any]) -> None:
    _stage(data)["memory"]["value"] *= 1 + 1e-6


def _error_band(data: dict[str, Any]) -> None:
    data["predicted"]["goodput"]["error"] = 0.001


def _shares(data: dict[str, Any]) -> None:
    data["replicas"][0]["share"] *= 0.5


def _certificate(data: dict[str, Any]) -> None:
    data["certificate"]["value"] *= 0.5


def _hash(data: dict[str, Any]) -> None:
    data["inputs"]["cluster"]["sha256"] = "0" * 64


def _across_nodes(data: dict[str, Any]) -> None:
    """Swap a GPU with one of the same type in another node, both of tensor-parallel stages."""
    stages = [stage for replica in data["replicas"] for stage in replica["stages"] if len(stage["devices"]) > 1]
    nodes = [stage["devices"][0].split("/")[0] for stage in stages]
    first, second = next(
        (one, other)
        for (one, node), (other, another) in itertools.combinations(zip(stages, nodes, strict=True), 2)
        if node != another and node.rpartition("-")[0] == another.rpartition("-")[0]
    )
    first["devices"][0], second["devices"][0] = second["devices"][0], first["devices"][0]


@pytest.mark.parametrize(
    ("edit", "code"),
    [
        (_missing, "layer-missing"),
        (_missing_at_the_end, "layer-missing"),
        (_twice, "layer-twice"),
        (_gpu_twice, "gpu-twice"),
        (_empty, "stage-empty"),
        (_unknown_gpu, "gpu-unknown"),
        (_tp_three, "tp-illegal"),
        (_tp_not_devices, "tp-devices"),
        (_tp_per_stage, "engine-cannot"),
        (_figure, "figure-changed"),
        (_replica_figure, "figure-changed"),
        (_memory_figure, "figure-changed"),
        (_error_band, "figure-changed"),
        (_shares, "shares"),
        (_certificate, "certificate"),
        (_hash, "input-changed"),
        (_across_nodes, "tp-across-nodes"),
    ],
)
def test_rejects_each_fault_with_its_own_message(edit: Edit, code: str) -> None:
    assert codes(edited(edit)) == {code}


def test_rejects_too_little_memory() -> None:
    """70 layers of 70B on four L4 do not fit; the message names bytes needed and offered."""

    def edit(data: dict[str, Any]) -> None:
        replica = data["replicas"][_piped(data)]
        replica["stages"][0] |= {"devices": [f"l4-0/{i}" for i in range(4)], "layers": [0, 70]}
        replica["stages"][1]["layers"] = [70, 80]

    findings = verify(edited(edit))
    memory = [finding for finding in findings if finding.code == "memory"]
    assert [finding.where for finding in memory] == [f"r{_piped(json.loads(plan_text()))} stage 0"]
    assert "GiB" in memory[0].message and "L4" in memory[0].message


def test_replicated_kv_heads_are_legal_and_uneven_ones_are_not() -> None:
    from planner.cost.memory import tensor_parallel_fault
    from tests.search.small import tiny_model

    model = tiny_model(heads=24, kv_heads=4, hidden=3072)
    assert tensor_parallel_fault(model, 8) is None  # each of 4 KV heads twice
    assert tensor_parallel_fault(model, 4) is None
    assert "KV heads" in (tensor_parallel_fault(model, 6) or "")
    assert "attention heads" in (tensor_parallel_fault(model, 16) or "")
