"""The exact training search: against every plan in plain loops, and its invariants."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
import time
from itertools import pairwise
from typing import Any

import pytest

from planner.cluster import load_cluster
from planner.engine import load_engine, megatron_layout
from planner.errors import InfeasibleError, InputError, TimeLimitError, UnsupportedError
from planner.model import load_model
from planner.plan import TrainingPlan, parse_plan, plan_to_json
from planner.search.exact import search_exact
from planner.search.problem import Budget, TrainingProblem
from planner.search.stage_classes import StageClasses
from planner.verifier.training import check_training
from tests.search.small import small_cluster, tiny_model
from tests.search.training.own_small import best_of_every_order, changed
from tests.search.training_small import (
    best_of_all,
    cluster_with_links,
    mixed_layers,
    random_problem,
    training_problem,
)

# `HETPLAN_MANY=1` tries as many instances as the search was accepted on.
MANY = bool(os.environ.get("HETPLAN_MANY"))


def solve(problem: TrainingProblem, **budget: float) -> TrainingPlan:
    return search_exact(problem, Budget(**budget), near=0.0).plan  # type: ignore[arg-type]


def check(plan: TrainingPlan, problem: TrainingProblem) -> None:
    """What holds for every plan, and what the verifier finds."""
    layers = [stage.layers for stage in plan.stages]
    assert layers[0][0] == 0 and layers[-1][1] == problem.model.num_layers
    assert all(a[1] == b[0] for a, b in pairwise(layers)) and all(first < end for first, end in layers)
    gpus = [gpu for stage in plan.stages for gpu in stage.devices]
    assert len(set(gpus)) == len(gpus) and set(gpus) <= set(problem.cluster.gpus)
    assert all(stage.memory.value <= stage.memory_limit * (1 + 1e-12) for stage in plan.stages)
    schedule = plan.schedule
    for stage in plan.stages:
        sequences = stage.dp * schedule.microbatch_size * schedule.microbatches
        assert sequences == problem.job.global_batch * schedule.context_parallel
    assert check_training(plan, problem.model, problem.cluster, problem.engine) == []


@pytest.mark.parametrize("seed", range(50) if MANY else range(0, 50, 5))
def test_equals_every_plan_tried(seed: int) -> None:
    problem = random_problem(seed)
    best, _ = best_of_all(problem)
    if math.isinf(best):
        with pytest.raises(InfeasibleError, match="per GPU of"):
            solve(problem)
        return
    plan = solve(problem)
    check(plan, problem)
    assert plan.certificate.value <= best * (1 + 1e-9)
    assert plan.certificate.proven == (plan.certificate.gap == 0)


@pytest.mark.parametrize("seed", range(100) if MANY else range(0, 100, 8))
def test_equals_every_order_of_stages(seed: int) -> None:
    problem = random_problem(seed)
    best, even_best, _ = best_of_every_order(problem)
    if math.isinf(best):
        with pytest.raises(InfeasibleError):
            solve(problem)
        return
    plan = solve(problem)
    check(plan, problem)
    assert plan.certificate.bound <= best * (1 + 1e-9)
    assert plan.certificate.value <= even_best * (1 + 1e-9)
    if plan.certificate.proven:
        assert plan.certificate.value == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize("seed", range(12) if MANY else range(4))
def test_layers_of_two_kinds(seed: int) -> None:
    problem = random_problem(seed, mixed=True)
    best, _ = best_of_all(problem)
    if math.isinf(best):
        with pytest.raises(InfeasibleError, match="per GPU of"):
            solve(problem)
        return
    plan = solve(problem)
    check(plan, problem)
    assert plan.certificate.bound <= best * (1 + 1e-9)
    assert plan.certificate.value <= best * (1 + 1e-9)


def test_random_problems_are_worth_trying() -> None:
    """Some have plans of several stages, some recompute, some mix GPU types, some do not fit."""
    plans, misfits = [], 0
    for seed in range(40):
        try:
            plans.append(solve(random_problem(seed)))
        except InfeasibleError:
            misfits += 1
    assert misfits
    assert any(len(plan.stages) >= 3 for plan in plans)
    assert {plan.schedule.recompute for plan in plans} == {"none", "selective", "full"}
    assert len({stage.dp for plan in plans for stage in plan.stages}) > 1
    assert any(len({gpu[:2] for stage in plan.stages for gpu in stage.devices}) == 2 for plan in plans)
    assert len({stage.tp for plan in plans for stage in plan.stages}) > 1


def least(problem: TrainingProblem) -> float:
    """Seconds of the best plan; infinite where nothing fits."""
    try:
        plan = solve(problem)
    except InfeasibleError:
        return math.inf
    check(plan, problem)
    return plan.certificate.value


@pytest.mark.parametrize("seed", range(1000) if MANY else range(0, 1000, 100))
def test_invariants(seed: int) -> None:
    """A slower link never helps; one more node and one more GB never hurt; what the verifier checks holds."""
    problem = random_problem(seed, mixed=seed % 5 == 4)
    value = least(problem)
    assert least(changed(problem, bandwidth=0.5)) >= value * (1 - 1e-9)
    assert least(changed(problem, memory=1e9)) <= value * (1 + 1e-9)
    assert least(changed(problem, nodes=(1, 0))) <= value * (1 + 1e-9)


def test_same_plan_for_every_hash_seed() -> None:
    code = (
        "from planner.search.exact import search_exact\n"
        "from planner.search.problem import Budget\n"
        "from tests.search.training_small import random_problem\n"
        "for seed in (1, 3, 7):\n"
        "    plan = search_exact(random_problem(seed), Budget()).plan\n"
        "    print(plan.stages, plan.schedule, plan.certificate)\n"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "12345")
    }
    assert len(outputs) == 1


def test_same_bytes_every_time() -> None:
    problem = random_problem(7)
    assert plan_to_json(solve(problem)) == plan_to_json(solve(problem))


def test_plan_survives_its_file() -> None:
    plan = solve(random_problem(16))
    assert parse_plan(plan_to_json(plan)) == plan


@pytest.mark.parametrize("seed", [4, 8, 16])
def test_slower_network_never_helps(seed: int) -> None:
    model, classes = random_problem(seed).model, [("a100_sxm_40", 2, 2), ("v100_sxm_16", 2, 1)]
    times = [
        solve(training_problem(model, small_cluster(classes, bandwidth=bandwidth))).certificate.value
        for bandwidth in ("400 Gb/s", "100 Gb/s", "10 Gb/s", "0.1 Gb/s")
    ]
    assert times == sorted(times)
    assert times[-1] > times[0]


def test_slow_link_is_avoided() -> None:
    """Of three nodes, the one behind a link a thousand times slower is left out, and the price says why."""
    model, classes = tiny_model(layers=6, hidden=4096), [("a100_sxm_40", 1, 3)]
    even = training_problem(model, cluster_with_links(classes, []), max_stages=2, batch=16)
    slow = training_problem(
        model,
        cluster_with_links(classes, [("g0-0", "g0-1", "0.1 Gb/s"), ("g0-0", "g0-2", "0.1 Gb/s")]),
        max_stages=2,
        batch=16,
    )
    plan, around = solve(even), solve(slow)
    assert [stage.devices for stage in plan.stages] == [("g0-0/0",), ("g0-1/0",)]
    assert "g0-0/0" not in {gpu for stage in around.stages for gpu in stage.devices}
    assert around.certificate.value == pytest.approx(plan.certificate.value)
    # between the two nodes of a plan there is no way around
    pair = cluster_with_links([("a100_sxm_40", 1, 2)], [("g0-0", "g0-1", "0.1 Gb/s")])
    assert solve(training_problem(model, pair, batch=16)).certificate.value > 1.05 * plan.certificate.value


def test_more_memory_never_hurts() -> None:
    """The 40 GB card differs from the 80 GB card in memory bandwidth too; the comparison is one-sided."""
    model = tiny_model(layers=8, hidden=5120, heads=40, kv_heads=8)
    small, large = (
        solve(training_problem(model, small_cluster([(gpu, 2, 1)]), length=4096))
        for gpu in ("a100_sxm_40", "a100_sxm_80")
    )
    assert large.certificate.value < small.certificate.value


def test_megatron_gets_one_degree_and_its_options() -> None:
    cluster = small_cluster([("a100_sxm_80", 4, 1), ("v100_sxm_32", 4, 1)], bandwidth="200 Gb/s")
    problem = training_problem(
        tiny_model(layers=12, hidden=6144, heads=48, kv_heads=8), cluster, engine="megatron", length=2048
    )
    plan = solve(problem)
    check(plan, problem)
    assert len({stage.tp for stage in plan.stages}) == 1
    arguments = plan.engine_arguments
    assert arguments["--tensor-model-parallel-size"] == plan.stages[0].tp
    assert arguments["--pipeline-model-parallel-size"] == len(plan.stages)
    counts = [end - first for first, end in (stage.layers for stage in plan.stages)]
    assert arguments["--pipeline-model-parallel-layout"] == megatron_layout(counts, plan.schedule.virtual_stages)
    assert arguments["--global-batch-size"] == 8 and arguments["--seq-length"] == 2048
    assert "--use-distributed-optimizer" in arguments
    assert ("--sequence-parallel" in arguments) == plan.schedule.sequence_parallel


def test_shipped_problem_is_proven_in_time() -> None:
    problem = TrainingProblem(
        model=load_model("llama-3.1-70b"),
        cluster=load_cluster("h100-a100-32"),
        engine=load_engine("megatron"),
        job=training_problem(tiny_model(), small_cluster([("t4", 1, 1)]), batch=256, length=4096).job,
    )
    result = search_exact(problem, Budget())
    check(result.plan, problem)
    assert result.seconds < 15
    assert result.plan.certificate.proven
    assert set(result.counts) == {"outlines", "graphs", "cells", "label_searches", "labels"}
    assert 0.3 < result.plan.predicted["mfu"].value < 0.9


class _Looks:
    """A budget whose time passes by looking at it, so that a search is cut at the same point every time."""

    def __init__(self, looks: int) -> None:
        self.time_limit, self.left = float(looks), float(looks)

    def remaining(self) -> float:
        self.left = max(0.0, self.left - 1)
        return self.left

    def report(self, what: str, share: float) -> None:
        pass


def test_time_limit() -> None:
    problem = TrainingProblem(
        model=load_model("llama-2-7b"),
        cluster=load_cluster("hexgen-58"),
        engine=load_engine("generic"),
        job=training_problem(tiny_model(), small_cluster([("t4", 1, 1)]), batch=64, length=2048).job,
    )
    with pytest.raises(TimeLimitError):
        search_exact(problem, Budget(time_limit=0.0))
    for looks in (40, 100):
        plan = search_exact(problem, _Looks(looks)).plan  # type: ignore[arg-type]
        check(plan, problem)
        assert 0 < plan.certificate.bound < plan.certificate.value
        assert not plan.certificate.proven


def test_infeasible_names_what_binds() -> None:
    problem = training_problem(tiny_model(layers=16, hidden=8192, heads=64), small_cluster([("t4", 2, 1)]))
    with pytest.raises(
        InfeasibleError, match=r"stage 0 of \d \(\d+ layers\) on \dxt4 needs .* GiB per GPU of .* GiB"
    ) as caught:
        solve(problem)
    assert "more nodes like those of g0" in str(caught.value.hint)


def test_infeasible_without_zero_says_so() -> None:
    model = tiny_model(layers=2, hidden=4096)
    cluster = small_cluster([("t4", 1, 4)])
    fits = training_problem(model, cluster, zero=1, length=512, max_stages=1)
    too_large = training_problem(model, cluster, zero=0, length=512, max_stages=1)
    check(solve(fits), fits)
    with pytest.raises(InfeasibleError) as caught:
        solve(too_large)
    assert "(--zero 1)" in str(caught.value.hint)


@pytest.mark.parametrize("engine", ["megatron", "generic"])
def test_sequences_that_not_every_degree_divides(engine: str) -> None:
    """1004 tokens divide by 4, not by 8: plans of TP 4 keep sequence parallelism."""
    cluster = small_cluster([("a100_sxm_40", 2, 1), ("v100_sxm_16", 4, 1)])
    model = tiny_model(layers=3, hidden=4096, heads=16)
    problem = training_problem(model, cluster, engine=engine, batch=2, length=1002)  # by 2, not by 4
    best, _ = best_of_all(problem, parallel_where_possible=True)
    plan = solve(problem)
    check(plan, problem)
    assert plan.certificate.proven and plan.certificate.value == pytest.approx(best, rel=1e-9)
    shipped = training_problem(
        load_model("qwen3-32b"), small_cluster([("h100_sxm", 8, 1)]), engine=engine, batch=16, length=1004
    )
    plan = solve(shipped)
    check(plan, shipped)
    assert plan.schedule.sequence_parallel and plan.certificate.proven
    assert plan.stages[0].tp == 4 or engine != "megatron"  # without it, others are as fast


def test_megatron_trains_experts_with_sequence_parallelism_only() -> None:
    """Odd sequences: experts with TP 1 under Megatron, with any TP under the generic engine."""
    model = mixed_layers(4, 1024, 1, 16)
    cluster = small_cluster([("t4", 4, 1)], bandwidth="1 Gb/s")
    told, free = (
        {j.tp for j in StageClasses(training_problem(model, cluster, engine=engine, length=1001), (1,), 4).classes}
        for engine in ("megatron", "generic")
    )
    assert told == {1} and free == {1, 2, 4}
    even = StageClasses(training_problem(model, cluster, engine="megatron", length=1002), (1,), 4).classes
    assert {(j.tp, j.sequence_parallel) for j in even} == {(1, False), (2, True)}


def test_scores_are_recomputed_where_flash_attention_is_missing() -> None:
    """The scores do not fit a T4, the other activations do."""
    problem = training_problem(tiny_model(layers=4, hidden=4096), small_cluster([("t4", 2, 1)]), length=3072)
    plan = solve(problem)
    check(plan, problem)
    assert plan.schedule.recompute == "selective"
    assert plan.certificate.value == pytest.approx(best_of_all(problem)[0], rel=1e-9)


def test_engine_is_told_precision_and_positions() -> None:
    model = tiny_model(layers=4)
    for gpu, precision in (("t4", "--fp16"), ("a100_sxm_40", "--bf16")):
        told = solve(training_problem(model, small_cluster([(gpu, 2, 1)]), engine="megatron")).engine_arguments
        assert [name for name in ("--bf16", "--fp16") if name in told] == [precision]
        assert ("--accumulate-allreduce-grads-in-fp32" in told) == (precision == "--fp16")
        assert told["--max-position-embeddings"] == 8192
    longer = training_problem(model, small_cluster([("a100_sxm_40", 2, 1)]), engine="megatron", length=16384)
    assert solve(longer).engine_arguments["--max-position-embeddings"] == 16384


def test_pipelines_have_a_stage() -> None:
    for most in (0, -1):
        with pytest.raises(InputError, match="max_stages"):
            solve(training_problem(tiny_model(), small_cluster([("t4", 1, 1)]), max_stages=most))


def far_too_large() -> TrainingProblem:
    job = training_problem(tiny_model(), small_cluster([("t4", 1, 1)]), batch=256, length=4096).job
    return TrainingProblem(
        model=load_model("deepseek-r1"),
        cluster=load_cluster("a100-l40s-l4-t4-64"),
        engine=load_engine("generic"),
        job=job,
    )


def test_what_cannot_hold_its_state_is_refused_at_once() -> None:
    started = time.monotonic()
    with pytest.raises(InfeasibleError, match=r"needs .* GiB per GPU of .* GiB") as caught:
        solve(far_too_large())
    assert time.monotonic() - started < 30  # four seconds on an idle core: what would help is really tried
    assert re.fullmatch(r"\d+ more nodes like those of a100", str(caught.value.hint))


def test_time_limit_names_what_does_not_fit() -> None:
    with pytest.raises(TimeLimitError, match=r"needs .* GiB per GPU of .* GiB"):
        search_exact(far_too_large(), _Looks(0))  # type: ignore[arg-type]


def test_hint_counts_the_nodes_that_are_missing() -> None:
    """As many more as it says make a plan, one less does not."""
    model = tiny_model(layers=16, hidden=8192, heads=64)

    def problem(nodes: int, **options: Any) -> TrainingProblem:
        return training_problem(model, small_cluster([("a100_sxm_40", 4, nodes)]), engine="megatron", **options)

    with pytest.raises(InfeasibleError) as caught:
        solve(problem(1))
    found = re.search(r"(\d+) more node", str(caught.value.hint))
    assert found is not None
    more = int(found.group(1))
    solve(problem(1 + more))
    with pytest.raises(InfeasibleError):
        solve(problem(more))


def test_hint_names_what_binds() -> None:
    """More stages only where those bind, shorter sequences only where these do."""
    model = tiny_model(layers=32, hidden=8192, heads=64)
    with pytest.raises(InfeasibleError) as stages:
        solve(training_problem(model, small_cluster([("a100_sxm_40", 4, 4)]), max_stages=1))
    assert "--max-stages" in str(stages.value.hint) and "node" not in str(stages.value.hint)
    with pytest.raises(InfeasibleError) as nodes:
        solve(training_problem(model, small_cluster([("a100_sxm_40", 4, 1)])))
    assert "--max-stages" not in str(nodes.value.hint) and "sequences" not in str(nodes.value.hint)
    with pytest.raises(InfeasibleError) as long:
        solve(training_problem(tiny_model(), small_cluster([("a100_sxm_40", 4, 1)]), length=10_000_000))
    assert "sequences of" in str(long.value.hint)


def test_serving_engine_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="not for training"):
        solve(training_problem(tiny_model(), small_cluster([("t4", 1, 1)]), engine="vllm"))


def test_engine_without_mixed_types_stays_on_one() -> None:
    engine = load_engine("megatron").model_copy(update={"mixed_gpu_types": False, "name": "one-type"})
    cluster = small_cluster([("a100_sxm_40", 2, 1), ("v100_sxm_16", 2, 1)])
    plan = solve(training_problem(tiny_model(layers=4), cluster, engine=engine))
    assert len({cluster.device_of(gpu).name for stage in plan.stages for gpu in stage.devices}) == 1


def test_layout_string() -> None:
    assert megatron_layout([80]) == "Et*80,L"
    assert megatron_layout([1, 2]) == "Et*1|t*2,L"


def test_progress_is_told() -> None:
    told: list[tuple[str, float]] = []
    search_exact(random_problem(3), Budget(progress=lambda what, share: told.append((what, share))))
    assert told[-1][1] == 1.0
    assert all(0 <= share <= 1 for _, share in told)
    assert [share for _, share in told] == sorted(share for _, share in told)


def test_two_kinds_are_two_kinds() -> None:
    assert len(mixed_layers(4, 512, 1, 4).kinds) == 2
