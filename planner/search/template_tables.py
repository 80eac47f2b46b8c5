"""What templates of one problem are priced from: times, memory and links of every stage kind, as arrays.

Legend: B batch of templates, S stage, L layer, J stage kind, K layer kind, G decode batch of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np

from planner.cost.layer import LayerPricer
from planner.cost.memory import (
    cached_tokens_L,
    embedding_bytes,
    head_bytes,
    kv_bytes_per_token_L,
    serving_activation_bytes,
    weight_bytes_L,
)
from planner.cost.network import node_collective, wire_time
from planner.cost.serving import (
    BATCH_GRID,
    Demand,
    Iteration,
    PipelineTimes,
    SteadyState,
    most_within_ttft,
    stage_table,
)
from planner.engine import memory_budget
from planner.search.links import fastest_inside, fastest_link
from planner.search.templates import StageKind

if TYPE_CHECKING:
    from planner.cluster import Link
    from planner.cost._types import Array, BoolArray, IntArray
    from planner.search.problem import ServingProblem

__all__ = ["Stack", "TemplateTables"]


class TemplateTables:
    """Arrays over stage kinds. Holds no functions, so that it travels to other processes.

    Parameters
    ----------
    problem
        What is to be served.
    kinds
        The stage kinds that templates refer to by position.
    step
        As of `planner.search.template_pricer.TemplatePricer`.
    """

    def __init__(self, problem: ServingProblem, kinds: Sequence[StageKind], *, step: float | None = None) -> None:
        model, engine, cluster = problem.model, problem.engine, problem.cluster
        self.model, self.slo = model, problem.workload.slo
        together = Demand.of(problem.workload, engine)
        self.demand = demand = together if step is None else together.decoding(step)
        self.first_token = engine.overhead.first_token.value
        grid = np.asarray(BATCH_GRID, dtype=float)
        self.grid_G = grid[demand.runs(grid)]
        self.kind_of_layer = np.asarray(model.kind_of_layer)
        classes = [cluster.classes[kind.node_class] for kind in kinds]
        tables = [
            stage_table(
                LayerPricer(model, c.device, node_collective(c, kind.tp), engine=engine.name),
                engine,
                demand,
                self.grid_G,
            )
            for kind, c in zip(kinds, classes, strict=True)
        ]
        which: tuple[Iteration, ...] = ("mean", "chunk", "full")
        self._times = _Times(
            layer_JKG={w: np.stack([t.layer_KG[w] for t in tables]) for w in which},
            first_JG={w: np.stack([t.first_G[w] for t in tables]) for w in which},
            last_JG={w: np.stack([t.last_G[w] for t in tables]) for w in which},
        )
        self.least = self._times.envelope()
        self.slack_JG = self.least.slack(self.grid_G)
        self.iteration = tables[0].iteration
        budgets = [
            memory_budget(engine, c.device.memory.value, serving_activation_bytes(model, engine, kind.tp))
            for kind, c in zip(kinds, classes, strict=True)
        ]
        self.capacity_J = np.array([budget.capacity for budget in budgets])
        self.weights_JL = np.stack([weight_bytes_L(model, kind.tp) for kind in kinds])
        self.cache_JL = np.stack(
            [b.kv_weight * kv_bytes_per_token_L(model, kind.tp) for b, kind in zip(budgets, kinds, strict=True)]
        )
        self.embedding_J = np.array([embedding_bytes(model, kind.tp) for kind in kinds])
        self.head_J = np.array([head_bytes(model, kind.tp) for kind in kinds])
        self.tp_J = np.array([kind.tp for kind in kinds])
        self.class_J = np.array([kind.node_class for kind in kinds])
        self.node_size_J = np.array([c.gpus_per_node for c in classes])
        self.inside_J = _links([fastest_inside(c) for c in classes])
        indices = range(len(cluster.classes))
        fastest = [[fastest_link(cluster, a, b) if b >= a else None for b in indices] for a in indices]
        between = [
            [fastest[min(a, b)][max(a, b)] or fastest_inside(cluster.classes[a]) for b in indices] for a in indices
        ]
        across = [_links([between[a.node_class][b.node_class] for b in kinds]) for a in kinds]
        self.across_JJ = (np.stack([latency for latency, _ in across]), np.stack([byte for _, byte in across]))

    def hops(self, kinds_BS: IntArray) -> tuple[Array, Array, Array]:
        """Fastest links that a placement could give: latency and seconds per byte behind each stage, and the way back.

        Stages of one class share a node for as many GPUs as it has, where that is faster than the network.
        """
        found = []
        for inside_J, across_JJ in zip(self.inside_J, self.across_JJ, strict=True):
            target = np.zeros(kinds_BS.shape)
            held_B = self._tp_of(kinds_BS[:, 0])  # GPUs that the replica holds of the current node
            for s in range(kinds_BS.shape[1] - 1):
                here, there = kinds_BS[:, s], kinds_BS[:, s + 1]
                exists = there >= 0
                same = exists & (self.class_J[here] == self.class_J[there])
                held_B = np.where(same, held_B + self._tp_of(there), self._tp_of(there))
                stays = same & (held_B <= self.node_size_J[here])
                held_B = np.where(stays, held_B, self._tp_of(there))
                across = across_JJ[here, there]
                best = np.where(stays, np.minimum(inside_J[here], across), across)
                target[:, s] = np.where(exists, best, 0.0)
            found.append(target)
        last_B = kinds_BS[np.arange(len(kinds_BS)), (kinds_BS >= 0).sum(axis=1) - 1]
        first_B = kinds_BS[:, 0]
        back_B = self.across_JJ[0][last_B, first_B]
        alike = self.class_J[last_B] == self.class_J[first_B]
        back_B = np.where(alike, np.minimum(back_B, self.inside_J[0][first_B]), back_B)
        return found[0], found[1], np.where(kinds_BS[:, 1:2].max(axis=1, initial=-1) >= 0, back_B, 0.0)

    def slowed(self, state: SteadyState, batch_B: Array, stages_B: IntArray, times: PipelineTimes) -> SteadyState:
        """States that miss the TTFT, with a cycle so long that the prefill queue lets them meet it.

        A relaxation whose cycle is the least of all may queue longer than a slower plan; what is left stays a bound.
        """
        if self.slo.ttft is None:
            return state
        rows = np.flatnonzero(state.ttft_B > self.slo.ttft)
        if not rows.size:
            return state
        some = PipelineTimes(**{f.name: getattr(times, f.name)[rows] for f in fields(times)})
        most = most_within_ttft(self.demand, self.first_token, batch_B[rows], some, self.slo.ttft)
        rate = np.minimum(state.rate_B[rows], most)
        met = rate > 0.0
        rows, rate = rows[met], rate[met]
        rate_B, tpot_B, ttft_B = state.rate_B.copy(), state.tpot_B.copy(), state.ttft_B.copy()
        rate_B[rows], ttft_B[rows] = rate, self.slo.ttft
        tpot_B[rows] = stages_B[rows] * batch_B[rows] / (self.demand.output * rate)
        return replace(state, rate_B=rate_B, tpot_B=tpot_B, ttft_B=ttft_B)

    def _tp_of(self, kinds_B: IntArray) -> IntArray:
        return np.where(kinds_B >= 0, self.tp_J[kinds_B], 0)

    def fixed_BS(self, stack: Stack, which: Iteration, at_B: IntArray, *, least: bool = False) -> Array:
        """Seconds of each stage beside its layers; or no more than those of any larger decode batch."""
        times = self.least if least else self._times
        kinds, at = stack.kinds, at_B[:, None]
        ends = stack.first_BS * times.first_JG[which][kinds, at] + stack.last_BS * times.last_JG[which][kinds, at]
        return np.where(stack.present_BS, self.iteration + ends, 0.0)

    def kind_BSK(self, stack: Stack, which: Iteration, at_B: IntArray, *, least: bool = False) -> Array:
        """Seconds of a layer of each kind on each stage; or no more than those of any larger decode batch."""
        times = self.least if least else self._times
        return np.asarray(times.layer_JKG[which][stack.kinds, :, at_B[:, None]])

    def layer_BSL(self, stack: Stack, which: Iteration, at_B: IntArray, *, least: bool = False) -> Array:
        """Seconds of each layer on each stage."""
        return np.asarray(self.kind_BSK(stack, which, at_B, least=least)[:, :, self.kind_of_layer])

    def memory_BSL(self, stack: Stack, at_B: IntArray) -> Array:
        """Bytes of each layer on each stage: weights, and the KV cache of all sequences in flight."""
        sequences_B = stack.stages_B * self.grid_G[at_B]
        demand = self.demand
        tokens_BL = cached_tokens_L(self.model, sequences_B, demand.decode_context, demand.longest)
        return np.asarray(self.weights_JL[stack.kinds] + self.cache_JL[stack.kinds] * tokens_BL[:, None, :])

    def ends_memory_BS(self, stack: Stack) -> Array:
        """Bytes of the embedding on the first stage and the head on the last; a tied head is no second copy there."""
        head_BS = stack.last_BS & ~(stack.first_BS & self.model.tied_embeddings)
        return np.asarray(stack.first_BS * self.embedding_J[stack.kinds] + head_BS * self.head_J[stack.kinds])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Times:
    """Times of stage kinds over the grid, by kind of iteration."""

    layer_JKG: dict[Iteration, Array]
    first_JG: dict[Iteration, Array]
    last_JG: dict[Iteration, Array]

    def envelope(self) -> _Times:
        """Lower them until they never fall with the decode batch: measured efficiencies have dips."""

        def lowered(table: dict[Iteration, Array]) -> dict[Iteration, Array]:
            return {w: np.minimum.accumulate(t[..., ::-1], axis=-1)[..., ::-1] for w, t in table.items()}

        return _Times(layer_JKG=lowered(self.layer_JKG), first_JG=lowered(self.first_JG), last_JG=lowered(self.last_JG))

    def slack(self, grid_G: Array) -> Array:
        """How much faster per sequence a stage kind may be at some smaller decode batch, at least 1, axes J, G.

        A replica's cycle is made of sums and maxima of these times, so with the same layers anywhere it serves at most
        this much more at a smaller batch.
        """
        parts = [self.layer_JKG["mean"], self.first_JG["mean"][:, None], self.last_JG["mean"][:, None]]
        per_second_JXG = grid_G / np.maximum(np.concatenate(parts, axis=1), 1e-300)
        return np.asarray((np.maximum.accumulate(per_second_JXG, axis=-1) / per_second_JXG).max(axis=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Templates as arrays: which stages exist, which are first and last, and the links behind each.

    Parameters
    ----------
    kinds
        Stage kinds, axes B, S; 0 where there is no stage.
    present_BS, first_BS, last_BS
        Which stages there are.
    latency_BS, per_byte_BS, back_B
        Links as `TemplateTables.hops` gives them.
    stages_B
        Number of stages.
    mixed_B
        Whether a template has more than one stage kind.
    """

    kinds: IntArray
    present_BS: BoolArray
    first_BS: BoolArray
    last_BS: BoolArray
    latency_BS: Array
    per_byte_BS: Array
    back_B: Array
    stages_B: IntArray
    mixed_B: BoolArray

    @classmethod
    def of(cls, tables: TemplateTables, kinds_BS: IntArray) -> Stack:
        """Make it from sequences of stage kinds, -1 behind the last."""
        present_BS = kinds_BS >= 0
        stages_B = present_BS.sum(axis=1)
        position_S = np.arange(kinds_BS.shape[1])
        latency_BS, per_byte_BS, back_B = tables.hops(kinds_BS)
        return cls(
            kinds=np.maximum(kinds_BS, 0),
            present_BS=present_BS,
            first_BS=np.broadcast_to(position_S == 0, kinds_BS.shape),
            last_BS=position_S == (stages_B - 1)[:, None],
            latency_BS=latency_BS,
            per_byte_BS=per_byte_BS,
            back_B=back_B,
            stages_B=stages_B,
            mixed_B=(np.where(present_BS, kinds_BS, kinds_BS[:, :1]) != kinds_BS[:, :1]).any(axis=1),
        )

    def take(self, rows: IntArray) -> Stack:
        """Some of the templates."""
        return Stack(**{name: getattr(self, name)[rows] for name in self.__slots__})


def _links(links: Sequence[Link]) -> tuple[Array, Array]:
    """Latencies, and seconds per byte."""
    per_byte = [float(wire_time(np.ones(1), link)[0]) for link in links]
    return np.array([link.latency for link in links]), np.array(per_byte)
