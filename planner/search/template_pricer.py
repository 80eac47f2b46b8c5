"""How fast each replica template is: a plan for it and a bound on all its plans, for a whole batch at once.

Both are for the fastest links that the template's stages could get. The *bound* holds for every contiguous layer split:
at a decode batch, the least bottleneck and the least sum of the stage times, each by the interval dynamic program on
its own and under the memory of every stage, make latencies that no split beats; the largest batch whose latencies meet
the SLO makes the greatest rate. The *plan* is the best of the splits that these programs find, and of one that balances
decode against prefill, at the largest batch where it meets the SLO by itself. Where the two agree, the template is
solved.

Legend: B batch of templates, S stage, G decode batch of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from planner.partition import Objective, Partition, StageCosts, partition_layers
from planner.search.exact_pricing import price_exactly
from planner.search.template_tables import Stack, TemplateTables
from planner.search.templates import StageKind, Templates

if TYPE_CHECKING:
    from planner.cost._types import Array, BoolArray, IntArray
    from planner.search.problem import ServingProblem

__all__ = ["TemplatePricer"]

_CHUNK: Final = 1024  # templates priced at a time: bounds the size of the arrays
_LOOSE: Final = 1.001  # a bound this close to the relaxation at the largest batch is not worth a scan
_SLOWEST_WEIGHTS: Final = (1, 4)  # of the slowest stage against the sum, where both count
_MOST_ROUNDS: Final = 5  # in which splits are looked for, each at another batch
_NEAR: Final = 0.998  # of the bound; a plan this good is not improved on
_MOST_SCANS: Final = 16  # steps of the grid, after which the looser bound has to do
_MOST_MOVES: Final = 24  # layers that `polished` moves in turn
_KINDS: Final[tuple[Iteration, ...]] = ("mean", "chunk", "full")


class TemplatePricer:
    """Prices batches of templates of one problem, from the `tables` of its stage kinds.

    Parameters
    ----------
    problem
        What is to be served.
    kinds
        The stage kinds that templates refer to by position.
    step
        For replicas that decode only: seconds of a step beside what it takes inside one server; None: prompts are
        computed too.
    """

    def __init__(self, problem: ServingProblem, kinds: Sequence[StageKind], *, step: float | None = None) -> None:
        self.tables = TemplateTables(problem, kinds, step=step)

    def price(self, sequences: Sequence[tuple[int, ...]]) -> Templates:
        """Price templates given as sequences of stage kinds."""
        parts = [self._price(sequences[i : i + _CHUNK]) for i in range(0, len(sequences), _CHUNK)]
        width = max(part.kinds_BS.shape[1] for part in parts)
        joined = Templates.join([part.padded(width, self.tables.model.num_layers) for part in parts])
        return price_exactly(self, joined)

    def _price(self, sequences: Sequence[tuple[int, ...]]) -> Templates:
        kinds_BS = np.full((len(sequences), max(len(q) for q in sequences)), -1)
        for row, sequence in enumerate(sequences):
            kinds_BS[row, : len(sequence)] = sequence
        stack = Stack.of(self.tables, kinds_BS)
        bound_B, at_B, fits_B, light = self._bound(stack)
        rate_B = np.zeros(len(sequences))
        bounds_BS1 = np.full((len(sequences), kinds_BS.shape[1] + 1), -1)
        rows, top_B = np.flatnonzero(at_B >= 0), at_B.copy()
        if rows.size:
            low_B = np.full(len(sequences), -1)
            # splits made for the bound's batch, then for the batch that they reached, then for larger ones
            for turn in range(_MOST_ROUNDS):
                part = stack.take(rows)
                for split in self._splits(part, at_B[rows]):
                    found_B, reached_B = self._goodput(part, split, len(self.tables.grid_G))
                    better = found_B > rate_B[rows]
                    rate_B[rows[better]] = found_B[better]
                    bounds_BS1[rows[better]] = split[better]
                    low_B[rows] = np.maximum(low_B[rows], reached_B)
                short = rate_B[rows] < bound_B[rows] * _NEAR
                tried = at_B[rows].copy()
                at_B[rows] = low_B[rows] if turn == 0 else np.minimum(low_B[rows] + turn, top_B[rows])
                rows = rows[(short | (turn == 0)) & (at_B[rows] >= 0) & (at_B[rows] != tried)]
                if not rows.size:
                    break
        return Templates(
            kinds_BS=kinds_BS,
            stages_B=stack.stages_B,
            bounds_BS1=bounds_BS1,
            rate_B=rate_B,
            bound_B=np.maximum(bound_B, rate_B),
            tpot_B=np.where(fits_B, light.tpot_B, np.inf),
            ttft_B=np.where(fits_B, light.ttft_B, np.inf),
            memory_B=fits_B,
        )

    def _bound(self, stack: Stack) -> tuple[Array, IntArray, BoolArray, SteadyState]:
        """Find the greatest rate that the relaxation lets meet the SLO.

        Latencies and memory only grow with the decode batch, so the largest feasible one is bisected for. The rate
        need not: a larger KV cache may force layers onto slower stages. Without memory it grows but for dips of the
        measured efficiencies, which bounds it at all smaller batches; where that bound is not tight enough, they are
        scanned, as long as they could do better at the cycle of the lightest load.

        Returns
        -------
        bound_B, at_B, fits_B, light
            That rate; its batch's position in the grid, -1 for none; whether the smallest load fits the memory, and its
            latencies, no split being faster.
        """
        grid_G, output = self.tables.grid_G, self.tables.demand.output
        start_B = np.zeros(len(stack.stages_B), dtype=int)
        fits_B, light, slow = self._least(stack, start_B)
        feasible_B = fits_B & self.meets(slow)
        bound_B = np.where(feasible_B, slow.rate_B, 0.0)
        low_B, high_B = np.where(feasible_B, 0, -1), np.where(feasible_B, len(grid_G), 0)
        while True:
            rows = np.flatnonzero(high_B - low_B > 1)
            if not rows.size:
                break
            at = (low_B[rows] + high_B[rows]) // 2
            fits, state = self.relaxed(stack.take(rows), at)
            feasible = fits & self.meets(state)
            bound_B[rows] = np.maximum(bound_B[rows], np.where(feasible, state.rate_B, 0.0))
            low_B[rows] = np.where(feasible, at, low_B[rows])
            high_B[rows] = np.where(feasible, high_B[rows], at)
        best_B, next_B, scans = low_B.copy(), low_B - 1, 0
        ceiling_B = np.zeros(len(bound_B))
        rows = np.flatnonzero(low_B >= 0)
        ceiling_B[rows] = self.unlimited(stack.take(rows), low_B[rows])
        queue_B = self._most_within_ttft(stack)
        while True:
            reachable_B = stack.stages_B * grid_G[np.maximum(next_B, 0)] / (output * light.tpot_B)
            reachable_B = np.minimum(reachable_B, queue_B)
            loose_B = np.minimum(ceiling_B, reachable_B) > bound_B * _LOOSE
            rows = np.flatnonzero((next_B >= 0) & loose_B)
            if not rows.size or scans == _MOST_SCANS:
                # what was not scanned reaches neither the ceiling nor the cycle of the lightest load
                rest_B = np.where(next_B >= 0, np.minimum(ceiling_B, reachable_B), 0.0)
                return np.maximum(bound_B, rest_B), best_B, fits_B, light
            part = stack.take(rows)
            _, state = self.relaxed(part, next_B[rows])
            better = state.rate_B > bound_B[rows]
            bound_B[rows[better]] = state.rate_B[better]
            best_B[rows[better]] = next_B[rows[better]]
            ceiling_B[rows] = np.minimum(ceiling_B[rows], self.unlimited(part, next_B[rows]))
            next_B[rows] -= 1
            scans += 1

    def unlimited(self, stack: Stack, at_B: IntArray) -> Array:
        """Rate without memory that no smaller decode batch exceeds."""
        _, state, _ = self._least(stack, at_B, memory=False)
        slack_BS = self.tables.slack_JG[stack.kinds, at_B[:, None]]
        return np.asarray(state.rate_B * np.where(stack.present_BS, slack_BS, 1.0).max(axis=1))

    def relaxed(self, stack: Stack, at_B: IntArray) -> tuple[BoolArray, SteadyState]:
        """Rate and latencies that no split of the layers beats at a decode batch, and whether any split fits.

        Where the least cycle would miss the TTFT, the least that meets it.
        """
        fits_B, _, slow = self._least(stack, at_B)
        return fits_B, slow

    def _most_within_ttft(self, stack: Stack) -> Array:
        """Rate that the prefill queue allows at any decode batch: that of the lightest load."""
        ttft = self.tables.slo.ttft
        if ttft is None:
            return np.full(len(stack.stages_B), np.inf)
        start_B = np.zeros(len(stack.stages_B), dtype=int)
        times = self._least_times(stack, start_B)[1]
        tables = self.tables
        return most_within_ttft(tables.demand, tables.first_token, tables.grid_G[start_B], times, ttft)

    def _least(
        self, stack: Stack, at_B: IntArray, *, memory: bool = True
    ) -> tuple[BoolArray, SteadyState, SteadyState]:
        """Whether any split fits the memory, the state of least cycle, and the same where it must meet the TTFT."""
        fits_B, times = self._least_times(stack, at_B, memory=memory)
        state = self._steady(stack, at_B, times)
        if not memory:
            return fits_B, state, state
        return fits_B, state, self.tables.slowed(state, self.tables.grid_G[at_B], stack.stages_B, times)

    def _least_times(self, stack: Stack, at_B: IntArray, *, memory: bool = True) -> tuple[BoolArray, PipelineTimes]:
        least: dict[Iteration, Array] = {}
        through: dict[Iteration, Array] = {}
        fits_B = np.ones(len(at_B), dtype=bool)
        wires, _ = self._wires(stack, at_B)
        for which in _KINDS:
            slowest = self._split(stack, which, at_B, "bottleneck", least=True, memory=memory)
            fits_B &= slowest.feasible_B
            least[which] = np.maximum(np.where(slowest.feasible_B, slowest.value_B, 0.0), wires[which].max(axis=-1))
            if which != "full":
                through[which] = self._least_sum(stack, which, at_B, memory=memory)
                through[which] = through[which] + (wires[which] + stack.latency_BS).sum(axis=-1)
        times = PipelineTimes(
            slowest_B=least["mean"],
            around_B=through["mean"] + stack.back_B,
            chunk_slowest_B=least["chunk"],
            chunk_through_B=through["chunk"],
            full_slowest_B=least["full"],
        )
        return fits_B, times

    def _least_sum(self, stack: Stack, which: Iteration, at_B: IntArray, *, memory: bool) -> Array:
        """Least sum of the stage times; on stages of one kind every split has the same."""
        tables = self.tables
        alike = tables.layer_BSL(stack, which, at_B, least=True)[:, 0].sum(axis=-1)
        total_B = alike + tables.fixed_BS(stack, which, at_B, least=True).sum(axis=-1)
        rows = np.flatnonzero(stack.mixed_B)
        if rows.size:
            found = self._split(stack.take(rows), which, at_B[rows], "sum", least=True, memory=memory)
            total_B[rows] = np.where(found.feasible_B, found.value_B, 0.0)
        return np.asarray(total_B)

    def _splits(self, stack: Stack, at_B: IntArray) -> list[IntArray]:
        """Splits of the layers worth trying at a decode batch; -1 where the memory does not do."""
        costs = {which: self._costs(stack, which, at_B) for which in ("mean", "full")}
        scale = costs["mean"].layer_BSL.sum(axis=(1, 2)) / costs["full"].layer_BSL.sum(axis=(1, 2))
        both = StageCosts(
            layer_BSL=costs["mean"].layer_BSL + scale[:, None, None] * costs["full"].layer_BSL,
            fixed_BS=costs["mean"].fixed_BS + scale[:, None] * costs["full"].fixed_BS,
            memory_BSL=costs["mean"].memory_BSL,
            memory_fixed_BS=costs["mean"].memory_fixed_BS,
            capacity_BS=costs["mean"].capacity_BS,
            stages_B=stack.stages_B,
        )
        found = [partition_layers(costs["mean"], "bottleneck")]
        if stack.mixed_B.any():
            found += [
                partition_layers(both, "bottleneck"),
                partition_layers(costs["full"], "bottleneck"),
                partition_layers(costs["mean"], "sum"),
                # a token waits for the slowest stage as often as there are stages, or goes through all of them
                *(partition_layers(costs["mean"], "pipeline", 1 + k * stack.stages_B) for k in _SLOWEST_WEIGHTS),
                self._split(stack, "chunk", at_B, "sum"),
            ]
        return [part.bounds_BS1 for part in found]

    def _split(
        self,
        stack: Stack,
        which: Iteration,
        at_B: IntArray,
        objective: Objective,
        *,
        least: bool = False,
        memory: bool = True,
    ) -> Partition:
        return partition_layers(self._costs(stack, which, at_B, least=least, memory=memory), objective)

    def _costs(
        self, stack: Stack, which: Iteration, at_B: IntArray, *, least: bool = False, memory: bool = True
    ) -> StageCosts:
        tables = self.tables
        layer_BSL = tables.layer_BSL(stack, which, at_B, least=least)
        fixed_BS = tables.fixed_BS(stack, which, at_B, least=least)
        if not memory:
            return StageCosts(layer_BSL=layer_BSL, fixed_BS=fixed_BS, stages_B=stack.stages_B)
        return StageCosts(
            layer_BSL=layer_BSL,
            fixed_BS=fixed_BS,
            memory_BSL=tables.memory_BSL(stack, at_B),
            memory_fixed_BS=tables.ends_memory_BS(stack),
            capacity_BS=tables.capacity_J[stack.kinds],
            stages_B=stack.stages_B,
        )

    def _goodput(self, stack: Stack, bounds_BS1: IntArray, limit: int) -> tuple[Array, IntArray]:
        """Greatest rate of given splits within the SLO, and the largest decode batch there; 0 and -1 for none."""
        B = len(stack.stages_B)
        known_B = bounds_BS1[:, 0] >= 0
        bounds = np.maximum(bounds_BS1, 0)
        low_B, high_B = np.full(B, -1), np.where(known_B, limit, 0)
        rate_B, at_B = np.zeros(B), np.zeros(B, dtype=int)
        while True:
            state = self.state(stack, bounds, at_B)
            feasible_B = known_B & self._fits(stack, bounds, at_B) & self.meets(state)
            rate_B = np.maximum(rate_B, np.where(feasible_B, state.rate_B, 0.0))
            low_B = np.where(feasible_B, np.maximum(low_B, at_B), low_B)
            high_B = np.where(feasible_B, high_B, np.minimum(high_B, at_B))
            if (high_B - low_B <= 1).all():
                return rate_B, low_B
            at_B = np.maximum((low_B + high_B) // 2, 0)

    def _best_rates(self, stack: Stack, bounds_BS1: IntArray) -> Array:
        """Greatest rate of given splits over the whole grid: neither rate nor latencies always grow with the batch."""
        best_B = np.zeros(len(bounds_BS1))
        rows = np.flatnonzero(bounds_BS1[:, 0] >= 0)
        part, bounds = stack.take(rows), bounds_BS1[rows]
        for at in range(len(self.tables.grid_G)):
            at_B = np.full(rows.size, at, dtype=int)
            fits_B = self._fits(part, bounds, at_B)
            if not fits_B.any():
                break
            state = self.state(part, bounds, at_B)
            best_B[rows] = np.maximum(best_B[rows], np.where(fits_B & self.meets(state), state.rate_B, 0.0))
        return best_B

    def exhausted(self, templates: Templates) -> Templates:
        """Take the split with the fastest slowest stage at every decode batch of the grid: the best, of equal stages.

        Equal stages take as long in sum however the layers lie, so that no split is better at any batch, where prompts
        are not computed; what is reached is then the bound.
        """
        stack = Stack.of(self.tables, templates.kinds_BS)
        rate_B, bounds = templates.rate_B.copy(), templates.bounds_BS1.copy()
        for at in range(len(self.tables.grid_G)):
            at_B = np.full(len(rate_B), at, dtype=int)
            split = partition_layers(self._costs(stack, "mean", at_B), "bottleneck")
            if not split.feasible_B.any():
                break
            tried = np.where(split.feasible_B[:, None], split.bounds_BS1, bounds)
            tried = np.where(tried >= 0, tried, 0)
            state = self.state(stack, tried, at_B)
            found_B = np.where(split.feasible_B & self._fits(stack, tried, at_B) & self.meets(state), state.rate_B, 0.0)
            better = found_B > rate_B
            rate_B[better], bounds[better] = found_B[better], tried[better]
        return replace(templates, bounds_BS1=bounds, rate_B=rate_B, bound_B=rate_B.copy())

    def polished(self, templates: Templates) -> Templates:
        """Move single layers between neighbouring stages as long as that helps, then try every decode batch."""
        stack = Stack.of(self.tables, templates.kinds_BS)
        bounds, rate_B = templates.bounds_BS1.copy(), templates.rate_B.copy()
        for _ in range(_MOST_MOVES):
            improved = False
            base = bounds.copy()
            for s in range(1, bounds.shape[1] - 1):
                for step in (-1, 1):
                    moved = base.copy()
                    moved[:, s] += step
                    legal = (s < stack.stages_B) & (moved[:, s] > moved[:, s - 1]) & (moved[:, s] < moved[:, s + 1])
                    rows = np.flatnonzero(legal)
                    if not rows.size:
                        continue
                    found, _ = self._goodput(stack.take(rows), moved[rows], len(self.tables.grid_G))
                    better = found > rate_B[rows] * (1 + 1e-9)
                    bounds[rows[better]], rate_B[rows[better]] = moved[rows[better]], found[better]
                    improved |= bool(better.any())
            if not improved:
                break
        rate_B = np.maximum(rate_B, self._best_rates(stack, bounds))
        return replace(templates, bounds_BS1=bounds, rate_B=rate_B, bound_B=np.maximum(templates.bound_B, rate_B))

    def state(self, stack: Stack, bounds_BS1: IntArray, at_B: IntArray) -> SteadyState:
        """Latencies and rates of given splits at a decode batch."""
        tables = self.tables
        one_hot = np.eye(len(tables.model.kinds), dtype=int)[tables.kind_of_layer]
        prefix = np.concatenate([np.zeros((1, one_hot.shape[1]), dtype=int), one_hot.cumsum(axis=0)])
        layers_BSK = np.diff(prefix[bounds_BS1], axis=1)
        time_BS: dict[Iteration, Array] = {}
        for which in _KINDS:
            per_kind = tables.kind_BSK(stack, which, at_B)
            time_BS[which] = (layers_BSK * per_kind).sum(axis=-1) + tables.fixed_BS(stack, which, at_B)
        wires, latency_BS = self._wires(stack, at_B)
        return self._steady(stack, at_B, PipelineTimes.of(time_BS, wires, latency_BS, stack.back_B))

    def _wires(self, stack: Stack, at_B: IntArray) -> tuple[dict[Iteration, Array], Array]:
        """Seconds that each link is busy in each kind of iteration, and its latency."""
        demand, batch_B = self.tables.demand, self.tables.grid_G[at_B]
        tokens: dict[Iteration, Array] = {
            "mean": batch_B + demand.steady(batch_B),
            "chunk": batch_B + demand.chunk(batch_B),
            "full": batch_B + demand.room(batch_B),
        }
        return {
            which: stack.per_byte_BS * hop_bytes(self.tables.model, t)[:, None] for which, t in tokens.items()
        }, stack.latency_BS

    def _steady(self, stack: Stack, at_B: IntArray, times: PipelineTimes) -> SteadyState:
        tables = self.tables
        return steady_state(tables.demand, tables.first_token, tables.grid_G[at_B], stack.stages_B, times)

    def _fits(self, stack: Stack, bounds_BS1: IntArray, at_B: IntArray) -> BoolArray:
        tables = self.tables
        memory_BSL = tables.memory_BSL(stack, at_B)
        prefix = np.concatenate([np.zeros((*memory_BSL.shape[:2], 1)), memory_BSL.cumsum(axis=-1)], axis=-1)
        ends = np.take_along_axis(prefix, bounds_BS1[:, 1:, None], axis=-1)[:, :, 0]
        starts = np.take_along_axis(prefix, bounds_BS1[:, :-1, None], axis=-1)[:, :, 0]
        held_BS = ends - starts + tables.ends_memory_BS(stack)
        limit = tables.capacity_J[stack.kinds] * (1 + 1e-12)
        return np.asarray((~stack.present_BS | (held_BS <= limit)).all(axis=-1))

    def meets(self, state: SteadyState) -> BoolArray:
        """Whether latencies are within the SLO."""
        slo = self.tables.slo
        tpot = np.inf if slo.tpot is None else slo.tpot
        ttft = np.finfo(float).max if slo.ttft is None else slo.ttft
        return np.asarray((state.tpot_B <= tpot) & (state.ttft_B <= ttft))
