"""What the layer partition is asked and what it answers: arrays only, no model, no cluster.

Axes in names: B candidate (one order of stages), S stage, L layer; a trailing 1 is one more entry, as in
``bounds_BS1`` with S + 1 boundaries.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

__all__ = [
    "OBJECTIVES",
    "BoolArray",
    "FloatArray",
    "IntArray",
    "Objective",
    "Partition",
    "StageCosts",
    "check_objective",
    "interval_sums",
    "objective_value",
    "stage_memory",
    "stage_times",
]

Objective = Literal["bottleneck", "sum", "pipeline"]
OBJECTIVES: Final[tuple[Objective, ...]] = get_args(Objective)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

# Sums of a few thousand of these, times a number of microbatches, still stay far from overflow.
_LARGEST: Final = 1e200


def _nothing() -> FloatArray:
    return np.zeros((1, 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class StageCosts:
    """Costs of a batch of candidates, each a fixed order of stages that share the layers of one model.

    Stage s of candidate b, given the layers [i, j), takes ``fixed_BS[b, s] + layer_BSL[b, s, i:j].sum()`` and
    needs ``memory_fixed_BS[b, s] + memory_BSL[b, s, i:j].sum()``, which must not exceed ``capacity_BS[b, s]``.
    Any unit will do as long as it adds up: seconds, bytes. Sums are exact where the values are whole numbers
    below 2**53, as bytes are; elsewhere a layer may fail to fit a capacity it meets to the last bit.

    Parameters
    ----------
    layer_BSL
        Cost of each layer on each stage, (B, S, L). Rows of one candidate may differ: devices differ.
    fixed_BS
        Cost that a stage has whatever it holds: overhead, hop, embedding, head.
    memory_BSL
        Memory of each layer on each stage; None where memory is no concern.
    memory_fixed_BS
        Memory that a stage needs whatever it holds.
    capacity_BS
        Memory that a stage has; infinite is allowed. Given exactly when `memory_BSL` is.
    stages_B
        How many stages a candidate really has, 1 to S. Those beyond it are padding, which lets candidates of
        different depth share a batch: they hold nothing and cost nothing. None: all have S.

    Dimensions of size 1 broadcast, scalars too; every array is kept in full shape, float64 (`stages_B` int64).

    Raises
    ------
    ValueError
        If shapes do not fit together, a cost is negative, not finite or absurdly large, a capacity is NaN, or a
        number of stages is outside 1 to S.

    Examples
    --------
    >>> costs = StageCosts(layer_BSL=np.ones((1, 2, 6)) * [[[1.0], [2.0]]])
    >>> costs.batch, costs.num_stages, costs.num_layers
    (1, 2, 6)
    """

    layer_BSL: FloatArray
    fixed_BS: FloatArray = field(default_factory=_nothing)
    memory_BSL: FloatArray | None = None
    memory_fixed_BS: FloatArray = field(default_factory=_nothing)
    capacity_BS: FloatArray | None = None
    stages_B: IntArray | None = None

    def __post_init__(self) -> None:
        if (self.memory_BSL is None) != (self.capacity_BS is None):
            raise ValueError("memory_BSL and capacity_BS must be given together or not at all")
        layer = _amounts("layer_BSL", self.layer_BSL)
        if layer.ndim != 3 or layer.shape[1] == 0 or layer.shape[2] == 0:
            raise ValueError(f"layer_BSL must be (B, S, L) with S and L at least 1, got shape {layer.shape}")
        arrays: dict[str, FloatArray | IntArray] = {
            "layer_BSL": layer,
            "fixed_BS": _amounts("fixed_BS", self.fixed_BS),
            "memory_fixed_BS": _amounts("memory_fixed_BS", self.memory_fixed_BS),
        }
        if self.memory_BSL is not None and self.capacity_BS is not None:
            arrays["memory_BSL"] = _amounts("memory_BSL", self.memory_BSL)
            arrays["capacity_BS"] = np.asarray(self.capacity_BS, dtype=np.float64)
            if np.isnan(arrays["capacity_BS"]).any():
                raise ValueError("capacity_BS must not hold NaN")
        if self.stages_B is not None:
            arrays["stages_B"] = _stage_counts(self.stages_B, layer.shape[1])

        axes = {name: len(name.rpartition("_")[2]) for name in arrays}  # "BSL" of layer_BSL: three
        leading = [array.shape[0] for name, array in arrays.items() if array.ndim == axes[name]]
        batch = next((size for size in leading if size != 1), 1)
        for name, array in arrays.items():
            shape = (batch, *layer.shape[1:])[: axes[name]]
            try:
                # The dataclass is frozen; what it keeps is the checked array in full shape.
                object.__setattr__(self, name, np.broadcast_to(array, shape))
            except ValueError:
                raise ValueError(f"{name} has shape {array.shape}, which does not fit {shape}") from None

    @property
    def batch(self) -> int:
        """Number of candidates, B."""
        return int(self.layer_BSL.shape[0])

    @property
    def num_stages(self) -> int:
        """Number of stages with padding, S."""
        return int(self.layer_BSL.shape[1])

    @property
    def num_layers(self) -> int:
        """Number of layers, L."""
        return int(self.layer_BSL.shape[2])

    @property
    def padding_BS(self) -> BoolArray:
        """Which stages are padding, (B, S)."""
        if self.stages_B is None:
            return np.zeros((self.batch, self.num_stages), dtype=np.bool_)
        return np.arange(self.num_stages) >= self.stages_B[:, None]

    def rows(self, rows: slice) -> StageCosts:
        """The candidates in `rows`, as views that are not checked again."""
        part = object.__new__(StageCosts)
        for item in fields(self):
            value = getattr(self, item.name)
            object.__setattr__(part, item.name, None if value is None else value[rows])
        return part


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """Which layers each stage holds, for a batch of candidates.

    Parameters
    ----------
    bounds_BS1
        First layer of each stage and, last, the number of layers L: stage s holds the layers
        ``bounds[s]`` to ``bounds[s + 1] - 1``. Padding stages repeat L. All -1 where infeasible.
    value_B
        Objective of the partition; infinite where infeasible.
    feasible_B
        Whether a candidate has any partition that gives every stage a layer and respects memory.
    """

    bounds_BS1: IntArray
    value_B: FloatArray
    feasible_B: BoolArray


def check_objective(objective: str) -> None:
    """Raise ValueError, with the known ones, for an objective that there is not."""
    if objective not in OBJECTIVES:
        raise ValueError(f"unknown objective {objective!r}; it must be one of {', '.join(OBJECTIVES)}")


def stage_times(costs: StageCosts, bounds_BS1: IntArray) -> FloatArray:
    """Time of each stage under given bounds, in the unit of ``costs.layer_BSL``.

    Parameters
    ----------
    costs
        The batch.
    bounds_BS1
        First layer of each stage, then L, as in :class:`Partition`.

    Returns
    -------
    ndarray of shape (B, S)
        Zero for padding stages; infinite for candidates whose bounds are -1.

    Examples
    --------
    >>> costs = StageCosts(layer_BSL=np.array([[[1.0, 2.0, 3.0], [2.0, 4.0, 6.0]]]))
    >>> stage_times(costs, np.array([[0, 2, 3]]))
    array([[3., 6.]])
    """
    return _per_stage(costs, costs.layer_BSL, costs.fixed_BS, bounds_BS1)


def stage_memory(costs: StageCosts, bounds_BS1: IntArray) -> FloatArray:
    """Memory of each stage under given bounds, in the unit of ``costs.memory_BSL``.

    Parameters
    ----------
    costs
        The batch; it must have memory.
    bounds_BS1
        First layer of each stage, then L, as in :class:`Partition`.

    Returns
    -------
    ndarray of shape (B, S)
        Zero for padding stages; infinite for candidates whose bounds are -1.

    Raises
    ------
    ValueError
        If `costs` says nothing about memory.
    """
    if costs.memory_BSL is None:
        raise ValueError("costs have no memory_BSL")
    return _per_stage(costs, costs.memory_BSL, costs.memory_fixed_BS, bounds_BS1)


def objective_value(objective: Objective, time_BS: FloatArray, microbatches_B: IntArray | int = 1) -> FloatArray:
    """Value of an objective from the times of the stages.

    Parameters
    ----------
    objective
        ``"bottleneck"``: the slowest stage, which sets the rate of a full pipeline. ``"sum"``: once through all
        stages, the latency of one item. ``"pipeline"``: ``(m - 1) * max + sum``, the time of m microbatches from
        the first entering to the last leaving.
    time_BS
        Stage times.
    microbatches_B
        m, read by ``"pipeline"`` only.

    Returns
    -------
    ndarray of shape (B,)

    Raises
    ------
    ValueError
        If there is no such objective.

    Examples
    --------
    >>> objective_value("pipeline", np.array([[3.0, 6.0]]), 4)
    array([27.])
    """
    check_objective(objective)
    if objective == "sum":
        total_B: FloatArray = np.sum(time_BS, axis=-1)
        return total_B
    slowest_B: FloatArray = np.max(time_BS, axis=-1)
    if objective == "bottleneck":
        return slowest_B
    # An infeasible candidate has infinite stages, and no waits must not turn them into 0 * inf.
    waits_B = np.where(np.isfinite(slowest_B), np.asarray(microbatches_B) - 1.0, 1.0)
    value_B: FloatArray = waits_B * slowest_B + time_BS.sum(axis=-1)
    return value_B


def _per_stage(costs: StageCosts, layer_BSL: FloatArray, fixed_BS: FloatArray, bounds_BS1: IntArray) -> FloatArray:
    """Sum over each stage's layers, in the very arithmetic of the search, so that both agree to the last bit."""
    start_BSN, end_BSN = interval_sums(layer_BSL, fixed_BS)
    bounds = np.asarray(bounds_BS1, dtype=np.int64)
    expected = (costs.batch, costs.num_stages + 1)
    if bounds.shape != expected:
        raise ValueError(f"bounds_BS1 has shape {bounds.shape}, which is not {expected}")
    known = bounds[:, 0] >= 0
    at = np.where(known[:, None], bounds, 0)[:, :, None]
    first_BS = np.take_along_axis(start_BSN, at[:, :-1], axis=-1)[:, :, 0]
    last_BS = np.take_along_axis(end_BSN, at[:, 1:], axis=-1)[:, :, 0]
    total_BS = np.where(costs.padding_BS, 0.0, last_BS - first_BS)
    return np.where(known[:, None], total_BS, np.inf)


def interval_sums(layer_BSL: FloatArray, fixed_BS: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Tables whose difference is the sum over an interval of layers, fixed part included.

    Returns
    -------
    start_BSN, end_BSN
        N = L + 1 positions between layers; layers [i, j) on stage s sum to ``end[s, j] - start[s, i]``. Both grow
        with the position, and so do rounded differences, which lets limits be searched for with comparisons.
    """
    batch, stages, layers = layer_BSL.shape
    start_BSN = np.zeros((batch, stages, layers + 1))
    np.cumsum(layer_BSL, axis=-1, out=start_BSN[:, :, 1:])
    return start_BSN, start_BSN + fixed_BS[:, :, None]


def _amounts(name: str, value: FloatArray) -> FloatArray:
    array = np.asarray(value, dtype=np.float64)
    # Written so that NaN fails too.
    if array.size and not (array.min() >= 0 and array.max() <= _LARGEST):
        raise ValueError(f"{name} must be finite, not negative and at most {_LARGEST:g}")
    return array


def _stage_counts(stages_B: IntArray, num_stages: int) -> IntArray:
    array = np.asarray(stages_B)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"stages_B must be whole numbers of shape (B,), got {array.dtype} of shape {array.shape}")
    if array.size and not (array.min() >= 1 and array.max() <= num_stages):
        raise ValueError(f"stages_B must lie in 1 to {num_stages}, got {array.min()} to {array.max()}")
    return array.astype(np.int64)
