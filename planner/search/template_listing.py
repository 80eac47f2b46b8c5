"""The part of a family that a pool leaves out: what prices it may not exceed, and which of it the pool should have.

After a listing at some prices, everything that is in no pool reaches less than ``u_J @ n_J + c`` requests/s, n_J being
its stages of each kind. At other prices of a later program that says what its reduced cost, or its worth for its price,
is at most: with that a bound over the pool becomes one over the family.

Legend: M multiset, J stage kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.search.template_dp import Prices, TemplateDp
from planner.search.template_pool import multisets_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from planner.cost._types import Array, IntArray
    from planner.search.template_values import PoolValues
    from planner.solvers.master import Master, PoolRelaxation

__all__ = ["DualPrices", "Unlisted", "prices_of"]

_FREE: Final = 1e-6  # of the objective: what all GPUs are taken to be worth at least, that nothing is free
_MOST_WAYS: Final = 60_000  # of one listing; more is bounded instead
_SLACK: Final = 0.99  # of its price that something is to be worth to join the pool: prices may fall a little
_FINE_SLACK: Final = 0.998
_NEARLY: Final = 0.2  # of a reduced cost: how much less of it than wanted will do
_FIRST_SLACKS: Final = (0.9, 0.7, 0.5, 0.3)  # where nothing in the pool can serve
_QUICK: Final = 150  # kinds times stages of a family that takes a fraction of a second
_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class _Line:
    """Everything unlisted reaches less than this."""

    stage_J: Array
    constant: float


@dataclass(frozen=True, slots=True)
class DualPrices:
    """Prices of a linear program that bound it, whatever columns it has.

    Parameters
    ----------
    prices
        Of stages, and what a rate is worth.
    value
        The bound by these prices, over all columns that are worth no more than their price.
    """

    prices: Prices
    value: float

    def stretched(self, ratio: float) -> float:
        """Bound the program where columns may be worth so much more than their price, at least 1 (Farley's bound)."""
        if self.prices.demand is None:
            return ratio * self.value
        # the demand's price is lowered until no column is worth more
        return self.value + self.prices.worth * self.prices.demand * (1.0 - 1.0 / ratio)


def prices_of(master: Master, relaxed: PoolRelaxation, cost_J: Array) -> DualPrices:
    """Prices of a program without whole numbers; rooms that cost nothing are given a price too small to matter.

    Parameters
    ----------
    master, relaxed
        The program and its answer.
    cost_J
        What a stage of each kind costs, where there is a demand to be met at least cost.
    """
    problem = master.problem
    gpus = float((problem.bin_size_C * problem.bins_C).sum())
    least = _FREE * abs(relaxed.value) / gpus
    stage_J = relaxed.price_J + least * problem.size_J
    value = relaxed.value + least * gpus
    if master.demand is None:
        return DualPrices(Prices(stage_J=stage_J), value)
    # what a copy serves beyond the demand is worth nothing
    worth = relaxed.price_demand / master.demand
    return DualPrices(Prices(stage_J=stage_J + cost_J, worth=worth, demand=master.demand), value)


class Unlisted:
    """What a pool leaves out of its family.

    Parameters
    ----------
    dp
        Prices the whole family.
    values
        The pool, which listings extend.
    late
        Whether time is up.
    """

    def __init__(self, dp: TemplateDp, values: PoolValues, late: Callable[[], bool]) -> None:
        self._dp, self._values, self._late = dp, values, late
        self._lines: list[_Line] = []
        self._tried = -np.inf
        kinds = len(values.kinds)
        # multisets that a pool has, or that were looked at and are below every line
        self._bounds: dict[bytes, float] = {_key(row): np.inf for row in values.pool.chunks_MJ(kinds)}

    def reduced(self, prices: Prices) -> float:
        """Reduced cost of whatever is unlisted, at most: 0 or less, or infinity if nothing says so."""
        least = np.inf
        for line in self._lines:
            if (prices.worth * line.stage_J <= prices.stage_J * (1 + _ROUNDING)).all():
                least = min(least, prices.worth * line.constant)
        return least

    def ratio(self, prices: Prices) -> float:
        """Worth of whatever is unlisted for its price, at most; at least 1."""
        ratios = [float((prices.worth * line.stage_J / prices.stage_J).max()) for line in self._lines]
        return max(1.0, min(ratios, default=np.inf))

    def add_worthwhile(self, dual: DualPrices) -> int:
        """Extend the pool by what is worth more than its price; how many multisets it has more of."""
        if self.reduced(dual.prices) <= 0.0:
            return 0
        return self.list(dual.prices, _SLACK) or 0

    def add_better(self, dual: DualPrices, value: float) -> int:
        """Extend the pool by all that a better plan than one of this value may contain, once for each value."""
        gain = min(value - dual.value, 0.0)
        if self.reduced(dual.prices) <= gain * (1 - _NEARLY) or self._tried == value:
            return 0
        self._tried = value
        return self.list(dual.prices, _FINE_SLACK, gain) or 0

    def gain(self, dual: DualPrices) -> float:
        """Bound the objective of programs that have a column which is unlisted."""
        reduced = self.reduced(dual.prices)
        if reduced <= 0.0:
            return dual.value + reduced
        if self.ratio(dual.prices) == np.inf:
            self.bound(dual.prices)
        return dual.stretched(self.ratio(dual.prices))

    def list(self, prices: Prices, slack: float, gain: float = 0.0) -> int | None:
        """Extend the pool by all that has more than a reduced cost `gain` <= 0; None if that is too much.

        Parameters
        ----------
        prices
            At which.
        slack
            Share of its price, below 1, that something needs to be worth for it to be listed.
        gain
            Reduced cost.

        Returns
        -------
        int or None
            How many multisets the pool has more of.
        """
        found_MJ = self._dp.worthwhile(prices, lambda worth_E: (worth_E - gain) / slack, _MOST_WAYS, self._late)
        if found_MJ is None:
            return None
        line = _Line(slack * prices.stage_J / prices.worth, gain / prices.worth)
        keys = [_key(row) for row in found_MJ]
        new = np.array([m for m, key in enumerate(keys) if key not in self._bounds], dtype=int)
        if new.size:
            pool = self._values.pool.of(multisets_of(found_MJ[new]))
            up_M = self._values.form.bound(pool)
            self._bounds.update(zip((keys[m] for m in new.tolist()), up_M.tolist(), strict=True))
        up_M = np.array([self._bounds[key] for key in keys])
        reach_M = up_M if prices.demand is None else np.minimum(up_M, prices.demand)
        wanted = np.flatnonzero(np.isfinite(up_M) & (up_M > 0) & (reach_M >= found_MJ @ line.stage_J + line.constant))
        if wanted.size:
            self._values.extend(found_MJ[wanted], up_M[wanted])
            self._bounds.update((keys[m], np.inf) for m in wanted.tolist())
        self._lines.append(line)
        return int(wanted.size)

    def begin(self) -> None:
        """Look for anything that can serve, where nothing in the pool can: what serves most for its GPUs first."""
        price_J = np.array([float(kind.tp) for kind in self._values.kinds])
        ratio = self._dp.ratio(Prices(stage_J=price_J), least=0.0)
        if ratio > 0.0:
            for slack in _FIRST_SLACKS:
                too_many = self.list(Prices(stage_J=price_J * ratio), slack) is None
                if too_many or (self._values.up_M > 0).any():
                    return

    def bound(self, prices: Prices) -> None:
        """Bound all that is unlisted by its worth for its price, quickly and without adding any of it."""
        found_MJ = None
        if self._dp.size <= _QUICK:
            found_MJ = self._dp.worthwhile(prices, lambda worth_E: worth_E, _MOST_WAYS)
        if found_MJ is None:
            ratio = self._dp.ratio(prices)
        else:
            up_M = self._values.form.bound(self._values.pool.of(multisets_of(found_MJ)))
            ratio = max(1.0, float((prices.of_rate(up_M) / (found_MJ @ prices.stage_J)).max(initial=0.0)))
        self._lines.append(_Line(ratio * prices.stage_J / prices.worth, 0.0))


def _key(count_J: IntArray) -> bytes:
    return count_J.astype(np.uint8).tobytes()
