"""Three solvers on the same programs, and the relaxation over a pool by columns against all columns at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.solvers.cbc import solve_cbc
from planner.solvers.gscip import solve_gscip, solve_relaxation
from planner.solvers.highs import solve_highs
from planner.solvers.master import Master, MasterProblem, solve_max_value, solve_min_cost
from planner.solvers.program import IntegerProgram
from tests.solvers.test_master import masters


@settings(max_examples=60, deadline=None)
@given(masters(sizes=(1, 2, 3, 4), bins=(4, 6)), st.integers(1, 60))
def test_solvers_agree_on_masters(problem: MasterProblem, tenths: int) -> None:
    values = [
        float(problem.value_T @ solve_max_value(problem, time_limit=20, solver=solver).copies_T)
        for solver in (solve_gscip, solve_highs, solve_cbc)
    ]
    assert values == pytest.approx([values[0]] * 3, rel=1e-6)
    demand = tenths / 10 + 0.0123  # not met to the last bit
    costs = []
    for solver in (solve_gscip, solve_highs, solve_cbc):
        answer = solve_min_cost(problem, demand, time_limit=20, solver=solver)
        costs.append(np.inf if answer is None else float(problem.cost_T @ answer.copies_T))
    assert costs == pytest.approx([costs[0]] * 3, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_solvers_agree_where_some_unknowns_are_continuous(data: st.DataObject) -> None:
    number = st.integers(-9, 9).map(float)
    size, rows = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 4))
    program = IntegerProgram(
        gain_X=np.array([data.draw(number) for _ in range(size)]),
        rows_RX=np.array([[data.draw(number) for _ in range(size)] for _ in range(rows)]),
        limit_R=np.array([data.draw(number) for _ in range(rows)]),
        most_X=np.array([data.draw(st.integers(0, 5).map(float)) for _ in range(size)]),
        whole_X=np.array([data.draw(st.booleans()) for _ in range(size)]),
    )
    answers = [solver(program, 20.0, 0) for solver in (solve_gscip, solve_highs, solve_cbc)]
    if answers[0] is None:
        assert answers == [None] * 3
        return
    assert all(answer is not None and answer.proven for answer in answers)
    values = [answer.value for answer in answers if answer is not None]
    assert values == pytest.approx([values[0]] * 3, abs=1e-5)
    for answer in answers:
        assert answer is not None
        assert (program.rows_RX @ answer.x_X <= program.limit_R + 1e-5).all()
        assert answer.bound >= answer.value


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_columns_find_the_relaxation_of_the_whole_pool(seed: int, demanded: bool) -> None:
    rng = np.random.default_rng(seed)
    chunks = rng.integers(0, 3, (500, 6))
    chunks[chunks.sum(axis=1) == 0, 0] = 1
    size = np.array([1, 2, 4, 1, 3, 6])
    value = (chunks @ size) * rng.uniform(0.5, 1.5, 500)
    problem = MasterProblem(
        value_T=value,
        cost_T=(chunks @ size).astype(float),
        chunks_TJ=chunks,
        class_J=np.array([0, 0, 0, 1, 1, 1]),
        size_J=size,
        bin_size_C=np.array([8, 8]),
        bins_C=np.array([5, 4]),
    )
    master = Master(problem, demand=30.0 if demanded else None)
    relaxed = master.relax(value, np.arange(3))
    whole = solve_relaxation(master.program(value, np.arange(500)))
    assert relaxed is not None and whole is not None
    assert relaxed.value == pytest.approx(whole.value, rel=1e-6)
    best = master.best(value, time_limit=20)
    assert best is not None
    # what the reduced costs rule out is in no better choice
    reached = master.worth(best.copies_T, value, value)
    assert reached <= relaxed.value + 1e-6 * abs(relaxed.value)
    assert (relaxed.reduced_T[best.copies_T > 0] >= reached - relaxed.value - 1e-6 * abs(relaxed.value)).all()
