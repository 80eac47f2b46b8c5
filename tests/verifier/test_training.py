"""The verifier of training plans: accepts what the search makes, and names each fault of a broken plan."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest

from planner.cluster import load_cluster
from planner.engine import load_engine
from planner.model import load_model
from planner.plan import TrainingPlan
from planner.search.exact import search_exact
from planner.search.problem import Budget, TrainingProblem
from planner.search.training.uniform import estimate_uniform, uniform_table
from planner.search.training.uniform_space import Cell, UniformConfiguration
from planner.verifier.training import check_training
from tests.search.small import small_cluster, tiny_model
from tests.search.training_small import mixed_layers, plainly, training_problem


@lru_cache(maxsize=1)
def sound() -> tuple[TrainingPlan, TrainingProblem]:
    """A plan of several stages with TP 2 and DP 2, made to have all that can go wrong."""
    cluster = small_cluster([("a100_sxm_40", 4, 1), ("v100_sxm_16", 4, 1)])
    model = tiny_model(layers=12, hidden=4096, heads=32, kv_heads=8)
    problem = plainly(training_problem(model, cluster, engine="megatron", batch=16), max_pipeline=2)
    return search_exact(problem, Budget()).plan, problem


def codes(plan: TrainingPlan, problem: TrainingProblem | None = None) -> list[str]:
    problem = problem or sound()[1]
    return [finding.code for finding in check_training(plan, problem.model, problem.cluster, problem.engine)]


def changed(stage: int | None = None, **update: Any) -> TrainingPlan:
    """The sound plan with other fields, of a stage or of the plan."""
    plan = sound()[0]
    if stage is None:
        return plan.model_copy(update=update)
    stages = list(plan.stages)
    stages[stage] = stages[stage].model_copy(update=update)
    return plan.model_copy(update={"stages": tuple(stages)})


def test_sound_plan() -> None:
    plan, _ = sound()
    assert len(plan.stages) >= 2 and {(stage.tp, stage.dp) for stage in plan.stages} == {(2, 2)}
    assert codes(plan) == []


def test_layers() -> None:
    first, end = sound()[0].stages[1].layers
    assert codes(changed(1, layers=(first + 1, end))) == ["layer-missing"]
    assert codes(changed(1, layers=(first - 1, end))) == ["layer-twice"]
    assert "stage-empty" in codes(changed(1, layers=(first, first)))
    last = sound()[0].stages[-1].layers
    assert codes(changed(-1, layers=(last[0], last[1] + 1))) == ["layer-unknown"]
    assert codes(changed(-1, layers=(last[0], last[1] - 1))) in (["layer-missing"], ["stage-empty", "layer-missing"])
    assert codes(changed(stages=())) == ["stage-empty"]


def test_gpus() -> None:
    plan = sound()[0]
    mine, other = plan.stages[0].devices, plan.stages[1].devices
    assert codes(changed(0, devices=(other[0], *mine[1:]))).count("gpu-twice") >= 1
    assert codes(changed(0, devices=("g9-0/0", *mine[1:]))) == ["gpu-unknown"]
    assert codes(changed(0, devices=("g0-0/9", *mine[1:]))) == ["gpu-unknown"]
    assert codes(changed(0, devices=mine[1:]))[0] == "tp-devices"


def test_tensor_parallel_groups() -> None:
    cluster = small_cluster([("a100_sxm_40", 2, 2), ("t4", 2, 1)])
    problem = training_problem(tiny_model(), cluster)
    plan = search_exact(problem, Budget()).plan
    stage = plan.stages[0].model_copy(
        update={"devices": ("g0-0/0", "g0-1/0"), "tp": 2, "dp": 1, "microbatch_shares": (1,), "layers": (0, 8)}
    )
    schedule = plan.schedule.model_copy(update={"microbatch_size": 1, "microbatches": 8})
    one = plan.model_copy(update={"stages": (stage,), "schedule": schedule})
    assert codes(one, problem) == ["tp-across-nodes"]
    mixed = stage.model_copy(update={"devices": ("g0-0/0", "g1-0/0")})
    assert codes(plan.model_copy(update={"stages": (mixed,), "schedule": schedule}), problem) == [
        "tp-mixed",
        "tp-across-nodes",
    ]


def test_illegal_degree() -> None:
    cluster = small_cluster([("a100_sxm_40", 3, 1)])
    problem = training_problem(tiny_model(), cluster)
    plan = search_exact(problem, Budget()).plan
    stage = plan.stages[0].model_copy(
        update={"devices": cluster.gpus, "tp": 3, "dp": 1, "microbatch_shares": (1,), "layers": (0, 8)}
    )
    schedule = plan.schedule.model_copy(update={"microbatch_size": 1, "microbatches": 8, "sequence_parallel": True})
    found = codes(plan.model_copy(update={"stages": (stage,), "schedule": schedule}), problem)
    assert found == ["tp-illegal", "sequence-parallel"]


def test_batch() -> None:
    plan = sound()[0]
    stage = plan.stages[0]
    fewer = tuple(0 if g == 0 else share for g, share in enumerate(stage.microbatch_shares))
    assert "shares" in codes(changed(0, microbatch_shares=fewer))
    more = tuple(share + 1 for share in stage.microbatch_shares)
    assert codes(changed(0, microbatch_shares=more)) == ["shares"]
    twice = plan.schedule.model_copy(update={"microbatches": 2 * plan.schedule.microbatches})
    assert set(codes(changed(schedule=twice))) == {"shares"}
    unequal = (3, 1)
    sized = plan.schedule.model_copy(update={"microbatch_size": 2, "microbatches": 4})
    two = [one.model_copy(update={"microbatch_shares": (2, 2)}) for one in plan.stages]
    skewed = [one.model_copy(update={"microbatch_shares": unequal}) for one in plan.stages]
    told = plan.model_copy(update={"schedule": sized, "stages": tuple(skewed)})
    found = check_training(told, sound()[1].model, sound()[1].cluster, sound()[1].engine)
    assert {finding.code for finding in found} == {"shares"} and "one microbatch size" in found[0].message
    # the generic engine takes unequal shares, but no regrouping between stages
    problem = replace(sound()[1], engine=load_engine("generic"))
    assert "shares" not in codes(told, problem)
    assert codes(told.model_copy(update={"stages": (*skewed[:-1], two[-1])}), problem) == ["shares"]
    wrong = plan.schedule.model_copy(update={"microbatch_size": plan.schedule.microbatch_size + 1})
    assert set(codes(changed(schedule=wrong))) == {"shares"}


def test_engine_with_one_degree() -> None:
    """A plan with TP per stage, made for the generic engine, is not one for Megatron."""
    cluster = load_cluster("a100-v100-t4-32")
    model = load_model("llama-3.1-8b")
    problem = training_problem(model, cluster, batch=128, length=2048)
    plan = search_exact(problem, Budget()).plan
    assert len({stage.tp for stage in plan.stages}) > 1
    assert codes(plan, problem) == []
    asked = training_problem(model, cluster, engine="megatron", batch=128, length=2048)
    assert "engine-cannot" in codes(plan, asked)


def test_memory() -> None:
    """The same plan on smaller cards."""
    problem = training_problem(tiny_model(layers=8, hidden=4096), small_cluster([("a100_sxm_80", 2, 1)]))
    plan = search_exact(problem, Budget()).plan
    smaller = small_cluster([("t4", 2, 1)])
    found = check_training(plan, problem.model, smaller, problem.engine)
    memory = [finding for finding in found if finding.code == "memory"]
    assert memory and "GiB on each GPU of" in memory[0].message and "which offers" in memory[0].message


@pytest.mark.parametrize("name", sorted(sound()[0].predicted))
def test_changed_figure(name: str) -> None:
    plan = sound()[0]
    figure = plan.predicted[name]
    off = figure.model_copy(update={"value": figure.value * (1 + 1e-6) + 1e-9})
    found = check_training(
        plan.model_copy(update={"predicted": plan.predicted | {name: off}}),
        sound()[1].model,
        sound()[1].cluster,
        sound()[1].engine,
    )
    assert "figure-changed" in {finding.code for finding in found}
    assert any(name in finding.message for finding in found)


def test_changed_memory_and_certificate() -> None:
    plan = sound()[0]
    stage = plan.stages[0]
    lighter = stage.memory.model_copy(update={"value": stage.memory.value * 0.99})
    assert codes(changed(0, memory=lighter)) == ["figure-changed"]
    assert codes(changed(0, memory_limit=stage.memory_limit * 2)) == ["figure-changed"]
    better = plan.certificate.model_copy(update={"value": plan.certificate.value * 0.9})
    assert set(codes(changed(certificate=better))) == {"certificate"}
    wider = plan.certificate.model_copy(update={"gap": 0.5})
    other = plan.certificate.model_copy(update={"sense": "max"})
    assert codes(changed(certificate=wider)) == codes(changed(certificate=other)) == ["certificate"]
    missing = {name: figure for name, figure in plan.predicted.items() if name != "mfu"}
    assert codes(changed(predicted=missing)) == ["figure-missing"]


def test_engine_arguments() -> None:
    """Each of them: changed, left out, or made up."""
    arguments = sound()[0].engine_arguments
    for name in arguments:
        assert codes(changed(engine_arguments=arguments | {name: 99})) == ["arguments"]
        fewer = {key: value for key, value in arguments.items() if key != name}
        assert codes(changed(engine_arguments=fewer)) == ["arguments"]
    assert codes(changed(engine_arguments=arguments | {"--made-up": 1})) == ["arguments"]


def test_virtual_stages() -> None:
    """They divide the layers of every stage, and microbatches come in multiples of the stages."""
    problem = sound()[1]
    table = uniform_table(problem, 0)
    chosen = map(table.configuration, table.ranked().tolist())
    interleaved = next(one for one in chosen if one.cell.virtual_stages == 2)
    plan, _ = estimate_uniform(problem, 0, interleaved)
    assert codes(plan, problem) == []

    def scheduled(**update: Any) -> list[str]:
        return codes(plan.model_copy(update={"schedule": plan.schedule.model_copy(update=update)}), problem)

    assert scheduled(virtual_stages=5) == ["virtual-stages"]
    assert scheduled(name="1f1b") == ["virtual-stages"]
    odd = {"microbatches": plan.schedule.microbatches + 1}
    assert "virtual-stages" in scheduled(**odd)
    # no more than a name: Megatron-Core without interleaving
    plain = replace(problem, engine=problem.engine.model_copy(update={"interleaving": False}))
    assert "engine-cannot" in codes(plan, plain)


def test_context_and_expert_parallelism() -> None:
    cluster = small_cluster([("a100_sxm_40", 8, 1)])
    problem = training_problem(mixed_layers(4, 1024, 1, 16), cluster, engine="megatron", batch=16)
    cell = Cell(tp=1, cp=2, dp=4, ep=4, virtual_stages=1, layers=(4,), sequence_parallel=False)
    one = UniformConfiguration(cell=cell, microbatch=1, recompute="full", zero_stage=1)
    plan, _ = estimate_uniform(problem, 0, one)
    assert codes(plan, problem) == []

    def scheduled(**update: Any) -> list[str]:
        return codes(plan.model_copy(update={"schedule": plan.schedule.model_copy(update=update)}), problem)

    assert "context-parallel" in scheduled(context_parallel=3)
    assert "shares" in scheduled(context_parallel=4)  # half the batch
    assert scheduled(expert_parallel=3) == ["expert-parallel"]
    assert scheduled(expert_parallel=16) == ["expert-parallel"]
    stage = plan.stages[0].model_copy(update={"microbatch_shares": (2, 1, 1, 1, 1, 1, 1, 0)})
    assert "shares" in codes(plan.model_copy(update={"stages": (stage,)}), problem)
    skewed = plan.stages[0].model_copy(update={"microbatch_shares": (2, 1, 1, 1, 1, 1, 1, 2)})
    generic = replace(problem, engine=load_engine("generic"))
    assert "context-parallel" in codes(plan.model_copy(update={"stages": (skewed,)}), generic)
    odd = plan.inputs.job.model_copy(update={"sequence_length": 1022})
    changed_job = plan.model_copy(update={"inputs": plan.inputs.model_copy(update={"job": odd})})
    assert "context-parallel" in codes(changed_job, problem)


def test_divided_state() -> None:
    """Megatron-Core divides weights without pipeline stages only; torchtitan divides them at least."""
    plan, problem = sound()
    for zero, expected in ((0, False), (1, False), (2, True), (3, True)):
        job = plan.inputs.job.model_copy(update={"zero_stage": zero})
        other = plan.model_copy(update={"inputs": plan.inputs.model_copy(update={"job": job})})
        assert ("engine-cannot" in codes(other, problem)) == expected
    assert "engine-cannot" in codes(plan, replace(problem, engine=load_engine("torchtitan")))


def test_sequence_parallelism_without_tensor_parallelism() -> None:
    """A flag that means nothing, even where engine arguments say the same."""
    cluster = small_cluster([("a100_sxm_40", 1, 1)])
    problem = training_problem(tiny_model(), cluster, engine="megatron")
    plan = search_exact(problem, Budget()).plan
    both = plan.model_copy(
        update={
            "schedule": plan.schedule.model_copy(update={"sequence_parallel": True}),
            "engine_arguments": plan.engine_arguments | {"--sequence-parallel": ""},
        }
    )
    assert codes(plan, problem) == []
    assert codes(both, problem) == ["sequence-parallel"]


def test_experts_without_sequence_parallelism() -> None:
    """Megatron refuses tensor parallelism then; the generic engine does not mind."""
    cluster = small_cluster([("a100_sxm_40", 2, 1)])
    stage = {"devices": cluster.gpus, "tp": 2, "dp": 1, "microbatch_shares": (1,), "layers": (0, 4)}
    for engine, expected in (("megatron", True), ("generic", False)):
        problem = plainly(training_problem(mixed_layers(4, 1024, 1, 16), cluster, engine=engine))
        plan = search_exact(problem, Budget()).plan
        schedule = plan.schedule.model_copy(
            update={"microbatch_size": 1, "microbatches": 8, "sequence_parallel": False}
        )
        one = plan.model_copy(update={"stages": (plan.stages[0].model_copy(update=stage),), "schedule": schedule})
        assert ("engine-cannot" in codes(one, problem)) == expected
