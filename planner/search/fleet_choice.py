"""Which templates of which models to use, and how many: the master program over pools priced only where it matters.

The same as `planner.search.template_choice` does for one model, for columns of several models and roles that share the
rows of room: the program over what templates cannot exceed bounds every plan; where its answer rests on templates that
are not priced, these are looked at more closely; the plan is the program's answer over what priced templates reach.

Legend: T template of any model, A model, Y flow from a prefill class to a place that decodes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.errors import TimeLimitError

if TYPE_CHECKING:
    from planner.cost._types import Array, IntArray
    from planner.search.fleet_pool import FleetPool
    from planner.search.problem import Budget
    from planner.solvers.fleet import FleetMaster, FleetRelaxation, FleetSolution

__all__ = ["FleetChoice", "FleetChooser"]

_MOST_COLUMNS: Final = 400  # of an integer program; the others enter its bound by their reduced cost
_TURNS: Final = 12  # programs after which a plan will do, however far from the bound
_CLOSE: Final = 2e-4  # relative distance of plan and bound at which nothing more is looked for
_PATIENT: Final = 2  # programs after which a plan that is near enough will do
_NEAR_ENOUGH: Final = 1e-3
_FIRST_SHARE: Final = 0.15  # of the time that is left: for the first plan
_SHARE: Final = 0.6  # of the time that is left: for each program after it
_MOST_SECONDS: Final = 20.0  # of one program, before its share is taken
_LEAST_SECONDS: Final = 0.3  # of a program, whatever the limit: the plans so far must not be thrown away


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetChoice:
    """Copies of priced templates, and what bounds them.

    Parameters
    ----------
    solution
        Copies, flows, what each model is served.
    bound
        Of the objective: no plan scales or serves more, or costs less.
    proven
        Whether the program was closed.
    price_C
        What one more GPU of each class would add to the objective, by the program without whole numbers.
    pairings
        Of each flow of the solution: model, prefill class, number of its reach, place that decodes.
    """

    solution: FleetSolution
    bound: float
    proven: bool
    price_C: Array
    pairings: tuple[tuple[int, int, int, int], ...]


class FleetChooser:
    """Chooses from the pools of all models.

    Parameters
    ----------
    pool
        What there is.
    budget
        Time, and who is told.
    """

    def __init__(self, pool: FleetPool, budget: Budget) -> None:
        self.pool, self._budget = pool, budget
        self._asked = b""  # what the last plan was looked for among

    def choose(self, master: FleetMaster) -> FleetChoice | None:
        """Solve the program; None if no choice serves what is asked.

        Raises
        ------
        TimeLimitError
            If the time passes before any choice is found.
        """
        pool, self._asked = self.pool, b""
        relaxed = self._relaxed(master, np.flatnonzero(pool.simple_T()))
        if relaxed is None:
            return None
        best: FleetSolution | None = None
        bound, closed = relaxed.value, False
        for turn in range(_TURNS):
            # a plan at first, then the program by what templates cannot exceed, which bounds all plans
            best = self._incumbent(master, relaxed, best, _FIRST_SHARE if turn == 0 else _SHARE)
            bound = min(bound, relaxed.value)
            if self._near_enough(best, bound, _CLOSE if turn < _PATIENT else _NEAR_ENOUGH):
                break
            near, rest = self._near(relaxed, best, pool.up_T)
            if not self._late() and pool.look_closer(near, relaxed):
                relaxed = self._relaxed(master, relaxed.active)
                if relaxed is None:
                    return None
                near, rest = self._near(relaxed, best, pool.up_T)
            if self._late() and best is not None:
                break
            answer = self._solved(master, pool.up_T, near, _SHARE)
            if answer is None:
                if self._late() or best is not None:
                    break
                return None  # the demand is met in fractions alone
            used = np.flatnonzero(answer.copies_T)
            fresh = used[~pool.priced_T[used]]
            # what contains a column that was left out is bounded by its reduced cost
            bound = min(bound, max(answer.bound, relaxed.value + rest))
            closed = answer.proven and not fresh.size
            while fresh.size and not self._late() and pool.tighten(fresh, relaxed):
                pass
            best = self._better(best, master.of_copies(pool.rate_T, answer.copies_T, answer.fills))
            self._budget.report("choosing replicas", 0.5)
            if self._near_enough(best, bound) or self._late():
                break
            if fresh.size:
                relaxed = self._relaxed(master, relaxed.active)
                if relaxed is None:
                    return None
            elif closed:  # what is not priced might still reach more than what is
                hopeful_T = np.where(pool.priced_T, pool.rate_T, pool.up_T)
                near = self._near(relaxed, best, hopeful_T)[0]
                if pool.priced_T[near].all():
                    best = self._incumbent(master, relaxed, best, _SHARE)
                    break
                hopeful = self._solved(master, hopeful_T, near, _SHARE)
                used = np.zeros(0, dtype=int) if hopeful is None else np.flatnonzero(hopeful.copies_T)
                if pool.priced_T[used].all():
                    best = self._better(best, hopeful)
                    break
                while not self._late() and pool.tighten(used, relaxed):
                    pass
        if best is None:
            if self._late():
                raise TimeLimitError(f"no choice of replicas was found within {self._budget.time_limit:g} s")
            return None
        return FleetChoice(
            solution=best,
            bound=master.bound_of(max(bound, best.value)),
            proven=closed or self._near_enough(best, bound),
            price_C=relaxed.price_C,
            pairings=master.pairings,
        )

    def _relaxed(self, master: FleetMaster, active: IntArray) -> FleetRelaxation | None:
        """Solve without whole numbers, and price what that rests on until it rests on nothing else."""
        while True:
            relaxed = master.relax(self.pool.up_T, active)
            if relaxed is None:
                return None
            active = relaxed.active
            support = np.flatnonzero(relaxed.copies_T > 1e-9)
            if (self._late() and (self.pool.rate_T > 0).any()) or not self.pool.tighten(support, relaxed):
                return relaxed

    def _incumbent(
        self, master: FleetMaster, relaxed: FleetRelaxation, best: FleetSolution | None, share: float
    ) -> FleetSolution | None:
        """Solve over what priced templates reach, those that a better plan than the one so far may contain."""
        rows = np.flatnonzero(self.pool.rate_T > 0)
        rows = np.intersect1d(rows, self._near(relaxed, best, self.pool.rate_T)[0])
        asked = rows.tobytes() + self.pool.rate_T[rows].tobytes()
        if asked == self._asked:
            return best
        found = self._solved(master, self.pool.rate_T, rows, share)
        if found is None or found.proven:
            self._asked = asked
        return self._better(best, found)

    def _solved(self, master: FleetMaster, value_T: Array, rows: IntArray, share: float) -> FleetSolution | None:
        """Solve over some templates in a share of the time that is left; None if there is no choice, or none found."""
        seconds = max(min(share * self._budget.remaining(), share * _MOST_SECONDS), _LEAST_SECONDS)
        try:
            return master.best(value_T, columns=rows, time_limit=seconds, seed=self._budget.seed, close=_CLOSE / 2)
        except TimeLimitError:
            return None

    @staticmethod
    def _better(one: FleetSolution | None, other: FleetSolution | None) -> FleetSolution | None:
        if one is None or other is None:
            return one or other
        return other if other.value > one.value else one

    def _near(self, relaxed: FleetRelaxation, best: FleetSolution | None, value_T: Array) -> tuple[IntArray, float]:
        """Templates that a better plan may contain by some values, and the best reduced cost of those left out."""
        value = -math.inf if best is None else best.value
        near = np.flatnonzero(relaxed.reduced_T >= value - relaxed.value - 1e-9 * abs(relaxed.value))
        near = near[np.isfinite(relaxed.reduced_T[near])]
        near = near[~self.pool.replaced(near, value_T)]
        if len(near) <= _MOST_COLUMNS:
            return near, -math.inf
        order = near[np.argsort(-relaxed.reduced_T[near], kind="stable")]
        return np.sort(order[:_MOST_COLUMNS]), float(relaxed.reduced_T[order[_MOST_COLUMNS]])

    def _near_enough(self, best: FleetSolution | None, bound: float, close: float = _CLOSE) -> bool:
        return best is not None and abs(bound - best.value) <= close * max(abs(bound), 1e-300)

    def _late(self) -> bool:
        return self._budget.remaining() <= 0.15 * self._budget.time_limit
