"""Integer programs by HiGHS, as SciPy brings it: an independent answer, where OR-Tools is not to be trusted alone."""

from __future__ import annotations

import numpy as np

from planner.errors import SolverError, TimeLimitError
from planner.solvers.program import IntegerProgram, IntegerSolution

__all__ = ["solve_highs"]


def solve_highs(program: IntegerProgram, time_limit: float, seed: int = 0) -> IntegerSolution | None:
    """Solve an integer program; None if it has no solution.

    HiGHS may print a line of its own to stdout, so it is for checks and not for commands that write data there. SciPy
    hands it no seed.

    Raises
    ------
    TimeLimitError
        If the time passes before any solution is found.
    SolverError
        If the solver fails.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp

    answer = milp(
        -program.gain_X,
        constraints=LinearConstraint(program.rows_RX, -np.inf, program.limit_R),
        bounds=Bounds(0.0, program.most_X),
        integrality=program.whole_X.astype(int),
        options={"time_limit": time_limit, "mip_rel_gap": program.close},
    )
    if answer.status == 2:
        return None
    if answer.x is None:
        if answer.status == 1:
            raise TimeLimitError(f"no choice was found within {time_limit:.2g} s; allow more time")
        raise SolverError(f"the integer program ended with status {answer.status}: {answer.message}")
    bound = -answer.mip_dual_bound if answer.mip_dual_bound is not None else np.inf
    return IntegerSolution.of(program, np.asarray(answer.x), bound=float(bound), proven=answer.status == 0)
