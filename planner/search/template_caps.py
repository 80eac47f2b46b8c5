"""What no replica of a multiset of stages exceeds, whatever their order, layer split and links: the cheap bound.

At a stage time T a stage of kind j holds at most so many layers: as many as it computes in T, and as its memory holds
with the KV cache of all sequences in flight. A multiset can run at T only if its stages together hold the model, so the
least such T makes the least TPOT and the greatest rate, with no layer partition and for hundreds of thousands of
multisets at once. TTFT and the sums over the stages enter by their least values, links by the fastest that the stages
could get.

Where layers are alike, a cap is a whole number of them. Where they are not, layers count by the time they take on
average over the kinds, and a cap is what the kind's best-suited layers make: looser, but still a bound.

Legend: M multiset, D place of a kind in it, J stage kind, K layer kind, L layer, S stages, G decode batch of the grid.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.serving import (
    Iteration,
    PipelineTimes,
    SteadyState,
    hop_bytes,
    most_within_ttft,
    steady_state,
)
from planner.search.capacity_tables import CapacityTables
from planner.search.template_rows import MultisetRows, StageCaps

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from planner.cost._types import Array, BoolArray, IntArray
    from planner.search.template_pool import MultisetPool

__all__ = ["CapacityForm"]

_ROWS: Final = 1 << 15  # multisets at a time: their arrays stay in a core's cache
_HALVINGS: Final = 11  # of the interval that a stage time lies in, a layer's time wide at first
_LOOSE: Final = 1.002  # a bound this close to what a smaller batch could reach is not worth a scan
_MOST_SCANS: Final = 12
_MOST_GROWTHS: Final = 60  # by a quarter each; stages that then still do not hold the model never do
_SCANS_OF_ENDS: Final = 3  # there are many choices of ends


class CapacityForm(CapacityTables):
    """Bounds multisets of one problem; made as its tables are."""

    def rough(self, pool: MultisetPool) -> Array:
        """Bound all multisets at a fraction of the time, and looser: layers divisible, memory only for the batch."""
        return self._apart(pool, self._rough)

    def bound(self, pool: MultisetPool, *, scans: int = _MOST_SCANS) -> Array:
        """Requests/s that no replica of each multiset exceeds within the SLO; 0 where none meets it.

        Parameters
        ----------
        pool
            The multisets.
        scans
            Smaller decode batches that are looked at one by one, where they may serve more than the largest.
        """
        return self._apart(pool, lambda rows: self._bound(rows, scans))

    def bound_orders(self, pool: MultisetPool, kinds_BS: IntArray) -> Array:
        """Bound sequences of stages: like their multisets, with first and last stage and the links known.

        Parameters
        ----------
        pool
            Multiset of each sequence.
        kinds_BS
            The sequences, -1 behind the last stage.
        """
        latency_BS, per_byte_BS, back_B = self.tables.hops(kinds_BS)
        last_B = kinds_BS[np.arange(len(kinds_BS)), (kinds_BS >= 0).sum(axis=1) - 1]
        found_B = np.zeros(len(pool.kind_MD))
        width_B = (pool.kind_MD >= 0).sum(axis=1)
        for width in sorted(set(width_B.tolist())):
            part = np.flatnonzero(width_B == width)
            kind = pool.kind_MD[part, :width]
            rows = replace(
                MultisetRows.of(self.tables, kind, pool.count_MD[part, :width]),
                latency=latency_BS[part].sum(axis=1),
                per_byte=per_byte_BS[part].sum(axis=1),
                slowest_link=per_byte_BS[part].max(axis=1),
                back=back_B[part],
                first=(kind == kinds_BS[part, :1]).argmax(axis=1),
                last=(kind == last_B[part][:, None]).argmax(axis=1),
            )
            found_B[part] = self._bound(rows)
        return found_B

    def bound_ends(self, pool: MultisetPool) -> Array:
        """Bound multisets by the best choice of first and last stage, the links being the least they may cost."""
        best_M = np.zeros(len(pool.kind_MD))
        width_M = (pool.kind_MD >= 0).sum(axis=1)
        for width in sorted(set(width_M.tolist())):
            part = np.flatnonzero(width_M == width)
            rows = MultisetRows.of(self.tables, pool.kind_MD[part, :width], pool.count_MD[part, :width])
            ends = np.array([(f, e) for f in range(width) for e in range(width) if f != e or width == 1])
            every = rows.take(np.repeat(np.arange(len(part)), len(ends)))
            first, last = np.tile(ends, (len(part), 1)).T
            found = self._bound(replace(every, first=first, last=last), _SCANS_OF_ENDS)
            best_M[part] = found.reshape(len(part), len(ends)).max(axis=1)
        return best_M

    def nearest(self, pool: MultisetPool, most: int) -> IntArray:
        """Multisets whose least TPOT, and whose least TTFT, at the lightest load are the best; what fits is first."""
        scores = []
        for pick in ("tpot_B", "ttft_B"):

            def score(rows: MultisetRows, pick: str = pick) -> Array:
                start = np.zeros(len(rows.kind), dtype=int)
                names = ("middle", "first", "last", "both")
                held = self._total(rows, [self._gather(self.sized[name], rows, start) for name in names])
                fits = (held >= self.layers - 1e-6) & self._one_each(rows, start)
                latency = np.minimum(getattr(self._state(rows, start), pick), 1e12)
                return np.asarray(np.where(fits, latency, latency + 1e15))

            scores.append(np.argsort(self._apart(pool, score), kind="stable")[:most])
        return np.unique(np.concatenate(scores))

    def _apart(self, pool: MultisetPool, bounded: Callable[[MultisetRows], Array]) -> Array:
        """Multisets of equally many kinds together, so that arrays are as narrow as can be."""
        found_M = np.zeros(len(pool.kind_MD))
        width_M = (pool.kind_MD >= 0).sum(axis=1)
        for width in range(1, pool.kind_MD.shape[1] + 1):
            rows = np.flatnonzero(width_M == width)
            for i in range(0, len(rows), _ROWS):
                part = rows[i : i + _ROWS]
                found_M[part] = bounded(
                    MultisetRows.of(self.tables, pool.kind_MD[part, :width], pool.count_MD[part, :width])
                )
        return found_M

    def _rough(self, rows: MultisetRows) -> Array:
        low_B = self._largest(rows, self._roughly_feasible)
        alive_B = np.flatnonzero(low_B >= 0)
        part, at = rows.take(alive_B), low_B[alive_B]
        bound_B = np.zeros(len(rows.kind))
        slack = self.tables.slack_JG[part.kind, at[:, None]].max(axis=1)
        cycle = part.stages * self._fractional(part, "mean", at)
        bound_B[alive_B] = slack * part.stages * self.tables.grid_G[at] / (self.tables.demand.output * cycle)
        return bound_B

    def _roughly_feasible(self, rows: MultisetRows, at: IntArray) -> BoolArray:
        tpot = np.inf if self.tables.slo.tpot is None else self.tables.slo.tpot
        held = (rows.count * self._gather(self.sized["middle"], rows, at)).sum(axis=1)
        return np.asarray(
            (held >= self.layers - 1e-6) & (rows.stages * self._fractional(rows, "mean", at) <= tpot * (1 + 1e-12))
        )

    def _largest(self, rows: MultisetRows, feasible: Callable[[MultisetRows, IntArray], BoolArray]) -> IntArray:
        """Largest feasible decode batch, -1 for none; what is feasible at one is so at all smaller ones."""
        first_B = feasible(rows, np.zeros(len(rows.kind), dtype=int))
        low_B = np.where(first_B, 0, -1)
        high_B = np.where(first_B, len(self.tables.grid_G), 0)
        while True:
            open_B = np.flatnonzero(high_B - low_B > 1)
            if not open_B.size:
                return low_B
            at = (low_B[open_B] + high_B[open_B]) // 2
            yes = feasible(rows.take(open_B), at)
            low_B[open_B] = np.where(yes, at, low_B[open_B])
            high_B[open_B] = np.where(yes, high_B[open_B], at)

    def _bound(self, rows: MultisetRows, scans: int = _MOST_SCANS) -> Array:
        B = len(rows.kind)
        start = np.zeros(B, dtype=int)
        low_B = self._largest(rows, self._feasible)
        bound_B = np.zeros(B)
        alive_B = np.flatnonzero(low_B >= 0)
        part, at = rows.take(alive_B), low_B[alive_B]
        if not alive_B.size:
            return bound_B
        bound_B[alive_B] = self._rate(part, at)
        lightest_B = part.stages * self._fractional(part, "mean", start[alive_B])
        best_B, next_B = bound_B[alive_B], at - 1
        # smaller batches reach neither the cycle of the lightest load nor, but for dips, more than without the memory
        rest_B = self._ceiling(part, at, next_B, lightest_B)
        for _ in range(scans):
            open_B = np.flatnonzero((next_B >= 0) & (rest_B > best_B * _LOOSE))
            if not open_B.size:
                break
            some, here = part.take(open_B), next_B[open_B]
            best_B[open_B] = np.maximum(best_B[open_B], self._rate(some, here))
            next_B[open_B] -= 1
            rest_B[open_B] = self._ceiling(some, here, here - 1, lightest_B[open_B])
        most_B = np.maximum(best_B, np.where(next_B >= 0, rest_B, 0.0))
        bound_B[alive_B] = np.minimum(most_B, self._most_within_ttft(part))
        return bound_B

    def _most_within_ttft(self, rows: MultisetRows) -> Array:
        """Rate that the prefill queue allows at any decode batch: that of the lightest load."""
        tables, start = self.tables, np.zeros(len(rows.kind), dtype=int)
        if tables.slo.ttft is None:
            return np.full(len(start), np.inf)
        batch, times = tables.grid_G[start], self._times(rows, start)
        return most_within_ttft(tables.demand, tables.first_token, batch, times, tables.slo.ttft)

    def _ceiling(self, rows: MultisetRows, at: IntArray, below: IntArray, lightest_B: Array) -> Array:
        """Rate that no decode batch up to `below` exceeds, `at` being no smaller than that."""
        slack_B = self.tables.slack_JG[rows.kind, at[:, None]].max(axis=1)
        reach_B = rows.stages * self.tables.grid_G[np.maximum(below, 0)] / (self.tables.demand.output * lightest_B)
        return np.asarray(np.minimum(self._rate(rows, at, memory=False) * slack_B, reach_B))

    def _rate(self, rows: MultisetRows, at: IntArray, *, memory: bool = True) -> Array:
        cycle_B = self._cycle(rows, at, memory=memory)
        return np.asarray(rows.stages * self.tables.grid_G[at] / (self.tables.demand.output * cycle_B))

    def _cycle(self, rows: MultisetRows, at: IntArray, *, memory: bool = True) -> Array:
        """Least TPOT at a decode batch, to a thousandth of a layer's time, from below; infinite without the memory.

        The slowest stage makes one bound of it, the way through all stages the other: both hold for one split, which
        under the caps of a stage time takes at least so long in sum as layers on the fastest stages first.
        """
        low = np.maximum(rows.stages * self._fractional(rows, "mean", at), self._through(rows, "mean", at) + rows.back)
        caps = self.caps(rows.kind, at[:, None], rows.stages[:, None], memory=memory)
        step = rows.stages * (1.0 / caps.density).max(axis=1)
        links = self._links(rows, "mean", at) + rows.back
        high = low.copy()
        short = np.flatnonzero(~self._runs(rows, caps, links, high))
        for _ in range(_MOST_GROWTHS):  # a kind without memory for its share leaves more to the others
            if not short.size:
                break
            low[short] = high[short]
            high[short] = np.maximum(high[short] * 1.05, high[short] + step[short] / 2)
            short = short[~self._runs(rows.take(short), caps.take(short), links[short], high[short])]
        low[short] = high[short] = np.inf
        open_B = np.flatnonzero(high > low)
        part, some, wires = rows.take(open_B), caps.take(open_B), links[open_B]
        for _ in range(_HALVINGS):
            middle = (low[open_B] + high[open_B]) / 2
            enough = self._runs(part, some, wires, middle)
            high[open_B] = np.where(enough, middle, high[open_B])
            low[open_B] = np.where(enough, low[open_B], middle)
        return low

    def _runs(self, rows: MultisetRows, caps: StageCaps, links_B: Array, cycle_B: Array) -> BoolArray:
        """Whether some split may make a cycle: the stages hold the model, and the way through is no longer."""
        room = (cycle_B / rows.stages - self.overhead)[:, None]
        places = range(4) if (rows.stages == 1).any() else range(3)
        held = [caps.at(room, place) for place in places]
        enough = self._total(rows, held) >= self.layers - 1e-6
        if rows.kind.shape[1] == 1:  # one kind: however the layers lie, they take as long
            inside = self.layers / caps.density[:, 0]
        else:
            each = 1.0 if self.whole else 0.0  # at least a layer on every stage
            order = np.argsort(-caps.density, axis=1, kind="stable")
            count = np.take_along_axis(rows.count, order, axis=1)
            most = rows.count * held[0]
            if rows.first is not None and rows.last is not None:
                index = np.arange(len(most))
                most[index, rows.first] += (held[1] - held[0])[index, rows.first]
                most[index, rows.last] += (held[2] - held[0])[index, rows.last]
            most = np.maximum(np.take_along_axis(most, order, axis=1) - each * count, 0.0)
            left = self.layers - each * rows.stages
            before = np.minimum(np.cumsum(most, axis=1), left[:, None])
            taken = np.diff(before, axis=1, prepend=0.0)
            inside = ((taken + each * count) / np.take_along_axis(caps.density, order, axis=1)).sum(axis=1)
        ends = rows.of_first(caps.first / caps.density) + rows.of_last(caps.last / caps.density)
        through = rows.stages * self.overhead + inside + ends + links_B
        return np.asarray(enough & (through <= cycle_B * (1 + 1e-12)))

    def _feasible(self, rows: MultisetRows, at: IntArray) -> BoolArray:
        """Whether latencies at a decode batch may meet the SLO, and the stages hold the model."""
        times = self._times(rows, at)
        batch = self.tables.grid_G[at]
        state = self.tables.slowed(self._steady(rows, at, times), batch, rows.stages, times)
        slo = self.tables.slo
        tpot = np.inf if slo.tpot is None else slo.tpot
        ttft = np.finfo(float).max if slo.ttft is None else slo.ttft
        held = self._total(
            rows, [self._gather(self.sized[name], rows, at) for name in ("middle", "first", "last", "both")]
        )
        room = (held >= self.layers - 1e-6) & self._one_each(rows, at)
        fits = room & (state.tpot_B <= tpot) & (state.ttft_B <= ttft)
        some = np.flatnonzero(fits)
        if some.size and np.isfinite(tpot):
            part = rows.take(some)
            caps = self.caps(part.kind, at[some][:, None], part.stages[:, None])
            links = self._links(part, "mean", at[some]) + part.back
            fits[some] = self._runs(part, caps, links, np.full(len(some), tpot * (1 + 1e-12)))
        return np.asarray(fits)

    def _one_each(self, rows: MultisetRows, at: IntArray) -> BoolArray:
        return np.asarray((self._gather(self.sized["middle"], rows, at) > 0).all(axis=1))

    def _gather(self, table_SJG: Array, rows: MultisetRows, at: IntArray) -> Array:
        return np.asarray(table_SJG[rows.stages[:, None], rows.kind, at[:, None]])

    def _total(self, rows: MultisetRows, held: Sequence[Array]) -> Array:
        """Layers that all stages hold together, the first and the last being those that lose least by it."""
        middle, first, last = held[:3]
        total = (rows.count * middle).sum(axis=1) - rows.of_first(middle - first) - rows.of_last(middle - last)
        return total if len(held) == 3 else np.where(rows.stages == 1, held[3][:, 0], total)

    def _fractional(self, rows: MultisetRows, which: Iteration, at: IntArray) -> Array:
        """Least time of the slowest stage if layers could be divided and memory were no limit, links included."""
        kind, at_ = rows.kind, at[:, None]
        density = self.density_JG[which][kind, at_]
        ends = rows.of_first(self.ends_JG[which][0][kind, at_]) + rows.of_last(self.ends_JG[which][1][kind, at_])
        time = self.overhead + (self.layers + ends) / (rows.count * density).sum(axis=1)
        one = self.shortest_JG[which][kind, at_].max(axis=1) + self.overhead
        return np.asarray(np.maximum.reduce([time, one, rows.slowest_link * self._bytes(which, at)]))

    def _through(self, rows: MultisetRows, which: Iteration, at: IntArray) -> Array:
        """Least time through all stages and links."""
        kind, at_ = rows.kind, at[:, None]
        layer = 1.0 / self.density_JG[which][kind, at_].max(axis=1)
        one = self.shortest_JG[which][kind, at_]
        firsts = rows.of_first(self.first_JG[which][kind, at_])
        lasts = rows.of_last(self.last_JG[which][kind, at_])
        if self.whole:  # a layer at least on every stage
            inside = (rows.count * one).sum(axis=1) + np.maximum(self.layers - rows.stages, 0) * layer
        else:
            inside = self.layers * layer
        return np.asarray(rows.stages * self.overhead + firsts + lasts + inside + self._links(rows, which, at))

    def _links(self, rows: MultisetRows, which: Iteration, at: IntArray) -> Array:
        return np.asarray(rows.per_byte * self._bytes(which, at) + rows.latency)

    def _bytes(self, which: Iteration, at: IntArray) -> Array:
        demand, batch = self.tables.demand, self.tables.grid_G[at]
        tokens = {"mean": demand.steady, "chunk": demand.chunk, "full": demand.room}[which](batch)
        return hop_bytes(self.tables.model, batch + tokens)

    def _state(self, rows: MultisetRows, at: IntArray) -> SteadyState:
        return self._steady(rows, at, self._times(rows, at))

    def _steady(self, rows: MultisetRows, at: IntArray, times: PipelineTimes) -> SteadyState:
        tables = self.tables
        return steady_state(tables.demand, tables.first_token, tables.grid_G[at], rows.stages, times)

    def _times(self, rows: MultisetRows, at: IntArray) -> PipelineTimes:
        return PipelineTimes(
            slowest_B=self._fractional(rows, "mean", at),
            around_B=self._through(rows, "mean", at) + rows.back,
            chunk_slowest_B=self._fractional(rows, "chunk", at),
            chunk_through_B=self._through(rows, "chunk", at),
            full_slowest_B=self._fractional(rows, "full", at),
        )
