"""The recurrence itself, over the bands of a tile of candidates.

With best[s, j] the least value of s stages that hold the layers [0, j),

    best[s + 1, j] = min over i < j of combine(best[s, i], end[s, j] - start[s, i]),

where combine is ``max`` or ``+`` and intervals above a limit are left out. `sweep_pairs` sets every i against every
j in a few large numpy calls. For ``+`` the terms of i and j part: what remains is the least best[s, i] - start[s, i]
over a window of i, because limits only ever cut off the far end, and `sweep_windows` finds it in O(log width) for
each j instead of O(width).

Axes in names: B candidate of the tile, S stage, I and J positions in the bands at which a stage starts and ends.
"""

from __future__ import annotations

import numpy as np

from planner.partition.problem import BoolArray, FloatArray, IntArray
from planner.partition.tables import Sums, Tables

__all__ = ["sweep_pairs", "sweep_windows"]


def sweep_pairs(
    combine: np.ufunc, tables: Tables, tile: IntArray, cap_B: FloatArray, low_BS1: IntArray, width: int
) -> IntArray:
    """Find the bounds (B, S + 1) of the least slowest stage or sum, every i against every j.

    Parameters
    ----------
    combine
        ``np.maximum`` or ``np.add``.
    tables
        The batch.
    tile
        Which of its candidates to look at.
    cap_B
        The most that a stage may take, for each candidate of the batch.
    low_BS1
        First position of each band, for the candidates of the tile.
    width
        Positions in a band. Those past the end of a narrower band are as true as the others, only useless.

    Returns
    -------
    ndarray of shape (B, S + 1)
        -1 where no partition is within the limits.
    """
    here_B, here_J = np.arange(len(tile)), np.arange(width)
    first_BSI, last_BSJ, past_BSJ = _positions(tables, tile, low_BS1, width)
    out_BSJI = first_BSI[:, :, None, :] >= past_BSJ[:, :, :, None]
    for sums in tables.limited(cap_B):
        since_BSI, upto_BSJ = _ends(sums, tile, first_BSI, last_BSJ)
        spent_BSJI = upto_BSJ[:, :, :, None] - since_BSI[:, :, None, :]
        out_BSJI |= spent_BSJI > sums.limit_BS[tile, :, None, None]
    time_BSJI = spent_BSJI  # time is the last of them
    time_BSJI[out_BSJI] = np.inf

    best_BI = _before_the_first(len(tile), width)
    choices = []
    for s in range(tables.num_stages):
        best_BJI = combine(time_BSJI[:, s], best_BI[:, None, :], out=time_BSJI[:, s])
        choice_BJ = best_BJI.argmin(axis=2)
        best_BI = best_BJI[here_B[:, None], here_J, choice_BJ]
        choices.append(choice_BJ)

    bounds_BS1 = low_BS1.copy()  # of the last boundary, L is the only position
    pick_B = np.zeros(len(tile), dtype=np.int64)
    for s in range(tables.num_stages - 1, -1, -1):
        pick_B = choices[s][here_B, pick_B]
        bounds_BS1[:, s] += pick_B
    bounds_BS1[np.isinf(best_BI[:, 0])] = -1
    return bounds_BS1


def sweep_windows(tables: Tables, tile: IntArray, cap_B: FloatArray, low_BS1: IntArray, width: int) -> IntArray:
    """Find the bounds of the least sum by minima over windows; otherwise as :func:`sweep_pairs`."""
    here_B, here_I = np.arange(len(tile)), np.arange(width)
    first_BSI, last_BSJ, past_BSJ = _positions(tables, tile, low_BS1, width)
    until_BSJ = np.minimum(past_BSJ - 1 - low_BS1[:, :-1, None], width - 1)  # the window's last index into I
    since_BSI, upto_BSJ = _ends(tables.time, tile, first_BSI, last_BSJ)
    from_BSJ, empty_BSJ = _windows(tables.limited(cap_B), tile, first_BSI, last_BSJ, until_BSJ)
    upto_BSJ[empty_BSJ] = np.inf

    # The minimum over a window is that of two overlapping runs of 2**level, one at either end of it.
    level_1 = np.frexp(np.arange(width + 1))[1] - 1
    level_BSJ = level_1[np.where(empty_BSJ, 1, until_BSJ - from_BSJ + 1)]
    second_BSJ = np.where(empty_BSJ, 0, until_BSJ - (1 << level_BSJ) + 1)
    runs = np.full((int(level_1[-1]) + 1, len(tile), width), np.inf)

    best_BI = _before_the_first(len(tile), width)
    gains = []
    for s in range(tables.num_stages):
        gain_BI = np.subtract(best_BI, since_BSI[:, s], out=runs[0])
        gains.append(gain_BI.copy())
        for level in range(1, len(runs)):
            half = 1 << (level - 1)
            np.minimum(runs[level - 1, :, :-half], runs[level - 1, :, half:], out=runs[level, :, :-half])
        level_BJ = level_BSJ[:, s]
        one_BJ = runs[level_BJ, here_B[:, None], from_BSJ[:, s]]
        other_BJ = runs[level_BJ, here_B[:, None], second_BSJ[:, s]]
        best_BI = np.minimum(one_BJ, other_BJ) + upto_BSJ[:, s]

    bounds_BS1 = low_BS1.copy()
    pick_B = np.zeros(len(tile), dtype=np.int64)
    for s in range(tables.num_stages - 1, -1, -1):
        outside_BI = here_I < from_BSJ[here_B, s, pick_B, None]
        outside_BI |= here_I > until_BSJ[here_B, s, pick_B, None]
        gain_BI = gains[s]
        gain_BI[outside_BI] = np.inf
        pick_B = gain_BI.argmin(axis=1)
        bounds_BS1[:, s] += pick_B
    bounds_BS1[np.isinf(best_BI[:, 0])] = -1
    return bounds_BS1


def _windows(
    limited: list[Sums], tile: IntArray, first_BSI: IntArray, last_BSJ: IntArray, until_BSJ: IntArray
) -> tuple[IntArray, BoolArray]:
    """First index into I of each window of starts within all limits, and whether there is none at all.

    A binary search from the last index of the window down, for the whole tile in step.
    """
    batch, stages, width = first_BSI.shape
    row_BS1 = (np.arange(batch * stages) * width).reshape(batch, stages, 1)
    binding = []
    for sums in limited:
        if np.isfinite(sums.limit_BS[tile]).any():
            since_BSI, upto_BSJ = _ends(sums, tile, first_BSI, last_BSJ)
            binding.append((since_BSI.ravel(), upto_BSJ, sums.limit_BS[tile, :, None]))

    empty_BSJ = until_BSJ < 0
    from_BSJ = np.maximum(until_BSJ, 0)
    if not binding:
        return np.zeros_like(from_BSJ), empty_BSJ

    def within(at_BSJ: IntArray) -> BoolArray:
        at_BSJ = at_BSJ + row_BS1
        ok_BSJ = np.ones(at_BSJ.shape, dtype=np.bool_)
        for since, upto_BSJ, limit_BS1 in binding:
            ok_BSJ &= upto_BSJ - since.take(at_BSJ) <= limit_BS1
        return ok_BSJ

    empty_BSJ |= ~within(from_BSJ)
    for bit in range((width - 1).bit_length() - 1, -1, -1):
        lower_BSJ = np.maximum(from_BSJ - (1 << bit), 0)
        from_BSJ = np.where(within(lower_BSJ), lower_BSJ, from_BSJ)
    return from_BSJ, empty_BSJ


def _positions(tables: Tables, tile: IntArray, low_BS1: IntArray, width: int) -> tuple[IntArray, IntArray, IntArray]:
    """Positions where stages start, where they end, and before which one that ends there must start."""
    at_BSI = np.minimum(low_BS1[:, :, None] + np.arange(width), tables.num_layers)
    last_BSJ = at_BSI[:, 1:]
    # A real stage holds a layer, a padding stage none.
    return at_BSI[:, :-1], last_BSJ, last_BSJ + tables.padding_BS[tile, :, None]


def _ends(sums: Sums, tile: IntArray, first_BSI: IntArray, last_BSJ: IntArray) -> tuple[FloatArray, FloatArray]:
    """What to subtract for starting and to add for ending at the given positions."""
    row, stage = tile[:, None, None], np.arange(first_BSI.shape[1])[:, None]
    return sums.start_BSN[row, stage, first_BSI], sums.end_BSN[row, stage, last_BSJ]


def _before_the_first(batch: int, width: int) -> FloatArray:
    best_BI = np.full((batch, width), np.inf)
    best_BI[:, 0] = 0.0  # no layers, no cost
    return best_BI
