"""Every layer split of a template that could beat the best one known: what makes a priced template exact.

At a decode batch, a split that serves more than so many requests/s has a cycle below a limit, so that no stage takes
longer than the limit over the number of stages. Few splits keep to that once a good one is known, and those are gone
through. Stages of one kind in the middle of a pipeline that hold alike layers are interchangeable; only one order of
their layers counts.

Legend: N split, S stage, L layer; a trailing 1 is one entry more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.cost._types import Array, IntArray

__all__ = ["splits_within"]


def splits_within(
    time_SL: Array,
    fixed_S: Array,
    longest: float,
    memory_SL: Array,
    room_S: Array,
    *,
    alike: Sequence[bool],
    most: int,
) -> IntArray | None:
    """All splits whose stages neither take longer than a limit nor exceed their memory.

    Parameters
    ----------
    time_SL, fixed_S
        Seconds of each layer on each stage, and of the stage beside its layers.
    longest
        Seconds that a stage may take.
    memory_SL, room_S
        Bytes of each layer on each stage, and what the stage has room for.
    alike
        For each stage: whether it may change places with the one before it.
    most
        Splits, of the first stages too, that are gone through.

    Returns
    -------
    array of shape (N, S + 1), or None
        First layer of each stage, and the number of layers at the end; None where there are more than `most`.

    Examples
    --------
    >>> ones = np.ones((2, 3))
    >>> splits_within(ones, np.zeros(2), 2.0, ones, np.full(2, 9.0), alike=(False, False), most=10).tolist()
    [[0, 1, 3], [0, 2, 3]]
    """
    S, L = time_SL.shape
    reach_SL1 = np.minimum(_reach(time_SL, longest - fixed_S), _reach(memory_SL, room_S))
    starts = np.arange(L + 1)
    # from where the stages behind can still hold the rest: at least a layer each
    able_L1 = starts == L
    able = [able_L1]
    for s in range(S - 1, 0, -1):
        ahead_L1 = np.concatenate([[0], np.cumsum(able_L1)])
        able_L1 = ahead_L1[np.maximum(reach_SL1[s] + 1, starts + 1)] - ahead_L1[starts + 1] > 0
        able.append(able_L1)
    able.reverse()  # able[s]: whether the stages behind s can hold what begins there
    bounds = np.zeros((1, 1), dtype=int)
    for s in range(S):
        begin = bounds[:, -1]
        until = reach_SL1[s, begin]
        if alike[s]:  # no more layers than its twin before it
            until = np.minimum(until, 2 * begin - bounds[:, -2])
        spans = np.maximum(until - begin, 0)
        if spans.sum() > 4 * most:
            return None
        row = np.repeat(np.arange(len(bounds)), spans)
        offset = np.arange(len(row)) - np.repeat(np.cumsum(spans) - spans, spans)
        end = begin[row] + 1 + offset
        kept = able[s][end]
        bounds = np.concatenate([bounds[row[kept]], end[kept, None]], axis=1)
        if len(bounds) > most:
            return None
    return bounds


def _reach(cost_SL: Array, room_S: Array) -> IntArray:
    """Furthest end of an interval that begins at each layer and keeps within the room of its stage."""
    before_SL1 = np.concatenate([np.zeros((len(cost_SL), 1)), np.cumsum(cost_SL, axis=1)], axis=1)
    allowed = before_SL1 + (room_S + 1e-12 * np.abs(room_S))[:, None]
    return np.stack(
        [np.searchsorted(row, limit, side="right") - 1 for row, limit in zip(before_SL1, allowed, strict=True)]
    )
