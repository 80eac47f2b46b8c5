"""A batch of training candidates, their layers split: exact times for many at once.

The pipeline's time is the layer partition's objective. Gradient sync and optimizer are not: they are the maximum over
stages of something that grows with a stage's parameters. So the split with the best pipeline is a first answer, and a
better one can only have a smaller maximum of those updates: walk that maximum down (each step forbids what was
reached and whatever could no longer win), and the pipeline's time up, until nothing can improve. Where all layers are
alike, both memory and updates are limits on a stage's number of layers, and the walk ends at the candidate's optimum.
Where they differ, the walk leaves memory out: what it finds is a plan where it happens to fit, and a bound where not.

Legend: B candidate, S stage, L layer, K layer kind, N number of layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from planner.partition import StageCosts, partition_layers
from planner.search.stage_classes import StageClasses
from planner.search.training_candidates import Candidates

if TYPE_CHECKING:
    from planner.cost._types import Array, BoolArray, IntArray

__all__ = ["Batch", "Split", "make_batch", "split_layers"]

# Walking an update maximum down ends by itself; this only guards against rounding that never does.
_MAX_STEPS = 200

# Relative slack of memory limits against rounding; the verifier allows as much.
_SLACK = 1e-12

# Enough halvings for a bound that is as good as exact.
_BISECTIONS = 30

# How much shorter updates must get where sums of unlike layers are compared.
_STEP = 1e-10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Candidates as arrays; stages that a candidate does not have are padding.

    Parameters
    ----------
    stages_B, microbatches_B
        Number of stages, and of microbatches per iteration.
    layer_BSK, fixed_BS
        Seconds of a layer of each kind, and of what a stage takes whatever it holds.
    memory_BSK, memory_fixed_BS, limit_BS
        Bytes likewise, and what the engine may use.
    update_fixed_BS, update_BSK
        Seconds of gradient sync and optimizer: fixed, and per layer of each kind.
    constant_B
        Seconds that come on top: tied embeddings, the engine.
    update_bound_B
        Seconds of updates that no split undercuts.
    kind_L
        Kind of each layer.
    """

    stages_B: IntArray
    microbatches_B: IntArray
    layer_BSK: Array
    fixed_BS: Array
    memory_BSK: Array
    memory_fixed_BS: Array
    limit_BS: Array
    update_fixed_BS: Array
    update_BSK: Array
    constant_B: Array
    update_bound_B: Array
    kind_L: IntArray

    @property
    def real_BS(self) -> BoolArray:
        """Which stages are not padding."""
        return np.asarray(np.arange(self.fixed_BS.shape[1]) < self.stages_B[:, None])

    def take(self, rows: IntArray) -> Batch:
        """Some of the candidates."""
        fields = {name: getattr(self, name)[rows] for name in self.__dataclass_fields__ if name != "kind_L"}
        return Batch(kind_L=self.kind_L, **fields)

    def may_fit_B(self) -> BoolArray:
        """Whether memory could suffice, counting layers of the smallest kind by stage."""
        room_BS = self.limit_BS - self.memory_fixed_BS
        layers_BS = np.floor(room_BS / self.memory_BSK.min(axis=2) * (1 + 1e-12))
        layers_BS = np.where(self.real_BS, layers_BS, 0.0)
        enough_B = layers_BS.clip(0, len(self.kind_L)).sum(axis=1) >= len(self.kind_L)
        return np.asarray(enough_B & (np.where(self.real_BS, layers_BS, 1.0) >= 1).all(axis=1))

    def slowest_bound_B(self) -> Array:
        """Seconds of a pipeline that no split within memory undercuts, where all layers are alike; else 0.

        The slowest stage takes at least the time in which all stages together can hold all layers, each at most what
        fits its memory; the sum at least what the fastest stages with room take.
        """
        num_layers = len(self.kind_L)
        if self.layer_BSK.shape[2] > 1:
            return np.zeros(len(self.stages_B))
        layer_BS = self.layer_BSK[:, :, 0]
        room_BS = np.floor((self.limit_BS - self.memory_fixed_BS) / self.memory_BSK[:, :, 0] * (1 + 1e-9))
        most_BS = np.where(self.real_BS, room_BS.clip(0, num_layers), 0.0)
        low_B = np.zeros(len(most_BS))
        high_B = np.where(self.real_BS, self.fixed_BS + num_layers * layer_BS, 0.0).max(axis=1)
        for _ in range(_BISECTIONS):
            middle_B = (low_B + high_B) / 2
            held_BS = np.minimum(np.floor((middle_B[:, None] - self.fixed_BS) / layer_BS), most_BS)
            enough_B = held_BS.clip(0).sum(axis=1) >= num_layers
            low_B, high_B = np.where(enough_B, low_B, middle_B), np.where(enough_B, middle_B, high_B)
        fast_first = np.argsort(np.where(self.real_BS, layer_BS, np.inf), axis=1, kind="stable")
        more_BS = np.take_along_axis((most_BS - 1).clip(0), fast_first, axis=1)
        left_B = num_layers - self.stages_B  # after one layer for each stage
        before_BS = np.cumsum(more_BS, axis=1) - more_BS
        more_BS = np.minimum(more_BS, (left_B[:, None] - before_BS).clip(0))
        extra_B = (more_BS * np.take_along_axis(layer_BS, fast_first, axis=1)).sum(axis=1)
        sum_B = extra_B + np.where(self.real_BS, self.fixed_BS + layer_BS, 0.0).sum(axis=1)
        return np.asarray((self.microbatches_B - 1) * low_B + np.maximum(sum_B, low_B))

    def fits_B(self, bounds_BS1: IntArray) -> BoolArray:
        """Whether a split fits memory on every stage."""
        held_BSK = _kinds_held(bounds_BS1, self.kind_L, self.layer_BSK.shape[2])
        memory_BS = self.memory_fixed_BS + (self.memory_BSK * held_BSK).sum(axis=2)
        return np.asarray((~self.real_BS | (memory_BS <= self.limit_BS * (1 + _SLACK))).all(axis=1))

    def update_BS(self, bounds_BS1: IntArray) -> Array:
        """Seconds of gradient sync and optimizer of each stage; 0 for padding."""
        held_BSK = _kinds_held(bounds_BS1, self.kind_L, self.layer_BSK.shape[2])
        return np.where(self.real_BS, self.update_fixed_BS + (self.update_BSK * held_BSK).sum(axis=2), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Split:
    """What the candidates of a batch reach.

    Parameters
    ----------
    bounds_BS1
        First layer of each stage, and one past the last.
    time_B
        Seconds of the iteration; infinite where memory does not suffice.
    bound_B
        Seconds that no split of the candidate undercuts; equal to `time_B` where that is its optimum.
    """

    bounds_BS1: IntArray
    time_B: Array
    bound_B: Array


def split_layers(batch: Batch, incumbent: float) -> Split:
    """Split the layers of every candidate; those that cannot beat the incumbent need not be split to the end."""
    costs = _costs(batch)
    found = partition_layers(costs, "pipeline", batch.microbatches_B)
    bounds, value_B = found.bounds_BS1.copy(), found.value_B
    feasible = np.flatnonzero(found.feasible_B)
    time_B = np.full(len(value_B), np.inf)
    bound_B = time_B.copy()
    update_b = batch.take(feasible).update_BS(bounds[feasible]).max(axis=1)
    time_B[feasible] = value_B[feasible] + update_b + batch.constant_B[feasible]
    bound_B[feasible] = value_B[feasible] + batch.update_bound_B[feasible] + batch.constant_B[feasible]
    bound_B = np.minimum(bound_B, time_B)

    loose_B = np.full(len(value_B), np.inf)  # what splits that do not fit memory leave open
    open_b, value_b = feasible, value_B[feasible]
    for _ in range(_MAX_STEPS):
        best_b = np.minimum(time_B[open_b], incumbent)
        # an improvement has shorter updates than were reached, and short enough for the pipeline's time so far
        cap_b = np.minimum(update_b, best_b - value_b - batch.constant_B[open_b])
        more = bound_B[open_b] < best_b
        open_b, cap_b, value_b = open_b[more], cap_b[more], value_b[more]
        if not len(open_b):
            break
        part = batch.take(open_b)
        again = partition_layers(_costs(part, cap_b), "pipeline", part.microbatches_B)
        ended = open_b[~again.feasible_B]
        bound_B[ended] = np.minimum(time_B[ended], np.maximum(bound_B[ended], incumbent))
        open_b, bounds_b1 = open_b[again.feasible_B], again.bounds_BS1[again.feasible_B]
        value_b = np.maximum(again.value_B, value_b)[again.feasible_B]
        part = batch.take(open_b)
        update_b = part.update_BS(bounds_b1).max(axis=1)
        time_b = value_b + update_b + part.constant_B
        fits_b = part.fits_B(bounds_b1)
        loose_B[open_b[~fits_b]] = np.minimum(loose_B[open_b], time_b)[~fits_b]
        better = fits_b & (time_b < time_B[open_b])
        time_B[open_b[better]] = time_b[better]
        bounds[open_b[better]] = bounds_b1[better]
        lifted = value_b + part.update_bound_B + part.constant_B
        bound_B[open_b] = np.minimum(np.maximum(bound_B[open_b], lifted), time_B[open_b])
    return Split(bounds_BS1=bounds, time_B=time_B, bound_B=np.minimum(bound_B, loose_B))


def _kinds_held(bounds_BS1: IntArray, kind_L: IntArray, kinds: int) -> Array:
    """Layers of each kind on each stage."""
    before_NK = np.zeros((len(kind_L) + 1, kinds))
    before_NK[1:] = np.cumsum(np.eye(kinds)[kind_L], axis=0)
    return before_NK[bounds_BS1[:, 1:]] - before_NK[bounds_BS1[:, :-1]]


def _costs(batch: Batch, cap_B: Array | None = None) -> StageCosts:
    """What the layer partition is asked: memory as a limit, and updates shorter than a cap where one is given.

    Where layers differ there is room for one limit only: the cap takes the place of memory.
    """
    layer_BSL = batch.layer_BSK[:, :, batch.kind_L]
    if batch.memory_BSK.shape[2] > 1:
        if cap_B is None:
            part_BSK, fixed_BS, limit_BS = batch.memory_BSK, batch.memory_fixed_BS, batch.limit_BS * (1 + _SLACK)
        else:
            part_BSK, fixed_BS = batch.update_BSK, batch.update_fixed_BS
            limit_BS = np.repeat(cap_B[:, None] * (1 - _STEP), fixed_BS.shape[1], axis=1)
        return StageCosts(
            layer_BSL=layer_BSL,
            fixed_BS=batch.fixed_BS,
            memory_BSL=part_BSK[:, :, batch.kind_L],
            memory_fixed_BS=fixed_BS,
            capacity_BS=limit_BS,
            stages_B=batch.stages_B,
        )
    num_layers = len(batch.kind_L)
    room_BS = (batch.limit_BS * (1 + _SLACK) - batch.memory_fixed_BS) / batch.memory_BSK[:, :, 0]
    most_BS = np.floor(room_BS).clip(0, num_layers)
    if cap_B is not None:
        counts_N = np.arange(1, num_layers + 1)
        update_BSN = batch.update_fixed_BS[:, :, None] + batch.update_BSK * counts_N
        most_BS = np.minimum(most_BS, (update_BSN < cap_B[:, None, None]).sum(axis=2))
    return StageCosts(
        layer_BSL=layer_BSL,
        fixed_BS=batch.fixed_BS,
        memory_BSL=np.ones((1, 1, num_layers)),
        capacity_BS=np.where(batch.real_BS, most_BS, num_layers),
        stages_B=batch.stages_B,
    )


def make_batch(stages: StageClasses, candidates: Candidates) -> Batch:
    """Lay candidates out as arrays over their stages, in the order given."""
    count_BJ = candidates.count_BJ
    d_B, r_B, m_B = candidates.degree_B, candidates.recompute_B, candidates.size_B
    depth_B = count_BJ.sum(axis=1)
    microbatches_B = stages.microbatches_DM[d_B, m_B]
    position_S = np.arange(int(depth_B.max()))
    ends_BJ = np.cumsum(count_BJ, axis=1)
    real_BS = position_S < depth_B[:, None]
    row, s = np.nonzero(real_BS)
    i = (s[:, None] >= ends_BJ[row]).sum(axis=1)  # which of the candidate's kinds
    j, n, d, r, m = candidates.kind_BJ[row, i], count_BJ[row, i], d_B[row], r_B[row], m_B[row]
    p = s - (ends_BJ[row, i] - n)  # position among the stages of its kind
    first, last = s == 0, s == depth_B[row] - 1
    to_j = np.where(p < n - 1, j, candidates.kind_BJ[row, np.minimum(i + 1, count_BJ.shape[1] - 1)])
    hop = np.where(last, 0.0, stages.hop_DJJPM[d, j, to_j, p, m])
    column = {name: np.stack([getattr(one, name) for one in stages.classes]) for name in _COLUMNS}
    parameters = np.where(last, column["last_parameters"][j], 0.0)
    parameters = np.where(
        first, np.where(last, column["both_parameters"][j], column["first_parameters"][j]), parameters
    )
    in_flight = np.minimum(microbatches_B[row], depth_B[row] - s)
    state, slope = stages.state_D[d], stages.update_slope_DJNP[d, j, n, p]
    held_K, saved_K = column["parameters_K"][j], column["saved_RMK"][j, r, m]
    memory = stages.problem.engine.reserved_memory.value + column["working_RM"][j, r, m]
    memory = memory + state * parameters + last * column["logits_M"][j, m]

    def spread(values: Array, padding: float) -> Array:
        full = np.full((*real_BS.shape, *values.shape[1:]), padding)
        full[row, s] = values
        return full

    first_j = candidates.kind_BJ[:, 0]
    last_i = (candidates.kind_BJ >= 0).sum(axis=1) - 1
    every = np.arange(len(candidates))
    last_j, last_n = candidates.kind_BJ[every, last_i], count_BJ[every, last_i]
    constant_B = stages.tied_DJJP[d_B, first_j, last_j, last_n - 1] + stages.problem.engine.overhead.iteration.value
    return Batch(
        stages_B=depth_B,
        microbatches_B=microbatches_B,
        layer_BSK=spread(column["layer_RMK"][j, r, m], 1.0),
        fixed_BS=spread(hop + first * column["first_M"][j, m] + last * column["last_M"][j, m], 0.0),
        memory_BSK=spread(state[:, None] * held_K + in_flight[:, None] * saved_K, 1.0),
        memory_fixed_BS=spread(memory, 0.0),
        limit_BS=spread(column["limit"][j], np.inf),
        update_fixed_BS=spread(stages.update_fixed_DJNP[d, j, n, p] + slope * parameters, 0.0),
        update_BSK=spread(slope[:, None] * held_K, 1.0),
        constant_B=constant_B,
        update_bound_B=candidates.update_bound_B,
        kind_L=np.asarray(stages.model.kind_of_layer),
    )


_COLUMNS = (
    "layer_RMK",
    "first_M",
    "last_M",
    "parameters_K",
    "first_parameters",
    "last_parameters",
    "both_parameters",
    "saved_RMK",
    "working_RM",
    "logits_M",
    "limit",
)
