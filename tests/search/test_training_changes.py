"""What an infeasible job is told to change makes it feasible, and the next smaller change does not."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from planner.errors import InfeasibleError
from planner.search.exact import search_exact
from planner.search.problem import Budget, TrainingProblem
from planner.search.smallest_change import Change, Kind, smallest_change
from planner.search.training_changes import helpful_change, with_more_nodes
from planner.search.training_fits import deepest_pipeline, has_a_plan
from tests.search.small import small_cluster, tiny_model
from tests.search.training_small import random_problem, training_problem


def searched(problem: TrainingProblem) -> bool:
    """Whether the search finds a plan: what the changes do not ask."""
    try:
        search_exact(problem, Budget())
    except InfeasibleError:
        return False
    return True


def tight(seed: int) -> TrainingProblem:
    """Too large for most of these clusters, in one way or another."""
    rng = np.random.default_rng(seed)
    hidden = int(rng.choice([4096, 6144, 8192]))
    model = tiny_model(layers=int(rng.integers(4, 13)), hidden=hidden, heads=32, kv_heads=8)
    types = rng.permutation(["t4", "v100_sxm_16", "a100_sxm_40", "l4"])[: int(rng.integers(1, 3))]
    cluster = small_cluster([(str(gpu), int(rng.choice([1, 2, 4])), int(rng.integers(1, 3))) for gpu in types])
    return training_problem(
        model,
        cluster,
        engine=str(rng.choice(["generic", "megatron"])),
        batch=int(rng.choice([4, 8])),
        length=int(rng.choice([1024, 4096, 65536])),
        zero=int(rng.integers(0, 2)),
        max_stages=[None, 1, 2][rng.integers(3)],
    )


@pytest.mark.parametrize("seed", range(8))
def test_fits_says_what_the_search_finds(seed: int) -> None:
    for problem in (random_problem(seed, mixed=seed % 2 == 0), tight(seed)):
        assert has_a_plan(problem) == searched(problem)


def smaller(problem: TrainingProblem, change: Change[TrainingProblem]) -> list[TrainingProblem]:
    """The same kinds of change, one size less; changes that would have been named before."""
    found = []
    nodes = re.match(r"(\d+) more nodes? like those of (\S+)", change.words)
    stages = re.search(r"--max-stages (\d+)", change.words)
    length = re.match(r"sequences of ([\d,]+) tokens", change.words)
    names = [one.name for one in problem.cluster.classes]
    if nodes:
        found.append(with_more_nodes(problem.cluster, names.index(nodes[2]), int(nodes[1]) - 1))
        # a node of any other type is no smaller a change
        found += [with_more_nodes(problem.cluster, c, int(nodes[1]) - 1) for c in range(len(names))]
        unlimited = problem.model.num_layers if stages else problem.max_stages
        problems = [replace(problem, cluster=cluster, max_stages=unlimited) for cluster in found]
    elif length:
        job = problem.job.model_copy(update={"sequence_length": int(length[1].replace(",", "")) * 2})
        problems = [replace(problem, job=job)]
    elif change.words.startswith("GPUs with"):
        job = problem.job.model_copy(update={"sequence_length": 128})
        problems = [replace(problem, job=job)]  # what would have been named before
    else:
        problems = []
    if stages:
        problems.append(replace(change.job, max_stages=int(stages[1]) - 1))
    return problems


def test_named_changes_help_and_smaller_ones_do_not() -> None:
    told: dict[str, int] = {}
    for seed in range(40):
        problem = tight(seed)
        if has_a_plan(problem):
            continue
        change = helpful_change(problem)
        if change is None:
            continue
        kind = re.sub(r"[\d,]+|g\d", "n", change.words)
        told[kind] = told.get(kind, 0) + 1
        if told[kind] > 2:
            continue
        assert searched(change.job), change.words
        assert not any(searched(one) for one in smaller(problem, change)), change.words
        with pytest.raises(InfeasibleError) as caught:
            search_exact(problem, Budget())
        assert caught.value.hint == change.words
    assert len(told) >= 5, told  # ZeRO, stages, nodes, shorter sequences, …


def test_nothing_helps() -> None:
    """One layer is too large for any GPU, however many, however short the sequences."""
    model = tiny_model(layers=2, hidden=131072, heads=128)
    assert helpful_change(training_problem(model, small_cluster([("t4", 1, 1)]))) is None


def test_order_and_ties() -> None:
    def kind(name: str, most: int) -> Kind[tuple[str, int]]:
        return Kind(most, lambda n: Change(f"{name} {n}", (name, n)))

    need = {"a": 9, "b": 4, "c": 4}
    kinds = [[kind("a", 8)], [kind("a", 20), kind("b", 20), kind("c", 20)]]
    found = smallest_change(kinds, lambda job: job[1] >= need[job[0]])
    assert found is not None and found.words == "b 4"
    assert smallest_change(kinds, lambda job: False) is None


def test_every_size_is_found() -> None:
    for most in (1, 2, 3, 7, 8, 100):
        for needed in range(1, most + 1):
            kind = Kind(most, lambda n: Change(str(n), n))
            found = smallest_change([[kind]], lambda n, needed=needed: n >= needed)  # type: ignore[misc]
            assert found is not None and found.job == needed


def test_depth() -> None:
    problem = training_problem(tiny_model(layers=6), small_cluster([("t4", 1, 4)]))
    assert deepest_pipeline(problem) == 4
    assert deepest_pipeline(replace(problem, max_stages=3)) == 3
