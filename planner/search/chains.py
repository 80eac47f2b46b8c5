"""Goodput of explicit pipelines, many at once and with the links between their nodes: what heuristic methods ask.

A *chain* is a pipeline before its layers are split: its stages in order, each a node and a tensor-parallel degree.
`ChainPricer.best` splits the layers of each chain by the interval dynamic program, balanced for several decode batches,
and keeps the split of greatest goodput. It computes what `planner.cost.replica.ReplicaPricer` does, from tables shared
by all chains, with the fastest aligned group of GPUs in a node standing for each of them.

Legend: B chain with a split, S stage, L layer, K layer kind, G decode batch of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.layer import LayerPricer
from planner.cost.memory import (
    cached_tokens_L,
    embedding_bytes,
    head_bytes,
    kv_bytes_per_token_L,
    serving_activation_bytes,
    tensor_parallel_fault,
    weight_bytes_L,
)
from planner.cost.network import node_collective, wire_time
from planner.cost.serving import (
    BATCH_GRID,
    Demand,
    Iteration,
    PipelineTimes,
    StageTable,
    hop_bytes,
    stage_table,
    steady_state,
)
from planner.engine import check_device, default_split, memory_budget
from planner.errors import UnsupportedError
from planner.partition import StageCosts, partition_layers

if TYPE_CHECKING:
    from planner.cluster import Link, NodeClass
    from planner.cost._types import Array, BoolArray, IntArray
    from planner.search.problem import ServingProblem

__all__ = ["Chain", "ChainPricer", "ChainStage", "KindTable", "PricedChain"]

_ITERATIONS: Final[tuple[Iteration, ...]] = ("mean", "chunk", "full")
_SPLIT_BATCHES: Final = (0.25, 1.0, 4.0, 16.0, 48.0, 128.0, 384.0)  # decode batches that layers are balanced for
_TILE: Final = 256  # chains with a split priced at a time: bounds the arrays to some tens of MB
_MOST_MOVES: Final = 24  # layers that `polished` moves in turn


@dataclass(frozen=True, slots=True)
class ChainStage:
    """A stage without layers: the position of its node in the cluster, and its tensor-parallel degree."""

    node: int
    tp: int


Chain = tuple[ChainStage, ...]


@dataclass(frozen=True, slots=True)
class PricedChain:
    """A chain, the layers of each stage, and its goodput in requests/s; no layers and 0 where it cannot serve."""

    chain: Chain
    layers: tuple[int, ...]
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KindTable:
    """Times and memory of one kind of stage: so many GPUs of one node class."""

    times: StageTable
    weights_L: Array
    cache_L: Array
    embedding: float
    head: float
    capacity: float


class ChainPricer:
    """Prices chains of one problem.

    Parameters
    ----------
    problem
        What is to be served, and where.
    """

    def __init__(self, problem: ServingProblem) -> None:
        self.problem = problem
        self.model, self.engine, self.cluster = problem.model, problem.engine, problem.cluster
        self.demand = Demand.of(problem.workload, problem.engine)
        grid = np.asarray(BATCH_GRID, dtype=float)
        self.grid_G = grid[self.demand.runs(grid)]
        self.nodes = self.cluster.nodes
        self.class_of_node: list[int] = [c for c, k in enumerate(self.cluster.classes) for _ in k.nodes]
        self._kind_of_layer = np.asarray(self.model.kind_of_layer)
        one_hot = np.eye(len(self.model.kinds), dtype=int)[self._kind_of_layer]
        self._layers_before = np.concatenate([np.zeros((1, one_hot.shape[1]), dtype=int), one_hot.cumsum(axis=0)])
        largest = max(k.gpus_per_node for k in self.cluster.classes)
        self._legal = [tp for tp in range(1, largest + 1) if tensor_parallel_fault(self.model, tp) is None]
        self._kinds: dict[tuple[int, int], KindTable] = {}
        self._links: dict[tuple[int, int], tuple[float, float]] = {}

    @property
    def uniform(self) -> bool:
        """Whether the engine has one TP for all stages of a replica."""
        return self.engine.tensor_parallel == "uniform"

    @property
    def most_stages(self) -> int:
        """Most stages of a replica that layers, engine and problem allow."""
        limits = [self.model.num_layers, self.engine.max_pipeline, self.problem.max_stages]
        return min(limit for limit in limits if limit is not None) if self.engine.pipeline else 1

    def degrees(self, node_class: int) -> list[int]:
        """Tensor-parallel degrees that a node of a class can run; none where the engine does not run on its GPUs."""
        k = self.cluster.classes[node_class]
        refusal = check_device(self.engine, vendor=k.device.vendor, compute_capability=k.device.compute_capability)
        return [] if refusal else [tp for tp in self._legal if tp <= k.gpus_per_node]

    def allowed(self, chain: Chain) -> bool:
        """Whether the engine can be told this chain."""
        if not 1 <= len(chain) <= self.most_stages:
            return False
        if self.uniform and len({stage.tp for stage in chain}) > 1:
            return False
        classes = {self.class_of_node[stage.node] for stage in chain}
        devices = {self.cluster.classes[c].device.name for c in classes}
        if len(devices) > 1 and not self.engine.mixed_gpu_types:
            return False
        return all(stage.tp in self.degrees(self.class_of_node[stage.node]) for stage in chain)

    def kind(self, node_class: int, tp: int) -> KindTable:
        """Times and memory of a kind of stage."""
        key = node_class, tp
        if key not in self._kinds:
            k: NodeClass = self.cluster.classes[node_class]
            pricer = LayerPricer(self.model, k.device, node_collective(k, tp), engine=self.engine.name)
            activations = serving_activation_bytes(self.model, self.engine, tp)
            budget = memory_budget(self.engine, k.device.memory.value, activations)
            self._kinds[key] = KindTable(
                times=stage_table(pricer, self.engine, self.demand, self.grid_G),
                weights_L=weight_bytes_L(self.model, tp),
                cache_L=budget.kv_weight * kv_bytes_per_token_L(self.model, tp),
                embedding=embedding_bytes(self.model, tp),
                head=head_bytes(self.model, tp),
                capacity=budget.capacity,
            )
        return self._kinds[key]

    def link(self, node_a: int, node_b: int) -> tuple[float, float]:
        """Latency, and seconds per byte, between two nodes or inside one."""
        key = node_a, node_b
        if key not in self._links:
            link: Link = self.cluster.node_link(self.nodes[node_a], self.nodes[node_b])
            self._links[key] = link.latency, float(wire_time(np.ones(1), link)[0])
        return self._links[key]

    def load(self, batch: float, stages: int) -> tuple[int, float]:
        """Position in the grid of a decode batch, or of the next larger, and the sequences in so many stages then."""
        at = min(int(np.searchsorted(self.grid_G, batch)), len(self.grid_G) - 1)
        return at, stages * float(self.grid_G[at])

    def hop(self, node_a: int, node_b: int, at: int) -> float:
        """Seconds that the activations of a mean iteration take between two nodes, or inside one."""
        latency, per_byte = self.link(node_a, node_b)
        batch = self.grid_G[at : at + 1]
        return latency + per_byte * float(hop_bytes(self.model, batch + self.demand.steady(batch))[0])

    def interval_times(self, node_class: int, tp: int, at: int, sequences: float, cuts: Sequence[int]) -> Array:
        """Time of a mean iteration on a stage of one kind, for the layers between any two of some cuts.

        Parameters
        ----------
        node_class, tp
            The kind.
        at
            Position of the decode batch in the grid.
        sequences
            In flight in the whole pipeline: what the KV cache must hold.
        cuts
            Positions between layers, 0 and the number of layers among them.

        Returns
        -------
        array of shape (N, N)
            Infinite where the layers do not fit the memory; without meaning where the end is not behind the start.
        """
        kind, cut_N = self.kind(node_class, tp), np.asarray(cuts)
        is_first_N1, is_last_N = (cut_N == 0)[:, None], cut_N == self.model.num_layers
        layer_L = kind.times.layer_KG["mean"][self._kind_of_layer, at]
        before_N = np.concatenate([[0.0], np.cumsum(layer_L)])[cut_N]
        time_NN = kind.times.iteration + (before_N - before_N[:, None])
        time_NN = time_NN + is_first_N1 * kind.times.first_G["mean"][at] + is_last_N * kind.times.last_G["mean"][at]
        need_L = kind.weights_L + kind.cache_L * self.cached_tokens(np.array(sequences))
        held_N = np.concatenate([[0.0], np.cumsum(need_L)])[cut_N]
        has_head_NN = is_last_N & ~(is_first_N1 & self.model.tied_embeddings)
        need_NN = held_N - held_N[:, None] + is_first_N1 * kind.embedding + has_head_NN * kind.head
        return np.asarray(np.where(need_NN <= kind.capacity, time_NN, np.inf))

    def best(self, chains: Sequence[Chain]) -> list[PricedChain]:
        """Split the layers of each chain for the greatest goodput.

        Parameters
        ----------
        chains
            Each as long as it likes; one that the engine cannot be told, or that is longer than the model, cannot
            serve.
        """
        alike = {self._signature(chain): chain for chain in reversed(chains)}
        known = dict(zip(alike, self._best(list(alike.values())), strict=True))
        found = [known[self._signature(chain)] for chain in chains]
        return [PricedChain(chain, one.layers, one.rate) for chain, one in zip(chains, found, strict=True)]

    def _signature(self, chain: Chain) -> tuple[object, ...]:
        """All that a chain's price depends on: equal chains on other nodes have the same."""
        if len(chain) == 1:
            return self.class_of_node[chain[0].node], chain[0].tp
        following = (*chain[1:], chain[0])
        return tuple(
            (self.class_of_node[stage.node], stage.tp, self.link(stage.node, after.node))
            for stage, after in zip(chain, following, strict=True)
        )

    def _best(self, chains: Sequence[Chain]) -> list[PricedChain]:
        found = [PricedChain(chain, (), 0.0) for chain in chains]
        fit = [b for b, chain in enumerate(chains) if self.allowed(chain)]
        if not fit or not len(self.grid_G):
            return found
        splits: list[dict[tuple[int, ...], None]] = [{} for _ in fit]
        if self.engine.uneven_layers:
            for at in self._split_positions():
                for row, bounds in enumerate(self._balanced([chains[b] for b in fit], at)):
                    if bounds is not None:
                        splits[row][bounds] = None
        else:
            for row, b in enumerate(fit):
                try:
                    told = default_split(self.engine, self.model.num_layers, len(chains[b]))
                except UnsupportedError:
                    continue
                splits[row][told] = None
        asked = [(row, layers) for row, each in enumerate(splits) for layers in each]
        rates = self.goodputs([(chains[fit[row]], layers) for row, layers in asked])
        for (row, layers), rate in zip(asked, rates.tolist(), strict=True):
            if rate > found[fit[row]].rate:
                found[fit[row]] = PricedChain(chains[fit[row]], layers, rate)
        return found

    def all_polished(self, priced: Sequence[PricedChain]) -> list[PricedChain]:
        """Polish many, of which alike ones once."""
        known: dict[object, PricedChain] = {}
        for one in priced:
            key = self._signature(one.chain), one.layers
            if key not in known:
                known[key] = self.polished(one)
        found = [known[self._signature(one.chain), one.layers] for one in priced]
        return [PricedChain(one.chain, best.layers, best.rate) for one, best in zip(priced, found, strict=True)]

    def polished(self, priced: PricedChain) -> PricedChain:
        """Move single layers between neighbouring stages as long as that helps."""
        if not self.engine.uneven_layers:
            return priced
        best = priced
        for _ in range(_MOST_MOVES):
            moved = []
            for s in range(len(best.layers) - 1):
                for step in (-1, 1):
                    layers = list(best.layers)
                    layers[s] += step
                    layers[s + 1] -= step
                    if min(layers) >= 1:
                        moved.append(tuple(layers))
            if not moved:
                break
            rates = self.goodputs([(best.chain, layers) for layers in moved])
            at = int(np.argmax(rates))
            if rates[at] <= best.rate * (1 + 1e-9):
                break
            best = PricedChain(best.chain, moved[at], float(rates[at]))
        return best

    def goodputs(self, asked: Sequence[tuple[Chain, tuple[int, ...]]]) -> Array:
        """Greatest rate within the SLO of chains with given layers; 0 where there is none.

        The engine is not asked whether it can be told them.
        """
        keys = [(self._signature(chain), layers) for chain, layers in asked]
        alike = dict(zip(reversed(keys), reversed(asked), strict=True))
        todo = list(alike.values())
        parts = [self._goodputs(todo[i : i + _TILE]) for i in range(0, len(todo), _TILE)]
        known = dict(zip(alike, np.concatenate(parts).tolist() if parts and len(self.grid_G) else [], strict=False))
        return np.array([known.get(key, 0.0) for key in keys])

    def _split_positions(self) -> list[int]:
        """Positions in the grid that layers are balanced for."""
        within = [min(int(np.searchsorted(self.grid_G, b)), len(self.grid_G) - 1) for b in _SPLIT_BATCHES]
        return list(dict.fromkeys(within))

    def _balanced(self, chains: Sequence[Chain], at: int) -> list[tuple[int, ...] | None]:
        """Layers per stage of least bottleneck at one decode batch; None where they do not fit the memory."""
        B, S, L = len(chains), max(len(chain) for chain in chains), self.model.num_layers
        layer_BSL, memory_BSL = np.zeros((B, S, L)), np.zeros((B, S, L))
        fixed_BS, memory_fixed_BS, capacity_BS = np.zeros((B, S)), np.zeros((B, S)), np.zeros((B, S))
        tokens: dict[int, Array] = {}
        for b, chain in enumerate(chains):
            depth = len(chain)
            if depth not in tokens:
                tokens[depth] = self.cached_tokens(np.array(depth * self.grid_G[at]))
            for s, stage in enumerate(chain):
                kind = self.kind(self.class_of_node[stage.node], stage.tp)
                times = kind.times
                layer_BSL[b, s] = times.layer_KG["mean"][self._kind_of_layer, at]
                fixed_BS[b, s] = times.iteration
                fixed_BS[b, s] += times.first_G["mean"][at] * (s == 0) + times.last_G["mean"][at] * (s == depth - 1)
                memory_BSL[b, s] = kind.weights_L + kind.cache_L * tokens[depth]
                memory_fixed_BS[b, s] = self._ends(kind, first=s == 0, last=s == depth - 1)
                capacity_BS[b, s] = kind.capacity
        costs = StageCosts(
            layer_BSL=layer_BSL,
            fixed_BS=fixed_BS,
            memory_BSL=memory_BSL,
            memory_fixed_BS=memory_fixed_BS,
            capacity_BS=capacity_BS,
            stages_B=np.array([len(chain) for chain in chains]),
        )
        part = partition_layers(costs, "bottleneck")
        return [
            tuple(np.diff(part.bounds_BS1[b][: len(chain) + 1]).tolist()) if part.feasible_B[b] else None
            for b, chain in enumerate(chains)
        ]

    def cached_tokens(self, sequences: Array) -> Array:
        """Tokens to plan for in the KV cache of each layer with so many sequences in flight, axes ..., L."""
        return cached_tokens_L(self.model, sequences, self.demand.decode_context, self.demand.longest)

    def _ends(self, kind: KindTable, *, first: bool, last: bool) -> float:
        """Bytes of embedding and head; a tied head is no second copy on the stage that has the embedding."""
        has_head = last and not (first and self.model.tied_embeddings)
        return first * kind.embedding + has_head * kind.head

    def _goodputs(self, asked: Sequence[tuple[Chain, tuple[int, ...]]]) -> Array:
        demand, grid_G = self.demand, self.grid_G
        B, S, G = len(asked), max(len(chain) for chain, _ in asked), len(grid_G)
        time: dict[Iteration, Array] = {which: np.zeros((B, G, S)) for which in _ITERATIONS}
        latency_B1S, byte_B1S, back_B1 = np.zeros((B, 1, S)), np.zeros((B, 1, S)), np.zeros((B, 1))
        fits_BG: BoolArray = np.ones((B, G), dtype=bool)
        stages_B1: IntArray = np.array([[len(chain)] for chain, _ in asked])
        cached: dict[int, Array] = {}
        for b, (chain, layers) in enumerate(asked):
            depth, first_layer = len(chain), 0
            if depth not in cached:
                cached[depth] = self.cached_tokens(depth * grid_G)
            for s, (stage, count) in enumerate(zip(chain, layers, strict=True)):
                kind = self.kind(self.class_of_node[stage.node], stage.tp)
                held = slice(first_layer, first_layer + count)
                layers_K = self._layers_before[held.stop] - self._layers_before[held.start]
                for which in _ITERATIONS:
                    time[which][b, :, s] = kind.times.times(layers_K, which, first=s == 0, last=s == depth - 1)
                need_G = cached[depth][:, held] @ kind.cache_L[held]
                need_G = need_G + (kind.weights_L[held].sum() + self._ends(kind, first=s == 0, last=s == depth - 1))
                fits_BG[b] &= need_G <= kind.capacity
                if depth > 1:
                    latency, per_byte = self.link(stage.node, chain[(s + 1) % depth].node)
                    if s == depth - 1:
                        back_B1[b] = latency
                    else:
                        latency_B1S[b, 0, s], byte_B1S[b, 0, s] = latency, per_byte
                first_layer = held.stop
        tokens: dict[Iteration, Array] = {
            "mean": grid_G + demand.steady(grid_G),
            "chunk": grid_G + demand.chunk(grid_G),
            "full": grid_G + demand.room(grid_G),
        }
        wire = {which: hop_bytes(self.model, t)[:, None] * byte_B1S for which, t in tokens.items()}
        times = PipelineTimes.of(time, wire, latency_B1S, back_B1)
        first_token = self.engine.overhead.first_token.value
        state = steady_state(demand, first_token, grid_G, stages_B1, times)
        slo = self.problem.workload.slo
        tpot = np.inf if slo.tpot is None else slo.tpot
        ttft = np.finfo(float).max if slo.ttft is None else slo.ttft
        meets_BG = fits_BG & (state.tpot_B <= tpot) & (state.ttft_B <= ttft)
        return np.asarray(np.where(meets_BG, state.rate_B, 0.0).max(axis=1))
