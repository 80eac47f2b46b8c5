"""Stage times that may matter, in intervals, and the layers that stages hold at their ends.

Legend: E (decode batch, interval of stage times), J stage kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.search.template_rows import WHOLE

if TYPE_CHECKING:
    from planner.cost._types import Array, BoolArray, IntArray
    from planner.search.capacity_tables import CapacityTables

__all__ = ["ENDLESS", "Instances", "Lengths", "StageTimes"]

ENDLESS: Final = 1e6  # seconds
_DIVIDED: Final = 4  # of a layer, where layers are not alike
_FINEST: Final = 1.0005  # step where layers are not alike, so that caps change all the time
_SAME: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Instances:
    """Decode batches with intervals of stage times."""

    at_E: IntArray
    low_E: Array
    high_E: Array

    def take(self, rows: IntArray | BoolArray) -> Instances:
        """Some of them."""
        return Instances(self.at_E[rows], self.low_E[rows], self.high_E[rows])


@dataclass(frozen=True, slots=True)
class Lengths:
    """Layers that a stage of each kind holds: a middle one, a first, a last, and one that is both."""

    middle_EJ: IntArray
    first_EJ: IntArray
    last_EJ: IntArray
    both_EJ: IntArray

    def take(self, rows: IntArray | BoolArray | slice) -> Lengths:
        """Some of them."""
        return Lengths(self.middle_EJ[rows], self.first_EJ[rows], self.last_EJ[rows], self.both_EJ[rows])


class StageTimes:
    """Intervals of stage times of one problem.

    Parameters
    ----------
    form
        The caps.
    """

    def __init__(self, form: CapacityTables) -> None:
        self._form = form
        self._unit = 1 if form.whole else _DIVIDED
        self.length = form.layers * self._unit

    def all(self, kinds: IntArray, stages: int) -> Instances:
        """One interval for each decode batch: from the time that all kinds at their fastest need, to the SLO's."""
        form, tables = self._form, self._form.tables
        at_E = np.arange(len(tables.grid_G))
        density_E = form.density_JG["mean"][kinds].max(axis=0)
        low_E = np.maximum(
            form.overhead + form.layers / (stages * density_E), form.overhead + form.shortest_JG["mean"][kinds].min()
        )
        slo = np.inf if tables.slo.tpot is None else tables.slo.tpot
        high_E = np.full(len(at_E), slo / stages * (1 + _SAME))
        return Instances(at_E, low_E, np.minimum(high_E, ENDLESS))

    def divided(self, some: Instances, step: float) -> Instances:
        """Intervals no wider than a step."""
        parts_E = np.maximum(np.ceil(np.log(some.high_E / some.low_E) / np.log(step) - _SAME), 1).astype(int)
        owner = np.repeat(np.arange(len(parts_E)), parts_E)
        place = np.arange(len(owner)) - np.repeat(np.cumsum(parts_E) - parts_E, parts_E)
        ratio = (some.high_E / some.low_E)[owner]
        low = some.low_E[owner] * ratio ** (place / parts_E[owner])
        high = some.low_E[owner] * ratio ** ((place + 1) / parts_E[owner])
        return Instances(some.at_E[owner], low, high)

    def breaks(self, some: Instances, kinds: IntArray, stages: int) -> Instances:
        """The times in intervals at which a stage begins to hold another layer, and their starts."""
        form = self._form
        if not form.whole or not len(some.at_E):
            return self.divided(some, _FINEST)
        caps = form.caps(kinds, some.at_E[:, None], np.array(stages))
        owners, times = [np.arange(len(some.at_E))], [some.low_E]
        for taken in (0.0, caps.first, caps.last) if stages > 1 else (caps.first + caps.last,):
            start_EJ = np.maximum(np.ceil(caps.density * (some.low_E[:, None] - form.overhead) - taken - WHOLE), 1.0)
            end_EJ = np.floor(caps.density * (some.high_E[:, None] - form.overhead) - taken + WHOLE)
            while True:
                e, j = np.nonzero(start_EJ <= end_EJ)
                if not e.size:
                    break
                time_EJ = form.overhead + (start_EJ + taken) / caps.density
                owners.append(e)
                times.append(np.clip(time_EJ[e, j], some.low_E[e], some.high_E[e]))
                start_EJ[e, j] += 1.0
        owner, time = np.concatenate(owners), np.concatenate(times)
        order = np.lexsort((time, some.at_E[owner]))
        at, time = some.at_E[owner][order], time[order]
        new = np.ones(len(order), dtype=bool)
        new[1:] = (np.diff(at) != 0) | (np.diff(time) > _SAME * time[:-1])
        first = np.flatnonzero(new)
        last = np.append(first[1:], len(time)) - 1  # of those that are the same but for rounding
        return Instances(at[first], time[first], time[last])

    def lengths(self, some: Instances, kinds: IntArray, stages: int) -> Lengths:
        """Lengths that stages hold at the ends of intervals, rounded up."""
        form, at_E = self._form, some.at_E
        caps = form.caps(kinds, at_E[:, None], np.array(stages))
        room = np.repeat((some.high_E * (1 + 1e-12) - form.overhead)[:, None], len(kinds), axis=1)
        places = range(4) if stages == 1 else range(3)
        held = [np.minimum(caps.at(room, place), form.layers) * self._unit for place in places]
        # a stage that has not the time for one layer is none
        usable = (held[0] > 0) & (room >= form.shortest_JG["mean"][kinds][:, at_E].T * (1 - _SAME))
        whole = [np.where(usable, np.ceil(h - 1e-6), 0.0).astype(np.int64) for h in held]
        middle, first, last = whole[:3]
        both = whole[3] if stages == 1 else np.maximum(first + last - middle, 0)
        return Lengths(middle, first, last, both)
