"""Loads of many replicas as arrays: what `planner.cost.closed_loop` solves in one call.

Legend: B batch of loads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from planner.cost.load_pattern import LoadPattern
from planner.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike

    from planner.cost._types import Array, BoolArray, IntArray

__all__ = ["Loads"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Loads:
    """What some replicas are asked to do; arrays of shape B.

    Parameters
    ----------
    replica_B
        Place of the replica in the tables.
    input_B, output_B
        Mean tokens in and out.
    concurrency_B
        Requests under way; at least 1, need not be whole.
    waves_B, slot_wait_B, prompt_wait_B, stream_interval_B, prefix_share_B, offline_B
        See `LoadPattern`; its synchrony is called waves, as a burst counts as 1.
    requests_B, slot_limit_B
        The same; infinite where nothing is told.
    """

    replica_B: IntArray
    input_B: Array
    output_B: Array
    concurrency_B: Array
    waves_B: Array
    slot_wait_B: Array
    prompt_wait_B: Array
    stream_interval_B: Array
    prefix_share_B: Array
    offline_B: BoolArray
    requests_B: Array
    slot_limit_B: Array

    @classmethod
    def of(
        cls,
        replica_B: ArrayLike,
        input_B: ArrayLike,
        output_B: ArrayLike,
        concurrency_B: ArrayLike,
        patterns: LoadPattern | Sequence[LoadPattern],
    ) -> Loads:
        """Gather loads.

        Parameters
        ----------
        replica_B, input_B, output_B, concurrency_B
            As above; what is one number counts for all.
        patterns
            How they come: one for all, or one each.

        Raises
        ------
        InputError
            If a loop is open, there is none, or a concurrency is less than 1.
        """
        some = [patterns] if isinstance(patterns, LoadPattern) else list(patterns)
        if any(pattern.arrival == "open" for pattern in some):
            raise InputError("an open loop has a rate, no concurrency", expected="closed or burst")
        told = {
            "waves": [pattern.waves for pattern in some],
            "slot_wait": [pattern.slot_wait for pattern in some],
            "prompt_wait": [pattern.prompt_wait for pattern in some],
            "stream_interval": [pattern.stream_interval for pattern in some],
            "prefix_share": [pattern.prefix_share for pattern in some],
            "offline": [pattern.offline for pattern in some],
            "requests": [np.inf if pattern.requests is None else pattern.requests for pattern in some],
            "slot_limit": [np.inf if pattern.slot_limit is None else pattern.slot_limit for pattern in some],
        }
        sizes = [np.atleast_1d(np.asarray(x, dtype=float)) for x in (input_B, output_B, concurrency_B)]
        replica = np.atleast_1d(np.asarray(replica_B, dtype=np.int64))
        arrays = np.broadcast_arrays(replica, *sizes, *(np.asarray(values) for values in told.values()))
        if arrays[0].size == 0 or not (arrays[3] >= 1).all():
            raise InputError("a concurrency below 1", expected="1 request under way, or more")
        names = ("replica", "input", "output", "concurrency", *told)
        return cls(**{f"{name}_B": array for name, array in zip(names, arrays, strict=True)})
