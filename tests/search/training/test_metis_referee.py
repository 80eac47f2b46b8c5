"""The exact search under Metis' formula, on generated profiles: never worse than plans made by its own rules."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations, pairwise, permutations, product

import numpy as np
import pytest
from numpy.typing import NDArray

from planner.cost.metis import metis_price
from planner.cost.metis_own import metis_own_price, metis_own_sync
from planner.errors import InfeasibleError
from planner.search.problem import Budget
from planner.search.training.metis_referee import (
    MetisGpu,
    MetisJob,
    MetisProfile,
    MetisReplicas,
    MetisStage,
    search_metis_referee,
)

GIB_PER_S = 1e3 * 2.0**20


def job_of(
    gpus: dict[str, MetisGpu],
    profiles: dict[tuple[str, int, int], MetisProfile],
    bytes_L: NDArray[np.float64],
    *,
    batch: int,
) -> MetisJob:
    """What the generated jobs have in common."""
    return MetisJob(
        gpus=gpus,
        profiles=profiles,
        parameters_L=bytes_L,
        optimizer=0.039,
        generation=2e-4,
        batch=batch,
        sequence_length=1024,
        hidden=2048,
    )


def random_job(seed: int) -> MetisJob:
    """Two GPU types, the second some times slower and smaller; profiles at TP 1, 2 and 4, microbatches 1 and 2."""
    rng = np.random.default_rng(seed)
    L = int(rng.integers(4, 9))
    base_L, bytes_L = rng.uniform(5e-3, 3e-2, L), rng.uniform(1e8, 4e8, L)
    profiles = {}
    for device, slower in (("fast", 1.0), ("slow", float(rng.uniform(1.5, 4.0)))):
        for tp, share in product((1, 2, 4), (1, 2)):
            time_L = base_L * slower * share / tp**0.8
            memory_L = bytes_L * 8 / tp + 3e8 * share / tp
            profiles[device, tp, share] = MetisProfile(time_L, memory_L, float(rng.uniform(0, 2e-3)))
    counts = [(4, 4), (8, 4), (4, 8)][rng.integers(3)]
    need = float(profiles["fast", 1, 1].memory_L.sum())
    gpus = {
        name: MetisGpu(
            count=n,
            per_node=4,
            memory=need * float(rng.uniform(*room)),
            intra=46e9,
            inter=float(rng.choice([1e9, 1e10])),
        )
        for name, n, room in (("fast", counts[0], (0.5, 1.5)), ("slow", counts[1], (0.2, 0.7)))
    }
    return job_of(gpus, profiles, bytes_L, batch=16)


def price(job: MetisJob, stages: list[tuple[tuple[int, int], str, int, int]], B: int) -> float:
    """The formula in scalars, for homogeneous stages (layers, type, dp, tp); infinite where it does not fit."""
    L, t, u, d, p, beyond = len(job.parameters_L), [], [], [], [], 0.0
    for (first, end), device, dp, tp in stages:
        share, rest = divmod(job.batch // B, dp)
        if rest or (device, tp, share) not in job.profiles:
            return math.inf
        one, gpu = job.profiles[device, tp, share], job.gpus[device]
        if one.memory_L[first:end].sum() > gpu.memory:
            return math.inf
        link = gpu.intra if dp * tp <= gpu.per_node else gpu.inter
        t.append(one.time_L[first:end].sum())
        u.append(2 * job.optimizer / tp * (end - first) / L)
        d.append(2 * (dp - 1) / dp * job.parameters_L[first:end].sum() / tp / (link / 1e9 * GIB_PER_S))
        p.append(share * job.sequence_length * job.hidden / (gpu.inter / 1e9 * GIB_PER_S))
        beyond = one.beyond
    hop = sum(max(a, b) for a, b in pairwise(p))
    return (B - 1) * max(t) + sum(t) + B * beyond + max(u) + max(d) + hop + B * job.generation


def by_metis_rules(job: MetisJob) -> float:
    """Best plan by its rules: types in every order, groups of powers of two, TP only where memory asks for it.

    Layers are handed out by the stages' speeds; where that does not fit, every other cut is tried.
    """
    L, best = len(job.parameters_L), math.inf
    for order in permutations(job.gpus):
        ranks = [name for name in order for _ in range(job.gpus[name].count)]
        for S in range(1, min(L, 4) + 1):
            for groups in product((1, 2, 4, 8, 16), repeat=S):
                if sum(groups) != len(ranks):
                    continue
                ends = np.cumsum(groups)
                types = [set(ranks[end - n : end]) for n, end in zip(groups, ends, strict=True)]
                if any(len(kinds) > 1 for kinds in types):
                    continue
                names = [kinds.pop() for kinds in types]
                for B in (b for b in range(1, job.batch + 1) if job.batch % b == 0):
                    best = min(best, _repaired(job, names, groups, B))
    return best


def _repaired(job: MetisJob, names: list[str], groups: tuple[int, ...], B: int) -> float:
    L, S = len(job.parameters_L), len(groups)
    tps = [1] * S
    while True:
        found = math.inf
        for inner in combinations(range(1, L), S - 1):
            bounds = (0, *inner, L)
            stages = [((bounds[s], bounds[s + 1]), names[s], groups[s] // tps[s], tps[s]) for s in range(S)]
            found = min(found, price(job, stages, B))
        if math.isfinite(found):
            return found
        wider = [s for s in range(S) if 2 * tps[s] <= min(4, groups[s])]
        if not wider:
            return math.inf
        tightest = min(wider, key=lambda s: (job.gpus[names[s]].memory * tps[s], s))
        tps[tightest] *= 2


def small_job(seed: int) -> MetisJob:
    """As `random_job`, on fewer GPUs and layers: for many of them."""
    rng = np.random.default_rng(10_000 + seed)
    L = int(rng.integers(3, 5))
    base_L, bytes_L = rng.uniform(5e-3, 3e-2, L), rng.uniform(1e8, 4e8, L)
    profiles = {}
    for device, slower in (("fast", 1.0), ("slow", 4.0)):
        for tp, share in product((1, 2), (1, 2)):
            time_L = base_L * slower * (0.2 + 0.8 * share) / tp**0.8
            profiles[device, tp, share] = MetisProfile(
                time_L, bytes_L * 8 / tp + 3e8 * share / tp, float(rng.uniform(0, 2e-3))
            )
    fast, slow = [(2, 2), (2, 2), (4, 2), (2, 4)][rng.integers(4)]
    need = float(profiles["fast", 1, 1].memory_L.sum())
    gpus = {
        name: MetisGpu(
            count=n,
            per_node=2,
            memory=need * float(rng.uniform(*room)),
            intra=46e9,
            inter=float(rng.choice([1e8, 1e9, 1e10])),
        )
        for name, n, room in (("fast", fast, (0.4, 1.5)), ("slow", slow, (0.2, 0.7)))
    }
    return job_of(gpus, profiles, bytes_L, batch=4)


def shaped_job(fast: int, slow: int) -> MetisJob:
    """Ten layers, 80 GB and 15 GB cards in nodes of 4, the second type the first with times x4; batch 128."""
    rng = np.random.default_rng(5)
    base_L = np.array([12e-3, *[29e-3] * 8, 25e-3]) * rng.uniform(0.97, 1.03, 10)
    bytes_L, profiles = np.array([2.1e8, *[2e8] * 8, 2.1e8]), {}
    for (device, slower), tp, share in product((("a100", 1.0), ("t4", 4.0)), (1, 2, 4), (1, 2, 4)):
        time_L = base_L * slower * (0.15 + 0.85 * share) / tp**0.8
        profiles[device, tp, share] = MetisProfile(time_L, (bytes_L * 10 + 5e8 * share) / tp**0.9, 2e-3)
    cards = (("a100", fast, 80 * 1024e6, 46e9), ("t4", slow, 15 * 1024e6, 50e9))
    gpus = {name: MetisGpu(count=n, per_node=4, memory=m, intra=b, inter=10e9) for name, n, m, b in cards}
    return MetisJob(
        gpus=gpus,
        profiles=profiles,
        parameters_L=bytes_L,
        optimizer=0.039,
        generation=2e-4,
        batch=128,
        sequence_length=1024,
        hidden=4096,
    )


@pytest.mark.parametrize(("fast", "slow"), [(12, 4), (8, 8), (16, 16)])
def test_never_worse_on_the_shapes_of_the_literature(fast: int, slow: int) -> None:
    job = shaped_job(fast, slow)
    stages, microbatches, answer = search_metis_referee(job, Budget(), tolerance=1e-4)
    theirs = by_metis_rules(job)
    assert math.isfinite(theirs)
    assert answer.seconds <= theirs * (1 + 1e-9)
    check(job, stages, microbatches)
    assert metis_price(job, stages, microbatches).seconds == pytest.approx(answer.seconds, rel=1e-12)


def test_never_worse_on_a_hundred_small_jobs() -> None:
    """Complete, fitting, priced alike by the formula in plain loops; a slower link between nodes is read."""
    planned = worse = better = 0
    for seed in range(100):
        job = small_job(seed)
        theirs = by_metis_rules(job)
        try:
            stages, microbatches, answer = search_metis_referee(job, Budget())
        except InfeasibleError:
            assert math.isinf(theirs)
            continue
        planned += 1
        assert answer.closed and answer.seconds <= theirs * (1 + 1e-9)
        better += answer.seconds < theirs * (1 - 1e-6)
        check(job, stages, microbatches)
        assert metis_price(job, stages, microbatches).seconds == pytest.approx(answer.seconds, rel=1e-12)
        slow = replace(job, gpus={name: replace(gpu, inter=gpu.inter / 10) for name, gpu in job.gpus.items()})
        worse += metis_price(slow, stages, microbatches).seconds > answer.seconds
    assert planned >= 80 and better >= 20 and worse >= 60, (planned, better, worse)


@pytest.mark.parametrize("seed", range(6))
def test_never_worse_than_its_rules(seed: int) -> None:
    job = random_job(seed)
    theirs = by_metis_rules(job)
    try:
        stages, microbatches, answer = search_metis_referee(job, Budget())
    except InfeasibleError:
        assert math.isinf(theirs)
        return
    assert answer.closed and answer.gap == 0
    assert answer.seconds <= theirs * (1 + 1e-9)
    check(job, stages, microbatches)


def check(job: MetisJob, stages: tuple[MetisStage, ...], microbatches: int) -> None:
    """Every layer once, GPUs enough, memory on each, the whole batch."""
    spans = [stage.layers for stage in stages]
    assert spans[0][0] == 0 and spans[-1][1] == len(job.parameters_L)
    assert all(a[1] == b[0] for a, b in pairwise(spans))
    used = dict.fromkeys(job.gpus, 0)
    for stage in stages:
        assert sum(one.count * one.share for one in stage.replicas) >= job.batch // microbatches
        for one in stage.replicas:
            used[one.device] += one.count * one.tp
            profile = job.profiles[one.device, one.tp, one.share]
            assert profile.memory_L[slice(*stage.layers)].sum() <= job.gpus[one.device].memory
    assert all(used[name] <= job.gpus[name].count for name in used)


def test_its_rules_find_something() -> None:
    theirs = [by_metis_rules(random_job(seed)) for seed in range(8)]
    assert sum(map(math.isfinite, theirs)) >= 3


def test_a_slower_network_between_nodes_is_read() -> None:
    job = random_job(3)
    slow = replace(job, gpus={name: replace(gpu, inter=1e6) for name, gpu in job.gpus.items()})
    assert search_metis_referee(slow, Budget())[2].seconds > search_metis_referee(job, Budget())[2].seconds


def test_own_terms_equal_the_price_of_their_plans_and_every_simple_plan() -> None:
    """The graph's price is the cost's; no plan by Metis' own search is faster under these terms."""
    planned = 0
    for seed in range(12):
        job = small_job(seed)
        try:
            stages, microbatches, answer = search_metis_referee(job, Budget(), own=True)
            theirs, count, _ = search_metis_referee(job, Budget())
        except InfeasibleError:
            continue
        planned += 1
        check(job, stages, microbatches)
        assert metis_own_price(job, stages, microbatches).seconds == pytest.approx(answer.seconds, rel=1e-12)
        assert answer.seconds <= metis_own_price(job, theirs, count).seconds * (1 + 1e-9)
    assert planned >= 8


def test_rings_of_a_group_share_the_network_under_own_terms() -> None:
    job = replace(small_job(1), batch=8)
    stages = [MetisStage((0, 3), (MetisReplicas("fast", tp, 2, 1),)) for tp in (1, 2)]
    own_1, own_2 = (metis_own_sync(job, stage.replicas) for stage in stages)
    crossing = replace(job, gpus={name: replace(gpu, per_node=tp) for name, gpu in job.gpus.items() for tp in (1,)})
    assert own_2 >= metis_own_sync(crossing, stages[0].replicas) * (1 - 1e-12)  # no faster for twice the TP
    assert own_1 < own_2  # both replicas of TP 1 are inside one node
