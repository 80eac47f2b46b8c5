"""Times of whole layers that were measured, looked up at sizes that were and were not.

A table holds points of a few sizes (tensor parallelism, microbatch; or tensor parallelism, tokens, sequences), often
not as a full grid. A time is interpolated linearly in the logarithm of everything, one size after another; beyond the
last point the slope of the last two goes on. Every answer says whether it was measured, and how wrong it may be: as
wrong as the table is about its own points when they are left out, more for every doubling beyond what was measured.

Legend: P point, B query, T time of a point (layer and pass), N size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from planner.errors import InputError
from planner.plan.figure import Provenance

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from planner.cost._types import Array, BoolArray

__all__ = ["LayerTimes", "MeasuredLayers", "MeasuredTimes"]

_LEAST_ERROR: Final = 0.02  # of repeating a measurement
_UNKNOWN_ERROR: Final = 0.5  # a doubling, where no point says how far off that is
_SAME: Final = 1e-9  # doublings between sizes that are the same
_NEVER: Final = 1e-12  # seconds of what takes none

# Of each kind of table: the sizes in the order in which they are interpolated, and the times.
_TRAINING: Final = (("tp", "microbatch"), ("forward", "backward", "update", "memory"))
_SERVING: Final = (("tp", "tokens", "batch"), ("seconds",))


@dataclass(frozen=True, slots=True)
class LayerTimes:
    """Times at some sizes.

    Parameters
    ----------
    values_BT
        Seconds (bytes of memory), in the order of the table's times.
    error_B
        Relative error.
    measured_B
        Whether that very point was measured.
    beyond_B
        Whether it lies outside what was measured.
    """

    values_BT: Array
    error_B: Array
    measured_B: BoolArray
    beyond_B: BoolArray

    @property
    def provenance(self) -> Provenance:
        """Weakest of all: ``measured``, ``fitted`` where interpolated, ``spec`` where beyond what was measured."""
        if self.beyond_B.any():
            return "spec"
        return "measured" if self.measured_B.all() else "fitted"


class MeasuredTimes:
    """Points of a few sizes with times, and what lies between them.

    Parameters
    ----------
    sizes_PN
        Sizes of each point, positive; no point twice.
    times_PT
        Times of each.
    names
        Of the sizes.
    """

    def __init__(self, sizes_PN: ArrayLike, times_PT: ArrayLike, names: Sequence[str]) -> None:
        self.names = tuple(names)
        sizes_PN, times_PT = np.asarray(sizes_PN, dtype=float), np.asarray(times_PT, dtype=float)
        if not len(sizes_PN):
            raise InputError("holds no point", expected=f"measurements by {', '.join(names)}")
        if len(np.unique(sizes_PN, axis=0)) != len(sizes_PN):
            raise InputError("measures a point twice", field=", ".join(names), expected="one row for each")
        self._sizes_PN = sizes_PN
        self._log_PN = np.log2(sizes_PN)
        self._never_T = (times_PT <= 0).all(axis=0)
        self._log_times_PT = np.log(np.maximum(times_PT, _NEVER))

    def at(self, *sizes: ArrayLike) -> LayerTimes:
        """Look up, or interpolate.

        Parameters
        ----------
        sizes
            One array for each of `names`, of any common shape; it is flattened to B.

        Examples
        --------
        >>> times = MeasuredTimes([(1, 1), (1, 4), (2, 1), (2, 4)], [[1.0], [4.0], [0.5], [2.0]], ("tp", "microbatch"))
        >>> found = times.at([1, 1, 4], [4, 2, 8])
        >>> found.values_BT[:, 0].round(6).tolist(), found.measured_B.tolist(), found.beyond_B.tolist()
        ([4.0, 2.0, 2.0], [True, False, False], [False, False, True])
        """
        query_BN = np.stack([np.ravel(one) for one in np.broadcast_arrays(*map(np.asarray, sizes))], axis=1)
        log_BN = np.log2(np.maximum(query_BN.astype(float), 1e-12))
        distinct_QN, place_B = np.unique(log_BN, axis=0, return_inverse=True)
        rows = [_weights(self._log_PN, np.arange(len(self._log_PN)), one_N) for one_N in distinct_QN]
        weight_QP = np.stack([weight_P for weight_P, _ in rows])
        octaves_Q = np.array([octaves for _, octaves in rows])
        values_QT = np.where(self._never_T, 0.0, np.exp(weight_QP @ self._log_times_PT))
        measured_Q = np.isclose(weight_QP.max(axis=1), 1.0) & (np.abs(weight_QP).sum(axis=1) < 1.0 + 1e-9)
        measured_Q &= octaves_Q == 0.0
        between, per_octave = self._errors
        error_Q = np.where(measured_Q, _LEAST_ERROR, between) + per_octave * octaves_Q
        at_B = np.ravel(place_B)
        return LayerTimes(values_QT[at_B], error_Q[at_B], measured_Q[at_B], octaves_Q[at_B] > 0)

    @cached_property
    def _errors(self) -> tuple[float, float]:
        """Mean relative error of points that the others interpolate, and per doubling of those they extrapolate."""
        between, beyond = [], []
        every = np.arange(len(self._log_PN))
        if len(every) > 1:
            total_P = np.log(np.exp(self._log_times_PT).sum(axis=1))
            for point in every:
                weight_P, octaves = _weights(self._log_PN, np.delete(every, point), self._log_PN[point])
                total = np.log(np.exp(weight_P @ self._log_times_PT).sum())
                missed = abs(np.expm1(total - total_P[point]))
                if octaves == 0:
                    between.append(missed)
                else:
                    beyond.append(missed / octaves)
        inside = max(float(np.mean(between)), _LEAST_ERROR) if between else _UNKNOWN_ERROR
        return inside, max(float(np.mean(beyond)), inside) if beyond else _UNKNOWN_ERROR


def _weights(log_PN: Array, among: NDArray[np.intp], query_N: Array) -> tuple[Array, float]:
    """Weights of the points for a query, summing to 1, and how many doublings it lies beyond them.

    The first size is interpolated between the two nearest values that were measured, each of which is a table of the
    other sizes.
    """
    weight_P = np.zeros(len(log_PN))
    if log_PN.shape[1] == 0:
        weight_P[among[0]] = 1.0
        return weight_P, 0.0
    values = np.unique(log_PN[among, 0])
    at = query_N[0]
    beyond = max(values[0] - at, at - values[-1], 0.0)
    if len(values) == 1 or (np.abs(values - at) < _SAME).any():
        near = values[np.argmin(np.abs(values - at))]
        share = {float(near): 1.0}
    else:
        above = int(np.clip(np.searchsorted(values, at), 1, len(values) - 1))
        low, high = values[above - 1], values[above]
        part = (at - low) / (high - low)
        share = {float(low): 1.0 - part, float(high): part}
    octaves = 0.0 if beyond < _SAME else float(beyond)
    furthest = 0.0
    for value, part in share.items():
        mine = among[np.abs(log_PN[among, 0] - value) < _SAME]
        inner_P, further = _weights(log_PN[:, 1:], mine, query_N[1:])
        weight_P += part * inner_P
        furthest = max(furthest, further)
    return weight_P, octaves + furthest


@dataclass(frozen=True, slots=True)
class MeasuredLayers:
    """Layers of one model on one GPU type.

    Parameters
    ----------
    model
        Its name.
    times
        Looked up by `sizes`; values are `columns`, of each layer in turn.
    sizes, columns
        Names of the sizes, and of the values of a layer.
    layers
        How many layers.
    """

    model: str
    times: MeasuredTimes
    sizes: tuple[str, ...]
    columns: tuple[str, ...]
    layers: int

    @classmethod
    def training(cls, columns: Mapping[str, NDArray[Any]], model: str) -> MeasuredLayers:
        """Take the columns of a ``training_layer`` table.

        Parameters
        ----------
        columns
            As `planner.profiling.tables` has them: ``model, layer, layers, tp, microbatch, forward, backward, update``
            and ``memory``.
        model
            Which of its models.

        Raises
        ------
        InputError
            If the table does not hold that model, or not the same layers at every size.
        """
        sizes, times = _TRAINING
        mine = _rows_of(columns, model)
        by_point: dict[tuple[float, ...], dict[int, tuple[float, ...]]] = {}
        for row in mine:
            point = tuple(float(columns[name][row]) for name in sizes)
            layers = by_point.setdefault(point, {})
            for layer in range(int(columns["layers"][row])):
                layers[int(columns["layer"][row]) + layer] = tuple(float(columns[name][row]) for name in times)
        counts = {len(layers) for layers in by_point.values()}
        if len(counts) > 1 or any(sorted(layers) != list(range(len(layers))) for layers in by_point.values()):
            raise InputError(f"has {sorted(counts)} layers of {model}", expected="layers 0, 1, 2, … at every size")
        values = [[value for layer in sorted(layers) for value in layers[layer]] for layers in by_point.values()]
        return cls(model, MeasuredTimes(list(by_point), values, sizes), sizes, times, counts.pop())

    @classmethod
    def of_points(cls, model: str, points: Mapping[tuple[int, int], Array], columns: Sequence[str]) -> MeasuredLayers:
        """Take arrays of shape (layers, columns) by (TP, microbatch)."""
        keys = sorted(points)
        layers = len(points[keys[0]])
        times = MeasuredTimes(keys, np.stack([points[key].ravel() for key in keys]), _TRAINING[0])
        return cls(model, times, _TRAINING[0], tuple(columns), layers)

    @classmethod
    def serving(cls, columns: Mapping[str, NDArray[Any]], model: str, phase: str) -> MeasuredLayers:
        """Take the columns of a ``serving_layer`` or ``serving_iteration`` table, of the whole GPU.

        Parameters
        ----------
        columns
            ``model, phase, tp, tokens, batch, seconds``, and ``sm_percent`` where there is one.
        model, phase
            Which of its models, and ``"prefill"`` or ``"decode"``.

        Raises
        ------
        InputError
            If the table does not hold that.
        """
        sizes, times = _SERVING
        mine = [row for row in _rows_of(columns, model) if columns["phase"][row] == phase]
        if "sm_percent" in columns:
            mine = [row for row in mine if columns["sm_percent"][row] == 100]
        if not mine:
            raise InputError(f"holds no {phase} of {model}", expected="prefill or decode")
        points = [[float(columns[name][row]) for name in sizes] for row in mine]
        values = [[float(columns[name][row]) for name in times] for row in mine]
        return cls(model, MeasuredTimes(points, values, sizes), sizes, times, 1)

    def at(self, *sizes: ArrayLike) -> LayerTimes:
        """Look up by `sizes`; see `MeasuredTimes.at`."""
        return self.times.at(*sizes)

    def by_layer(self, found: LayerTimes) -> dict[str, Array]:
        """Values of an answer by column, each of shape (B, layers)."""
        values_BLC = found.values_BT.reshape(len(found.values_BT), self.layers, len(self.columns))
        return {name: values_BLC[:, :, c] for c, name in enumerate(self.columns)}


def _rows_of(columns: Mapping[str, NDArray[Any]], model: str) -> list[int]:
    mine = np.flatnonzero(columns["model"] == model).tolist()
    if not mine:
        known = ", ".join(sorted(set(columns["model"].tolist())))
        raise InputError(f"holds no layers of {model!r}", expected=f"one of {known}")
    return mine
