"""How fast each replica template is at best: goodput at the SLO, for a whole batch of templates at once.

A template is priced for the fastest links that its stages could get, so no placement of it is faster; the layers are
split by the interval dynamic program, under the KV cache of every stage, at the largest decode batch within the SLO.

Legend: B batch of templates, S stage, L layer, J stage kind, K layer kind, G decode batch of the grid, X mean iteration
or one with a whole chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.layer import LayerPricer
from planner.cost.memory import (
    KV_HEADROOM,
    embedding_bytes,
    head_bytes,
    kv_bytes_per_token_L,
    serving_activation_bytes,
    weight_bytes_L,
)
from planner.cost.network import node_collective, point_to_point
from planner.cost.serving import BATCH_GRID, Demand, SteadyState, hop_bytes, stage_table, steady_state
from planner.engine import memory_budget
from planner.partition import StageCosts, partition_layers
from planner.search.links import fastest_link
from planner.search.templates import StageKind, Templates

if TYPE_CHECKING:
    from planner.cluster import Link
    from planner.cost._types import Array, BoolArray, IntArray
    from planner.search.problem import ServingProblem

__all__ = ["TemplatePricer"]

_CHUNK: Final = 1024  # templates priced at a time: bounds the size of the arrays


class TemplatePricer:
    """Prices batches of templates of one problem. Holds arrays only, so that it travels to other processes.

    Parameters
    ----------
    problem
        What is to be served.
    kinds
        The stage kinds that templates refer to by position.
    """

    def __init__(self, problem: ServingProblem, kinds: Sequence[StageKind]) -> None:
        model, engine, cluster = problem.model, problem.engine, problem.cluster
        self.demand = Demand.of(problem.workload, engine)
        self.slo = problem.workload.slo
        self._first_token = engine.overhead.first_token.value
        self._model = model
        self._grid = np.asarray(BATCH_GRID, dtype=float)
        self._grid = self._grid[self._grid * (1 + self.demand.prefill_per_decode) <= self.demand.budget]
        self._kind_of_layer = np.asarray(model.kind_of_layer)
        self._layers = model.num_layers
        tables, weights, kv, capacity, kv_weight, embedding, head = [], [], [], [], [], [], []
        for kind in kinds:
            node_class = cluster.classes[kind.node_class]
            pricer = LayerPricer(model, node_class.device, node_collective(node_class, kind.tp))
            tables.append(stage_table(pricer, engine, self.demand, self._grid))
            activations = serving_activation_bytes(model, engine, kind.tp)
            budget = memory_budget(engine, node_class.device.memory.value, activations)
            weights.append(weight_bytes_L(model, kind.tp))
            kv.append(kv_bytes_per_token_L(model, kind.tp))
            capacity.append(budget.capacity)
            kv_weight.append(budget.kv_weight)
            embedding.append(embedding_bytes(model, kind.tp))
            head.append(head_bytes(model, kind.tp))
        self._mean_JKG = np.stack([t.mean_KG for t in tables])
        self._chunk_JKG = np.stack([t.chunk_KG for t in tables])
        self._first_XJG = np.stack([[t.mean_first_G for t in tables], [t.chunk_first_G for t in tables]])
        self._last_XJG = np.stack([[t.mean_last_G for t in tables], [t.chunk_last_G for t in tables]])
        self._iteration = tables[0].iteration
        self._weights_JL, self._kv_JL = np.stack(weights), np.stack(kv)
        self._capacity_J, self._kv_weight_J = np.asarray(capacity), np.asarray(kv_weight)
        self._embedding_J, self._head_J = np.asarray(embedding), np.asarray(head)
        self._tied = model.tied_embeddings
        self._tp_J = np.array([k.tp for k in kinds])
        self._class_J = np.array([k.node_class for k in kinds])
        self._node_size_J = np.array([cluster.classes[k.node_class].gpus_per_node for k in kinds])
        # latency and seconds per byte of a transfer: between GPUs of one node, and of different ones
        self._intra_XJ = np.array([_coefficients(cluster.classes[k.node_class].intra_link) for k in kinds]).T
        across = [[_coefficients(fastest_link(cluster, a.node_class, b.node_class)) for b in kinds] for a in kinds]
        self._across_XJJ = np.moveaxis(np.array(across), -1, 0)

    def price(self, sequences: Sequence[tuple[int, ...]]) -> Templates:
        """Price templates given as sequences of stage kinds."""
        parts = [self._price(sequences[i : i + _CHUNK]) for i in range(0, len(sequences), _CHUNK)]
        width = max(part.kinds_BS.shape[1] for part in parts)
        return Templates.join([part.padded(width, self._layers) for part in parts])

    def _price(self, sequences: Sequence[tuple[int, ...]]) -> Templates:
        B, S = len(sequences), max(len(q) for q in sequences)
        kinds_BS = np.full((B, S), -1)
        for row, sequence in enumerate(sequences):
            kinds_BS[row, : len(sequence)] = sequence
        stack = _Stack.of(kinds_BS, *self._hop_coefficients(kinds_BS))
        low_B = np.full(B, -1)  # largest grid position known to be feasible
        high_B = np.full(B, len(self._grid))  # smallest known not to be
        bounds_BS1 = np.full((B, S + 1), -1)
        at_B = np.zeros(B, dtype=int)
        floor: SteadyState | None = None
        fits_B = np.zeros(B, dtype=bool)
        while True:
            bounds, feasible_B, state = self._try(stack, at_B)
            if floor is None:
                floor, fits_B = state, bounds[:, 0] >= 0
            better = feasible_B & (at_B > low_B)
            bounds_BS1[better] = bounds[better]
            low_B = np.where(better, at_B, low_B)
            high_B = np.where(feasible_B, high_B, np.minimum(high_B, at_B))
            if (high_B - low_B <= 1).all():
                break
            at_B = np.maximum((low_B + high_B) // 2, 0)
        return Templates(
            kinds_BS=kinds_BS,
            stages_B=stack.stages_B,
            bounds_BS1=bounds_BS1,
            rate_B=self._best_rates(stack, bounds_BS1, low_B),
            tpot_B=np.where(fits_B, floor.tpot_B, np.inf),
            ttft_B=np.where(fits_B, floor.ttft_B, np.inf),
            memory_B=fits_B,
        )

    def _hop_coefficients(self, kinds_BS: IntArray) -> tuple[Array, Array]:
        """Latency, and seconds per byte, of the transfer behind each stage: the fastest links a placement could give.

        Stages of one class share a node for as many GPUs as it has.
        """
        latency_BS, per_byte_BS = np.zeros(kinds_BS.shape), np.zeros(kinds_BS.shape)
        inside_B = self._tp_of(kinds_BS[:, 0])  # GPUs that the replica holds of the current node
        for s in range(kinds_BS.shape[1] - 1):
            here, there = kinds_BS[:, s], kinds_BS[:, s + 1]
            exists = there >= 0
            same = exists & (self._class_J[here] == self._class_J[there])
            inside_B = np.where(same, inside_B + self._tp_of(there), self._tp_of(there))
            stays = same & (inside_B <= self._node_size_J[here])
            inside_B = np.where(stays, inside_B, self._tp_of(there))
            for target, inside_J, across_JJ in (
                (latency_BS, self._intra_XJ[0], self._across_XJJ[0]),
                (per_byte_BS, self._intra_XJ[1], self._across_XJJ[1]),
            ):
                target[:, s] = np.where(exists, np.where(stays, inside_J[here], across_JJ[here, there]), 0.0)
        return latency_BS, per_byte_BS

    def _tp_of(self, kinds_B: IntArray) -> IntArray:
        return np.where(kinds_B >= 0, self._tp_J[kinds_B], 0)

    def _best_rates(self, stack: _Stack, bounds_BS1: IntArray, low_B: IntArray) -> Array:
        """Greatest rate up to the largest decode batch: where experts fill up, more is not always faster."""
        best_B = np.zeros(len(low_B))
        rows = np.flatnonzero(low_B >= 0)
        part = stack.take(rows)
        layers_BSK = self._layers_per_kind(bounds_BS1[rows])
        for at in range(int(low_B.max(initial=-1)) + 1):
            state = self._state(part, layers_BSK, np.full(rows.size, at))
            best_B[rows] = np.where(at <= low_B[rows], np.maximum(best_B[rows], state.rate_B), best_B[rows])
        return best_B

    def _try(self, stack: _Stack, at_B: IntArray) -> tuple[IntArray, BoolArray, SteadyState]:
        """Split the layers at one decode batch per template, and see whether memory and SLO hold.

        Returns
        -------
        bounds_BS1, feasible_B, state
            Bounds are -1 where the memory does not do.
        """
        kinds, at_BS = stack.kinds, at_B[:, None]
        first_BS, last_BS = stack.first_BS, stack.last_BS
        fixed_BS = (
            self._iteration + first_BS * self._first_XJG[0][kinds, at_BS] + last_BS * self._last_XJG[0][kinds, at_BS]
        )
        tokens_B = np.maximum(
            KV_HEADROOM * stack.stages_B * self._grid[at_B] * self.demand.decode_context, self.demand.longest
        )
        cache_BS = self._kv_weight_J[kinds] * tokens_B[:, None]
        head_BS = last_BS & ~(first_BS & self._tied)
        costs = StageCosts(
            layer_BSL=self._mean_JKG[kinds, :, at_BS][:, :, self._kind_of_layer],
            fixed_BS=np.where(stack.present_BS, fixed_BS, 0.0),
            memory_BSL=self._weights_JL[kinds] + self._kv_JL[kinds] * cache_BS[:, :, None],
            memory_fixed_BS=first_BS * self._embedding_J[kinds] + head_BS * self._head_J[kinds],
            capacity_BS=self._capacity_J[kinds],
            stages_B=stack.stages_B,
        )
        found = partition_layers(costs, "bottleneck")
        layers_BSK = self._layers_per_kind(np.maximum(found.bounds_BS1, 0))
        state = self._state(stack, layers_BSK, at_B)
        return found.bounds_BS1, found.feasible_B & self._meets(state), state

    def _meets(self, state: SteadyState) -> BoolArray:
        tpot = np.inf if self.slo.tpot is None else self.slo.tpot
        ttft = np.finfo(float).max if self.slo.ttft is None else self.slo.ttft
        return np.asarray((state.tpot_B <= tpot) & (state.ttft_B <= ttft))

    def _layers_per_kind(self, bounds_BS1: IntArray) -> IntArray:
        one_hot = np.eye(self._mean_JKG.shape[1], dtype=int)[self._kind_of_layer]
        prefix = np.concatenate([np.zeros((1, one_hot.shape[1]), dtype=int), one_hot.cumsum(axis=0)])
        return np.diff(prefix[bounds_BS1], axis=1)

    def _state(self, stack: _Stack, layers_BSK: IntArray, at_B: IntArray) -> SteadyState:
        kinds, at_BS = stack.kinds, at_B[:, None]
        times = [
            np.where(
                stack.present_BS,
                self._iteration
                + (layers_BSK * per_layer[kinds, :, at_BS]).sum(axis=-1)
                + stack.first_BS * self._first_XJG[chunk][kinds, at_BS]
                + stack.last_BS * self._last_XJG[chunk][kinds, at_BS],
                0.0,
            )
            for chunk, per_layer in enumerate((self._mean_JKG, self._chunk_JKG))
        ]
        batch_B = self._grid[at_B]
        hops = [
            stack.latency_BS + stack.per_byte_BS * hop_bytes(self._model, tokens_B)[:, None]
            for tokens_B in (batch_B * (1 + self.demand.prefill_per_decode), batch_B + self.demand.chunk)
        ]
        return steady_state(
            self.demand, self._first_token, batch_B, times[0], times[1], hops[0], hops[1], stack.stages_B
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stack:
    """Templates as arrays: which stages exist, which are first and last, and the transfer behind each."""

    kinds: IntArray  # axes B, S; 0 where there is no stage
    present_BS: BoolArray
    first_BS: BoolArray
    last_BS: BoolArray
    latency_BS: Array
    per_byte_BS: Array
    stages_B: IntArray

    @classmethod
    def of(cls, kinds_BS: IntArray, latency_BS: Array, per_byte_BS: Array) -> _Stack:
        present_BS = kinds_BS >= 0
        stages_B = present_BS.sum(axis=1)
        position_S = np.arange(kinds_BS.shape[1])
        return cls(
            kinds=np.maximum(kinds_BS, 0),
            present_BS=present_BS,
            first_BS=np.broadcast_to(position_S == 0, kinds_BS.shape),
            last_BS=position_S == (stages_B - 1)[:, None],
            latency_BS=latency_BS,
            per_byte_BS=per_byte_BS,
            stages_B=stages_B,
        )

    def take(self, rows: IntArray) -> _Stack:
        return _Stack(**{name: getattr(self, name)[rows] for name in self.__slots__})


def _coefficients(link: Link) -> tuple[float, float]:
    """Seconds of an empty transfer, and seconds per byte."""
    none = float(point_to_point(np.zeros(1), link)[0])
    return none, float(point_to_point(np.ones(1), link)[0]) - none
