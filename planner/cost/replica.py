"""One concrete replica, priced with its real links: goodput at the SLO, latencies at a rate, memory on every GPU.

Legend: G decode batch of a grid, S stage, L layer, K layer kind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.device import provenance_of
from planner.cost.layer import PARTS, LayerPricer, Load
from planner.cost.memory import (
    KV_HEADROOM,
    cached_tokens_L,
    embedding_bytes,
    head_bytes,
    kv_bytes_per_token_L,
    serving_activation_bytes,
    weight_bytes_L,
)
from planner.cost.network import Collective, wire_time
from planner.cost.serving import (
    BATCH_GRID,
    Demand,
    Iteration,
    PipelineTimes,
    StageTable,
    SteadyState,
    hop_bytes,
    stage_table,
    steady_state,
)
from planner.engine import MemoryBudget, memory_budget
from planner.plan.figure import Provenance, weakest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.cluster import DeviceProfile, Link
    from planner.cost._types import Array, BoolArray
    from planner.cost.parallelism import ReplicaParallelism
    from planner.engine import EngineProfile
    from planner.model import ModelSpec
    from planner.workload import Workload

__all__ = ["Operation", "PipelineStage", "ReplicaPricer", "Shortfall"]

_FINER: Final = 513  # decode batches between two of a grid, twice: the batch that reaches a rate to six digits
_HEAVY: Final = 0.1  # share of the time below which a kernel's provenance does not colour the whole


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineStage:
    """Consecutive layers on one group of GPUs, and the link to the next stage.

    Behind the last stage it is the link back to the first, which the sampled tokens take; None if there is one stage.
    `parallelism` says how the group shares a layer; None: tensor parallelism.
    """

    device: DeviceProfile
    collective: Collective
    layers: tuple[int, int]
    hop: Link | None
    parallelism: ReplicaParallelism | None = None

    @property
    def tp(self) -> int:
        """Tensor-parallel degree of attention, and of all that is not a routed expert."""
        return self.collective.size if self.parallelism is None else self.parallelism.tp

    @property
    def ranks(self) -> int:
        """Ranks of data-parallel attention, each with sequences of its own."""
        return 1 if self.parallelism is None else self.parallelism.attention_dp


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """A replica at a load.

    Parameters
    ----------
    batch
        Sequences decoding per microbatch; need not be whole, it is a mean.
    rate, tpot, ttft, ttft_mean
        Requests/s and seconds; `ttft` at the SLO's percentile.
    in_flight
        Requests in the replica on average.
    error, provenance
        Of the stage times.
    prefill_error
        Of the times with a whole chunk, which make TTFT.
    """

    batch: float
    rate: float
    tpot: float
    ttft: float
    ttft_mean: float
    in_flight: float
    error: float
    prefill_error: float
    provenance: Provenance


@dataclass(frozen=True, slots=True)
class Shortfall:
    """What keeps a replica from serving anything: ``memory``, ``tpot`` or ``ttft``, needed and had, and where."""

    constraint: str
    needed: float
    had: float
    stage: int


class ReplicaPricer:
    """Prices one replica.

    Parameters
    ----------
    model, engine, workload
        What it runs, under what, for whom.
    stages
        Its stages in order; their layers must cover the model.
    """

    def __init__(
        self, model: ModelSpec, engine: EngineProfile, workload: Workload, stages: Sequence[PipelineStage]
    ) -> None:
        self.model, self.engine, self.workload, self.stages = model, engine, workload, tuple(stages)
        self.ranks = stages[0].ranks
        self._on_grid: tuple[Demand, EngineProfile, SteadyState, list[StageTable]] | None = None
        demand = Demand.of(workload, engine)
        # every rank of data-parallel attention fills an iteration of its own, and all go through it together
        self.demand = replace(demand, budget=demand.budget * self.ranks)
        self.layer_pricers = [
            LayerPricer(
                model,
                stage.device,
                stage.collective,
                parallelism=stage.parallelism,
                engine=engine.name,
            )
            for stage in stages
        ]
        kinds = np.asarray(model.kind_of_layer)
        self.layers_SK = np.stack(
            [np.bincount(kinds[slice(*stage.layers)], minlength=len(model.kinds)) for stage in stages]
        )
        self._weights_S = np.array([self._stage_weights(s) for s in range(len(stages))])
        self.kv_bytes_SL = np.stack(
            [np.where(self._holds(stage), kv_bytes_per_token_L(model, stage.tp), 0.0) for stage in stages]
        )
        self.budgets: list[MemoryBudget] = [
            memory_budget(engine, stage.device.memory.value, serving_activation_bytes(model, engine, stage.tp))
            for stage in stages
        ]

    def _stage_weights(self, s: int) -> float:
        stage = self.stages[s]
        weights = float(weight_bytes_L(self.model, stage.tp, stage.parallelism)[slice(*stage.layers)].sum())
        if s == 0:
            weights += embedding_bytes(self.model, stage.tp)
        if s == len(self.stages) - 1 and not (self.model.tied_embeddings and s == 0):
            weights += head_bytes(self.model, stage.tp)
        return weights

    def _holds(self, stage: PipelineStage) -> BoolArray:
        layer_L = np.arange(self.model.num_layers)
        return np.asarray((layer_L >= stage.layers[0]) & (layer_L < stage.layers[1]))

    def memory_S(self, batch: float) -> Array:
        """Bytes on each GPU of each stage with so many sequences decoding per microbatch."""
        return np.asarray(self._memory_GS(np.array([batch]))[0])

    def _memory_GS(self, batch_G: Array) -> Array:
        sequences = len(self.stages) * batch_G / self.ranks
        return self.memory_of_S(cached_tokens_L(self.model, sequences, self.demand.decode_context, self.demand.longest))

    def memory_of_S(self, tokens_L: Array) -> Array:
        """Bytes on each GPU of each stage with so many tokens in the KV cache of each layer; leading axes go along."""
        kv_weight_S = np.array([budget.kv_weight for budget in self.budgets])
        fixed_S = np.array([budget.fixed for budget in self.budgets])
        return np.asarray(self._weights_S + kv_weight_S * (tokens_L @ self.kv_bytes_SL.T) + fixed_S)

    @property
    def limit_S(self) -> Array:
        """Bytes that the engine may use on each GPU of each stage."""
        return np.array([budget.limit for budget in self.budgets])

    def cache_bytes_S(self) -> Array:
        """Bytes for the KV cache on each GPU of each stage; negative where weights do not fit."""
        return np.array([b.cache(float(w)) for b, w in zip(self.budgets, self._weights_S, strict=True)])

    def kv_capacity(self) -> float:
        """Tokens of sequences of mean context that fit the KV cache of the tightest stage; negative if weights do not.

        Sequences hold fewer tokens in layers with a sliding window; it is the tokens of the others that are counted.
        """
        context = self.demand.decode_context
        one_L = cached_tokens_L(self.model, np.array(1.0), context, 0.0) / KV_HEADROOM
        rooms = []
        for free, need in zip(self.cache_bytes_S().tolist(), self.kv_bytes_SL @ one_L, strict=True):
            rooms.append(free / float(need) * context if need else math.inf if free >= 0 else -1.0)
        return self.ranks * min(rooms)

    def state(self, batch_G: Array) -> SteadyState:
        """Steady state at each of some decode batches."""
        return self._state(batch_G)[0]

    def _state(self, batch_G: Array) -> tuple[SteadyState, list[StageTable]]:
        batch_G = np.asarray(batch_G, dtype=float)
        tables = [stage_table(pricer, self.engine, self.demand, batch_G) for pricer in self.layer_pricers]
        last = len(self.stages) - 1
        tokens: dict[Iteration, Array] = {
            "mean": batch_G + self.demand.steady(batch_G),
            "chunk": batch_G + self.demand.chunk(batch_G),
            "full": batch_G + self.demand.room(batch_G),
        }
        time_GS: dict[Iteration, Array] = {}
        wire_GS: dict[Iteration, Array] = {}
        for which, carried in tokens.items():
            time_GS[which] = np.stack(
                [t.times(self.layers_SK[s], which, first=s == 0, last=s == last) for s, t in enumerate(tables)],
                axis=-1,
            )
            wire_GS[which] = np.stack([self.wire_time(s, carried) for s in range(len(self.stages))], axis=-1)
        latency_S = np.array([s.hop.latency if s.hop else 0.0 for s in self.stages])
        back = np.full_like(batch_G, latency_S[-1])
        latency_S[-1] = 0.0
        times = PipelineTimes.of(time_GS, wire_GS, np.broadcast_to(latency_S, time_GS["mean"].shape), back)
        stages = np.full(batch_G.shape, len(self.stages))
        return steady_state(self.demand, self.engine.overhead.first_token.value, batch_G, stages, times), tables

    def wire_time(self, s: int, tokens_G: Array) -> Array:
        """Seconds that the link behind a stage is busy with the activations of so many tokens."""
        hop = self.stages[s].hop
        if hop is None or s == len(self.stages) - 1:  # token ids alone go back
            return np.zeros_like(tokens_G)
        return wire_time(hop_bytes(self.model, tokens_G), hop)

    def prompt_time(self, tokens: float, context: float | None = None) -> float:
        """Seconds that a prompt takes where nothing else runs, or one on each rank of attention at the same time.

        Chunks follow each other through the stages; the engine's time for the iteration and the prompt counts.

        Parameters
        ----------
        tokens
            To be computed.
        context
            Tokens that each of them sees on average; None: as on average over all prompts.
        """
        times, chunks = self._prompt_stages(tokens, context)
        return math.fsum(times) + (chunks - 1) * max(times) + self.engine.overhead.prompt.value

    def prompt_interval(self, tokens: float) -> float:
        """Seconds between prompts that follow each other through the stages: those of the slowest stage."""
        times, chunks = self._prompt_stages(tokens, None)
        return chunks * max(times) + self.engine.overhead.prompt.value

    def _prompt_stages(self, tokens: float, context: float | None) -> tuple[list[float], int]:
        """Seconds of each stage with one chunk of a prompt, and how many chunks there are."""
        chunk, load = self._prompt_chunk(tokens, context)
        chunks = round(tokens * self.ranks / float(chunk[0]))
        overhead = self.engine.overhead
        times = []
        for s, pricer in enumerate(self.layer_pricers):
            layers = float(self.layers_SK[s] @ (pricer.time_KB(load)[:, 0] + overhead.layer.value))
            hop = self.stages[s].hop
            wire = 0.0 if hop is None else hop.latency + float(self.wire_time(s, chunk)[0])
            times.append(overhead.iteration.value + layers + wire)
        times[0] += float(self.layer_pricers[0].embedding_time_B(chunk)[0])
        times[-1] += float(self.layer_pricers[-1].head_time_B(np.full(1, float(self.ranks)))[0])
        return times, chunks

    def _prompt_chunk(self, tokens: float, context: float | None) -> tuple[Array, Load]:
        """Tokens of each chunk of a prompt, and the load that one makes."""
        chunks = math.ceil(tokens * self.ranks / self.demand.budget - 1e-9)
        chunk = np.array([tokens * self.ranks / chunks])
        load = Load(
            decode=np.zeros(1),
            decode_context=np.full(1, self.demand.decode_context),
            prefill=chunk,
            prefill_context=np.full(1, self.demand.prefill_context if context is None else context),
        )
        return chunk, load

    def prompt_parts(self, tokens: float) -> tuple[Array, float, float]:
        """Seconds of a layer of each kind with one chunk of a prompt, and what the first and the last stage add."""
        chunk, load = self._prompt_chunk(tokens, None)
        layer_K = self.layer_pricers[0].time_KB(load)[:, 0] + self.engine.overhead.layer.value
        first = float(self.layer_pricers[0].embedding_time_B(chunk)[0])
        last = float(self.layer_pricers[-1].head_time_B(np.full(1, float(self.ranks)))[0])
        return np.asarray(layer_K), first, last

    def memory_parts(self) -> tuple[Array, Array, float, float]:
        """Bytes on each GPU of the first stage: weights and KV cache per token of each layer, embedding, head."""
        stage = self.stages[0]
        return (
            weight_bytes_L(self.model, stage.tp, stage.parallelism),
            kv_bytes_per_token_L(self.model, stage.tp),
            embedding_bytes(self.model, stage.tp),
            head_bytes(self.model, stage.tp),
        )

    def prompt_provenance(self) -> Provenance:
        """What the times of prompts rest on."""
        kernels = [pricer.band(name)[1] for pricer in self.layer_pricers for name in ("gemm", "prefill_attention")]
        return weakest(provenance_of(self.engine.overhead.iteration.kind), *kernels)

    def feasible(self, state: SteadyState, batch_G: Array) -> BoolArray:
        """Which loads meet the SLO, the KV cache, the token budget of an iteration and a stable prefill queue."""
        slo = self.workload.slo
        batch_G = np.asarray(batch_G, dtype=float)
        fits = (self._memory_GS(batch_G) <= self.limit_S).all(axis=-1) & self.demand.runs(batch_G)
        ttft = np.finfo(float).max if slo.ttft is None else slo.ttft
        return np.asarray(fits & (state.tpot_B <= (slo.tpot or math.inf)) & (state.ttft_B <= ttft))

    def _state_on_grid(self) -> tuple[SteadyState, list[StageTable]]:
        """State over all decode batches of the grid, computed once for a demand under an engine."""
        if self._on_grid is None or self._on_grid[0] is not self.demand or self._on_grid[1] is not self.engine:
            self._on_grid = self.demand, self.engine, *self._state(np.asarray(BATCH_GRID, dtype=float))
        return self._on_grid[2:]

    def goodput(self) -> Operation | Shortfall:
        """Highest rate within the SLO over the grid of decode batches, or what stands in the way."""
        grid = np.asarray(BATCH_GRID, dtype=float)
        state, tables = self._state_on_grid()
        feasible = self.feasible(state, grid)
        if not feasible.any():
            return self._shortfall(state)
        best = int(np.argmax(np.where(feasible, state.rate_B, -1.0)))
        return self._operation(grid, state, tables, best)

    def at_rate(self, rate: float) -> Operation:
        """Operate at a rate that the replica can serve: the smallest decode batch that reaches it."""
        batch_G, low = np.asarray(BATCH_GRID, dtype=float), 0.0
        for finer in (2, 1, 0):
            state, tables = self._state_on_grid() if finer == 2 else self._state(batch_G)
            reached_G = state.rate_B >= rate * (1 - 1e-12)
            at = int(np.argmax(reached_G)) if reached_G.any() else len(batch_G) - 1
            low = float(batch_G[at - 1]) if at else low
            if finer:
                batch_G = np.linspace(low, float(batch_G[at]), _FINER)[1:]
        return self._operation(batch_G, state, tables, at)

    def _operation(self, batch_G: Array, state: SteadyState, tables: list[StageTable], at: int) -> Operation:
        error, provenance = self._band(tables, at, chunk=False)
        prefill_error, prefill_provenance = self._band(tables, at, chunk=True)
        return Operation(
            batch=float(batch_G[at]),
            rate=float(state.rate_B[at]),
            tpot=float(state.tpot_B[at]),
            ttft=float(state.ttft_B[at]),
            ttft_mean=float(state.ttft_mean_B[at]),
            in_flight=float(state.in_flight_B(self.demand.output)[at]),
            error=error,
            prefill_error=prefill_error,
            provenance=weakest(provenance, prefill_provenance),
        )

    def _band(self, tables: list[StageTable], at: int, *, chunk: bool) -> tuple[float, Provenance]:
        """Error of the stage times: those of the kernels, weighted by their time, all taken to err the same way.

        The provenance is the weakest of the engine's overheads and of the kernels that make up at least a tenth of the
        time.
        """
        total: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        weighted: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        provenances: dict[str, list[Provenance]] = {name: [] for name in PARTS}
        for s, (table, pricer) in enumerate(zip(tables, self.layer_pricers, strict=True)):
            parts = table.parts_PKG["chunk" if chunk else "mean"][:, :, at] @ self.layers_SK[s]
            for name, time in zip(PARTS, parts, strict=True):
                error, provenance = pricer.band(name)
                total[name] += float(time)
                weighted[name] += error * float(time)
                provenances[name].append(provenance)
        whole = math.fsum(total.values())
        heavy = [p for name in PARTS if total[name] >= _HEAVY * whole for p in provenances[name]]
        engine = provenance_of(self.engine.overhead.iteration.kind)
        return math.fsum(weighted.values()) / whole, weakest(engine, *heavy)

    def _shortfall(self, state: SteadyState) -> Shortfall:
        """Which constraint binds at the lightest load."""
        memory, limit = self.memory_S(0.0), self.limit_S
        worst = int(np.argmax(memory - limit))
        if memory[worst] > limit[worst]:
            return Shortfall("memory", float(memory[worst]), float(limit[worst]), worst)
        slo = self.workload.slo
        slowest = int(np.argmax(self._stage_means()))
        if slo.tpot is not None and state.tpot_B[0] > slo.tpot:
            return Shortfall("tpot", slo.tpot, float(state.tpot_B[0]), slowest)
        return Shortfall("ttft", slo.ttft or math.inf, float(state.ttft_B[0]), slowest)

    def _stage_means(self) -> list[float]:
        one = np.ones(1)
        last = len(self.stages) - 1
        return [
            float(
                stage_table(pricer, self.engine, self.demand, one).times(
                    self.layers_SK[s], "mean", first=s == 0, last=s == last
                )[0]
            )
            for s, pricer in enumerate(self.layer_pricers)
        ]
