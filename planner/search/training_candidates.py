"""Candidates of a training search in families, and a bound on each that costs a few array operations.

A *family* fixes the kinds of stage in pipeline order and the data-parallel degree. Its candidates differ in how many
stages each kind has, in the microbatch size and in recomputation; the layers are not split yet.

The bound is the closed form of the iteration with layers cut anywhere. Let ``r_i`` be the time of a unit of work on
kind i, ``n_i`` its stages, ``f_i`` the sum of what they take whatever they hold, W all work. With every stage equally
busy

    ``t = (W + sum_i f_i / r_i) / (sum_i n_i / r_i)``,  ``(m - 1) t + sum_s z_s = (m - 1 + S) t``,

which is the optimum of the linear program ``min (m - 1) t + sum_s z_s`` as long as moving work off the slowest kind
would lengthen t by more than it shortens the sum: ``m - 1 + S >= r_max sum_i n_i / r_i``. Where it does not, that
kind holds one layer per stage at best, and the same holds for the others with what is left. Gradient sync and
optimizer are bounded the same way, over parameters instead of time. Both stay below whatever the layer partition
finds.

Legend: B candidate, C counts of a family, J kind of stage in pipeline order, M microbatch size, R recomputation, K
layer kind, P position of a stage among those of its kind, q stages from here to the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations, product
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.search.stage_classes import StageClasses

if TYPE_CHECKING:
    from planner.cost._types import Array, BoolArray, IntArray

__all__ = ["MAX_NODE_CLASSES", "Candidates", "Family", "families"]

# Node classes in one pipeline; every order of them is tried.
MAX_NODE_CLASSES: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """Candidates of any families, layers not split; arrays over them.

    Parameters
    ----------
    kind_BJ, count_BJ
        Kinds of stage in pipeline order, and stages of each; -1 and 0 beyond the last.
    degree_B, recompute_B, size_B
        Positions in `StageClasses.degrees`, in `StageClasses.recomputes`, and among the microbatch sizes.
    bound_B, update_bound_B
        Seconds that the iteration, and its updates alone, cannot undercut.
    """

    kind_BJ: IntArray
    count_BJ: IntArray
    degree_B: IntArray
    recompute_B: IntArray
    size_B: IntArray
    bound_B: Array
    update_bound_B: Array

    def __len__(self) -> int:
        return len(self.bound_B)

    def take(self, rows: IntArray | slice) -> Candidates:
        """Some of them."""
        return Candidates(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})

    @classmethod
    def joined(cls, parts: Sequence[Candidates]) -> Candidates:
        """All of several, in order."""
        return cls(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in cls.__dataclass_fields__})


@dataclass(frozen=True, slots=True)
class Family:
    """Kinds of stage in pipeline order, and position of the data-parallel degree."""

    kinds: tuple[int, ...]
    degree: int

    def optimistic_RM(self, stages: StageClasses) -> Array:
        """Seconds that no candidate undercuts: all groups of all kinds at work, no hops, no updates."""
        count_K = _layer_counts(stages)
        reference_RMK = self._reference_RMK(stages)
        speed_RM = np.zeros(reference_RMK.shape[:2])
        for j in self.kinds:
            # a kind may be better at one layer kind than at another: its best counts for all
            ratio_RM = (stages.classes[j].layer_RMK / reference_RMK).min(axis=2)
            speed_RM += stages.most_stages(j, self.degree) / ratio_RM
        slowest_RM = reference_RMK @ count_K / speed_RM
        # the stages' sum is no less than every layer on the kind that runs it fastest, and every change of kind
        sum_RM = np.min([stages.classes[j].layer_RMK for j in self.kinds], axis=0) @ count_K
        for j, to_j in pairwise(self.kinds):
            hop_M = stages.hops_PM(self.degree, j, to_j)[: stages.most_stages(j, self.degree)].min(axis=0)
            slowest_RM = np.maximum(slowest_RM, hop_M + stages.classes[j].layer_RMK[:, :, count_K > 0].min(axis=2))
            sum_RM = sum_RM + hop_M
        m_M = stages.microbatches_DM[self.degree]
        bound_RM = (m_M - 1) * slowest_RM + np.maximum(sum_RM, slowest_RM)
        if all(stages.classes[j].flash_attention for j in self.kinds):  # selective recomputation saves nothing
            bound_RM[[recompute == "selective" for recompute in stages.recomputes]] = np.inf
        return np.where(m_M > 0, bound_RM, np.inf)

    def may_hold(self, stages: StageClasses) -> bool:
        """Whether its GPUs have room for weights, gradients and optimizer state of all layers."""
        left, room = stages.max_stages, 0.0
        for share, most in sorted(
            ((stages.room_DJ[self.degree, j], stages.most_stages(j, self.degree)) for j in self.kinds), reverse=True
        ):
            room += float(share) * min(most, left)
            left -= min(most, left)
        return room >= 1.0 - 1e-9

    def counts_CJ(self, stages: StageClasses) -> IntArray:
        """Every way to give each kind at least one stage, in lexicographic order."""
        most = [stages.most_stages(j, self.degree) for j in self.kinds]
        grid = np.stack(np.meshgrid(*(np.arange(1, n + 1) for n in most), indexing="ij"), axis=-1)
        counts = grid.reshape(-1, len(self.kinds))
        return np.asarray(counts[counts.sum(axis=1) <= stages.max_stages])

    def candidates(self, stages: StageClasses, optimistic_RM: Array, incumbent: float) -> tuple[Candidates, int]:
        """Candidates that may fit memory and beat the incumbent, lowest bound first, and how many were bounded."""
        counts_CJ = self.counts_CJ(stages)
        count_K = _layer_counts(stages)
        reference_RMK = self._reference_RMK(stages)
        rate_JRM = np.stack([(stages.classes[j].layer_RMK / reference_RMK).min(axis=2) for j in self.kinds])
        work_RM, least_RM = reference_RMK @ count_K, reference_RMK[:, :, count_K > 0].min(axis=2)
        fixed_JCM = np.stack([self._fixed_CM(stages, i, counts_CJ[:, i]) for i in range(len(self.kinds))])
        update_C = self._update_bounds_C(stages, counts_CJ)
        constant_C = update_C + stages.tied_P(self.degree, self.kinds[0], self.kinds[-1])[counts_CJ[:, -1] - 1]
        constant_C = constant_C + stages.problem.engine.overhead.iteration.value
        m_M = stages.microbatches_DM[self.degree]
        fastest_RM = np.min([stages.classes[j].layer_RMK for j in self.kinds], axis=0) @ count_K
        parts, seen = [], 0
        for r, m in np.argwhere(optimistic_RM < incumbent):
            fits = np.flatnonzero(self._may_fit_C(stages, counts_CJ, int(r), int(m)))
            fixed_CJ = fixed_JCM[:, fits, m].T
            bound_C = _pipeline_bound(
                counts_CJ[fits], rate_JRM[:, r, m], fixed_CJ, work_RM[r, m], least_RM[r, m], int(m_M[m])
            )
            slowest_C = self._slowest_change_C(stages, counts_CJ[fits], int(r), int(m))
            bound_C = np.maximum(bound_C, (m_M[m] - 1) * slowest_C + fixed_CJ.sum(axis=1) + fastest_RM[r, m])
            bound_C += constant_C[fits]
            seen += len(counts_CJ)
            alive = bound_C < incumbent
            parts.append((fits[alive], bound_C[alive], r, m))
        c = np.concatenate([np.zeros(0, dtype=np.int64), *(part[0] for part in parts)])
        bound = np.concatenate([np.zeros(0), *(part[1] for part in parts)])
        order = np.argsort(bound, kind="stable")
        spread = [np.zeros(0, dtype=np.int64)]
        recompute = np.concatenate(spread + [np.full(len(p[0]), p[2], dtype=np.int64) for p in parts])
        size = np.concatenate(spread + [np.full(len(p[0]), p[3], dtype=np.int64) for p in parts])
        kind_BJ = np.full((len(c), MAX_NODE_CLASSES), -1, dtype=np.int64)
        kind_BJ[:, : len(self.kinds)] = self.kinds
        count_BJ = np.zeros((len(c), MAX_NODE_CLASSES), dtype=np.int64)
        count_BJ[:, : len(self.kinds)] = counts_CJ[c]
        every = Candidates(
            kind_BJ=kind_BJ,
            count_BJ=count_BJ,
            degree_B=np.full(len(c), self.degree, dtype=np.int64),
            recompute_B=recompute,
            size_B=size,
            bound_B=bound,
            update_bound_B=update_C[c],
        )
        return every.take(order), seen

    def _reference_RMK(self, stages: StageClasses) -> Array:
        """A unit of work for each layer kind: its mean time over the family's kinds of stage."""
        return np.asarray(np.mean([stages.classes[j].layer_RMK for j in self.kinds], axis=0))

    def _may_fit_C(self, stages: StageClasses, counts_CJ: IntArray, r: int, m: int) -> BoolArray:
        """Whether all layers find room, by the smallest layer and without embedding, head and logits."""
        reserve = stages.problem.engine.reserved_memory.value
        q = np.arange(1, stages.max_stages + 1)  # stages from here to the end
        in_flight = np.minimum(q, stages.microbatches_DM[self.degree, m])
        room_C = np.zeros(len(counts_CJ))
        each_C = np.ones(len(counts_CJ), dtype=bool)
        behind_C = np.zeros(len(counts_CJ), dtype=np.int64)
        for i in reversed(range(len(self.kinds))):
            one = stages.classes[self.kinds[i]]
            layer_qK = stages.state_D[self.degree] * one.parameters_K + in_flight[:, None] * one.saved_RMK[r, m]
            room_q = (one.limit - reserve - one.working_RM[r, m]) / layer_qK.min(axis=1)
            layers_q = np.floor(room_q * (1 + 1e-9)).clip(0, stages.model.num_layers)
            upto_q = np.concatenate([[0.0], np.cumsum(layers_q)])
            before_C = behind_C + counts_CJ[:, i]
            room_C += upto_q[before_C] - upto_q[behind_C]
            each_C &= layers_q[before_C - 1] >= 1
            behind_C = before_C
        return np.asarray(each_C & (room_C >= stages.model.num_layers))

    def _slowest_change_C(self, stages: StageClasses, counts_CJ: IntArray, r: int, m: int) -> Array:
        """Seconds of the slowest stage before a change of kind, holding the fastest layer."""
        slowest_C = np.zeros(len(counts_CJ))
        present = _layer_counts(stages) > 0
        for i, (j, to_j) in enumerate(pairwise(self.kinds)):
            hop_C = stages.hops_PM(self.degree, j, to_j)[counts_CJ[:, i] - 1, m]
            slowest_C = np.maximum(slowest_C, hop_C + stages.classes[j].layer_RMK[r, m, present].min())
        return slowest_C

    def _fixed_CM(self, stages: StageClasses, i: int, count_C: IntArray) -> Array:
        """Seconds that the stages of the i-th kind take together whatever they hold: hops, embedding, head."""
        j = self.kinds[i]
        inner_PM = stages.hops_PM(self.degree, j, j)
        summed = np.concatenate([np.zeros((1, len(stages.sizes))), np.cumsum(inner_PM, axis=0)])
        fixed_CM = summed[count_C - 1]
        if i + 1 < len(self.kinds):
            fixed_CM = fixed_CM + stages.hops_PM(self.degree, j, self.kinds[i + 1])[count_C - 1]
        else:
            fixed_CM = fixed_CM + stages.classes[j].last_M
        return np.asarray(fixed_CM + stages.classes[j].first_M if i == 0 else fixed_CM)

    def _update_bounds_C(self, stages: StageClasses, counts_CJ: IntArray) -> Array:
        """Seconds of gradient sync and optimizer that no split undercuts."""
        reference_K = stages.classes[self.kinds[0]].parameters_K
        above_C = np.full(len(counts_CJ), float(reference_K @ _layer_counts(stages)))
        below_C = np.zeros(len(counts_CJ))
        for i, j in enumerate(self.kinds):
            one, n_C = stages.classes[j], counts_CJ[:, i]
            stages.fill_updates(self.degree, j)
            fixed_C, slope_C = stages.least_update_DJN[:, self.degree, j, n_C]
            rate_C = slope_C * float((one.parameters_K / reference_K).min())
            ends = one.first_parameters if i == 0 else 0.0
            if i == len(self.kinds) - 1 and not stages.model.tied_embeddings:
                ends += one.last_parameters
            above_C += (n_C * fixed_C + slope_C * ends) / rate_C
            below_C += n_C / rate_C
        return np.asarray(above_C / below_C)


def _layer_counts(stages: StageClasses) -> IntArray:
    return np.bincount(np.asarray(stages.model.kind_of_layer), minlength=len(stages.model.kinds))


def _pipeline_bound(
    counts_CJ: IntArray, rate_J: Array, fixed_CJ: Array, work: float, least: float, microbatches: int
) -> Array:
    """Optimum of the linear program in the module's docstring, for one microbatch size and recomputation."""
    slow_first = np.argsort(-rate_J, kind="stable")
    count_CJ, rate_J, fixed_CJ = counts_CJ[:, slow_first], rate_J[slow_first], fixed_CJ[:, slow_first]
    bound_C = np.full(len(counts_CJ), np.nan)
    settled_C = np.zeros(len(counts_CJ), dtype=bool)
    for q in range(len(rate_J)):  # the q slowest kinds hold one layer per stage
        n_C, speed_C = count_CJ[:, q:].sum(axis=1), (count_CJ[:, q:] / rate_J[q:]).sum(axis=1)
        held_C = count_CJ[:, :q].sum(axis=1) * least
        slowest_C = (work - held_C + (fixed_CJ[:, q:] / rate_J[q:]).sum(axis=1)) / speed_C
        sum_C = fixed_CJ[:, :q].sum(axis=1) + least * (count_CJ[:, :q] * rate_J[:q]).sum(axis=1)
        value_C = (microbatches - 1 + n_C) * slowest_C + sum_C
        done_C = microbatches - 1 + n_C >= rate_J[q] * speed_C * (1 - 1e-12)
        take_C = done_C & ~settled_C
        bound_C[take_C] = value_C[take_C]
        settled_C |= done_C
    return bound_C


def families(stages: StageClasses) -> Iterator[Family]:
    """All families of a problem that its engine can run, in a fixed order."""
    problem, engine = stages.problem, stages.problem.engine
    cluster = problem.cluster
    by_class: dict[int, list[int]] = {}
    for j, one in enumerate(stages.classes):
        by_class.setdefault(one.node_class, []).append(j)
    most = min(MAX_NODE_CLASSES, len(by_class), stages.max_stages)
    for size in range(1, most + 1):
        for order in permutations(by_class, size):
            types = {cluster.classes[node_class].device.name for node_class in order}
            if len(types) > 1 and not engine.mixed_gpu_types:
                continue
            for kinds in product(*(by_class[node_class] for node_class in order)):
                if engine.tensor_parallel == "uniform" and len({stages.classes[j].tp for j in kinds}) > 1:
                    continue
                if not stages.joinable(kinds):
                    continue
                for degree in range(len(stages.degrees)):
                    if all(stages.most_stages(j, degree) for j in kinds):
                        yield Family(kinds, degree)
