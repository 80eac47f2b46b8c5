"""What the multisets of a pool are worth, looked at as closely as it takes.

Every multiset of stages has a value that it cannot exceed, at one of four depths: roughly, by its capacities, by its
capacities in every order of its kinds with their links, and priced with exact layer splits (`template_caps`,
`template_pricer`). Looking closer can only lower it. A pool may grow.

Legend: M multiset, J stage kind, B sequence of stages.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.search.template_caps import CapacityForm
from planner.search.template_pool import MultisetPool, multisets_of, orders
from planner.search.templates import Templates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.cost._types import Array, BoolArray, IntArray
    from planner.search.problem import ServingProblem
    from planner.search.template_pricer import TemplatePricer
    from planner.search.templates import StageKind

__all__ = ["CAPS", "ORDERED", "PRICED", "ROUGH", "PoolValues"]

ROUGH, CAPS, ORDERED, PRICED = 0, 1, 2, 3
_CAPS_AT_ONCE: Final = 3000  # multisets bounded by capacities in one go
_ORDERED_AT_ONCE: Final = 40  # multisets bounded in every order in one go
_PRICED_AT_ONCE: Final = 8  # multisets priced in one go, beside those that must be
_ATTRACTIVE: Final = 0.1  # of a multiset's value: by how much its room may be worth more, for it to be looked at again
_MOST_ORDERS: Final = 24  # sequences of one multiset that are bounded one by one: those of four kinds
_ORDERS_PRICED: Final = 3
_CLOSE: Final = 1e-5  # relative distance of what was reached and what others promise at which those are left


class PoolValues:
    """Values of one pool.

    Parameters
    ----------
    problem, kinds, pricer, pool
        What is to be served, and the multisets to serve it with.
    depth
        Most stages that any multiset may have.

    Attributes
    ----------
    up_M, rate_M
        Requests/s that a multiset does not exceed; those of the best template of it that was priced, 0 for none.
    level_M
        Depth at which it was looked at.
    best
        That template.
    priced
        How many templates were priced.
    """

    def __init__(
        self,
        problem: ServingProblem,
        kinds: Sequence[StageKind],
        pricer: TemplatePricer,
        pool: MultisetPool,
        depth: int,
    ) -> None:
        self.problem, self.kinds, self.pool, self._pricer, self._depth = problem, kinds, pool, pricer, depth
        self.form = CapacityForm(pricer.tables, depth)
        self.up_M = self.form.rough(pool)
        self.rate_M = np.zeros(len(self.up_M))
        self.level_M = np.zeros(len(self.up_M), dtype=np.int8)
        self.best: dict[int, Templates] = {}
        # orders of each multiset that are not priced yet, by what they are bounded by; an empty one for all others
        self._orders: dict[int, list[tuple[float, tuple[int, ...]]]] = {}
        self.priced = 0

    def at(self, *levels: int) -> IntArray:
        """Multisets that were looked at so closely, and may be worth something."""
        return np.flatnonzero(np.isin(self.level_M, levels) & (self.up_M > 0))

    def extend(self, count_MJ: IntArray, up_M: Array) -> None:
        """Add multisets that are bounded by their capacities."""
        self.pool = self.pool.joined(multisets_of(count_MJ))
        self.up_M = np.concatenate([self.up_M, up_M])
        self.rate_M = np.concatenate([self.rate_M, np.zeros(len(up_M))])
        self.level_M = np.concatenate([self.level_M, np.full(len(up_M), CAPS, dtype=np.int8)])

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

    def alone(self) -> list[float]:
        """Requests/s of the best pool of each node class alone, at most."""
        found = []
        class_J = np.array([kind.node_class for kind in self.kinds])
        tp_J = np.array([kind.tp for kind in self.kinds])
        class_MD = np.where(self.pool.kind_MD >= 0, class_J[self.pool.kind_MD], -1)
        for c, node_class in enumerate(self.problem.cluster.classes):
            rows = np.flatnonzero(((class_MD == c) | (class_MD == -1)).all(axis=1) & (self.up_M > 0))
            gpus = (tp_J[self.pool.kind_MD[rows]] * self.pool.count_MD[rows]).sum(axis=1)
            best = (self.up_M[rows] / gpus).max(initial=0.0) * node_class.num_gpus
            found.append(float(best))
        return found

    def most_wanted(self, rows: IntArray, reduced_M: Array, most: int) -> IntArray:
        """Those that are worth most beyond their price, for what they serve."""
        share = reduced_M[rows] / np.maximum(self.up_M[rows], 1e-300)
        return np.asarray(rows[np.argsort(-share, kind="stable")[:most]])

    def tighten(self, rows: IntArray, reduced_M: Array) -> bool:
        """Look one step closer at some multisets, and at others that promise most; False where all of them are priced.

        Parameters
        ----------
        rows
            The multisets; those that were looked at least are the ones that are taken.
        reduced_M
            What a copy is worth beyond its price, in units of what it serves.
        """
        rough = rows[self.level_M[rows] == ROUGH]
        if rough.size:
            wanted = self.most_wanted(self.at(ROUGH), reduced_M, _CAPS_AT_ONCE)
            self.bound_by_caps(np.union1d(rough, wanted), reduced_M)
            return True
        loose = rows[self.level_M[rows] == CAPS]
        if loose.size:
            self.bound_orders(np.union1d(loose, self.most_wanted(self.at(CAPS), reduced_M, _ORDERED_AT_ONCE)))
            return True
        fresh = rows[self.level_M[rows] == ORDERED]
        if fresh.size:
            self.price(np.union1d(fresh, self.most_wanted(self.at(ORDERED), reduced_M, _PRICED_AT_ONCE)))
        return bool(fresh.size)

    def look_closer(self, rows: IntArray, reduced_M: Array) -> bool:
        """Bound those of some multisets more tightly that are not yet; False where all are."""
        rough = rows[self.level_M[rows] == ROUGH]
        if rough.size:
            wanted = self.most_wanted(self.at(ROUGH), reduced_M, _CAPS_AT_ONCE)
            self.bound_by_caps(np.union1d(rough, wanted), reduced_M)
            return True
        best = self.most_wanted(rows, reduced_M, _ORDERED_AT_ONCE)
        loose = best[self.level_M[best] == CAPS]
        if loose.size:
            self.bound_orders(loose)
        return bool(loose.size)

    def bound_by_caps(self, rows: IntArray, reduced_M: Array) -> None:
        """Bound multisets by their capacities, those that are still attractive at every batch that may matter."""
        before = self.up_M[rows]
        self.up_M[rows] = np.minimum(before, self.form.bound(self.pool.take(rows), scans=0))
        reduced = reduced_M[rows] + self.up_M[rows] - before
        rows_ = rows[(reduced > -_ATTRACTIVE * self.up_M[rows]) & (self.up_M[rows] > 0)]
        if rows_.size:
            self.up_M[rows_] = np.minimum(self.up_M[rows_], self.form.bound(self.pool.take(rows_)))
        self.level_M[rows] = CAPS

    def bound_orders(self, rows: IntArray) -> None:
        """Bound multisets in every order of their kinds, or by their ends where there are too many orders."""
        sequences: list[tuple[int, ...]] = []
        owner: list[int] = []
        for row in rows.tolist():
            found = orders(self.pool.kind_MD[row], self.pool.count_MD[row], _MOST_ORDERS)
            sequences += found
            owner += [row] * len(found)
        owner_B = np.array(owner, dtype=int)
        kinds_BS = np.full((len(sequences), int(self.pool.stages_M[rows].max())), -1)
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
        self.level_M[rows] = ORDERED

    def price(self, rows: IntArray) -> None:
        """Price multisets in the orders that promise most, until no other promises more than was reached."""
        pending = rows.tolist()
        reached: dict[int, float] = dict.fromkeys(pending, 0.0)
        while pending:
            # a few at first, then all that promise more than these reached: calls cost more than what is in them
            turn = {
                row: [
                    q
                    for i, (promised, q) in enumerate(self._orders[row])
                    if q and (i < _ORDERS_PRICED or (row in self.best and promised > self.rate_M[row] * (1 + _CLOSE)))
                ]
                for row in pending
            }
            owner_B = np.array([row for row in pending for _ in turn[row]], dtype=int)
            priced = self._pricer.price([q for row in pending for q in turn[row]])
            self.priced += len(owner_B)
            bound_B = np.minimum(priced.bound_B, self.form.bound_orders(self.pool.take(owner_B), priced.kinds_BS))
            following = []
            for row in pending:
                mine = np.flatnonzero(owner_B == row)
                best = int(mine[np.argmax(priced.rate_B[mine])])
                reached[row] = max(reached[row], float(bound_B[mine].max()))
                if row not in self.best or priced.rate_B[best] > self.rate_M[row]:
                    self.rate_M[row] = priced.rate_B[best]
                    self.best[row] = priced.take([best]).padded(self._depth, self.problem.model.num_layers)
                self._orders[row] = self._orders[row][len(turn[row]) :]
                others = self._orders[row][0] if self._orders[row] else (0.0, ())
                if others[1] and others[0] > self.rate_M[row] * (1 + _CLOSE):
                    following.append(row)
                    continue
                self.up_M[row] = max(min(self.up_M[row], max(reached[row], others[0])), self.rate_M[row])
            pending = following
        self.level_M[rows] = PRICED

    def price_ordered(self, rows: IntArray, reduced_M: Array) -> None:
        """Price some multisets whatever is known of them, and a few that promise most beside them."""
        loose = rows[self.level_M[rows] < ORDERED]
        if loose.size:
            self.bound_orders(loose)
        self.price(np.union1d(rows, self.most_wanted(self.at(ORDERED), reduced_M, _PRICED_AT_ONCE)))

    def best_of(self, rows: Sequence[int]) -> Templates:
        """Return the best template found of each of some priced multisets."""
        return Templates.join([self.best[int(row)] for row in rows])

    @property
    def looked_at(self) -> dict[str, int]:
        """What was looked at, and how closely."""
        return {
            "multisets": len(self.up_M),
            "feasible": int((self.up_M > 0).sum()),
            "bounded": int((self.level_M >= CAPS).sum()),
            "templates": self.priced,
        }

    def polished(self, templates: Templates) -> Templates:
        """Move single layers of chosen templates as long as that helps."""
        return self._pricer.polished(templates)
