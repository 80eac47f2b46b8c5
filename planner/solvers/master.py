"""The master integer program: how many copies of each template, so that all of them tile real nodes.

Knows nothing of models or GPUs. A template occupies *chunks*: so many of each kind, a kind being a class of equal bins
and a size. Chunks of one class share its bins, and a chunk does not straddle two of them. Where the sizes in a class
divide one another and the bin, first-fit-decreasing always packs whatever fits in sum, so one capacity row per class
suffices; elsewhere the program chooses packing patterns of whole bins.

CP-SAT solves it with integer coefficients of our own making: values rounded up where they are a bound, down where they
must be reached. One worker and a fixed seed, so the same program gives the same answer.

Legend: T template, J chunk kind, C class of bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from planner.errors import SolverError, TimeLimitError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MasterProblem", "MasterSolution", "packs_by_sum", "patterns", "solve_max_value", "solve_min_cost"]

_SCALE: Final = 1_000_000_000  # integer steps of the largest value
_TIE: Final = 1024  # one step of cost outweighs this many copies; copies only break ties


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterProblem:
    """Templates, and the bins that their chunks go into.

    Parameters
    ----------
    value_T
        What one copy of a template is worth, > 0.
    cost_T
        What it costs, >= 0.
    chunks_TJ
        How many chunks of each kind it occupies.
    class_J, size_J
        Class and size of each chunk kind.
    bin_size_C, bins_C
        Size and number of the bins of each class.
    """

    value_T: NDArray[np.float64]
    cost_T: NDArray[np.float64]
    chunks_TJ: NDArray[np.int64]
    class_J: NDArray[np.int64]
    size_J: NDArray[np.int64]
    bin_size_C: NDArray[np.int64]
    bins_C: NDArray[np.int64]

    @property
    def need_TC(self) -> NDArray[np.int64]:
        """Bin space that a copy takes of each class."""
        need = np.zeros((len(self.value_T), len(self.bins_C)), dtype=int)
        for j, c in enumerate(self.class_J):
            need[:, c] += self.chunks_TJ[:, j] * self.size_J[j]
        return need


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterSolution:
    """Copies of each template.

    Parameters
    ----------
    copies_T
        Whole numbers.
    bound
        No choice has more value (or less cost) than this.
    proven
        Whether the solver closed the program.
    fills
        For classes of bins whose chunk sizes do not divide: the sizes that each bin is to hold, bin by bin.
    """

    copies_T: NDArray[np.int64]
    bound: float
    proven: bool
    fills: Mapping[int, tuple[tuple[int, ...], ...]] = field(default_factory=dict)


def packs_by_sum(sizes: list[int], bin_size: int) -> bool:
    """Whether chunks pack into bins as soon as their sum fits: each size divides the next, and the last the bin.

    Examples
    --------
    >>> packs_by_sum([1, 2, 4], 8), packs_by_sum([2, 4], 6)
    (True, False)
    """
    chain = [*sorted(set(sizes)), bin_size]
    return all(large % small == 0 for small, large in pairwise(chain))


def patterns(sizes: list[int], bin_size: int) -> list[tuple[int, ...]]:
    """Ways to fill a bin that no further chunk fits into: how many chunks of each size.

    Examples
    --------
    >>> patterns([2, 4], 6)
    [(3, 0), (1, 1)]
    """
    found: list[tuple[int, ...]] = []

    def fill(position: int, room: int, chosen: tuple[int, ...]) -> None:
        if position < 0:
            if room < min(sizes):
                found.append(chosen)
            return
        for count in range(room // sizes[position] + 1):
            fill(position - 1, room - count * sizes[position], (count, *chosen))

    fill(len(sizes) - 1, bin_size, ())
    return sorted(found, key=lambda counts: counts[::-1])


def solve_max_value(problem: MasterProblem, *, time_limit: float, seed: int = 0) -> MasterSolution:
    """Copies of greatest value; among equally good ones, of least cost.

    Raises
    ------
    TimeLimitError
        If the time limit passes before anything is found.
    SolverError
        If the solver fails.
    """
    scale = _SCALE / float(problem.value_T.max())
    up_T = np.ceil(problem.value_T * scale - 1e-9).astype(np.int64)
    model, copies, chosen = _packing(problem)
    model.maximize(sum(int(v) * x for v, x in zip(up_T, copies, strict=True)))
    solver, status = _solve(model, time_limit, seed)
    bound = solver.best_objective_bound / scale
    best = int(solver.objective_value)
    copies_T = np.array([solver.value(x) for x in copies], dtype=int)
    if status != "OPTIMAL":
        return MasterSolution(copies_T=copies_T, bound=bound, proven=False, fills=_fills(solver, chosen))
    fills = _fills(solver, chosen)
    # the same value for less
    cheap_T = _cost_steps(problem)
    model.add(sum(int(v) * x for v, x in zip(up_T, copies, strict=True)) >= best)
    model.clear_objective()
    model.minimize(sum(int(c) * x for c, x in zip(cheap_T, copies, strict=True)))
    model.clear_hints()
    for x, count in zip(copies, copies_T, strict=True):
        model.add_hint(x, int(count))
    try:
        solver, _ = _solve(model, time_limit, seed)
    except TimeLimitError:  # the first answer is as good, only dearer
        return MasterSolution(copies_T=copies_T, bound=bound, proven=True, fills=fills)
    copies_T = np.array([solver.value(x) for x in copies], dtype=int)
    return MasterSolution(copies_T=copies_T, bound=bound, proven=True, fills=_fills(solver, chosen))


def solve_min_cost(problem: MasterProblem, demand: float, *, time_limit: float, seed: int = 0) -> MasterSolution | None:
    """Copies of least cost whose value reaches a demand, or None if no choice reaches it.

    Among equally cheap ones, the fewest copies.
    """
    scale = _SCALE / demand
    # one copy needs not reach beyond the demand
    down_T = np.floor(np.minimum(problem.value_T, demand) * scale + 1e-4).astype(np.int64)
    model, copies, chosen = _packing(problem)
    model.add(sum(int(v) * x for v, x in zip(down_T, copies, strict=True)) >= _SCALE)
    cost_T = _cost_steps(problem)
    model.minimize(sum(int(c) * x for c, x in zip(cost_T, copies, strict=True)))
    try:
        solver, status = _solve(model, time_limit, seed)
    except _InfeasibleProgramError:
        return None
    copies_T = np.array([solver.value(x) for x in copies], dtype=int)
    # the copies that break ties are in the objective; no choice has more of them than there is room
    most = int((problem.bin_size_C * problem.bins_C).sum())
    bound = max(0.0, (solver.best_objective_bound - most) / _TIE * _cost_step(problem))
    return MasterSolution(copies_T=copies_T, bound=bound, proven=status == "OPTIMAL", fills=_fills(solver, chosen))


class _InfeasibleProgramError(SolverError):
    """The program has no solution."""


def _cost_step(problem: MasterProblem) -> float:
    """Size of one integer step of cost."""
    return max(float(problem.cost_T.max()), 1e-12) / 1e8


def _cost_steps(problem: MasterProblem) -> NDArray[np.int64]:
    steps: NDArray[np.int64] = np.floor(problem.cost_T / _cost_step(problem) + 1e-6).astype(np.int64)
    return steps * _TIE + 1


# For each class that needs them: the sizes of each pattern, and how many bins follow it.
_Chosen = dict[int, list[tuple[tuple[int, ...], Any]]]


def _packing(problem: MasterProblem) -> tuple[Any, list[Any], _Chosen]:
    """CP-SAT model with one count per template, the rows that make them fit, and the patterns it may choose."""
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    need_TC = problem.need_TC
    room_C = problem.bin_size_C * problem.bins_C
    copies = []
    chosen: _Chosen = {}
    for t in range(len(problem.value_T)):
        used = need_TC[t] > 0
        most = int(np.min(room_C[used] // need_TC[t][used])) if used.any() else 0
        copies.append(model.new_int_var(0, most, f"x{t}"))
    for c, room in enumerate(room_C):
        kinds = [j for j in range(len(problem.class_J)) if problem.class_J[j] == c and problem.chunks_TJ[:, j].any()]
        sizes = [int(problem.size_J[j]) for j in kinds]
        model.add(sum(int(n) * x for n, x in zip(need_TC[:, c], copies, strict=True) if n) <= int(room))
        if not kinds or packs_by_sum(sizes, int(problem.bin_size_C[c])):
            continue
        order = sorted(range(len(kinds)), key=lambda i: sizes[i])
        ways = patterns([sizes[i] for i in order], int(problem.bin_size_C[c]))
        counts = [model.new_int_var(0, int(problem.bins_C[c]), f"y{c}_{p}") for p in range(len(ways))]
        model.add(sum(counts) <= int(problem.bins_C[c]))
        by_size = sorted(sizes)
        chosen[c] = [
            (tuple(size for size, n in zip(by_size, way, strict=True) for _ in range(n)), y)
            for way, y in zip(ways, counts, strict=True)
        ]
        for position, i in enumerate(order):
            chunks = problem.chunks_TJ[:, kinds[i]]
            offered = sum(way[position] * y for way, y in zip(ways, counts, strict=True))
            model.add(sum(int(n) * x for n, x in zip(chunks, copies, strict=True) if n) <= offered)
    return model, copies, chosen


def _fills(solver: Any, chosen: _Chosen) -> dict[int, tuple[tuple[int, ...], ...]]:
    """Write the chosen patterns bin by bin."""
    return {c: tuple(sizes for sizes, y in ways for _ in range(solver.value(y))) for c, ways in chosen.items()}


def _solve(model: Any, time_limit: float, seed: int) -> tuple[Any, str]:
    from ortools.sat.python import cp_model

    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed
    solver.parameters.max_time_in_seconds = max(time_limit, 0.05)
    solver.parameters.relative_gap_limit = 0.0
    status = solver.solve(model)
    if status == cp_model.INFEASIBLE:
        raise _InfeasibleProgramError("the master program has no solution")
    if status == cp_model.UNKNOWN:
        raise TimeLimitError(f"no choice of replicas was found within {time_limit:.2g} s; allow more time")
    if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        raise SolverError(f"the master program ended with {solver.status_name(status)}")
    return solver, solver.status_name(status)
