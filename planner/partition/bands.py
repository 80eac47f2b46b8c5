"""How few positions a boundary between stages can take, once no stage may exceed a cap on its time.

Axes in names: B candidate, S stage, N = L + 1 positions between layers, G guessed cap.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from planner.partition.problem import FloatArray, IntArray
from planner.partition.tables import Sums, Tables

__all__ = ["NUM_GUESSES", "attained_cap", "bands"]

# Caps that the greedy fill tries, as multiples of the time at which all stages would be equally busy.
_GUESSES: Final = (1.0, 1.03, 1.1, 1.25, 1.6)
NUM_GUESSES: Final = len(_GUESSES) + 1


def attained_cap(tables: Tables) -> FloatArray:
    """Find a cap on stage time, per candidate, under which a partition exists.

    Each stage in turn takes as many layers as a guessed cap and its memory allow, but at least one, and leaves one
    to each stage after it; the last takes the rest. The slowest stage of such a partition is a cap that is attained.

    Returns
    -------
    ndarray of shape (B,)
        The least over the guesses; infinite where none of the fills respects memory.
    """
    work_BS, fixed_BS = tables.time.start_BSN[:, :, -1], tables.time.end_BSN[:, :, 0]
    with np.errstate(all="ignore"):
        # Equally busy: sum over s of (T - fixed_s) / work_s = 1. Only a guess, so that nonsense does no harm.
        speed_BS = np.where(tables.padding_BS, 0.0, 1.0 / work_BS)
        balanced_B = (1.0 + (fixed_BS * speed_BS).sum(axis=1)) / speed_BS.sum(axis=1)
        cap_BG = np.where(np.isfinite(balanced_B), balanced_B, 0.0)[:, None] * np.array(_GUESSES)
    cap_BG = np.append(cap_BG, np.full((tables.batch, 1), np.inf), axis=1)  # and by memory alone

    row = np.arange(tables.batch)[:, None]
    at_BG = np.zeros(cap_BG.shape, dtype=np.int64)
    slowest_BG = np.zeros(cap_BG.shape)
    for s in range(tables.num_stages):
        over_BGN = _up_to_each(tables.time, s, at_BG) > cap_BG[:, :, None]
        if tables.memory is not None:
            full_BGN = _up_to_each(tables.memory, s, at_BG) > tables.memory.limit_BS[:, s, None, None]
            over_BGN |= full_BGN
        reach_BG = tables.num_layers - over_BGN.sum(axis=2)
        least_BG = np.maximum(at_BG + 1, tables.low_BS1[:, s + 1, None])
        next_BG = np.minimum(np.maximum(reach_BG, least_BG), tables.high_BS1[:, s + 1, None])
        time_BG = tables.time.end_BSN[row, s, next_BG] - tables.time.start_BSN[row, s, at_BG]
        if tables.memory is not None:
            time_BG[full_BGN[row, np.arange(NUM_GUESSES), next_BG]] = np.inf
        slowest_BG = np.maximum(slowest_BG, time_BG)
        at_BG = next_BG
    cap_B: FloatArray = slowest_BG.min(axis=1)
    return cap_B


def bands(tables: Tables, cap_B: FloatArray) -> tuple[IntArray, IntArray]:
    """Enclose each boundary of every partition within memory and a cap on stage time.

    One pass fills the stages to their limits from the left, the other from the right. Neither insists that a stage
    can hold the very layer it meets, so that a band may be too wide, but never too narrow.

    Returns
    -------
    low_BS1, high_BS1
        First and last position of each boundary. Where a low is above its high there is no partition.
    """
    low_BS1, high_BS1 = tables.low_BS1.copy(), tables.high_BS1.copy()
    row = np.arange(tables.batch)
    limited = tables.limited(cap_B)
    for s in range(tables.num_stages - 1):
        for sums in limited:
            from_B1 = sums.start_BSN[row, s, high_BS1[:, s], None]
            # Ends at 1 to L that are within the limit; there are as many as the last of them says.
            within_BL = sums.end_BSN[:, s, 1:] - from_B1 <= sums.limit_BS[:, s, None]
            np.minimum(high_BS1[:, s + 1], within_BL.sum(axis=1), out=high_BS1[:, s + 1])
    for s in range(tables.num_stages - 1, 0, -1):
        for sums in limited:
            upto_B1 = sums.end_BSN[row, s, low_BS1[:, s + 1], None]
            # Starts at 0 to L - 1 that are over it; the next is the first that is not.
            over_BL = upto_B1 - sums.start_BSN[:, s, :-1] > sums.limit_BS[:, s, None]
            np.maximum(low_BS1[:, s], over_BL.sum(axis=1), out=low_BS1[:, s])
    return low_BS1, high_BS1


def _up_to_each(sums: Sums, s: int, at_BG: IntArray) -> FloatArray:
    """Sum over stage s from each of the given positions up to every position, (B, G, N)."""
    row = np.arange(len(at_BG))[:, None]
    spent_BGN: FloatArray = sums.end_BSN[:, s, None, :] - sums.start_BSN[row, s, at_BG, None]
    return spent_BGN
