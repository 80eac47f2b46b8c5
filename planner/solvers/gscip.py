"""Linear and integer programs by OR-Tools' MathOpt: GLOP for prices, SCIP for whole numbers.

One thread and a fixed seed, so the same program gives the same answer. Nothing is printed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from planner.errors import SolverError, TimeLimitError
from planner.solvers.program import IntegerProgram, IntegerSolution

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Relaxation", "solve_gscip", "solve_relaxation"]

_SHORTEST: Final = 0.05  # seconds; a solver that is given none finds nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Relaxation:
    """Optimum of a program without whole numbers.

    Parameters
    ----------
    x_X
        The choice.
    value
        Its worth.
    price_R
        What one more of each limit would add: the shadow prices.
    """

    x_X: NDArray[np.float64]
    value: float
    price_R: NDArray[np.float64]


def solve_gscip(
    program: IntegerProgram, time_limit: float, seed: int = 0, *, presolve: bool = True
) -> IntegerSolution | None:
    """Solve an integer program; None if it has no solution.

    Parameters
    ----------
    program
        The program.
    time_limit, seed
        For the solver.
    presolve
        Whether to simplify the program first; those with flows are solved in half of the time without.

    Raises
    ------
    TimeLimitError
        If the time passes before any solution is found.
    SolverError
        If the solver fails.
    """
    from ortools.math_opt.python import mathopt

    model, unknowns, _ = _model(program, whole=True)
    answer = mathopt.solve(
        model,
        mathopt.SolverType.GSCIP,
        params=mathopt.SolveParameters(
            time_limit=timedelta(seconds=max(time_limit, _SHORTEST)),
            threads=1,
            random_seed=seed,
            relative_gap_tolerance=program.close,
            absolute_gap_tolerance=0.0,
            presolve=None if presolve else mathopt.Emphasis.OFF,
        ),
    )
    reason = answer.termination.reason
    reasons = mathopt.TerminationReason
    if reason in (reasons.INFEASIBLE, reasons.INFEASIBLE_OR_UNBOUNDED):
        return None
    if reason == reasons.NO_SOLUTION_FOUND:
        raise TimeLimitError(f"no choice was found within {time_limit:.2g} s; allow more time")
    if reason not in (reasons.OPTIMAL, reasons.FEASIBLE):
        raise SolverError(f"the integer program ended with {reason.name}: {answer.termination.detail}")
    return IntegerSolution.of(
        program,
        np.array(answer.variable_values(unknowns)),
        bound=float(answer.termination.objective_bounds.dual_bound),
        proven=reason == reasons.OPTIMAL,
    )


def solve_relaxation(program: IntegerProgram) -> Relaxation | None:
    """Solve a program without whole numbers; None if it has no solution.

    Raises
    ------
    SolverError
        If the solver fails.
    """
    from ortools.math_opt.python import mathopt

    model, unknowns, rows = _model(program, whole=False)
    answer = mathopt.solve(model, mathopt.SolverType.GLOP, params=mathopt.SolveParameters(threads=1))
    reason = answer.termination.reason
    if reason in (mathopt.TerminationReason.INFEASIBLE, mathopt.TerminationReason.INFEASIBLE_OR_UNBOUNDED):
        return None
    if reason != mathopt.TerminationReason.OPTIMAL:
        raise SolverError(f"the linear program ended with {reason.name}: {answer.termination.detail}")
    return Relaxation(
        x_X=np.array(answer.variable_values(unknowns)),
        value=float(answer.objective_value()),
        price_R=np.maximum(np.array(answer.dual_values(rows)), 0.0),
    )


def _model(program: IntegerProgram, *, whole: bool) -> tuple[Any, list[Any], list[Any]]:
    from ortools.math_opt.python import mathopt

    model = mathopt.Model(name="master")
    unknowns = [
        model.add_variable(lb=0.0, ub=float(most), is_integer=bool(is_whole) and whole)
        for most, is_whole in zip(program.most_X, program.whole_X, strict=True)
    ]
    rows = [model.add_linear_constraint(ub=float(limit)) for limit in program.limit_R]
    for r, x in zip(*np.nonzero(program.rows_RX), strict=True):
        rows[r].set_coefficient(unknowns[x], float(program.rows_RX[r, x]))
    model.objective.is_maximize = True
    for x in np.flatnonzero(program.gain_X):
        model.objective.set_linear_coefficient(unknowns[x], float(program.gain_X[x]))
    return model, unknowns, rows
