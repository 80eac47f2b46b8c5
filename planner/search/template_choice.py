"""Which templates to use, and how many: the master program over a pool that is priced only where it matters.

The program over what multisets of stages do not exceed (`template_values`) bounds every plan. Its answer is looked at
more closely wherever it is not priced, which can only lower the bound, until it rests on priced templates alone.
Multisets whose reduced cost says that no better plan contains them are left as they are. Where the pool is only a part
of the family, its prices say which others could matter: these join it (`template_listing`), until it bounds the family.
The plan itself is the program's answer over the priced templates by what they really reach.

Legend: M multiset, T template priced, C node class.
"""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.errors import TimeLimitError
from planner.search.explain import Alternative
from planner.search.template_dp import TemplateDp
from planner.search.template_listing import Unlisted, prices_of
from planner.search.template_values import PRICED, PoolValues
from planner.search.templates import Templates
from planner.solvers.master import Master, MasterProblem, MasterSolution, PoolRelaxation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.cost._types import Array, BoolArray, IntArray
    from planner.search.problem import Budget, ServingProblem
    from planner.search.template_pool import MultisetPool
    from planner.search.template_pricer import TemplatePricer
    from planner.search.templates import StageKind

__all__ = ["Choice", "TemplateChooser"]

_MOST_COLUMNS: Final = 400  # of an integer program; the others enter its bound by their reduced cost
_TOLD: Final = 5  # replicas that are told of, though not chosen
_TURNS: Final = 6  # programs after which a plan near enough to the bound will do
_NEAR_ENOUGH: Final = 2e-3
_KEPT: Final = 0.15  # of the time limit, for the plan
_KEPT_FOR_THE_REST: Final = 0.6  # when only replicas with one TP were chosen from
_LEAST_SECONDS: Final = 0.3  # of a program, whatever the limit: the plans so far must not be thrown away
_CLOSE: Final = 1e-5  # relative distance of plan and bound at which nothing is left to look for


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Copies of priced templates, and what bounds them.

    Parameters
    ----------
    templates
        The chosen templates.
    copies_T
        How many of each.
    fills
        Sizes that each node is to hold, for classes whose sizes do not divide.
    bound
        No plan has more value, or less cost where there was a demand.
    proven
        Whether the program was closed: no value in it can still fall that its answer rests on.
    price_C
        What one more GPU of each class would add to the objective, by the program without whole numbers.
    passed_over
        Replicas that are not chosen, those that come closest to it first.
    """

    templates: Templates
    copies_T: IntArray
    fills: dict[int, tuple[tuple[int, ...], ...]]
    bound: float
    proven: bool
    price_C: Array
    passed_over: tuple[Alternative, ...]


class TemplateChooser:
    """Chooses from one pool, and from the family that it is a part of.

    Parameters
    ----------
    problem, kinds, pricer, pool
        What is to be served, and the multisets to serve it with.
    depth
        Most stages of a replica.
    budget
        Time, and who is told.
    """

    def __init__(
        self,
        problem: ServingProblem,
        kinds: Sequence[StageKind],
        pricer: TemplatePricer,
        pool: MultisetPool,
        depth: int,
        budget: Budget,
    ) -> None:
        self.problem, self.kinds, self._budget = problem, kinds, budget
        self.values = PoolValues(problem, kinds, pricer, pool, depth)
        self._cost_J = np.zeros(len(kinds))
        self._demand: float | None = None
        self._unlisted: Unlisted | None = None
        if not pool.complete:
            dp = TemplateDp(self.values.form, problem, kinds, depth)
            self._unlisted = Unlisted(dp, self.values, self._late)
        self._master: Master | None = None
        self._kept = _KEPT

    @property
    def looked_at(self) -> dict[str, int]:
        """What was looked at, and how closely."""
        return self.values.looked_at

    @property
    def master(self) -> Master:
        """The program over the pool as it is now."""
        if self._master is None:
            classes = self.problem.cluster.classes
            chunks_MJ = self.values.pool.chunks_MJ(len(self.kinds))
            problem = MasterProblem(
                value_T=self.values.up_M,
                cost_T=(chunks_MJ @ self._cost_J).astype(float),
                chunks_TJ=chunks_MJ,
                class_J=np.array([k.node_class for k in self.kinds]),
                size_J=np.array([k.tp for k in self.kinds]),
                bin_size_C=np.array([c.gpus_per_node for c in classes]),
                bins_C=np.array([len(c.nodes) for c in classes]),
            )
            self._master = Master(problem, demand=self._demand)
        return self._master

    def choose(self, cost_J: Array, demand: float | None = None) -> Choice | None:
        """Choose for the greatest value, or the least cost of a value that meets the demand.

        None if no choice meets the demand, or nothing can serve. Replicas with one TP throughout are chosen from first:
        they are few, and most of what is best is among them.

        Parameters
        ----------
        cost_J
            Of a stage of each kind.
        demand
            Requests/s.

        Raises
        ------
        TimeLimitError
            If the time passes before any choice is found.
        """
        self._ask(cost_J, demand)
        uniform_M = self.values.parts()["one TP"]
        if not uniform_M.all():
            self._kept = _KEPT_FOR_THE_REST
            with suppress(TimeLimitError):
                self.choose_among(uniform_M)
            self._kept = _KEPT
        if self._unlisted is not None and not (self.values.up_M > 0).any():
            self._unlisted.begin()
            self._master = None
        return self._solve(grows=True)

    def relax(self, cost_J: Array, demand: float | None = None) -> PoolRelaxation | None:
        """Solve the same without whole numbers; None if it has no solution."""
        self._ask(cost_J, demand)
        return self._relaxed(np.flatnonzero((self.values.pool.kind_MD >= 0).sum(axis=1) == 1), grows=True)

    def _ask(self, cost_J: Array, demand: float | None) -> None:
        self._cost_J, self._demand, self._master = np.asarray(cost_J, dtype=float), demand, None

    def choose_among(self, among_M: BoolArray, program: Master | None = None) -> Choice | None:
        """Solve the program, or another over the pool, for some of the multisets; its bound holds for these alone."""
        values = self.values
        others, rates, usual = np.where(among_M, 0.0, values.up_M), values.rate_M, self._master
        values.up_M = np.where(among_M, values.up_M, 0.0)
        values.rate_M = np.where(among_M, rates, 0.0)
        self._master = program or usual
        try:
            return self._solve(grows=False)
        finally:
            self._master = usual
            values.up_M = np.where(among_M, values.up_M, others)
            values.rate_M = np.where(among_M, values.rate_M, rates)

    def _solve(self, *, grows: bool) -> Choice | None:
        """Solve over all multisets that are bounded by more than 0."""
        values = self.values
        active = np.flatnonzero((values.pool.kind_MD >= 0).sum(axis=1) == 1)
        if values.best:
            active = np.union1d(active, np.array(sorted(values.best), dtype=int))
        relaxed = self._relaxed(active, grows=grows)
        if relaxed is None:
            return None
        best = self._incumbent()
        bound = self.master.bound_of(self._family_gain(relaxed, 0.0, grows=grows), values.up_M)
        closed, hopeful, turns = False, False, 0
        while not self._late():
            # first the program by what templates may reach at most, which bounds it; then by what those priced do
            value = self._worth(best)
            if grows and self._grown(relaxed, value):
                relaxed = self._relaxed(relaxed.active, grows=grows)
                if relaxed is None:
                    return None
                continue
            near, rest = self._near(relaxed, value)
            if values.look_closer(near, relaxed.reduced_T):
                relaxed = self._relaxed(relaxed.active, grows=grows)
                if relaxed is None:
                    return None
                continue
            value_M = np.where(values.level_M == PRICED, values.rate_M, values.up_M) if hopeful else values.up_M
            try:
                answer = self.master.best(value_M, columns=near, time_limit=self._seconds(), seed=self._budget.seed)
            except TimeLimitError:
                break
            if answer is None:
                if not hopeful:  # the demand is met in fractions alone
                    return None
                break
            used = np.flatnonzero(answer.copies_T)
            fresh = used[values.level_M[used] < PRICED]
            if not hopeful:
                # what contains a column that was left out is bounded by its reduced cost
                gain = self._family_gain(relaxed, rest, grows=grows)
                left_out = self.master.bound_of(gain, values.up_M) if gain > -math.inf else answer.bound
                found = max(answer.bound, left_out) if self._demand is None else min(answer.bound, left_out)
                bound = min(bound, found) if self._demand is None else max(bound, found)
                closed = answer.proven and not fresh.size
            if best is not None and self._distance(best, bound) <= _CLOSE:
                break
            turns += 1
            if best is not None and turns > _TURNS and self._distance(best, bound) <= _NEAR_ENOUGH:
                break
            if fresh.size:
                values.price_ordered(fresh, relaxed.reduced_T)
                best = self._incumbent() or best
                if not hopeful:
                    relaxed = self._relaxed(relaxed.active, grows=grows)
                    if relaxed is None:
                        return None
            elif hopeful or not answer.proven:
                break
            else:
                hopeful = True
            self._budget.report("choosing replicas", 0.5)
        if best is None:
            best = self._incumbent()
        if best is None:
            if self._late():
                raise TimeLimitError(f"no choice of replicas was found within {self._budget.time_limit:g} s")
            return None
        copies_T = self._copies(best)
        used = np.flatnonzero(copies_T)
        return Choice(
            templates=values.best_of(used.tolist()),
            copies_T=copies_T[used],
            fills=dict(best.fills),
            bound=bound,
            proven=closed,
            price_C=relaxed.price_C,
            passed_over=self._passed_over(relaxed, copies_T),
        )

    def _passed_over(self, relaxed: PoolRelaxation, copies_T: IntArray) -> tuple[Alternative, ...]:
        values = self.values
        rows = np.flatnonzero((copies_T == 0) & (values.rate_M > 0))
        rows = rows[np.argsort(-relaxed.reduced_T[rows], kind="stable")[:_TOLD]]
        found = []
        for row in rows.tolist():
            pairs = zip(values.pool.kind_MD[row].tolist(), values.pool.count_MD[row].tolist(), strict=True)
            stages = tuple((values.kinds[j], n) for j, n in pairs if j >= 0)
            worth = sum(float(relaxed.price_C[kind.node_class]) * kind.tp * n for kind, n in stages)
            found.append(Alternative(stages=stages, rate=float(values.rate_M[row]), worth=worth))
        return tuple(found)

    def _relaxed(self, active: IntArray, *, grows: bool) -> PoolRelaxation | None:
        """Solve without whole numbers, and price what that rests on until it rests on nothing else.

        Where the pool grows, it does until nothing outside is worth more than its price.
        """
        values = self.values
        while True:
            relaxed = self.master.relax(values.up_M, active)
            if relaxed is None or relaxed.value == 0.0:
                return None
            active = relaxed.active
            support = np.flatnonzero(relaxed.copies_T > 1e-9)
            if self._late() and values.best:
                return relaxed
            if values.tighten(support, relaxed.reduced_T):
                continue
            if not grows or not self._grown(relaxed):
                return relaxed

    def _grown(self, relaxed: PoolRelaxation, better_than: float | None = None) -> bool:
        """Add what is worth more than its price, or what a better plan may contain; False where nothing was added."""
        if self._unlisted is None or better_than == -math.inf:
            return False
        dual = prices_of(self.master, relaxed, self._cost_J)
        if better_than is None:
            added = self._unlisted.add_worthwhile(dual)
        else:
            added = self._unlisted.add_better(dual, better_than)
        if added:
            self._master = None
        return added > 0

    def _family_gain(self, relaxed: PoolRelaxation, rest: float, *, grows: bool) -> float:
        """Bound the program's objective with any column that it leaves out; the best reduced cost in the pool given."""
        gain = relaxed.value + rest
        if self._unlisted is None or not grows:
            return gain
        return max(gain, self._unlisted.gain(prices_of(self.master, relaxed, self._cost_J)))

    def _near(self, relaxed: PoolRelaxation, value: float) -> tuple[IntArray, float]:
        """Multisets that a better plan may contain, and the best reduced cost of those left out."""
        near = np.flatnonzero(relaxed.reduced_T >= value - relaxed.value - 1e-9 * abs(relaxed.value))
        if len(near) <= _MOST_COLUMNS:
            return near, -math.inf
        order = near[np.argsort(-relaxed.reduced_T[near], kind="stable")]
        return np.sort(order[:_MOST_COLUMNS]), float(relaxed.reduced_T[order[_MOST_COLUMNS]])

    def _incumbent(self) -> MasterSolution | None:
        rate_M = self.values.rate_M
        rows = np.flatnonzero(rate_M > 0)
        return self.master.best(rate_M, columns=rows, time_limit=self._seconds(), seed=self._budget.seed)

    def _worth(self, best: MasterSolution | None) -> float:
        """Objective of a choice in the program's own terms; minus infinity for none."""
        if best is None:
            return -math.inf
        return self.master.worth(self._copies(best), self.values.rate_M, self.values.up_M)

    def _copies(self, best: MasterSolution) -> IntArray:
        """Copies of a choice from a pool that may have grown since."""
        return np.pad(best.copies_T, (0, len(self.values.up_M) - len(best.copies_T)))

    def _distance(self, best: MasterSolution, bound: float) -> float:
        worth_T = self.values.rate_M if self._demand is None else self.master.problem.cost_T
        return abs(bound - float(worth_T @ self._copies(best))) / max(abs(bound), 1e-300)

    def _seconds(self) -> float:
        return max(self._budget.remaining() / 2, _LEAST_SECONDS)

    def _late(self) -> bool:
        return self._budget.remaining() <= self._kept * self._budget.time_limit
