"""The master integer program: how many copies of each template, so that all of them tile real nodes.

Knows nothing of models or GPUs. A template occupies *chunks*: so many of each kind, a kind being a class of equal bins
and a size. Chunks of one class share its bins, and a chunk does not straddle two of them. Where the sizes in a class
divide one another and the bin, first-fit-decreasing always packs whatever fits in sum, so one capacity row per class
suffices; elsewhere the program chooses packing patterns of whole bins.

The linear program over a large pool is solved by columns: a few templates at first, then those whose value exceeds what
their room is worth. Any solver of integer programs does the rest (`planner.solvers.program`); by default SCIP.

Legend: T template, J chunk kind, C class of bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.errors import SolverError
from planner.solvers.gscip import solve_gscip, solve_relaxation
from planner.solvers.program import IntegerProgram, IntegerSolver

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "Master",
    "MasterProblem",
    "MasterSolution",
    "PoolRelaxation",
    "packs_by_sum",
    "patterns",
    "solve_max_value",
    "solve_min_cost",
]

_TIE: Final = 1e-7  # of the objective: what breaks ties
_MORE_COLUMNS: Final = 60  # added at a time
_PRICED_OUT: Final = 1e-10  # of the objective; a column that would add less is not worth it


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
        size_JC = self.size_J[:, None] * (self.class_J[:, None] == np.arange(len(self.bins_C)))
        need: NDArray[np.int64] = (self.chunks_TJ.astype(float) @ size_JC).astype(np.int64)  # floats multiply faster
        return need


@dataclass(frozen=True, slots=True)
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


def solve_max_value(
    problem: MasterProblem, *, time_limit: float, seed: int = 0, solver: IntegerSolver = solve_gscip
) -> MasterSolution:
    """Copies of greatest value; among equally good ones, of least cost.

    Raises
    ------
    TimeLimitError
        If the time limit passes before anything is found.
    SolverError
        If the solver fails.
    """
    answer = Master(problem).best(problem.value_T, time_limit=time_limit, seed=seed, solver=solver)
    if answer is None:
        raise SolverError("a program that copies of nothing would solve has no solution")
    return answer


def solve_min_cost(
    problem: MasterProblem, demand: float, *, time_limit: float, seed: int = 0, solver: IntegerSolver = solve_gscip
) -> MasterSolution | None:
    """Copies of least cost whose value reaches a demand, or None if no choice reaches it.

    Among equally cheap ones, the fewest copies.
    """
    master = Master(problem, demand=demand)
    return master.best(problem.value_T, time_limit=time_limit, seed=seed, solver=solver)


class Master:
    """The program over one pool of templates, whatever their values turn out to be.

    With a demand it asks for the least cost of a value that reaches it, else for the greatest value. Ties break by a
    share of the objective that is too small to matter: by cost, or by copies.

    Parameters
    ----------
    problem
        The pool; its values are not read.
    demand
        Value to be reached.
    """

    def __init__(self, problem: MasterProblem, *, demand: float | None = None) -> None:
        self.problem, self.demand = problem, demand
        need_TC = problem.need_TC
        room_C = problem.bin_size_C * problem.bins_C
        with np.errstate(divide="ignore"):
            most_TC = np.where(need_TC > 0, room_C // np.maximum(need_TC, 1), np.iinfo(np.int64).max)
        self.most_T = most_TC.min(axis=1)
        self.most_T[need_TC.sum(axis=1) == 0] = 0
        rows: list[NDArray[np.float64]] = [need_TC[:, c].astype(float) for c in range(len(room_C))]
        limits = [float(room) for room in room_C]
        ways: list[tuple[int, tuple[int, ...], tuple[int, ...], int]] = []  # class, sizes, counts, first row
        used_J = problem.chunks_TJ.any(axis=0)
        self._first_of: dict[int, int] = {}
        for c in range(len(room_C)):
            kinds = [j for j in np.flatnonzero(used_J) if problem.class_J[j] == c]
            sizes = sorted({int(problem.size_J[j]) for j in kinds})
            if not kinds or packs_by_sum(sizes, int(problem.bin_size_C[c])):
                continue
            first = self._first_of[c] = len(rows)
            for size in sizes:
                held = problem.chunks_TJ[:, [j for j in kinds if problem.size_J[j] == size]].sum(axis=1)
                rows.append(held.astype(float))
                limits.append(0.0)
            rows.append(np.zeros(len(need_TC)))
            limits.append(float(problem.bins_C[c]))
            ways += [(c, tuple(sizes), way, first) for way in patterns(sizes, int(problem.bin_size_C[c]))]
        self._ways = ways
        self.rows_RT = np.stack(rows)
        self.limit_R = np.array(limits)
        extra = np.zeros((len(rows), len(ways)))
        for w, (_, held_sizes, way, first) in enumerate(ways):
            extra[first : first + len(held_sizes), w] = [-n for n in way]
            extra[first + len(held_sizes), w] = 1.0
        self.patterns_RW = extra
        self.most_W = np.array([float(problem.bins_C[c]) for c, *_ in ways])
        self._whole_cost = float(problem.cost_T.max(initial=0.0)) * float(room_C.sum())

    def program(self, value_T: NDArray[np.float64], columns: NDArray[np.int64]) -> IntegerProgram:
        """Write the program over some of the templates, given the value of all; patterns follow the templates."""
        rows = np.concatenate([self.rows_RT[:, columns], self.patterns_RW], axis=1)
        limit_R = self.limit_R
        patterns_ = np.zeros(len(self._ways))
        if self.demand is None:
            gain = self._gain(value_T)[columns]
        else:
            gain = -self.problem.cost_T[columns] * (1 + _TIE) - self._tie()
            # one copy needs not reach beyond the demand
            reached = np.minimum(value_T[columns] / self.demand, 1.0)
            rows = np.concatenate([rows, np.concatenate([-reached, patterns_])[None]])
            limit_R = np.append(limit_R, -1.0)
        return IntegerProgram(
            gain_X=np.concatenate([gain, patterns_]),
            rows_RX=rows,
            limit_R=limit_R,
            most_X=np.concatenate([self.most_T[columns].astype(float), self.most_W]),
            whole_X=np.ones(len(columns) + len(self._ways), dtype=bool),
        )

    def _gain(self, value_T: NDArray[np.float64]) -> NDArray[np.float64]:
        largest = float(value_T.max(initial=0.0))
        scale = _TIE * largest / self._whole_cost if self._whole_cost else 0.0
        return value_T - scale * self.problem.cost_T

    def _tie(self) -> float:
        return _TIE * float(self.problem.cost_T.max(initial=1.0)) / max(float(self.most_T.sum()), 1.0)

    def worth(self, copies_T: NDArray[np.int64], reached_T: NDArray[np.float64], value_T: NDArray[np.float64]) -> float:
        """Objective of a choice by what its copies reach, ties broken as in the program over other values."""
        if self.demand is not None:
            return float((-self.problem.cost_T * (1 + _TIE) - self._tie()) @ copies_T)
        return float(reached_T @ copies_T + (self._gain(value_T) - value_T) @ copies_T)

    def bound_of(self, gain: float, value_T: NDArray[np.float64]) -> float:
        """Turn a bound on the program's objective into one on the value, or on the cost where there is a demand."""
        if self.demand is None:
            return gain + _TIE * float(value_T.max(initial=0.0))
        return max(0.0, -gain / (1 + _TIE) - _TIE * float(self.problem.cost_T.max(initial=1.0)))

    def relax(self, value_T: NDArray[np.float64], active: NDArray[np.int64]) -> PoolRelaxation | None:
        """Solve the program without whole numbers over the whole pool, by columns; None if it has no solution.

        Parameters
        ----------
        value_T
            Value of every template; those of 0 are left out.
        active
            Templates to begin with.
        """
        able_T = (value_T > 0) & (self.most_T > 0)
        active = np.unique(active[able_T[active]])
        if self.demand is not None:  # begin with what can meet the demand at all
            reach = np.argsort(-np.minimum(value_T * self.most_T, 1e300) * able_T, kind="stable")[:_MORE_COLUMNS]
            active = np.unique(np.concatenate([active, reach[able_T[reach]]]))
        gain_T = self._gain(value_T) if self.demand is None else -self.problem.cost_T * (1 + _TIE) - self._tie()
        while True:
            if not len(active):
                return None
            answer = solve_relaxation(self.program(value_T, active))
            if answer is None:
                missing = np.setdiff1d(np.flatnonzero(able_T), active)
                if not missing.size:
                    return None
                # no prices: take what serves most for what it holds
                share = value_T[missing] / self.problem.need_TC[missing].sum(axis=1)
                active = np.union1d(active, missing[np.argsort(-share, kind="stable")[: 4 * _MORE_COLUMNS]])
                continue
            price_R = answer.price_R
            paid_T = price_R[: len(self.rows_RT)] @ self.rows_RT
            if self.demand is not None:
                paid_T = paid_T - price_R[-1] * np.minimum(value_T / self.demand, 1.0)
            reduced_T = np.where(able_T, gain_T - paid_T, -np.inf)
            outside_T = reduced_T.copy()
            outside_T[active] = -np.inf
            worth = np.flatnonzero(outside_T > _PRICED_OUT * max(abs(answer.value), 1e-12))
            if not worth.size:
                return PoolRelaxation(
                    value=answer.value,
                    copies_T=_spread(answer.x_X[: len(active)], active, len(value_T)),
                    reduced_T=reduced_T,
                    price_C=self.class_prices(price_R),
                    price_J=self._chunk_prices(price_R),
                    price_demand=0.0 if self.demand is None else float(price_R[-1]),
                    active=active[np.argsort(-reduced_T[active], kind="stable")[: 2 * _MORE_COLUMNS]],
                )
            best = worth[np.argsort(-outside_T[worth], kind="stable")[:_MORE_COLUMNS]]
            active = np.union1d(active, best)

    def class_prices(self, price_R: NDArray[np.float64]) -> NDArray[np.float64]:
        """What one more unit of each class's room is worth: by its row of room, or the row that counts its bins."""
        price_C = price_R[: len(self.problem.bins_C)].copy()
        for c, first in self._first_of.items():
            sizes = len({int(s) for s in self.problem.size_J[(self.problem.class_J == c) & self._used_J]})
            price_C[c] += price_R[first + sizes] / float(self.problem.bin_size_C[c])
        return price_C

    def _chunk_prices(self, price_R: NDArray[np.float64]) -> NDArray[np.float64]:
        """What a chunk of each kind takes the room of is worth."""
        problem = self.problem
        price_J = price_R[problem.class_J] * problem.size_J
        for c, first in self._first_of.items():
            kinds = self._used_J & (problem.class_J == c)
            row_of = {size: first + i for i, size in enumerate(sorted({int(s) for s in problem.size_J[kinds]}))}
            for j in np.flatnonzero(kinds):
                price_J[j] += price_R[row_of[int(problem.size_J[j])]]
        return np.asarray(price_J, dtype=float)

    @property
    def _used_J(self) -> NDArray[np.bool_]:
        return np.asarray(self.problem.chunks_TJ.any(axis=0))

    def best(
        self,
        value_T: NDArray[np.float64],
        *,
        time_limit: float,
        seed: int = 0,
        columns: NDArray[np.int64] | None = None,
        solver: IntegerSolver = solve_gscip,
    ) -> MasterSolution | None:
        """Solve the program in whole numbers over some templates (None: all); None if it has no solution."""
        chosen = np.arange(len(value_T)) if columns is None else columns
        chosen = chosen[(value_T[chosen] > 0) & (self.most_T[chosen] > 0)]
        if not len(chosen):
            return None if self.demand is not None else MasterSolution(np.zeros(len(value_T), dtype=int), 0.0, True)
        answer = solver(self.program(value_T, chosen), time_limit, seed)
        if answer is None:
            return None
        copies_T = _spread(answer.x_X[: len(chosen)], chosen, len(value_T)).round().astype(int)
        return MasterSolution(
            copies_T=copies_T,
            bound=self.bound_of(answer.bound, value_T),
            proven=answer.proven,
            fills=self.fills_of(answer.x_X[len(chosen) :]),
        )

    def fills_of(self, bins_W: NDArray[np.float64]) -> dict[int, tuple[tuple[int, ...], ...]]:
        """Sizes that each bin is to hold, by class, from how many bins are filled in each way."""
        fills: dict[int, list[tuple[int, ...]]] = {c: [] for c in self._first_of}
        for (c, sizes, way, _), n in zip(self._ways, bins_W, strict=True):
            holds = tuple(size for size, k in zip(sizes, way, strict=True) for _ in range(k))
            fills[c] += [holds] * round(float(n))
        return {c: tuple(nodes) for c, nodes in fills.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolRelaxation:
    """The program without whole numbers, over a whole pool.

    Parameters
    ----------
    value
        Of the objective; no choice in whole numbers has more.
    copies_T
        The choice.
    reduced_T
        What one copy of a template adds to it, at most; never positive but at its most copies.
    price_C
        What one more unit of room in each class of bins would add.
    price_J
        What the room of one chunk of each kind is worth.
    price_demand
        What one more of the whole demand would cost; 0 where there is none.
    active
        Templates to begin with when it is solved again with other values.
    """

    value: float
    copies_T: NDArray[np.float64]
    reduced_T: NDArray[np.float64]
    price_C: NDArray[np.float64]
    price_J: NDArray[np.float64]
    price_demand: float
    active: NDArray[np.int64]


def _spread(x: NDArray[np.float64], columns: NDArray[np.int64], size: int) -> NDArray[np.float64]:
    whole = np.zeros(size)
    whole[columns] = x
    return whole
