"""Which templates to use, and how many: the master program over a pool that is priced only where it matters.

Every multiset of stages has a value that it cannot exceed, at one of four depths: roughly, by its capacities, by its
capacities in every order of its kinds with their links, and priced with exact layer splits (`template_caps`,
`template_pricer`). The program over these values bounds every plan. Its answer is looked at more closely wherever it is
not priced, which can only lower the bound, until it rests on priced templates alone. Multisets whose reduced cost says
that no better plan contains them are left as they are. The plan itself is the program's answer over the priced
templates by what they really reach.

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
from planner.search.template_caps import CapacityForm
from planner.search.template_pool import MultisetPool, orders
from planner.search.templates import Templates
from planner.solvers.master import Master, MasterProblem, MasterSolution, PoolRelaxation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.cost._types import Array, BoolArray, IntArray
    from planner.search.problem import Budget, ServingProblem
    from planner.search.template_pricer import TemplatePricer
    from planner.search.templates import StageKind

__all__ = ["Choice", "TemplateChooser"]

_ROUGH, _CAPS, _ORDERED, _PRICED = 0, 1, 2, 3
_CAPS_AT_ONCE: Final = 3000  # multisets bounded by capacities in one go
_ATTRACTIVE: Final = 0.1  # of a multiset's value: by how much its room may be worth more, for it to be looked at again
_ORDERED_AT_ONCE: Final = 40  # multisets bounded in every order in one go
_PRICED_AT_ONCE: Final = 8  # multisets priced in one go, beside those that the program wants
_MOST_ORDERS: Final = 24  # sequences of one multiset that are bounded one by one: those of four kinds
_ORDERS_PRICED: Final = 3
_MOST_COLUMNS: Final = 400  # of an integer program; the others enter its bound by their reduced cost
_TOLD: Final = 5  # replicas that are told of, though not chosen
_TURNS: Final = 6  # programs after which a plan near enough to the bound will do
_NEAR_ENOUGH: Final = 2e-3
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
    """Chooses from one pool.

    Parameters
    ----------
    problem, kinds, pricer, pool
        What is to be served, and the multisets to serve it with.
    budget
        Time, and who is told.
    """

    def __init__(
        self,
        problem: ServingProblem,
        kinds: Sequence[StageKind],
        pricer: TemplatePricer,
        pool: MultisetPool,
        budget: Budget,
    ) -> None:
        self.problem, self.kinds, self.pool, self._pricer, self._budget = problem, kinds, pool, pricer, budget
        self.form = CapacityForm(pricer.tables, int(pool.stages_M.max()))
        self.up_M = self.form.rough(pool)
        self.rate_M = np.zeros(len(self.up_M))
        self._level_M = np.zeros(len(self.up_M), dtype=np.int8)
        self._best: dict[int, Templates] = {}
        # orders of each multiset that are not priced yet, by what they are bounded by; an empty one for all others
        self._orders: dict[int, list[tuple[float, tuple[int, ...]]]] = {}
        self.priced = 0

    @property
    def looked_at(self) -> dict[str, int]:
        """What was looked at, and how closely."""
        return {
            "multisets": len(self.up_M),
            "feasible": int((self.up_M > 0).sum()),
            "bounded": int((self._level_M >= _CAPS).sum()),
            "templates": self.priced,
        }

    def master(self, cost_J: Array, demand: float | None = None) -> Master:
        """Write the program: greatest value, or least cost of a value that meets the demand."""
        classes = self.problem.cluster.classes
        chunks_MJ = self.pool.chunks_MJ(len(self.kinds))
        return Master(
            MasterProblem(
                value_T=self.up_M,
                cost_T=(chunks_MJ @ np.asarray(cost_J)).astype(float),
                chunks_TJ=chunks_MJ,
                class_J=np.array([k.node_class for k in self.kinds]),
                size_J=np.array([k.tp for k in self.kinds]),
                bin_size_C=np.array([c.gpus_per_node for c in classes]),
                bins_C=np.array([len(c.nodes) for c in classes]),
            ),
            demand=demand,
        )

    def polished(self, templates: Templates) -> Templates:
        """Move single layers of chosen templates as long as that helps."""
        return self._pricer.polished(templates)

    def choose(self, master: Master) -> Choice | None:
        """Solve the program; None if no choice meets the demand, or nothing can serve.

        Replicas with one TP throughout are chosen from first: they are few, and most of what is best is among them.

        Raises
        ------
        TimeLimitError
            If the time passes before any choice is found.
        """
        uniform_M = self.parts()["one TP"]
        if not uniform_M.all():
            with suppress(TimeLimitError):
                self.choose_among(master, uniform_M)
        return self._solve(master)

    def choose_among(self, master: Master, among_M: BoolArray) -> Choice | None:
        """Solve the program over some of the multisets."""
        others = np.where(among_M, 0.0, self.up_M)
        self.up_M = np.where(among_M, self.up_M, 0.0)
        rates = self.rate_M
        self.rate_M = np.where(among_M, rates, 0.0)
        try:
            return self._solve(master)
        finally:
            self.up_M = np.where(among_M, self.up_M, others)
            self.rate_M = np.where(among_M, self.rate_M, rates)

    def parts(self) -> dict[str, BoolArray]:
        """Parts of the pool that depend less on links than the whole, by name."""
        there_MD = self.pool.kind_MD >= 0
        tp_J = np.array([kind.tp for kind in self.kinds])
        class_J = np.array([kind.node_class for kind in self.kinds])
        size_J = np.array([self.problem.cluster.classes[kind.node_class].gpus_per_node for kind in self.kinds])
        first_MD = np.where(there_MD, self.pool.kind_MD, self.pool.kind_MD[:, :1])
        one_class_M = (class_J[first_MD] == class_J[first_MD[:, :1]]).all(axis=1)
        gpus_M = (np.where(there_MD, tp_J[self.pool.kind_MD], 0) * self.pool.count_MD).sum(axis=1)
        return {
            "one TP": np.asarray((tp_J[first_MD] == tp_J[first_MD[:, :1]]).all(axis=1)),
            "one node class": np.asarray(one_class_M),
            "one node": np.asarray(one_class_M & (gpus_M <= size_J[first_MD[:, 0]])),
        }

    def _solve(self, master: Master) -> Choice | None:
        """Solve over all multisets that are bounded by more than 0."""
        active = np.flatnonzero((self.pool.kind_MD >= 0).sum(axis=1) == 1)
        if self._best:
            active = np.union1d(active, np.array(sorted(self._best), dtype=int))
        relaxed = self._relaxed(master, active)
        if relaxed is None:
            return None
        best = self._incumbent(master)
        answer: MasterSolution | None = None
        bound = master.bound_of(relaxed.value, self.up_M)
        closed, hopeful, turns = False, False, 0
        while not self._late():
            # first the program by what templates may reach at most, which bounds it; then by what those priced do
            value = self._worth(master, best)
            near, rest = self._near(relaxed, value)
            if self.look_closer(near, relaxed):
                relaxed = self._relaxed(master, relaxed.active)
                if relaxed is None:
                    return None
                continue
            value_M = np.where(self._level_M == _PRICED, self.rate_M, self.up_M) if hopeful else self.up_M
            try:
                answer = master.best(value_M, columns=near, time_limit=self._seconds(), seed=self._budget.seed)
            except TimeLimitError:
                break
            if answer is None:
                if not hopeful:  # the demand is met in fractions alone
                    return None
                break
            used = np.flatnonzero(answer.copies_T)
            fresh = used[self._level_M[used] < _PRICED]
            if not hopeful:
                # what contains a column that was left out is bounded by its reduced cost
                left_out = master.bound_of(relaxed.value + rest, self.up_M) if rest > -math.inf else answer.bound
                found = max(answer.bound, left_out) if master.demand is None else min(answer.bound, left_out)
                bound = min(bound, found) if master.demand is None else max(bound, found)
                closed = answer.proven and not fresh.size
            if best is not None and self._distance(master, best, bound) <= _CLOSE:
                break
            turns += 1
            if best is not None and turns > _TURNS and self._distance(master, best, bound) <= _NEAR_ENOUGH:
                break
            if fresh.size:
                self._price_ordered(fresh, relaxed)
                best = self._incumbent(master) or best
                if not hopeful:
                    relaxed = self._relaxed(master, relaxed.active)
                    if relaxed is None:
                        return None
            elif hopeful or not answer.proven:
                break
            else:
                hopeful = True
            self._budget.report("choosing replicas", 0.5)
        if best is None:
            best = self._incumbent(master)
        if best is None:
            if self._late():
                raise TimeLimitError(f"no choice of replicas was found within {self._budget.time_limit:g} s")
            return None
        used = np.flatnonzero(best.copies_T)
        return Choice(
            templates=Templates.join([self._best[int(row)] for row in used]),
            copies_T=best.copies_T[used],
            fills=dict(best.fills),
            bound=bound,
            proven=closed,
            price_C=relaxed.price_C,
            passed_over=self._passed_over(relaxed, best.copies_T),
        )

    def alone(self) -> list[float]:
        """Requests/s of the best pool of each node class alone, at most."""
        found = []
        class_J = np.array([kind.node_class for kind in self.kinds])
        class_MD = np.where(self.pool.kind_MD >= 0, class_J[self.pool.kind_MD], -1)
        for c, node_class in enumerate(self.problem.cluster.classes):
            alone = ((class_MD == c) | (class_MD == -1)).all(axis=1) & (self.up_M > 0)
            rows = np.flatnonzero(alone)
            tp_J = np.array([kind.tp for kind in self.kinds])
            gpus = (tp_J[self.pool.kind_MD[rows]] * self.pool.count_MD[rows]).sum(axis=1)
            best = (self.up_M[rows] / gpus).max(initial=0.0) * node_class.num_gpus
            found.append(float(best))
        return found

    def _passed_over(self, relaxed: PoolRelaxation, copies_T: IntArray) -> tuple[Alternative, ...]:
        rows = np.flatnonzero((copies_T == 0) & (self.rate_M > 0))
        rows = rows[np.argsort(-relaxed.reduced_T[rows], kind="stable")[:_TOLD]]
        found = []
        for row in rows.tolist():
            pairs = zip(self.pool.kind_MD[row].tolist(), self.pool.count_MD[row].tolist(), strict=True)
            stages = tuple((self.kinds[j], n) for j, n in pairs if j >= 0)
            worth = sum(float(relaxed.price_C[kind.node_class]) * kind.tp * n for kind, n in stages)
            found.append(Alternative(stages=stages, rate=float(self.rate_M[row]), worth=worth))
        return tuple(found)

    def _relaxed(self, master: Master, active: IntArray) -> PoolRelaxation | None:
        """Solve without whole numbers, and price what that rests on until it rests on nothing else."""
        while True:
            relaxed = master.relax(self.up_M, active)
            if relaxed is None or relaxed.value == 0.0:
                return None
            active = relaxed.active
            support = np.flatnonzero(relaxed.copies_T > 1e-9)
            if (self._late() and self._best) or not self.tighten(support, relaxed):
                return relaxed

    def tighten(self, rows: IntArray, relaxed: PoolRelaxation) -> bool:
        """Look one step closer at some multisets, and at others that promise most; False where all of them are priced.

        Parameters
        ----------
        rows
            The multisets; those that were looked at least are the ones that are taken.
        relaxed
            Says what copies are worth to the whole, in units of what they serve.
        """
        rough = rows[self._level_M[rows] == _ROUGH]
        if rough.size:
            unbounded = np.flatnonzero((self._level_M == _ROUGH) & (self.up_M > 0))
            wanted = self._most_wanted(unbounded, relaxed, _CAPS_AT_ONCE)
            self._bound_by_caps(np.union1d(rough, wanted), relaxed)
            return True
        loose = rows[self._level_M[rows] == _CAPS]
        if loose.size:
            bounded = np.flatnonzero((self._level_M == _CAPS) & (self.up_M > 0))
            self._bound_orders(np.union1d(loose, self._most_wanted(bounded, relaxed, _ORDERED_AT_ONCE)))
            return True
        fresh = rows[self._level_M[rows] == _ORDERED]
        if not fresh.size:
            return False
        bounded = np.flatnonzero((self._level_M == _ORDERED) & (self.up_M > 0))
        self._price(np.union1d(fresh, self._most_wanted(bounded, relaxed, _PRICED_AT_ONCE)))
        return True

    def best_of(self, rows: Sequence[int]) -> Templates:
        """Return the best template found of each of some priced multisets."""
        return Templates.join([self._best[int(row)] for row in rows])

    @property
    def priced_M(self) -> BoolArray:
        """Which multisets are priced."""
        return np.asarray(self._level_M == _PRICED)

    def _price_ordered(self, rows: IntArray, relaxed: PoolRelaxation) -> None:
        """Price some multisets, and a few that promise most beside them."""
        loose = rows[self._level_M[rows] < _ORDERED]
        if loose.size:
            self._bound_orders(loose)
        bounded = np.flatnonzero((self._level_M == _ORDERED) & (self.up_M > 0))
        self._price(np.union1d(rows, self._most_wanted(bounded, relaxed, _PRICED_AT_ONCE)))

    def look_closer(self, near: IntArray, relaxed: PoolRelaxation) -> bool:
        """Bound those of some multisets more tightly that are not yet; False where all are."""
        rough = near[self._level_M[near] == _ROUGH]
        if rough.size:
            unbounded = np.flatnonzero((self._level_M == _ROUGH) & (self.up_M > 0))
            self._bound_by_caps(np.union1d(rough, self._most_wanted(unbounded, relaxed, _CAPS_AT_ONCE)), relaxed)
            return True
        best = self._most_wanted(near, relaxed, _ORDERED_AT_ONCE)
        loose = best[self._level_M[best] == _CAPS]
        if loose.size:
            self._bound_orders(loose)
        return bool(loose.size)

    def _near(self, relaxed: PoolRelaxation, value: float) -> tuple[IntArray, float]:
        """Multisets that a better plan may contain, and the best reduced cost of those left out."""
        near = np.flatnonzero(relaxed.reduced_T >= value - relaxed.value - 1e-9 * abs(relaxed.value))
        if len(near) <= _MOST_COLUMNS:
            return near, -math.inf
        order = near[np.argsort(-relaxed.reduced_T[near], kind="stable")]
        return np.sort(order[:_MOST_COLUMNS]), float(relaxed.reduced_T[order[_MOST_COLUMNS]])

    def _most_wanted(self, rows: IntArray, relaxed: PoolRelaxation, most: int) -> IntArray:
        share = relaxed.reduced_T[rows] / np.maximum(self.up_M[rows], 1e-300)
        return np.asarray(rows[np.argsort(-share, kind="stable")[:most]])

    def _bound_by_caps(self, rows: IntArray, relaxed: PoolRelaxation) -> None:
        """Bound multisets by their capacities, those that are still attractive at every batch that may matter."""
        before = self.up_M[rows]
        self.up_M[rows] = np.minimum(before, self.form.bound(self.pool.take(rows), scans=0))
        reduced = relaxed.reduced_T[rows] + self.up_M[rows] - before
        rows_ = rows[(reduced > -_ATTRACTIVE * self.up_M[rows]) & (self.up_M[rows] > 0)]
        if rows_.size:
            self.up_M[rows_] = np.minimum(self.up_M[rows_], self.form.bound(self.pool.take(rows_)))
        self._level_M[rows] = _CAPS

    def _bound_orders(self, rows: IntArray) -> None:
        """Bound multisets in every order of their kinds, or by their ends where there are too many orders."""
        sequences: list[tuple[int, ...]] = []
        owner: list[int] = []
        for row in rows.tolist():
            found = orders(self.pool.kind_MD[row], self.pool.count_MD[row])[:_MOST_ORDERS]
            sequences += found
            owner += [row] * len(found)
        owner_B = np.array(owner, dtype=int)
        kinds_BS = np.full((len(sequences), int(self.pool.stages_M.max())), -1)
        for b, sequence in enumerate(sequences):
            kinds_BS[b, : len(sequence)] = sequence
        bound_B = self.form.bound_orders(self.pool.take(owner_B), kinds_BS)
        distinct_M = (self.pool.kind_MD[rows] >= 0).sum(axis=1)
        many = rows[np.array([math.factorial(int(d)) > _MOST_ORDERS for d in distinct_M])]
        ends = dict(zip(many.tolist(), self.form.bound_ends(self.pool.take(many)), strict=True)) if many.size else {}
        for row in rows.tolist():
            mine = np.flatnonzero(owner_B == row)
            mine = mine[np.argsort(-bound_B[mine], kind="stable")]
            # what is not among these orders is bounded by the ends
            rest = [(float(ends[row]), ())] if row in ends else []
            self._orders[row] = [*((float(bound_B[b]), sequences[b]) for b in mine), *rest]
            self.up_M[row] = min(self.up_M[row], ends.get(row, bound_B[mine[0]]))
        self._level_M[rows] = _ORDERED

    def _price(self, rows: IntArray) -> None:
        """Price multisets in the orders that promise most, until no other promises more than was reached."""
        pending = rows.tolist()
        reached: dict[int, float] = dict.fromkeys(pending, 0.0)
        while pending:
            turn = {row: [q for _, q in self._orders[row][:_ORDERS_PRICED] if q] for row in pending}
            owner_B = np.array([row for row in pending for _ in turn[row]], dtype=int)
            priced = self._pricer.price([q for row in pending for q in turn[row]])
            self.priced += len(owner_B)
            bound_B = np.minimum(priced.bound_B, self.form.bound_orders(self.pool.take(owner_B), priced.kinds_BS))
            following = []
            for row in pending:
                mine = np.flatnonzero(owner_B == row)
                best = int(mine[np.argmax(priced.rate_B[mine])])
                reached[row] = max(reached[row], float(bound_B[mine].max()))
                if row not in self._best or priced.rate_B[best] > self.rate_M[row]:
                    self.rate_M[row] = priced.rate_B[best]
                    width = int(self.pool.stages_M.max())
                    self._best[row] = priced.take([best]).padded(width, self.problem.model.num_layers)
                self._orders[row] = self._orders[row][len(turn[row]) :]
                others = self._orders[row][0] if self._orders[row] else (0.0, ())
                if others[1] and others[0] > self.rate_M[row] * (1 + _CLOSE):
                    following.append(row)
                    continue
                self.up_M[row] = max(min(self.up_M[row], max(reached[row], others[0])), self.rate_M[row])
            pending = following
        self._level_M[rows] = _PRICED

    def _incumbent(self, master: Master) -> MasterSolution | None:
        rows = np.flatnonzero(self.rate_M > 0)
        return master.best(self.rate_M, columns=rows, time_limit=self._seconds(), seed=self._budget.seed)

    def _worth(self, master: Master, best: MasterSolution | None) -> float:
        """Objective of a choice in the program's own terms; minus infinity for none."""
        return -math.inf if best is None else master.worth(best.copies_T, self.rate_M, self.up_M)

    def _distance(self, master: Master, best: MasterSolution, bound: float) -> float:
        reached = float((self.rate_M if master.demand is None else master.problem.cost_T) @ best.copies_T)
        return abs(bound - reached) / max(abs(bound), 1e-300)

    def _seconds(self) -> float:
        return max(self._budget.remaining() / 2, _LEAST_SECONDS)

    def _late(self) -> bool:
        return self._budget.remaining() <= 0.15 * self._budget.time_limit
