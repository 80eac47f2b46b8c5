"""Integer programs by SCIP, and by HiGHS where SCIP does not come close in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from planner.errors import TimeLimitError
from planner.solvers.gscip import solve_gscip
from planner.solvers.highs import solve_highs
from planner.solvers.program import IntegerProgram, IntegerSolution

__all__ = ["solve_either"]

_FIRST_SHARE: Final = 0.75  # of the time that SCIP has before HiGHS is asked


def solve_either(
    program: IntegerProgram, time_limit: float, seed: int = 0, *, close: float = 0.0
) -> IntegerSolution | None:
    """Solve by SCIP, and by HiGHS in the rest of the time where SCIP leaves a gap; the better of both counts.

    Which is faster on programs with flows differs from one to the next.

    Raises
    ------
    TimeLimitError
        If neither finds a solution in the time.
    """
    loose = replace(program, close=close)
    answers: Sequence[IntegerSolution] = ()
    try:
        first = solve_gscip(loose, _FIRST_SHARE * time_limit, seed, presolve=False)
        if first is None or first.proven:
            return first
        answers = [first]
    except TimeLimitError:
        pass
    try:
        second = solve_highs(loose, (1 - _FIRST_SHARE) * time_limit, seed)
    except TimeLimitError:
        if not answers:
            raise
        second = answers[0]
    if second is None:
        return None
    answers = [*answers, second]
    best = max(answers, key=lambda one: one.value)
    bound = max(min(one.bound for one in answers), best.value)
    return IntegerSolution(x_X=best.x_X, value=best.value, bound=bound, proven=any(one.proven for one in answers))
