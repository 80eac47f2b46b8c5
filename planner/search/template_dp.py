"""What the pool leaves out: every multiset of stages that is worth its price, by a dynamic program over layers.

Given what a stage of each kind costs, by the prices of the master's linear program, a replica of S stages at decode
batch b and stage time T is worth its rate, and costs its stages. At T a stage of kind j holds `cap_j` layers
(`planner.search.template_caps`), so the cheapest replica is a cover: ``f_s(l) = min_j f_(s-1)(l - cap_j) + price_j``,
whatever the number of kinds. The largest ratio of worth to cheapest price, over all (S, b, T), bounds what everything
outside a pool could add (Farley's bound), and what is worth more than its price can be listed.

Stage times are looked at in intervals, at whose end the caps are read and at whose start the rate, which can only
promise too much; those that promise more than prices allow are divided, down to the times at which caps change. Links,
the way through all stages and the first token are left out, so that nothing here promises less than
`CapacityForm.bound`, but for what that allows itself for speed.

Legend: E (decode batch, interval of stage times), J stage kind, S stages, L length in layers, N way.

References
----------
A. A. Farley, "A note on bounding a class of linear programming problems, including cutting stock problems", Operations
Research 38(5), 1990.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.search.stage_times import ENDLESS, Instances, Lengths, StageTimes
from planner.solvers.covers import least_prices, list_covers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from planner.cost._types import Array, IntArray
    from planner.search.capacity_tables import CapacityTables
    from planner.search.problem import ServingProblem
    from planner.search.templates import StageKind

__all__ = ["Prices", "TemplateDp"]

_STEPS: Final = (1.04, 1.01, 1.0025)  # of stage times, ever finer
_AT_ONCE: Final = 256  # instances of the dynamic program: their arrays stay in cache
_LISTED_AT_ONCE: Final = 128  # instances whose tables for every kind are held at a time
_HALVINGS: Final = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What stages cost, and what rates are worth.

    Parameters
    ----------
    stage_J
        Price of a stage of each kind, > 0.
    worth
        Of a request/s.
    demand
        Rate beyond which more is worth nothing; None: no such rate.
    """

    stage_J: Array
    worth: float = 1.0
    demand: float | None = None

    def of_rate(self, rate: Array) -> Array:
        """What rates are worth."""
        return self.worth * (rate if self.demand is None else np.minimum(rate, self.demand))


@dataclass(frozen=True, slots=True)
class _Found:
    """Instances at which something is worth it: lengths, worth, and the cheapest price there."""

    lengths: Lengths
    worth_E: Array
    cheapest_E: Array


class TemplateDp:
    """Prices all multisets of one family at once.

    Parameters
    ----------
    form
        The caps.
    problem, kinds
        What is to be served, and the stage kinds.
    depth
        Most stages.
    """

    def __init__(self, form: CapacityTables, problem: ServingProblem, kinds: Sequence[StageKind], depth: int) -> None:
        self._tables, self._depth = form.tables, depth
        self._times = StageTimes(form)
        self._length = self._times.length
        self._class_J = np.array([kind.node_class for kind in kinds])
        self._tp_J = np.array([kind.tp for kind in kinds])
        self._room_C = np.array([c.num_gpus for c in problem.cluster.classes])
        everything = np.arange(len(kinds))
        if not problem.engine.mixed_gpu_types:
            self._families = [everything[[j]] for j in everything]
        elif problem.engine.tensor_parallel == "uniform":
            self._families = [everything[self._tp_J == tp] for tp in sorted(set(self._tp_J.tolist()))]
        else:
            self._families = [everything]
        self.instances = 0

    @property
    def size(self) -> int:
        """Kinds times stages."""
        return len(self._tp_J) * self._depth

    def ratio(self, prices: Prices, *, least: float = 1.0, exact: bool = False) -> float:
        """How much more than its price any replica is worth, at most, if that is more than `least`.

        Parameters
        ----------
        prices
            At which.
        least
            What is of interest.
        exact
            Whether stage times are divided until that is exact, or looked at once, in intervals of a few percent.
        """
        for kinds, stages in self._parts():
            steps = (*_STEPS, None) if exact else _STEPS[:1]
            found = self._promising(prices, kinds, stages, _over(least), steps)
            least = max(least, float((found.worth_E / found.cheapest_E).max(initial=0.0)))
        return least

    def worthwhile(
        self, prices: Prices, most: Callable[[Array], Array], limit: int, late: Callable[[], bool] = lambda: False
    ) -> IntArray | None:
        """Multisets that cost no more than so much for what they are worth, as counts of each kind.

        Parameters
        ----------
        prices
            At which.
        most
            The highest price of something that is worth so much.
        limit
            Most ways of one number of stages that may come up.
        late
            Whether time is up.

        Returns
        -------
        ndarray of shape (M, J) or None
            None if time is up, or there are more than the limit.
        """
        ways = []
        for kinds, stages in self._parts():
            if late():
                return None
            found = self._promising(prices, kinds, stages, most, _STEPS)
            listed = self._listed(prices, kinds, stages, found, most, limit)
            if listed is None:
                return None
            count_NJ = np.zeros((len(listed), len(self._tp_J)), dtype=np.int64)
            count_NJ[:, kinds] = listed
            ways.append(count_NJ)
        return np.concatenate(ways)

    def _parts(self) -> Iterator[tuple[IntArray, int]]:
        for kinds in self._families:
            for stages in range(1, self._depth + 1):
                yield kinds, stages

    def _promising(
        self,
        prices: Prices,
        kinds: IntArray,
        stages: int,
        most: Callable[[Array], Array],
        steps: Sequence[float | None],
    ) -> _Found:
        """Decode batches and stage times at which some replica may cost no more than it may."""
        times, price_J = self._times, prices.stage_J[kinds]
        some = self._widest(prices, kinds, stages, most)
        for step in steps:
            some = times.divided(some, step) if step is not None else times.breaks(some, kinds, stages)
            lengths = times.lengths(some, kinds, stages)
            worth_E = self._worth(prices, some)
            limit_E = most(worth_E)
            near = np.flatnonzero(self._at_least(lengths, price_J, stages) <= limit_E)
            some, lengths, worth_E, limit_E = some.take(near), lengths.take(near), worth_E[near], limit_E[near]
            cheapest_E = self._cheapest(lengths, price_J, stages)
            near = np.flatnonzero(cheapest_E <= limit_E)
            some, lengths, worth_E, cheapest_E = some.take(near), lengths.take(near), worth_E[near], cheapest_E[near]
        return _Found(lengths, worth_E, cheapest_E)

    def _worth(self, prices: Prices, some: Instances) -> Array:
        tables = self._tables
        return prices.of_rate(tables.grid_G[some.at_E] / (tables.demand.output * some.low_E))

    def _widest(self, prices: Prices, kinds: IntArray, stages: int, most: Callable[[Array], Array]) -> Instances:
        """One interval for each decode batch, to the time at which nothing is worth its price any more."""
        some = self._times.all(kinds, stages)
        # even with all that the memory holds
        endless = Instances(some.at_E, some.low_E, np.full(len(some.at_E), ENDLESS))
        cheapest_E = self._at_least(self._times.lengths(endless, kinds, stages), prices.stage_J[kinds], stages)
        start_E, end_E = some.low_E, some.high_E
        for _ in range(_HALVINGS):
            middle_E = np.sqrt(start_E * end_E)
            worth_it = most(self._worth(prices, Instances(some.at_E, middle_E, middle_E))) >= cheapest_E
            start_E, end_E = np.where(worth_it, middle_E, start_E), np.where(worth_it, end_E, middle_E)
        able_E = (some.low_E <= some.high_E) & (most(self._worth(prices, some)) >= cheapest_E)
        return Instances(some.at_E, some.low_E, np.minimum(end_E, some.high_E)).take(able_E)

    def _at_least(self, lengths: Lengths, price_J: Array, stages: int) -> Array:
        """A price below which no replica is, quickly: middle stages divisible."""
        if stages == 1:
            whole = lengths.both_EJ >= self._length
            return np.asarray(np.where(whole, price_J, np.inf).min(axis=1, initial=np.inf))
        usable = lengths.middle_EJ > 0
        with np.errstate(divide="ignore"):
            share_E = np.where(usable, price_J / lengths.middle_EJ, np.inf).min(axis=1, initial=np.inf)
        one_E = np.where(usable, price_J, np.inf).min(axis=1, initial=np.inf)
        lost_E = self._lost(lengths)
        found = np.maximum((self._length + lost_E) * share_E, stages * one_E)
        return np.asarray(np.where(np.isfinite(share_E), found, np.inf))

    def _lost(self, lengths: Lengths) -> IntArray:
        """Length that first and last stage lack of a middle one, at least."""
        usable, none = lengths.middle_EJ > 0, np.iinfo(np.int64).max
        lost = [
            np.where(usable, lengths.middle_EJ - end, none).min(axis=1, initial=none)
            for end in (lengths.first_EJ, lengths.last_EJ)
        ]
        return np.asarray(np.where(usable.any(axis=1), lost[0] + lost[1], 0))

    def _cheapest(self, lengths: Lengths, price_J: Array, stages: int) -> Array:
        """Least price of any replica; infinite where there is none."""
        if stages == 1:
            return self._at_least(lengths, price_J, stages)
        found_E = np.full(len(lengths.middle_EJ), np.inf)
        for i in range(0, len(found_E), _AT_ONCE):
            part = lengths.take(slice(i, i + _AT_ONCE))
            self.instances += len(part.middle_EJ)
            table_SEL = least_prices(part.middle_EJ, price_J, stages - 1, self._length)
            found_E[i : i + _AT_ONCE] = self._with_ends(part, table_SEL, price_J, stages)
        return found_E

    def _with_ends(self, part: Lengths, table_SEL: Array, price_J: Array, stages: int) -> Array:
        """Complete middle stages by the best first and last one, or by one that lacks what either lacks."""
        index_E = np.arange(len(part.middle_EJ))
        usable = part.middle_EJ > 0
        cost_EJ = np.where(usable, price_J, np.inf)
        left = np.maximum(self._length - part.both_EJ, 0)
        best_E = (table_SEL[stages - 1][index_E[:, None], left] + cost_EJ).min(axis=1, initial=np.inf)
        rest = np.maximum(self._length - part.first_EJ[:, :, None] - part.last_EJ[:, None, :], 0)
        two = table_SEL[stages - 2][index_E[:, None, None], rest] + cost_EJ[:, :, None] + cost_EJ[:, None, :]
        return np.asarray(np.minimum(best_E, two.min(axis=(1, 2), initial=np.inf)))

    def _listed(
        self,
        prices: Prices,
        kinds: IntArray,
        stages: int,
        found: _Found,
        most: Callable[[Array], Array],
        limit: int,
    ) -> IntArray | None:
        """Multisets that cover the layers at some instance for no more than they may cost; None if too many."""
        price_J, ways = prices.stage_J[kinds], [np.zeros((0, len(kinds)), dtype=np.int64)]
        for i in range(0, len(found.worth_E), _LISTED_AT_ONCE):
            part = found.lengths.take(slice(i, i + _LISTED_AT_ONCE))
            length_EJ = part.both_EJ if stages == 1 else part.middle_EJ
            lost_E = np.zeros(len(length_EJ), dtype=np.int64) if stages == 1 else self._lost(part)
            covers = list_covers(
                length_EJ,
                price_J,
                stages,
                self._length + lost_E,
                most(found.worth_E[i : i + _LISTED_AT_ONCE]),
                size_J=self._tp_J[kinds],
                group_J=self._class_J[kinds],
                room=self._room_C,
                limit=limit,
            )
            if covers is None:
                return None
            if stages > 1:  # now that the kinds are known, so is what first and last stage lack at least
                used_NJ = covers.count_NJ > 0
                here = part.take(covers.instance_N)
                total_N = (covers.count_NJ * here.middle_EJ).sum(axis=1)
                for end in (here.first_EJ, here.last_EJ):
                    total_N -= np.where(used_NJ, here.middle_EJ - end, self._length).min(axis=1, initial=self._length)
                covers = covers.take(total_N >= self._length)
            ways.append(_distinct(covers.count_NJ))
            if sum(len(part) for part in ways) > limit:
                return None
        return _distinct(np.concatenate(ways))


def _over(ratio: float) -> Callable[[Array], Array]:
    """The highest price of what is worth more than a multiple of it."""
    return lambda worth_E: worth_E / max(ratio, 1e-12)


def _distinct(count_NJ: IntArray) -> IntArray:
    """Rows that differ, in an order that depends on nothing but them."""
    weight_J = np.random.default_rng(0).integers(1, 2**62, size=count_NJ.shape[1])
    with np.errstate(over="ignore"):
        mark_N = count_NJ @ weight_J
    order_N = np.argsort(mark_N, kind="stable")
    mark_N, count_NJ = mark_N[order_N], count_NJ[order_N]
    # rows of one mark are almost surely the same; those that are not all stay
    same_N = np.zeros(len(mark_N), dtype=bool)
    alike = np.flatnonzero(mark_N[1:] == mark_N[:-1])
    same_N[alike + 1] = (count_NJ[alike + 1] == count_NJ[alike]).all(axis=1)
    return np.asarray(count_NJ[~same_N])
