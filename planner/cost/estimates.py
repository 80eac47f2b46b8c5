"""Many explicit serving configurations in one call: arrays in, arrays out.

Replicas of every (TP, PP) are tabulated once and kept; a load of any of them is then a handful of look-ups, so that
eighty thousand configurations take a second on one core.

Legend: B batch of configurations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.bands import served_error
from planner.cost.closed_loop import LoopModel
from planner.cost.host_times import HostTimes
from planner.cost.iteration_tables import IterationTables
from planner.cost.load_pattern import LoadPattern
from planner.cost.loads import Loads
from planner.cost.node_replica import node_replica
from planner.cost.parallelism import ReplicaParallelism
from planner.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from planner.cluster import DeviceProfile
    from planner.cost._types import Array, BoolArray
    from planner.cost.replica import ReplicaPricer
    from planner.engine import EngineProfile
    from planner.model import ModelSpec

__all__ = ["ServingEstimates", "ServingEstimator"]

Degrees = tuple[int, int]

_PAIRED: Final = 1 << 20  # TP times this plus PP is one number for the two


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingEstimates:
    """What clients of each configuration see; arrays of shape B. NaN where a configuration cannot run.

    Parameters
    ----------
    ttft_B, tpot_B, latency_B
        Means, in seconds; ``latency = TTFT + OSL TPOT``.
    rate_B, output_rate_B
        Requests/s and output tokens/s of the replica.
    running_B
        Requests in the engine at a time; the others wait for room.
    gpus_B
        GPUs of the replica.
    feasible_B
        Whether the engine can run it and one request fits its memory.
    why
        For each (TP, PP) that no engine can run: the reason.
    errors
        Half widths of the 90 % bands, relative: ``"ttft"``, ``"tpot"``, ``"e2e"``; the rates have that of ``"e2e"``.
    """

    ttft_B: Array
    tpot_B: Array
    latency_B: Array
    rate_B: Array
    output_rate_B: Array
    running_B: Array
    gpus_B: Array
    feasible_B: BoolArray
    why: dict[Degrees, str]
    errors: dict[str, float]


class ServingEstimator:
    """Prices serving configurations of one model on one GPU type under one engine.

    Parameters
    ----------
    model, device, engine
        What runs, where, under what.

    Examples
    --------
    >>> from planner.cluster import load_device
    >>> from planner.engine import load_engine
    >>> from planner.model import load_model
    >>> estimator = ServingEstimator(load_model("llama-3.1-8b"), load_device("h100_sxm"), load_engine("vllm"))
    >>> found = estimator(tp=[1, 2, 4], isl=1024, osl=256, concurrency=32)
    >>> bool((np.diff(found.tpot_B) < 0).all()), found.gpus_B.tolist()
    (True, [1.0, 2.0, 4.0])
    """

    def __init__(self, model: ModelSpec, device: DeviceProfile, engine: EngineProfile) -> None:
        self.model, self.device, self.engine = model, device, engine
        self._pricers: dict[Degrees, ReplicaPricer] = {}
        self._refused: dict[Degrees, str] = {}
        self._loops: LoopModel | None = None

    def __call__(
        self,
        *,
        tp: ArrayLike,
        pp: ArrayLike = 1,
        isl: ArrayLike,
        osl: ArrayLike,
        concurrency: ArrayLike,
        load: LoadPattern | Sequence[LoadPattern] | None = None,
    ) -> ServingEstimates:
        """Price configurations.

        Parameters
        ----------
        tp, pp
            Tensor and pipeline parallelism, inside one node.
        isl, osl
            Mean tokens in and out.
        concurrency
            Requests under way, at least 1.
        load
            How they come: one for all, or one each; None: a closed loop with evenly spread phases.

        Returns
        -------
        ServingEstimates
            Of the common shape of the arguments, flattened.

        Raises
        ------
        InputError
            If a size is below 1, or a degree is no whole number.
        """
        raw = np.broadcast_arrays(*(np.atleast_1d(np.asarray(x, dtype=float)) for x in (tp, pp, isl, osl, concurrency)))
        tp_B, pp_B, isl_B, osl_B, concurrency_B = (one.ravel() for one in raw)
        for name, values in (("tp", tp_B), ("pp", pp_B), ("isl", isl_B), ("osl", osl_B)):
            degree = name in ("tp", "pp")
            broken_B = (values != np.round(values)) | (values >= _PAIRED) if degree else np.zeros(len(values), bool)
            if not (values >= 1).all() or broken_B.any():
                sort = "whole numbers" if degree else "numbers of tokens"
                raise InputError("holds a value that is not possible", field=name, expected=f"{sort} of at least 1")
        keys, which_B = np.unique((_PAIRED * tp_B + pp_B).astype(np.int64), return_inverse=True)
        pairs = [divmod(int(key), _PAIRED) for key in keys]
        place = np.array([self._place(*pair) for pair in pairs], dtype=np.int64)
        replica_B = place[which_B]
        possible_B = replica_B >= 0
        why = {pair: self._refused[pair] for pair in pairs if pair in self._refused}
        loads = Loads.of(np.maximum(replica_B, 0), isl_B, osl_B, concurrency_B, load or LoadPattern())
        gpus_B = tp_B * pp_B
        if not possible_B.any():
            nothing = np.full(len(tp_B), np.nan)
            return ServingEstimates(
                ttft_B=nothing,
                tpot_B=nothing,
                latency_B=nothing,
                rate_B=nothing,
                output_rate_B=nothing,
                running_B=nothing,
                gpus_B=gpus_B,
                feasible_B=possible_B,
                why=why,
                errors={},
            )
        assert self._loops is not None
        loop = self._loops.solve(loads)
        feasible_B = possible_B & loop.fits_B

        def known(values_B: Array) -> Array:
            return np.where(feasible_B, values_B, np.nan)

        return ServingEstimates(
            ttft_B=known(loop.ttft_B),
            tpot_B=known(loop.tpot_B),
            latency_B=known(loop.latency_B),
            rate_B=known(loop.rate_B),
            output_rate_B=known(loop.rate_B * osl_B),
            running_B=known(loop.running_B),
            gpus_B=gpus_B,
            feasible_B=feasible_B,
            why=why,
            errors=self._errors(),
        )

    def _place(self, tp: int, pp: int) -> int:
        """Where the tables hold a replica; -1 if it cannot be."""
        pair = tp, pp
        if pair not in self._pricers and pair not in self._refused:
            try:
                self._pricers[pair] = node_replica(
                    self.model, self.device, self.engine, ReplicaParallelism(tp=tp), pp=pp
                )
            except UnsupportedError as error:
                self._refused[pair] = str(error)
            else:
                pricers = list(self._pricers.values())
                self._loops = LoopModel(IterationTables.of(pricers), HostTimes.of([p.engine for p in pricers]))
        return list(self._pricers).index(pair) if pair in self._pricers else -1

    def _errors(self) -> dict[str, float]:
        layers = next(iter(self._pricers.values())).layer_pricers
        return {name: served_error(layers, self.engine, name) for name in ("ttft", "tpot", "e2e")}
