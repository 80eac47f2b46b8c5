"""Uniform configurations: which are legal, at what price, and which is the best."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import get_args

import numpy as np
import pytest

from planner.cluster import load_cluster
from planner.cost.training import TrainingPrediction
from planner.cost.training_options import RunOptions
from planner.cost.training_stage import Recompute
from planner.engine import load_engine
from planner.errors import InfeasibleError
from planner.model import load_model
from planner.plan import Certificate, TrainingPlan, TrainingStage, certify
from planner.search.exact import search_exact
from planner.search.problem import Budget, TrainingProblem
from planner.search.registry import training_method
from planner.search.training.uniform import UniformTable, place_uniform, search_uniform, uniform_table
from planner.search.training.uniform_space import Cell, Choices, UniformConfiguration, cells, layer_splits
from planner.search.training_plan import build_training_plan
from planner.verifier.training import check_training
from tests.search.small import small_cluster, tiny_model
from tests.search.training_small import cluster_with_links, mixed_layers, training_problem

EVERYTHING = Choices(zero_stages=(0, 1, 2, 3), recomputes=get_args(Recompute))


def random_uniform_problem(seed: int) -> TrainingProblem:
    """One pool of up to 16 GPUs, dense or with experts; batches and layers that divide in some ways."""
    rng = np.random.default_rng(seed)
    gpu = str(rng.choice(["a100_sxm_40", "h100_sxm", "v100_sxm_16", "t4"]))
    size, nodes = [(8, 1), (4, 2), (8, 2), (4, 3), (2, 3)][rng.integers(5)]
    layers = int(rng.choice([6, 8, 12]))
    if rng.random() < 0.4:
        model = mixed_layers(layers, 1024, int(rng.integers(0, 3)), int(rng.choice([4, 12])))
    else:
        model = tiny_model(layers=layers, hidden=int(rng.choice([1024, 4096])), heads=16, kv_heads=4)
    pairs = [("g0-0", "g0-1", "5 Gb/s")] if nodes == 2 and rng.random() < 0.3 else []
    cluster = cluster_with_links([(gpu, size, nodes)], pairs, bandwidth=str(rng.choice(["100 Gb/s", "10 Gb/s"])))
    return training_problem(
        model,
        cluster,
        engine=str(rng.choice(["megatron", "generic"])),
        batch=int(rng.choice([12, 24, 48])),
        length=int(rng.choice([1024, 2048])),
    )


@lru_cache(maxsize=16)
def table_of(seed: int) -> UniformTable:
    return uniform_table(random_uniform_problem(seed), 0, choices=EVERYTHING)


def some(table: UniformTable, number: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).choice(len(table), min(number, len(table)), replace=False).tolist()


@pytest.mark.parametrize("seed", range(12))
def test_each_price_is_that_of_predict_training(seed: int) -> None:
    options = RunOptions(overlap=True, stragglers=True, matrix_format="fp8") if seed % 3 == 0 else RunOptions()
    table = uniform_table(random_uniform_problem(seed), 0, choices=EVERYTHING, options=options)
    assert len(table) > 20
    for c in some(table, 40, seed):
        alone = table.placed(c).predict(table.problem, options)
        assert table.seconds_C[c] == pytest.approx(alone.iteration_time, rel=1e-12)
        assert table.memory_C[c] == pytest.approx(max(one.value for one in alone.memory_S), rel=1e-12)
        assert set(alone.limit_S) == {table.limit}
        assert alone.breakdown.total == pytest.approx(alone.iteration_time, rel=1e-12)
        assert min(alone.breakdown.items().values()) >= -1e-9 * alone.iteration_time


def certificate(prediction: TrainingPrediction) -> Certificate:
    value = prediction.iteration_time
    return certify(
        objective="iteration_time",
        sense="min",
        unit="s",
        value=value,
        bound=value,
        proven=False,
        method="-",
        family="-",
    )


def planned(problem: TrainingProblem, configuration: UniformConfiguration) -> TrainingPlan:
    """A configuration written down as a plan."""
    placed = place_uniform(problem, 0, configuration)
    return build_training_plan(replace(problem, job=placed.job), placed.stages, placed.schedule, certificate)


def verdict(problem: TrainingProblem, plan: TrainingPlan) -> set[str]:
    """What the verifier finds wrong."""
    return {one.code for one in check_training(plan, problem.model, problem.cluster, problem.engine)}


def legal(problem: TrainingProblem, sound: TrainingPlan, configuration: UniformConfiguration) -> bool:
    """Whether the verifier finds nothing wrong but figures, which are those of another plan."""
    placed = place_uniform(problem, 0, configuration)
    figures = {"memory": sound.stages[0].memory, "memory_limit": sound.stages[0].memory_limit}
    stages = tuple(
        TrainingStage(
            devices=one.devices,
            layers=one.layers,
            tp=one.tp,
            dp=one.dp,
            microbatch_shares=one.microbatch_shares,
            **figures,  # type: ignore[arg-type]
        )
        for one in placed.stages
    )
    inputs = sound.inputs.model_copy(update={"job": placed.job})
    plan = sound.model_copy(update={"stages": stages, "schedule": placed.schedule, "inputs": inputs})
    return verdict(problem, plan) <= {"memory", "figure-changed", "figure-missing", "certificate", "arguments"}


@pytest.mark.parametrize("seed", range(12))
def test_what_is_enumerated_is_legal_and_its_memory_as_the_verifier_says(seed: int) -> None:
    table = table_of(seed)
    for c in some(table, 25, seed + 100):
        expected = set() if table.memory_C[c] <= table.limit else {"memory"}
        assert verdict(table.problem, planned(table.problem, table.configuration(c))) == expected


@pytest.mark.parametrize("seed", range(12))
def test_what_is_legal_is_enumerated(seed: int) -> None:
    """Plain loops over all degrees with equal layers; the verifier says what is legal."""
    table = table_of(seed)
    problem = table.problem
    pool = problem.cluster.classes[0]
    gpus, layers, batch = problem.cluster.num_gpus, problem.model.num_layers, problem.job.global_batch
    known = {table.configuration(c) for c in range(len(table))}
    sound = planned(problem, table.configuration(0))
    rng = np.random.default_rng(seed)
    tried = accepted = 0
    for tp in (1, 2, 3, 4, 8):
        for pp in (pp for pp in range(1, layers + 1) if layers % pp == 0 and gpus % (tp * pp) == 0):
            for cp in (cp for cp in (1, 2, 4) if gpus // tp // pp % cp == 0):
                for ep in (1, 2, 3, 4):
                    for chunks in (1, 2, 3):
                        dp = gpus // tp // pp // cp
                        for size in (b for b in (1, 2, 3) if batch % (dp * b) == 0 and pool.gpus_per_node % tp == 0):
                            if rng.random() > 0.25:
                                continue
                            cell = Cell(
                                tp=tp,
                                cp=cp,
                                dp=dp,
                                ep=ep,
                                virtual_stages=chunks,
                                layers=(layers // pp,) * pp,
                                sequence_parallel=tp > 1 and problem.job.sequence_length % (tp * cp) == 0,
                            )
                            one = UniformConfiguration(
                                cell=cell,
                                microbatch=size,
                                recompute=str(rng.choice(EVERYTHING.recomputes)),  # type: ignore[arg-type]
                                zero_stage=int(rng.integers(0, 4)),  # type: ignore[arg-type]
                            )
                            allowed = legal(problem, sound, one)
                            tried, accepted = tried + 1, accepted + allowed
                            assert (one in known) == allowed, one
    assert tried > accepted > 0


def test_splits_hold_every_layer_and_differ_by_what_counts_as_one() -> None:
    for layers in range(2, 40):
        for stages in range(2, layers + 1):
            for chunks in (1, 2, 3, 5):
                for split in layer_splits(layers, stages, chunks, uneven=True):
                    assert len(split) == stages and sum(split) == layers and min(split) >= 1
                    assert max(split) - min(split) <= 1 or split[1:-1] == (max(split),) * (stages - 2)
    assert layer_splits(126, 8, 4, uneven=False) == [(15, *(16,) * 6, 15)]  # Llama 3.1 405B, as Megatron-Bridge runs it


def test_the_search_finds_the_least_and_a_sound_plan() -> None:
    for seed in range(4):
        problem = random_uniform_problem(seed)
        table = uniform_table(problem, 0)
        if not len(table.ranked()):
            with pytest.raises(InfeasibleError, match="needs"):
                search_uniform(problem, Budget())
            continue
        plan = training_method("uniform")(problem, Budget()).plan
        fits = table.memory_C <= table.limit
        assert plan.predicted["iteration_time"].value == pytest.approx(table.seconds_C[fits].min(), rel=1e-12)
        assert plan.certificate.proven and plan.certificate.gap == 0
        assert check_training(plan, problem.model, problem.cluster, problem.engine) == []


@pytest.mark.parametrize("seed", [4, 7, 12, 16, 18, 29])
def test_no_uniform_configuration_beats_the_exact_search(seed: int) -> None:
    """Two ways to the same prices; interleaving apart, which the exact search does not plan."""
    problem = random_uniform_problem(seed)
    table = uniform_table(problem, 0)
    plain = [c for c in table.ranked() if table.cells[int(table.cell_C[c])].virtual_stages == 1]
    exact = search_exact(problem, Budget(time_limit=10.0)).plan
    value = exact.predicted["iteration_time"].value
    assert value <= table.seconds_C[plain[0]] * (1 + exact.certificate.gap + 1e-9)
    assert exact.certificate.bound <= table.seconds_C[plain[0]] * (1 + 1e-9)


def test_the_search_takes_the_better_pool() -> None:
    problem = training_problem(
        tiny_model(), small_cluster([("t4", 4, 1), ("a100_sxm_40", 4, 1)]), engine="megatron", batch=16
    )
    plan = search_uniform(problem, Budget()).plan
    assert {gpu[:2] for stage in plan.stages for gpu in stage.devices} == {"g1"}


def test_without_time_nothing_is_claimed() -> None:
    table = uniform_table(random_uniform_problem(0), 0, budget=Budget(time_limit=0.0))
    assert not table.complete and len(table) == 0


def test_no_legal_configuration_is_said() -> None:
    problem = training_problem(tiny_model(), small_cluster([("a100_sxm_40", 7, 1)]), engine="megatron", batch=3)
    with pytest.raises(InfeasibleError, match="no uniform configuration is legal"):
        search_uniform(replace(problem, max_stages=6), Budget())


def test_engines_bound_the_space() -> None:
    """Megatron-Core shards weights without pipeline stages only; one that does not interleave has no chunks."""
    problem = training_problem(tiny_model(), small_cluster([("a100_sxm_40", 4, 1)]), engine="megatron", batch=16)
    table = uniform_table(problem, 0, choices=EVERYTHING)
    chosen = [table.configuration(c) for c in range(len(table))]
    assert {one.cell.pp for one in chosen if one.zero_stage == 3} == {1}
    assert max(one.cell.virtual_stages for one in chosen) > 1 and max(one.cell.cp for one in chosen) > 1
    plain = problem.engine.model_copy(update={"interleaving": False, "context_parallel": False})
    pool = problem.cluster.classes[0]
    found = list(cells(replace(problem, engine=plain), pool, 4, EVERYTHING))
    assert {(one.virtual_stages, one.cp) for one in found} == {(1, 1)}
    serving = replace(problem, engine=load_engine("vllm"))
    assert list(cells(serving, pool, 4, EVERYTHING)) == []


def test_thousands_in_a_few_seconds() -> None:
    """Llama 3.1 70B on 64 GPUs: more configurations than a person tries in a week."""
    problem = training_problem(
        load_model("llama-3.1-70b"), load_cluster("a100-v100-t4-32"), engine="megatron", batch=256, length=4096
    )
    table = uniform_table(problem, 0, choices=EVERYTHING, budget=Budget(time_limit=20.0))
    assert table.complete and len(table) > 1000
