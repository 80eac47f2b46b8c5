"""Prices of uniform training configurations: cell after cell, all microbatch sizes and recomputations at once.

The same closed form as `planner.cost.training.predict_training`, with what several cells share computed once: the work
of a stage by degrees and links, the links themselves by how GPUs are cut into stages.

Legend: S stage, R recomputation, M microbatch size, Z way to divide state, K layer kind.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from planner.cost.network import Collective
from planner.cost.training import boundary_bytes, context_link, pipeline_time, straggling, tied_exchange
from planner.cost.training_attention import has_flash_attention
from planner.cost.training_experts import expert_collectives, expert_parameters_K
from planner.cost.training_links import Groups, HopTerms, gradient_rings, hop_terms, tensor_parallel_collective
from planner.cost.training_memory import (
    Activations,
    activations,
    end_parameters,
    layer_parameters_K,
    memory_limit,
    microbatches_in_flight,
    state_bytes,
    unsharded_bytes,
)
from planner.cost.training_options import PLAIN, RunOptions
from planner.cost.training_replica import sharding_seconds, update_terms
from planner.cost.training_stage import StageWork, mixed_precision, stage_work
from planner.engine.chunks import chunk_layers
from planner.search.training.uniform_space import MAX_MICROBATCH, Cell, Choices, ZeroStage
from planner.search.training_layout import class_groups

if TYPE_CHECKING:
    from planner.cluster import Link
    from planner.cost._types import Array, BoolArray, IntArray
    from planner.plan import TrainingJob
    from planner.search.problem import TrainingProblem

__all__ = ["CellPrices", "UniformPricer"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CellPrices:
    """Prices of the configurations of a cell.

    Parameters
    ----------
    legal_M
        Which microbatch sizes divide the batch, and make whole groups of an interleaved pipeline.
    seconds_ZRM, memory_ZRM
        Of an iteration, and bytes on the fullest GPU.
    """

    legal_M: BoolArray
    seconds_ZRM: Array
    memory_ZRM: Array


@dataclass(frozen=True, slots=True, eq=False)
class _Geometry:
    """A pool cut into stages of groups: what follows from that alone."""

    groups_S: tuple[Groups, ...]
    rings_S: tuple[Collective, ...]
    tied: float


class UniformPricer:
    """Prices uniform configurations on the GPUs of one pool.

    Parameters
    ----------
    problem
        Model, cluster, engine and job; how state is divided is each configuration's own.
    node_class
        Position of the pool in the cluster.
    choices
        Recomputations and ways to divide state.
    options
        Formats and overlaps of the run.
    """

    def __init__(
        self, problem: TrainingProblem, node_class: int, choices: Choices, options: RunOptions = PLAIN
    ) -> None:
        self.problem, self.choices, self.options = problem, choices, options
        self.pool = problem.cluster.classes[node_class]
        self._index = node_class
        self.model = mixed_precision(problem.model)
        self.device = self.pool.device
        batch = problem.job.global_batch
        self.sizes = tuple(b for b in range(1, min(batch, MAX_MICROBATCH) + 1) if batch % b == 0)
        self.limit = memory_limit(self.device, problem.engine)
        flash = options.flash_attention
        self._flash = has_flash_attention(self.device) if flash is None else flash
        self._jobs: dict[ZeroStage, TrainingJob] = {
            zero: problem.job.model_copy(update={"zero_stage": zero}) for zero in choices.zero_stages
        }
        self._kind_L = np.asarray(self.model.kind_of_layer)
        self._geometries: dict[tuple[int, int, int], _Geometry] = {}
        self._exchanges: dict[tuple[int, ...], tuple[list[Collective | None], list[Collective] | None]] = {}
        self._works: dict[tuple[object, ...], list[StageWork]] = {}
        self._held: dict[tuple[int, ...], list[Activations]] = {}
        self._hops: dict[tuple[int, int, int, bool], list[HopTerms]] = {}
        self._kinds: dict[tuple[tuple[int, ...], int], IntArray] = {}
        self._updates: dict[tuple[object, ...], tuple[float, float, float, float]] = {}

    def price(self, cell: Cell) -> CellPrices:
        """Price a cell."""
        engine, options = self.problem.engine, self.options
        geometry = self._geometry(cell)
        kinds_SK = self._kinds_held(cell)
        sizes_M = np.array(self.sizes)
        batch = self.problem.job.global_batch
        legal_M = batch // cell.dp % sizes_M == 0
        microbatches_M = np.maximum(batch // cell.dp // sizes_M, 1)
        if cell.virtual_stages > 1:
            legal_M &= microbatches_M % cell.pp == 0

        exchanges, expert_rings = self._apart(cell, geometry)
        work_SRM = self._work_SRM(cell, geometry, exchanges, kinds_SK)
        hop_SM = self._hop_SM(cell, geometry)
        cycle_SRM = work_SRM + hop_SM[:, None, :]

        dense_S, apart_S, largest_S = self._parameters(cell, kinds_SK)
        activations_SRM = self._activations_SRM(cell, kinds_SK, microbatches_M)
        seconds, memory = [], []
        for zero, job in self._jobs.items():
            gathered_S, update_S = self._updates_S(job, geometry.rings_S, dense_S)
            state_S = state_bytes(job, cell.groups, options) * dense_S
            state_S = state_S + np.array([unsharded_bytes(job, cell.groups, one) for one in largest_S])
            if expert_rings is not None:
                theirs_S, later_S = self._updates_S(job, expert_rings, apart_S)
                gathered_S, update_S = gathered_S + theirs_S, update_S + later_S
                state_S = state_S + state_bytes(job, cell.groups // cell.ep, options) * apart_S
            if zero not in (engine.zero_stages if cell.pp == 1 else engine.pipelined_zero_stages):
                seconds.append(np.full(work_SRM.shape[1:], np.inf))
            else:
                full_SRM = cycle_SRM + gathered_S[:, None, None]
                pipeline_RM = pipeline_time(np.moveaxis(full_SRM, 0, -1), microbatches_M, cell.virtual_stages)
                seconds.append(pipeline_RM + float(update_S.max()) + geometry.tied + engine.overhead.iteration.value)
            memory.append((state_S[:, None, None] + activations_SRM).max(axis=0) + engine.reserved_memory.value)
        factor = straggling(engine, cell.tp * cell.pp * cell.groups) if options.stragglers else 1.0
        return CellPrices(legal_M=legal_M, seconds_ZRM=factor * np.stack(seconds), memory_ZRM=np.stack(memory))

    def _geometry(self, cell: Cell) -> _Geometry:
        key = (cell.tp, cell.pp, cell.groups)
        if key not in self._geometries:
            cluster = self.problem.cluster
            groups = class_groups(cluster, self._index, cell.tp)
            stages = tuple(groups[s * cell.groups : (s + 1) * cell.groups] for s in range(cell.pp))
            self._geometries[key] = _Geometry(
                stages, tuple(gradient_rings(cluster, stages)), tied_exchange(cluster, self.model, stages)
            )
        return self._geometries[key]

    def _apart(self, cell: Cell, geometry: _Geometry) -> tuple[list[Collective | None], list[Collective] | None]:
        """All-to-all among groups that hold different experts, and rings of those that hold the same."""
        key = (cell.tp, cell.pp, cell.groups, cell.ep)
        if key not in self._exchanges:
            cluster, groups_S = self.problem.cluster, geometry.groups_S
            rings = gradient_rings(cluster, groups_S, every=cell.ep) if cell.ep > 1 else None
            self._exchanges[key] = expert_collectives(cluster, groups_S, cell.ep), rings
        return self._exchanges[key]

    def _kinds_held(self, cell: Cell) -> IntArray:
        """Layers of each kind on each stage, shape (S, K)."""
        key = (cell.layers, cell.virtual_stages)
        if key not in self._kinds:
            self._kinds[key] = np.stack(
                [
                    np.bincount(
                        np.concatenate([self._kind_L[slice(*chunk)] for chunk in chunks]),
                        minlength=len(self.model.kinds),
                    )
                    for chunks in chunk_layers(cell.layers, cell.virtual_stages)
                ]
            )
        return self._kinds[key]

    def _work_SRM(
        self, cell: Cell, geometry: _Geometry, exchanges: list[Collective | None], kinds_SK: IntArray
    ) -> Array:
        """Seconds of each stage for one microbatch."""
        cluster = self.problem.cluster
        links = [context_link(cluster, groups, cell.cp) for groups in geometry.groups_S]
        answer = np.empty((cell.pp, len(self.choices.recomputes), len(self.sizes)))
        for s, (groups, link, exchange) in enumerate(zip(geometry.groups_S, links, exchanges, strict=True)):
            for r, work in enumerate(self._stage_works(cell, groups, link, exchange)):
                answer[s, r] = kinds_SK[s] @ work.layer_KB
                answer[s, r] += (work.first_B if s == 0 else 0.0) + (work.last_B if s == cell.pp - 1 else 0.0)
        return answer

    def _stage_works(
        self, cell: Cell, groups: Groups, link: Link | None, exchange: Collective | None
    ) -> list[StageWork]:
        key = (
            cell.tp,
            cell.cp,
            cell.sequence_parallel,
            None if link is None else (link.bandwidth, link.latency),
            None if exchange is None else (exchange.size, exchange.latency, exchange.bandwidth),
        )
        if key not in self._works:
            collective = tensor_parallel_collective(self.problem.cluster, groups[0])
            self._works[key] = [
                stage_work(
                    self.model,
                    self.device,
                    collective,
                    self.problem.engine,
                    sequences_B=np.array(self.sizes, dtype=float),
                    sequence_length=self.problem.job.sequence_length,
                    recompute=recompute,
                    sequence_parallel=cell.sequence_parallel,
                    options=self.options,
                    context_parallel=cell.cp,
                    context_link=link,
                    expert_exchange=exchange,
                )
                for recompute in self.choices.recomputes
            ]
        return self._works[key]

    def _hop_SM(self, cell: Cell, geometry: _Geometry) -> Array:
        """Seconds of the hops behind each stage, both directions."""
        groups_S, cluster = geometry.groups_S, self.problem.cluster
        key = (cell.tp, cell.pp, cell.groups, cell.sequence_parallel)
        if key not in self._hops:
            self._hops[key] = [
                hop_terms(cluster, a, b, (1,) * cell.groups, sequence_parallel=cell.sequence_parallel)
                for a, b in pairwise(groups_S)
            ]
        message_M = boundary_bytes(self.model, self.problem.job) / cell.cp * np.array(self.sizes)
        hop_SM = np.zeros((cell.pp, len(self.sizes)))
        for s, terms in enumerate(self._hops[key]):
            hop_SM[s] = 2.0 * cell.virtual_stages * terms.seconds(message_M)
        if cell.virtual_stages > 1:
            hop_SM[-1] = hop_SM[:-1].max(axis=0, initial=0.0)
            hop_SM *= self.problem.engine.training.hops.value if self.options.overlap else 1.0
        return hop_SM

    def _parameters(self, cell: Cell, kinds_SK: IntArray) -> tuple[Array, Array, Array]:
        """Parameters of each stage on a GPU: of all but experts that lie apart, of these, and of the largest layer."""
        model = self.model
        each_K = layer_parameters_K(model, cell.tp)
        dense_S = kinds_SK @ each_K
        dense_S[0] += end_parameters(model, cell.tp, first=True, last=cell.pp == 1)
        if cell.pp > 1:
            dense_S[-1] += end_parameters(model, cell.tp, first=False, last=True)
        apart_S = np.zeros(cell.pp)
        if cell.ep > 1:
            expert_K = expert_parameters_K(model, cell.tp)
            dense_S = dense_S - kinds_SK @ expert_K
            apart_S = kinds_SK @ expert_K / cell.ep
            each_K = each_K - expert_K * (1.0 - 1.0 / cell.ep)
        return dense_S, apart_S, np.where(kinds_SK > 0, each_K, 0.0).max(axis=1)

    def _activations_SRM(self, cell: Cell, kinds_SK: IntArray, microbatches_M: IntArray) -> Array:
        key = (cell.tp, cell.cp, cell.ep, int(cell.sequence_parallel))
        if key not in self._held:
            self._held[key] = [
                activations(
                    self.model,
                    cell.tp,
                    sequences_B=np.array(self.sizes, dtype=float),
                    sequence_length=self.problem.job.sequence_length / cell.cp,
                    recompute=recompute,
                    sequence_parallel=cell.sequence_parallel,
                    flash_attention=self._flash,
                    expert_parallel=cell.ep,
                    stored=self.options.stored,
                )
                for recompute in self.choices.recomputes
            ]
        flight_SM = np.array(
            [
                [
                    microbatches_in_flight(int(m), position=s, stages=cell.pp, chunks=cell.virtual_stages)
                    for m in microbatches_M
                ]
                for s in range(cell.pp)
            ]
        )
        answer = np.empty((cell.pp, len(self.choices.recomputes), len(self.sizes)))
        for r, held in enumerate(self._held[key]):
            answer[:, r] = flight_SM * (kinds_SK @ held.saved_KB) + held.working_B
            answer[-1, r] += held.logits_B
        return answer

    def _updates_S(
        self, job: TrainingJob, rings_S: tuple[Collective, ...] | list[Collective], parameters_S: Array
    ) -> tuple[Array, Array]:
        """Seconds of each stage: state gathered with a microbatch, and gradient sync with the optimizer at the end."""
        options, engine = self.options, self.problem.engine
        shown = engine.training.gradient_sync.value if options.overlap else 1.0
        shown *= 0.0 if options.frozen_weights else 1.0
        terms = []
        for ring in rings_S:
            key = (job.zero_stage, ring.size, ring.latency, ring.bandwidth)
            if key not in self._updates:
                one = update_terms(self.device, ring, job)
                optimizer = 0.0 if options.frozen_weights else one.optimizer_slope
                gathered = sharding_seconds(ring, 1.0, engine, job)
                self._updates[key] = gathered, shown * one.sync_fixed, shown * one.sync_slope, optimizer
            terms.append(self._updates[key])
        gathered_S, fixed_S, slope_S, optimizer_S = np.array(terms).T
        return gathered_S * parameters_S, fixed_S + (slope_S + optimizer_S) * parameters_S
