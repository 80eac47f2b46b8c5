"""The master program against brute force and against an independent formulation in PuLP."""

from __future__ import annotations

from itertools import product

import numpy as np
import pulp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.solvers.master import MasterProblem, packs_by_sum, patterns, solve_max_value, solve_min_cost


@st.composite
def masters(draw: st.DrawFn, sizes: tuple[int, ...] = (1, 2, 4), bins: tuple[int, ...] = (4, 8)) -> MasterProblem:
    classes = draw(st.integers(1, 2))
    kinds = [(c, s) for c in range(classes) for s in sizes]
    templates = draw(st.integers(1, 4))
    chunks = np.array(
        [[draw(st.integers(0, 2)) for _ in kinds] for _ in range(templates)],
        dtype=np.int64,
    )
    chunks[chunks.sum(axis=1) == 0, 0] = 1
    return MasterProblem(
        value_T=np.array([draw(st.integers(1, 50)) / 7 for _ in range(templates)]),
        cost_T=np.array([draw(st.integers(1, 50)) / 3 for _ in range(templates)]),
        chunks_TJ=chunks,
        class_J=np.array([c for c, _ in kinds], dtype=np.int64),
        size_J=np.array([s for _, s in kinds], dtype=np.int64),
        bin_size_C=np.array([draw(st.sampled_from(bins)) for _ in range(classes)], dtype=np.int64),
        bins_C=np.array([draw(st.integers(1, 2)) for _ in range(classes)], dtype=np.int64),
    )


def fits(problem: MasterProblem, copies: tuple[int, ...]) -> bool:
    """Pack for real, by trying every bin for every chunk."""
    for c in range(len(problem.bins_C)):
        chunks = [
            int(problem.size_J[j])
            for t, n in enumerate(copies)
            for j in range(len(problem.class_J))
            if problem.class_J[j] == c
            for _ in range(n * int(problem.chunks_TJ[t, j]))
        ]
        if not packs(sorted(chunks, reverse=True), [int(problem.bin_size_C[c])] * int(problem.bins_C[c])):
            return False
    return True


def packs(chunks: list[int], free: list[int]) -> bool:
    if sum(chunks) > sum(free):
        return False
    if not chunks:
        return True
    tried = set()
    for i, room in enumerate(free):
        if room >= chunks[0] and room not in tried:
            tried.add(room)
            if packs(chunks[1:], [*free[:i], room - chunks[0], *free[i + 1 :]]):
                return True
    return False


def choices(problem: MasterProblem) -> list[tuple[int, ...]]:
    room = problem.bin_size_C * problem.bins_C
    need = problem.need_TC
    most = [int(min(room[c] // need[t, c] for c in range(len(room)) if need[t, c])) for t in range(len(need))]
    return [
        copies
        for copies in product(*(range(m + 1) for m in most))
        if (np.array(copies) @ need <= room).all() and fits(problem, copies)
    ]


@settings(max_examples=150, deadline=None)
@given(masters())
def test_greatest_value_equals_brute_force(problem: MasterProblem) -> None:
    best = max(float(problem.value_T @ copies) for copies in choices(problem))
    answer = solve_max_value(problem, time_limit=10)
    assert answer.proven
    assert fits(problem, tuple(answer.copies_T))
    assert float(problem.value_T @ answer.copies_T) == pytest.approx(best, rel=3e-6)
    assert answer.bound >= best * (1 - 1e-12)


@settings(max_examples=100, deadline=None)
@given(masters(sizes=(1, 2, 3, 4), bins=(4, 6)))
def test_sizes_that_do_not_divide_are_packed_for_real(problem: MasterProblem) -> None:
    best = max(float(problem.value_T @ copies) for copies in choices(problem))
    answer = solve_max_value(problem, time_limit=10)
    assert fits(problem, tuple(answer.copies_T))
    assert float(problem.value_T @ answer.copies_T) == pytest.approx(best, rel=3e-6)


@settings(max_examples=100, deadline=None)
@given(masters(), st.integers(1, 100))
def test_least_cost_equals_brute_force(problem: MasterProblem, tenths: int) -> None:
    demand = tenths / 10
    reaching = [c for c in choices(problem) if float(problem.value_T @ c) >= demand * (1 + 1e-5)]
    answer = solve_min_cost(problem, demand, time_limit=10)
    if not reaching:
        assert answer is None or float(problem.value_T @ answer.copies_T) >= demand * (1 - 1e-5)
        return
    best = min(float(problem.cost_T @ c) for c in reaching)
    assert answer is not None
    cost = float(problem.cost_T @ answer.copies_T)
    assert cost <= best * (1 + 1e-6)
    assert float(problem.value_T @ answer.copies_T) >= demand * (1 - 1e-5)
    assert answer.bound <= cost * (1 + 1e-9)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PuLP 4, and we pin below it
@settings(max_examples=30, deadline=None)
@given(masters())
def test_an_independent_formulation_agrees(problem: MasterProblem) -> None:
    program = pulp.LpProblem("master", pulp.LpMaximize)
    copies = [pulp.LpVariable(f"x{t}", lowBound=0, cat="Integer") for t in range(len(problem.value_T))]
    program += pulp.lpSum(float(v) * x for v, x in zip(problem.value_T, copies, strict=True))
    # one variable per bin and chunk kind instead of patterns
    for c in range(len(problem.bins_C)):
        kinds = [j for j in range(len(problem.class_J)) if problem.class_J[j] == c]
        holds = {
            (b, j): pulp.LpVariable(f"h{c}_{b}_{j}", lowBound=0, cat="Integer")
            for b in range(int(problem.bins_C[c]))
            for j in kinds
        }
        for b in range(int(problem.bins_C[c])):
            program += pulp.lpSum(int(problem.size_J[j]) * holds[b, j] for j in kinds) <= int(problem.bin_size_C[c])
        for j in kinds:
            demand = pulp.lpSum(int(problem.chunks_TJ[t, j]) * copies[t] for t in range(len(copies)))
            program += demand == pulp.lpSum(holds[b, j] for b in range(int(problem.bins_C[c])))
    program.solve(pulp.PULP_CBC_CMD(msg=False))
    answer = solve_max_value(problem, time_limit=10)
    assert float(problem.value_T @ answer.copies_T) == pytest.approx(pulp.value(program.objective), rel=3e-6)


def test_units_of_six_lose_to_units_of_eight_on_nodes_of_eight() -> None:
    """DistServe's HumanEval case: per GPU the 6-GPU unit is better, but it strands 2 of 8 GPUs."""
    problem = MasterProblem(
        value_T=np.array([6 * 1.50, 8 * 1.25]),
        cost_T=np.array([6.0, 8.0]),
        chunks_TJ=np.array([[1, 0], [0, 1]], dtype=np.int64),
        class_J=np.zeros(2, dtype=np.int64),
        size_J=np.array([6, 8], dtype=np.int64),
        bin_size_C=np.array([8], dtype=np.int64),
        bins_C=np.array([4], dtype=np.int64),
    )
    answer = solve_max_value(problem, time_limit=10)
    assert float(problem.value_T @ answer.copies_T) / 4 == pytest.approx(10.0)


def test_patterns_are_maximal_and_complete() -> None:
    assert patterns([1, 2, 4], 4) == [(4, 0, 0), (2, 1, 0), (0, 2, 0), (0, 0, 1)]
    assert packs_by_sum([1, 2, 4, 8], 8)
    assert not packs_by_sum([3], 8)
