"""A training job as stage graphs at our own prices: outlines with bounds for all, arrays for those that may win.

A graph fixes what a whole pipeline has in common: the kinds of stage it may use (one tensor-parallel degree or all,
one GPU type or all, as the engine can), the data-parallel degree, the microbatch and recomputation. A class of the
graph is a kind of stage together with what is behind it: nothing, a stage in another node, or one in the same node,
which then is so far full. Its time holds that hop; gradient sync and optimizer share one maximum.

Legend: C class, K node class, L layer, N layer boundary, M microbatch size, W weights of resources, J kind of stage.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.training import boundary_bytes
from planner.cost.training_links import gradient_rings
from planner.cost.training_memory import GRADIENT_BYTES, microbatches_in_flight, state_bytes, unsharded_bytes
from planner.cost.training_replica import sharding_seconds, update_terms
from planner.search.training.cells import Outline, Sheaf
from planner.search.training.job_links import JobLinks
from planner.search.training.lagrange import least_peak
from planner.search.training.stage_graph import StageGraph

if TYPE_CHECKING:
    from planner.cost._types import Array, BoolArray, IntArray
    from planner.cost.network import Collective
    from planner.search.stage_classes import StageClasses

__all__ = ["GraphKey", "JobGraphs"]

# Relative slack of memory limits against rounding; the verifier allows as much.
_SLACK: Final = 1e-12
# Prices of a place in the pipeline that bounds try.
_PLACES: Final = 9
# Share of an iteration that bounds on interleaved pipelines may leave.
_PRECISE: Final = 0.02
# A stage's node when no other stage can join it.
_FULL: Final = -1


@dataclass(frozen=True, slots=True)
class GraphKey:
    """What a graph fixes, as positions in `StageClasses`, and the kind of stage of each of its classes.

    Parameters
    ----------
    family
        Kinds of stage that the pipeline may use.
    degree, size, recompute
        Data-parallel degree, microbatch size, recomputation.
    virtual, depth, hop
        Model chunks of each stage; if they are several, how many stages there are, and seconds of the longest hop.
    kind_C, with_next_C
        Kind of each class, and whether it is in the node of the stage behind it; empty in an outline.
    stages
        What the positions are in.
    """

    family: tuple[int, ...]
    degree: int
    size: int
    recompute: int
    virtual: int = 1
    depth: int = 0
    hop: float = math.inf
    kind_C: tuple[int, ...] = ()
    with_next_C: tuple[bool, ...] = ()
    stages: StageClasses | None = field(default=None, compare=False)


class JobGraphs:
    """All graphs of a job.

    Parameters
    ----------
    stages
        Its kinds of stage.
    """

    def __init__(self, stages: StageClasses) -> None:
        self.stages = stages
        self.cluster, self.model = stages.problem.cluster, stages.model
        self.kind_L = np.asarray(self.model.kind_of_layer)
        self.counts_K = np.array([one.num_gpus for one in self.cluster.classes], dtype=np.int64)
        self.families = tuple(self._families())
        self._links = {
            family: JobLinks(self.cluster, [(stages.classes[j].node_class, stages.classes[j].tp) for j in family])
            for family in self.families
        }

    def _families(self) -> Iterator[tuple[int, ...]]:
        """Kinds of stage that may be in one pipeline."""
        engine = self.stages.problem.engine
        found: dict[tuple[str, int, bool], list[int]] = {}
        for j, one in enumerate(self.stages.classes):
            name = "" if engine.mixed_gpu_types else self.cluster.classes[one.node_class].device.name
            degree = one.tp if engine.tensor_parallel == "uniform" else 0
            for parallel in (True, False):
                if one.sequence_parallel == parallel or (one.tp == 1 and degree == 0):
                    found.setdefault((name, degree, parallel), []).append(j)
        for (_, degree, parallel), kinds in sorted(
            found.items(), key=lambda pair: (pair[0][0], pair[0][1], -pair[0][2])
        ):
            alone = all(self.stages.classes[j].tp == 1 for j in kinds)
            if degree == 0 and alone and not parallel and any(one.sequence_parallel for one in self.stages.classes):
                continue  # these are among those with sequence parallelism
            yield tuple(kinds)

    def outlines(self) -> list[Outline | Sheaf]:
        """Every graph that may hold the model, with a bound on its plans."""
        found: list[Outline | Sheaf] = []
        for family in self.families:
            for degree in range(len(self.stages.degrees)):
                kinds = self._usable(family, degree)
                if not kinds:
                    continue
                for recompute, name in enumerate(self.stages.recomputes):
                    if name == "selective" and all(self.stages.classes[j].flash_attention for j in kinds):
                        continue  # recomputes what is not kept anyway
                    bound_M, least = self._bound_M(family, kinds, degree, recompute)
                    for size in np.flatnonzero(np.isfinite(bound_M)):
                        key = GraphKey(family, degree, int(size), recompute)
                        found.append(Outline(float(bound_M[size]), partial(self.build, key)))
                        parts = {name: float(row[size]) for name, row in least.items()}
                        found += self._interleaved(key, kinds, parts)
        return found

    def _interleaved(self, key: GraphKey, kinds: list[int], least: dict[str, float]) -> list[Sheaf]:
        """Outlines of the same with several chunks on each stage, one for each number of stages and longest hop.

        The last stage sends to the first as slowly as any other stage does. Chunks are equal, but that embedding and
        head may count as a layer; microbatches come in groups of as many as there are stages. Layers must be alike,
        since a stage does not hold neighbours then.
        """
        stages, dp, L = self.stages, self.stages.degrees[key.degree], len(self.kind_L)
        m, most = int(stages.microbatches_DM[key.degree, key.size]), self._most_stages(kinds, dp)
        if not stages.problem.engine.interleaving or len(set(self.model.kind_of_layer)) > 1:
            return []
        shapes = [
            (virtual, depth)
            for depth in range(2, most + 1)
            for virtual in range(2, (L + 2) // depth + 1)
            if m % depth == 0 and any((L + e) % virtual == 0 and L + e >= depth * virtual for e in (0, 1, 2))
        ]
        if not shapes:
            return []
        bound = (m - 0.5) * least["peak"] + least["sum"] / max(virtual for virtual, _ in shapes) + least["update"]
        bound += stages.problem.engine.overhead.iteration.value
        return [Sheaf(bound, partial(self._spread, key, kinds, shapes, least))]

    def _spread(
        self, key: GraphKey, kinds: list[int], shapes: list[tuple[int, int]], least: dict[str, float]
    ) -> list[Outline]:
        """Outlines of interleaved pipelines: none is faster in its bottleneck than those that are not interleaved."""
        plain = self.build(key)
        m, overhead = plain.microbatches, plain.constant
        if not len(plain.edges):
            return []
        precise = _PRECISE * m * least["peak"]
        low = least_peak(plain, plain.edges, 0, len(plain.peaks) - 1, precise)
        if low is None:
            return []
        variants, _ = self._variants(kinds, self._links[key.family], key, parallel=self._parallel(kinds))
        hops = sorted({hop for _, _, hop, _, _ in variants if hop is not None})
        found = []
        for virtual, depth in shapes:
            if not self._may_hold(key, kinds, virtual, depth):
                continue
            for hop in hops:
                whole = least["sum"] + virtual * ((depth - 1) * hops[0] + hop)
                peak = max(least["peak"], float(plain.peaks[low]), whole / depth)
                bound = (m - 1.0 / virtual) * peak + whole / virtual + least["update"] + overhead
                interleaved = replace(key, virtual=virtual, depth=depth, hop=hop)
                found.append(Outline(bound, partial(self.build, interleaved)))
        return found

    def _may_hold(self, key: GraphKey, kinds: list[int], virtual: int, depth: int) -> bool:
        """Whether so many interleaved stages have room for all layers, without embedding, head and logits."""
        stages, dp = self.stages, self.stages.degrees[key.degree]
        m, k = int(stages.microbatches_DM[key.degree, key.size]), int(self.kind_L[0])
        flight_Q = np.array(
            [microbatches_in_flight(m, position=depth - q, stages=depth, chunks=virtual) for q in range(1, depth + 1)]
        )
        held: list[float] = []
        for j in kinds:
            one = stages.classes[j]
            room = one.limit * (1 + _SLACK) - self._reserve - one.working_RM[key.recompute, key.size]
            layer_Q = stages.state_D[key.degree] * one.parameters_K[k] + self._apart_bytes(dp) * one.apart_K[k]
            layer_Q = layer_Q + flight_Q * one.saved_RMK[key.recompute, key.size, k]
            most = min(depth, int(self.counts_K[one.node_class]) // (dp * one.tp))
            held += [float(n) for n in np.floor(room / layer_Q * (1 + _SLACK))[:most]]
        whole = [n - n % virtual for n in sorted(held, reverse=True)[:depth]]
        # the first and the last stage may hold one layer less than whole chunks
        return len(whole) == depth and sum(whole) + 2 * (virtual - 1) >= len(self.kind_L)

    def _parallel(self, kinds: list[int]) -> bool:
        return any(self.stages.classes[j].sequence_parallel for j in kinds)

    def _usable(self, family: tuple[int, ...], degree: int) -> list[int]:
        stages, dp = self.stages, self.stages.degrees[degree]
        found = [j for j in family if dp <= len(stages.classes[j].groups)]
        if stages.context_parallel == stages.expert_parallel == 1:
            return found
        # who shares a sequence or the experts lies alike on every node
        links = self._links[family]
        return [j for j in found if links.alike(stages.classes[j].node_class, dp)]

    def _update(self, family: tuple[int, ...], j: int, dp: int) -> tuple[float, float]:
        """Seconds of gradient sync and optimizer: fixed, and per parameter."""
        one = self.stages.classes[j]
        ring = self._links[family].ring(one.node_class, one.tp, dp)
        terms = update_terms(self.cluster.classes[one.node_class].device, ring, self.stages.problem.job)
        return terms.sync_fixed, terms.slope

    def _expert_ring(self, j: int, dp: int) -> Collective:
        """Collective of the groups of a stage that hold the same experts."""
        groups = self.stages.classes[j].groups[:dp]
        return gradient_rings(self.cluster, [groups], every=self.stages.expert_parallel)[0]

    def _bound_M(
        self, family: tuple[int, ...], kinds: list[int], degree: int, recompute: int
    ) -> tuple[Array, dict[str, Array]]:
        """Seconds that no plan of a graph undercuts, for each microbatch size, and its parts.

        Infinite where nothing fits. Whatever the prices of GPUs and places in the pipeline: what all layers pay at
        least is at most what there is.
        """
        stages, dp = self.stages, self.stages.degrees[degree]
        classes = [stages.classes[j] for j in kinds]
        m_M = stages.microbatches_DM[degree]
        most = self._most_stages(kinds, dp)
        use_J = np.array([dp * one.tp for one in classes], dtype=float)
        at_J = np.array([one.node_class for one in classes])
        count_k = np.bincount(self.kind_L, minlength=len(self.model.kinds))
        layer_JMk = np.stack([one.layer_RMK[recompute] for one in classes])
        ends_JM = np.stack([one.first_M for one in classes]), np.stack([one.last_M for one in classes])
        paid_WJM = self._paid_WJM(layer_JMk @ count_k, use_J, at_J, most)
        spent_WM = np.einsum("wmk,k->wm", (paid_WJM[:, :, :, None] * layer_JMk).min(axis=1), count_k)
        for end_JM in ends_JM:
            spent_WM += (paid_WJM * end_JM).min(axis=1)
        peak_M = spent_WM.max(axis=0)
        sum_M = layer_JMk.min(axis=0) @ count_k + ends_JM[0].min(axis=0) + ends_JM[1].min(axis=0)
        slope_J = np.array([self._update(family, j, dp)[1] for j in kinds])
        parameters_Jk = np.stack([one.parameters_K for one in classes])
        apart_Jk = np.stack([one.apart_K for one in classes])
        whole_JM = np.repeat((slope_J * (parameters_Jk @ count_k))[:, None], len(m_M), axis=1)
        paid = self._paid_WJM(whole_JM, use_J, at_J, most)
        updated_WMk = (paid[:, :, :, None] * (slope_J[:, None] * parameters_Jk)[:, None, :]).min(axis=1)
        update_M = (updated_WMk @ count_k).max(axis=0)
        bound_M = (m_M - 1) * peak_M + np.maximum(sum_M, peak_M) + update_M
        # the layers that a stage holds at most, one microbatch in flight
        room_JM = np.stack([one.limit - self._reserve - one.working_RM[recompute] for one in classes])
        held_JMk = stages.state_D[degree] * parameters_Jk[:, None, :] + np.stack(
            [one.saved_RMK[recompute] for one in classes]
        )
        held_JMk += self._apart_bytes(dp) * apart_Jk[:, None, :]
        most_JM = np.floor(room_JM / held_JMk[:, :, count_k > 0].min(axis=2) * (1 + 1e-9))
        paid = self._paid_WJM(1.0 / np.maximum(most_JM, 1e-3), use_J, at_J, most)
        needed_WJM = np.where(most_JM >= 1, paid / np.maximum(most_JM, 1), np.inf)
        # sequences of a microbatch that context parallelism divides too may as well be divided over data parallelism
        apart_M = np.array([math.gcd(b, stages.context_parallel) == 1 for b in stages.sizes])
        fits_M = apart_M & ((len(self.kind_L) * needed_WJM.min(axis=1)).max(axis=0) <= 1 + 1e-9)
        bound_M = np.where(fits_M & (m_M > 0), bound_M + stages.problem.engine.overhead.iteration.value, np.inf)
        return bound_M, {"peak": peak_M, "sum": sum_M, "update": update_M}

    def _paid_WJM(self, whole_JM: Array, use_J: Array, at_J: IntArray, most: int) -> Array:
        """What a stage of each kind pays of all resources, GPUs by class and places in the pipeline, by some prices.

        Parameters
        ----------
        whole_JM
            What all layers take of something on a stage of each kind. Prices under which kinds are alike bound best:
            those of the linear program that spreads parts of layers, for some prices of a place.
        use_J, at_J, most
            GPUs of a stage, their class, and places.
        """
        place_WM = np.linspace(0.0, 1.0, _PLACES)[:, None] / whole_JM.min(axis=0)
        worth_WJM = np.maximum(1.0 / whole_JM - place_WM[:, None, :], 0.0) / use_J[:, None]
        price_WKM = np.zeros((len(place_WM), len(self.counts_K), whole_JM.shape[1]))
        for k in np.unique(at_J):
            price_WKM[:, k] = worth_WJM[:, at_J == k].max(axis=1)
        have_WM = (price_WKM * self.counts_K[:, None]).sum(axis=1) + most * place_WM
        paid_WJM = price_WKM[:, at_J] * use_J[:, None] + place_WM[:, None]
        return np.asarray(paid_WJM / have_WM[:, None])

    def _apart_bytes(self, dp: int) -> float:
        """Bytes per parameter of experts that lie apart."""
        return state_bytes(self.stages.problem.job, dp // self.stages.expert_parallel)

    @property
    def _reserve(self) -> float:
        return self.stages.problem.engine.reserved_memory.value

    def _most_stages(self, kinds: list[int], dp: int) -> int:
        least: dict[int, int] = {}
        for j in kinds:
            one = self.stages.classes[j]
            least[one.node_class] = min(least.get(one.node_class, one.tp), one.tp)
        room = sum(int(self.counts_K[k]) // (dp * tp) for k, tp in least.items())
        problem = self.stages.problem
        apart = problem.job.zero_stage not in problem.engine.pipelined_zero_stages
        return min(1 if apart else self.stages.max_stages, room)

    def build(self, key: GraphKey) -> StageGraph:
        """Make the arrays of a graph."""
        stages, dp = self.stages, self.stages.degrees[key.degree]
        kinds, links = self._usable(key.family, key.degree), self._links[key.family]
        variants, ports = self._variants(kinds, links, key, parallel=self._parallel(kinds))
        variants = [one for one in variants if one[2] is None or one[2] <= key.hop]
        N, K, C = len(self.kind_L) + 1, len(self.counts_K), len(variants)
        peak, total = np.full((C, N, N), np.inf), np.full((C, N, N), np.inf)
        update, depth = np.zeros((C, N, N)), np.zeros((C, N, N), dtype=np.int64)
        use_CK = np.zeros((C, K), dtype=np.int64)
        joins_CP = np.zeros((C, len(ports)), dtype=bool)
        priced = {j: self._priced(key, j, dp) for j in kinds}
        tied = self._tied(kinds, links, dp)
        m, v = int(stages.microbatches_DM[key.degree, key.size]), key.virtual
        # several chunks: every stage hops as often, the last one to the first; and only one chunk fills the pipeline
        wrap = v * key.hop if v > 1 else 0.0
        scale = (m - 1.0 / v) / (m - 1) if v > 1 else 1.0
        for c, (j, _, hop, joined, _) in enumerate(variants):
            time, updates, held = priced[j]
            last = np.arange(N) == N - 1
            ends = last if hop is None else ~last
            seconds = np.where(ends & (held > 0), time + (wrap if hop is None else v * hop), np.inf)
            peak[c], total[c] = scale * seconds, seconds / v
            if hop is None:
                total[c, 1:] += tied[j]
            update[c], depth[c] = updates, np.where(ends, held, 0)
            use_CK[c, stages.classes[j].node_class] = dp * stages.classes[j].tp
            joins_CP[c, joined] = True
        return StageGraph(
            microbatches=m,
            counts_K=self.counts_K,
            use_CK=use_CK,
            replica_CK=np.zeros_like(use_CK),
            degree=dp,
            peak_CNN=peak,
            total_CNN=total,
            sync_CNN=update,
            update_CNN=np.zeros_like(update),
            depth_CNN=depth,
            end_CN=np.zeros((C, N)),
            constant=stages.problem.engine.overhead.iteration.value,
            max_stages=key.depth or self._most_stages(kinds, dp),
            min_stages=key.depth or 1,
            port_C=np.array([port for _, port, *_ in variants], dtype=np.int64),
            joins_CP=joins_CP,
            label=replace(
                key, kind_C=tuple(j for j, *_ in variants), with_next_C=tuple(one[4] for one in variants), stages=stages
            ),
        )

    def _variants(
        self, kinds: list[int], links: JobLinks, key: GraphKey, *, parallel: bool
    ) -> tuple[list[tuple[int, int, float | None, list[int], bool]], dict[tuple[int, int], int]]:
        """Classes of a graph: kind, port offered, hop, ports joined, and whether in the node of the next stage.

        A port is a kind of stage and the GPUs of its node that it and those behind it fill.
        """
        stages, dp = self.stages, self.stages.degrees[key.degree]
        size = boundary_bytes(self.model, stages.problem.job) * stages.sizes[key.size] / stages.context_parallel
        on: dict[int, list[int]] = {}
        for j in kinds:
            on.setdefault(stages.classes[j].node_class, []).append(j)
        ports: dict[tuple[int, int], int] = {(-1, _FULL): 0}
        for node_class, mine in on.items():
            room = self.cluster.classes[node_class].gpus_per_node
            blocks = {j: dp * stages.classes[j].tp for j in mine}
            least = min(blocks.values())
            if not links.aligned(node_class, dp):
                for j in mine:
                    ports.setdefault((j, blocks[j]), len(ports))
                continue
            reached = sorted({block for block in blocks.values() if block <= room})
            for filled in reached:
                reached += [f for b in blocks.values() if (f := filled + b) <= room and f not in reached]
            for j in mine:
                for filled in sorted(f for f in reached if f >= blocks[j]):
                    ports.setdefault((j, filled if filled + least <= room else _FULL), len(ports))
                ports.setdefault((j, blocks[j] if blocks[j] + least <= room else _FULL), len(ports))
        variants: list[tuple[int, int, float | None, list[int], bool]] = []
        known: dict[tuple[int, int, bool], float | None] = {}

        def own(j: int, filled: int) -> int:
            return ports[j, filled] if (j, filled) in ports else ports[j, _FULL]

        for j in kinds:
            one = stages.classes[j]
            block, room = dp * one.tp, self.cluster.classes[one.node_class].gpus_per_node
            even = links.aligned(one.node_class, dp)
            variants.append((j, own(j, block), None, [0], False))
            apart: dict[float, list[int]] = {}
            beside: dict[tuple[int, float], list[int]] = {}
            for (other, filled), port in ports.items():
                if other < 0:
                    continue
                ends = (one.node_class, one.tp), (stages.classes[other].node_class, stages.classes[other].tp)
                for same in (False, True):
                    if (j, other, same) not in known:
                        known[j, other, same] = links.hop(*ends, dp, size, same_node=same, sequence_parallel=parallel)
                away = known[j, other, False]
                if away is not None:
                    apart.setdefault(2.0 * away, []).append(port)
                if ends[0][0] == ends[1][0] and filled != _FULL and filled + block <= room:
                    near = known[j, other, True]
                    if near is not None:
                        beside.setdefault((filled + block if even else block, 2.0 * near), []).append(port)
            variants += [(j, own(j, block), hop, joined, False) for hop, joined in sorted(apart.items())]
            variants += [(j, own(j, filled), hop, joined, True) for (filled, hop), joined in sorted(beside.items())]
        return variants, ports

    def _priced(self, key: GraphKey, j: int, dp: int) -> tuple[Array, Array, IntArray]:
        """Of every interval of layers on a kind: seconds, seconds of updates, and most stages to the end by memory."""
        stages, one = self.stages, self.stages.classes[j]
        r, m, N = key.recompute, key.size, len(self.kind_L) + 1
        microbatches = int(stages.microbatches_DM[key.degree, m])
        time = _sums(one.layer_RMK[r, m][self.kind_L])
        problem = stages.problem
        ring = self._links[key.family].ring(one.node_class, one.tp, dp)
        gathered = sharding_seconds(ring, 1.0, problem.engine, problem.job)
        time[0] += one.first_M[m]
        time[:, N - 1] += one.last_M[m]
        parameters = _sums(one.parameters_K[self.kind_L])
        parameters[0, : N - 1] += one.first_parameters
        parameters[1:, N - 1] += one.last_parameters
        parameters[0, N - 1] += one.both_parameters
        apart = _sums(one.apart_K[self.kind_L])
        time += gathered * parameters
        fixed, slope = self._update(key.family, j, dp)
        updates = fixed + slope * parameters
        state = stages.state_D[key.degree] * parameters
        if one.apart_K.any():
            theirs = self._expert_ring(j, dp)
            time += sharding_seconds(theirs, 1.0, problem.engine, problem.job) * apart
            terms = update_terms(self.cluster.classes[one.node_class].device, theirs, problem.job)
            updates = updates + terms.sync_fixed + terms.slope * apart
            state = state + self._apart_bytes(dp) * apart
        saved = _sums(one.saved_RMK[r, m][self.kind_L])
        room = one.limit * (1 + _SLACK) - self._reserve - one.working_RM[r, m] - state
        room[:, N - 1] -= one.logits_M[m]
        largest = np.zeros((N, N))
        for k, parameters_of_one in enumerate(one.parameters_K + one.apart_K):
            largest = np.where(_sums(self.kind_L == k) > 0, np.maximum(largest, parameters_of_one), largest)
        room -= unsharded_bytes(problem.job, dp, 1.0) * largest
        inside = np.arange(N)[:, None] < np.arange(N)
        if key.virtual > 1:
            inside &= self._chunked(key.virtual)
            depth = np.zeros((N, N), dtype=np.int64)
            for q in range(1, key.depth + 1):
                held = microbatches_in_flight(
                    microbatches, position=key.depth - q, stages=key.depth, chunks=key.virtual
                )
                depth[inside & (room >= held * saved)] = q
            return time, np.where(inside, updates, 0.0), depth
        most = np.floor(room / np.where(inside, saved, 1.0) * (1 + _SLACK))
        most = np.where(most >= min(microbatches, stages.max_stages), stages.max_stages, most)
        depth = np.where(inside, np.clip(most, 0, stages.max_stages), 0).astype(np.int64)
        return time, np.where(inside, updates, 0.0), depth

    def _chunked(self, virtual: int) -> BoolArray:
        """Intervals of layers that can be cut into so many chunks."""
        N = len(self.kind_L) + 1
        order = np.arange(N)
        length_NN = order - order[:, None]
        short_NN = (order[:, None] == 0) | (order == N - 1)  # holds the embedding or the head
        even_NN = (length_NN % virtual == 0) | (short_NN & ((length_NN + 1) % virtual == 0))
        return np.asarray(even_NN & (length_NN > 0) & (length_NN < N - 1))

    def _tied(self, kinds: list[int], links: JobLinks, dp: int) -> dict[int, float]:
        """Seconds of the exchange of tied embeddings at least, by the kind of the last stage."""
        if not self.model.tied_embeddings:
            return dict.fromkeys(kinds, 0.0)
        least = {}
        for j in kinds:
            found = []
            for i in kinds:
                ends = self._end(i), self._end(j)
                size = GRADIENT_BYTES * self.model.embedding_params / min(ends[0][1], ends[1][1])
                near = ends[0][0] == ends[1][0] and dp * (ends[0][1] + ends[1][1]) <= (
                    self.cluster.classes[ends[0][0]].gpus_per_node
                )
                for same in {False, near}:
                    seconds = links.hop(*ends, dp, size, same_node=same, sequence_parallel=False)
                    found += [] if seconds is None else [seconds]
            least[j] = min(found, default=0.0)
        return least

    def _end(self, j: int) -> tuple[int, int]:
        return self.stages.classes[j].node_class, self.stages.classes[j].tp


def _sums(value_L: Array) -> Array:
    """Sum of every interval of layers, shape (boundaries, boundaries); what is no interval is not positive."""
    upto = np.concatenate([[0.0], np.cumsum(value_L)])
    return np.asarray(upto[None, :] - upto[:, None])
