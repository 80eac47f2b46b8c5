"""Mixes of GPUs for several request sizes: against the paper's example, brute force and the paper's own formulation."""

from __future__ import annotations

import time
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.errors import InfeasibleError
from planner.search.melange import cheapest_mix
from planner.solvers.gscip import solve_relaxation
from planner.solvers.highs import solve_highs
from planner.solvers.program import IntegerProgram


def synthetic(buckets: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rates, throughputs and prices of four types: small requests favour cheap GPUs, large ones the others."""
    rng = np.random.default_rng(seed)
    size_W = np.exp(rng.uniform(np.log(32), np.log(8192), buckets))
    speed_U, room_U = np.array([2.0, 5.0, 14.0, 30.0]), np.array([2e3, 8e3, 6e4, 1.2e5])
    throughput = speed_U[:, None] / (size_W / 400 + size_W**2 / (400 * room_U[:, None]))
    throughput[0, size_W > 4000] = 0.0
    rate_W = rng.dirichlet(np.ones(buckets)) * rng.choice([8.0, 64.0])
    return rate_W, throughput, np.array([0.7, 1.01, 3.67, 7.52])


def test_the_example_of_the_paper() -> None:
    """Two GPUs and four request sizes of its released example: 3 A10G and 1 A100, 6.70 USD/h."""
    given_ = {
        "rate_W": 30.0 * np.array([0.2, 0.1, 0.5, 0.2]),
        "throughput_UW": np.array([[2.0, 1.0, 5.0, 2.0], [20.0, 20.0, 40.0, 20.0]]),
        "price_U": np.array([1.01, 3.67]),
    }
    whole = cheapest_mix(**given_, slices=1)
    assert whole.proven
    assert whole.count_U.tolist() == [3, 1]
    assert whole.cost == pytest.approx(6.70)
    assert cheapest_mix(**given_).cost == pytest.approx(4.68)  # two thirds of the third bucket fit the idle A100


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_counts_equal_trying_all(seed: int, limited: bool) -> None:
    rng = np.random.default_rng(seed)
    rate, throughput, price = rng.uniform(0.1, 3, 3), rng.uniform(0.3, 4, (2, 3)), rng.uniform(1, 4, 2)
    throughput[rng.integers(0, 2), rng.integers(0, 3)] = 0.0
    most = rng.integers(1, 5, 2) if limited else np.array([25, 25])
    best = np.inf
    for counts in product(*(range(int(m) + 1) for m in most)):
        if price @ counts < best and serves(np.array(counts), rate, throughput):
            best = float(price @ counts)
    if best == np.inf:
        with pytest.raises(InfeasibleError):
            cheapest_mix(rate, throughput, price, most)
        return
    mix = cheapest_mix(rate, throughput, price, most)
    assert mix.cost == pytest.approx(best, rel=1e-6)
    assert mix.bound <= mix.cost * (1 + 1e-9)
    assert mix.share_UW.sum(axis=0) == pytest.approx(np.ones(3))
    load = (mix.share_UW * rate / np.where(throughput > 0, throughput, np.inf)).sum(axis=1)
    assert (load <= mix.count_U + 1e-5).all()


def serves(count_U: np.ndarray, rate_W: np.ndarray, throughput_UW: np.ndarray) -> bool:
    """Whether some shares fit these GPUs: least overload of all GPUs together, as a linear program."""
    types, buckets = throughput_UW.shape
    able = throughput_UW > 0
    load = np.where(able, rate_W / np.where(able, throughput_UW, 1.0), 0.0)
    size = types * buckets
    rows, limits = [], []
    for u in range(types):
        row = np.zeros(size)
        row[u * buckets : (u + 1) * buckets] = load[u]
        rows.append(row)
        limits.append(float(count_U[u]))
    for w in range(buckets):
        row = np.zeros(size)
        row[w::buckets] = -able[:, w].astype(float)
        rows.append(row)
        limits.append(-1.0)
    program = IntegerProgram(
        gain_X=np.zeros(size),
        rows_RX=np.stack(rows),
        limit_R=np.array(limits),
        most_X=np.ones(size),
        whole_X=np.zeros(size, dtype=bool),
    )
    return solve_relaxation(program) is not None


@pytest.mark.parametrize("seed", range(6))
def test_a_hundred_buckets_are_proven_and_no_dearer_than_slices(seed: int) -> None:
    rate, throughput, price = synthetic(100, seed)
    began = time.process_time()
    mix = cheapest_mix(rate, throughput, price)
    assert time.process_time() - began < 2.0  # a quarter of it on an idle core; benchmarks/search_melange.py times it
    assert mix.proven
    sliced = cheapest_mix(rate, throughput, price, slices=2, time_limit=3.0)
    assert mix.cost <= sliced.cost * (1 + 1e-6)
    assert mix.bound <= sliced.cost * (1 + 1e-6)
    assert mix.cost == pytest.approx(cheapest_mix(rate, throughput, price, solver=solve_highs).cost, rel=1e-6)


def test_a_bucket_that_nothing_serves_is_named() -> None:
    with pytest.raises(InfeasibleError, match="bucket 1"):
        cheapest_mix(np.ones(2), np.array([[1.0, 0.0]]), np.ones(1))
