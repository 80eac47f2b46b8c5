"""Integer programs by CBC, as PuLP brings it: a third, independent answer."""

from __future__ import annotations

import math

import numpy as np

from planner.errors import SolverError, TimeLimitError
from planner.solvers.program import IntegerProgram, IntegerSolution

__all__ = ["solve_cbc"]


def solve_cbc(program: IntegerProgram, time_limit: float, seed: int = 0) -> IntegerSolution | None:
    """Solve an integer program; None if it has no solution.

    CBC calls a solution optimal that it was stopped at, so nothing counts as proven that took the whole time, and the
    bound is the value only where it did not.

    Raises
    ------
    TimeLimitError
        If the time passes before any solution is found.
    SolverError
        If the solver fails.
    """
    import time
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what comes after the release that is pinned
        import pulp

        problem = pulp.LpProblem("master", pulp.LpMaximize)
        unknowns = [
            pulp.LpVariable(
                f"x{x}",
                lowBound=0,
                upBound=None if math.isinf(most) else float(most),
                cat="Integer" if whole else "Continuous",
            )
            for x, (most, whole) in enumerate(zip(program.most_X, program.whole_X, strict=True))
        ]
        problem += pulp.lpSum(float(g) * x for g, x in zip(program.gain_X, unknowns, strict=True))
        for row, limit in zip(program.rows_RX, program.limit_R, strict=True):
            used = np.flatnonzero(row)
            if used.size:
                problem += pulp.lpSum(float(row[x]) * unknowns[x] for x in used) <= float(limit)
            elif limit < 0:
                return None
        started = time.monotonic()
        status = problem.solve(
            pulp.PULP_CBC_CMD(
                msg=False, timeLimit=time_limit, gapRel=0.0, threads=1, options=[f"randomSeed {seed + 1}"]
            )
        )
        finished = time.monotonic() - started < time_limit
    if status == pulp.LpStatusInfeasible and finished:
        return None
    if status != pulp.LpStatusOptimal:
        if not finished:
            raise TimeLimitError(f"no choice was found within {time_limit:.2g} s; allow more time")
        raise SolverError(f"the integer program ended with {pulp.LpStatus[status]}")
    x_X = np.array([x.value() or 0.0 for x in unknowns])
    value = float(program.gain_X @ x_X)
    return IntegerSolution.of(program, x_X, bound=value if finished else math.inf, proven=finished)
