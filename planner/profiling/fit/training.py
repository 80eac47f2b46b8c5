"""The constants of Megatron-Core's training runs, fitted to published iteration times, leaving out whole groups.

A group is a table of its own hardware and time (SC 2021, MLSys 2023, the H100 table), or a GPU type of
Megatron-Bridge's. Everything else of a prediction is physics and kernel measurements; the constants say how kernels
fare inside a run and how much of the collectives stays in view, each pulled towards what it should be.

Legend: N row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.profiling.accuracy.megatron import TABLES, Measured
from planner.profiling.accuracy.records import SkipRowError
from planner.profiling.accuracy.registry import load_truth
from planner.profiling.accuracy.training import Setting, engine_with
from planner.profiling.fit.constants import Constant
from planner.profiling.fit.robust import Fold, fit_robustly, leave_groups_out, weights_of_groups

if TYPE_CHECKING:
    from planner.cost._types import Array, BoolArray, IntArray

__all__ = ["CONSTANTS", "Group", "TrainingData", "cross_validate", "fit_constants", "left_out"]

Group = tuple[str, ...]

CONSTANTS: Final[tuple[Constant, ...]] = (
    Constant("gemm", 1.05, 0.1, "large products as the best library runs them alone; clocks fall under steady load"),
    Constant("gemm_fp8", 1.05, 0.1, "the same"),
    Constant("gemm_fp4", 1.2, 0.2, "the same; some layers of the recipe stay in higher precision"),
    Constant("attention", 1.0, 0.2, "prefill attention as serving engines run it alone"),
    Constant("elementwise", 0.8, 0.3, "training fuses bias, dropout, norm and activation in part"),
    Constant("quantise", 0.8, 0.4, "half of the casts are fused into the kernel before"),
    Constant("quantise_blocks", 1.2, 0.6, "scales per block, and a second copy where the transpose differs"),
    Constant("tensor_parallel", 0.7, 0.3, "all-gathers hide behind pieces of their product, most scatters do not"),
    Constant("gradient_sync", 0.3, 0.3, "all but the last bucket hides behind the backward pass"),
    Constant("hops", 0.5, 0.3, "half hides behind another chunk's work"),
    Constant("sharding", 0.3, 0.3, "gathers are prefetched a layer ahead"),
    Constant("straggling", 0.01, 0.01, "a few per cent over thousands of GPUs"),
)

_LINEAR: Final = tuple(one for one in CONSTANTS if one.name != "straggling")
# The way that an untold run was made, and which stage is slowest, may change with the constants: then fit again.
_PASSES: Final = 3
_STEP, _CLOSE = 0.1, 1e-4


@dataclass(frozen=True, slots=True)
class TrainingData:
    """Measured runs, ready to be priced under any constants.

    Parameters
    ----------
    rows
        N rows.
    groups, group_N
        What is left out together, and to which of them each row belongs.
    measured_N
        Seconds of an iteration.
    """

    rows: tuple[Measured, ...]
    groups: tuple[Group, ...]
    group_N: IntArray
    measured_N: Array

    @classmethod
    def of(cls) -> TrainingData:
        """Read the shipped tables; rows that cannot be priced are left out."""
        rows: list[Measured] = []
        for name, read in TABLES.items():
            for row in load_truth(name).rows:
                try:
                    one = read(row)
                    one.run(None)
                except SkipRowError:
                    continue
                rows.append(one)
        groups = tuple(sorted({one.group for one in rows}))
        return cls(
            rows=tuple(rows),
            groups=groups,
            group_N=np.array([groups.index(one.group) for one in rows]),
            measured_N=np.array([one.seconds for one in rows]),
        )

    def told(self, values: Mapping[str, float]) -> TrainingData:
        """The same with the way that these constants choose where a row does not tell it."""
        engine = engine_with(values)
        rows = tuple(
            one if len(one.settings) == 1 else replace(one, settings=(one.fastest(engine)[0],)) for one in self.rows
        )
        return replace(self, rows=rows)

    def seconds_N(self, values: Mapping[str, float]) -> Array:
        """Seconds of every row under some constants."""
        engine = engine_with(values)
        known: dict[tuple[tuple[object, ...], ...], float] = {}
        for one in self.rows:  # tables of several releases repeat a run
            key = _facts(one)
            if key not in known:
                known[key] = one.run(engine).seconds
        return np.array([known[_facts(one)] for one in self.rows])


def _facts(row: Measured) -> tuple[tuple[object, ...], ...]:
    """What the price of a row follows from."""
    names = [name for name in Setting.__dataclass_fields__ if name not in ("model", "device")]
    return tuple((one.model.name, one.device.name, *(getattr(one, name) for name in names)) for one in row.settings)


@dataclass(frozen=True, slots=True)
class _Tangent:
    """Seconds of all rows near some constants.

    An iteration is linear in the constants as long as the same stages are the slowest, waiting for stragglers apart,
    which multiplies it: so this is exact until another stage takes over.
    """

    at_C: Array
    seconds_N: Array
    slope_NC: Array
    doublings_N: Array

    @classmethod
    def of(cls, data: TrainingData, values: Mapping[str, float]) -> _Tangent:
        steady = dict(values) | {"straggling": 0.0}
        seconds_N = data.seconds_N(steady)
        slopes = []
        for one in _LINEAR:
            step = _STEP * one.spread
            slopes.append((data.seconds_N(steady | {one.name: values[one.name] + step}) - seconds_N) / step)
        doublings_N = data.seconds_N(steady | {"straggling": 1.0}) / seconds_N - 1.0
        at_C = np.array([values[one.name] for one in _LINEAR])
        return cls(at_C, seconds_N, np.stack(slopes, axis=1), doublings_N)

    def seconds(self, values: Mapping[str, float]) -> Array:
        step_C = np.array([values[one.name] for one in _LINEAR]) - self.at_C
        steady_N = self.seconds_N + self.slope_NC @ step_C
        return np.asarray(steady_N * (1.0 + values["straggling"] * self.doublings_N))


def fit_constants(data: TrainingData, seen_N: BoolArray, *, start: _Tangent | None = None) -> dict[str, float]:
    """Constants that fit some of the rows best, priors included.

    Parameters
    ----------
    data
        The rows.
    seen_N
        Which of them count.
    start
        The rows near the priors, where that is known already.
    """
    weight_N = weights_of_groups(data.group_N, seen_N)
    values = _priors()
    told, tangent = data.told(values), start
    for _ in range(_PASSES):
        if tangent is None:
            tangent = _Tangent.of(told, values)

        def errors_N(trial: Mapping[str, float], near: _Tangent = tangent) -> Array:
            return np.asarray(np.log(near.seconds(trial) / data.measured_N))

        values = fit_robustly(CONSTANTS, errors_N, weight_N, {})
        again = data.told(values)
        if np.allclose(again.seconds_N(values), tangent.seconds(values), rtol=_CLOSE):
            break
        told, tangent = again, None
    return values


def _priors() -> dict[str, float]:
    return {one.name: one.prior for one in CONSTANTS}


def cross_validate(data: TrainingData) -> list[Fold[Group]]:
    """Fit once for each group without it, and once to all; the last fold is the one that has seen all."""
    start = _Tangent.of(data.told(_priors()), _priors())
    return leave_groups_out(data.groups, data.group_N, lambda seen_N: fit_constants(data, seen_N, start=start))


def left_out(data: TrainingData, folds: Sequence[Fold[Group]]) -> Array:
    """Seconds of every row under the constants that have not seen its group."""
    seconds_N = np.zeros(len(data.rows))
    by_group = {fold.group: fold.values for fold in folds}
    for g, group in enumerate(data.groups):
        mine_N = data.group_N == g
        seconds_N[mine_N] = data.seconds_N(by_group[group])[mine_N]
    return seconds_N
