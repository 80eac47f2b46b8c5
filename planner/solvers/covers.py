"""Cheapest ways to cover a length with so many pieces: an unbounded knapsack with a fixed number of items.

Many instances at once, which differ in how long the pieces of each kind are and in what may be paid; prices are the
same for all. `least_prices` is the dynamic program, `list_covers` names every way whose price is within its limit,
with the program's values as exact bounds on what is still to be chosen.

Legend: E instance, J kind of piece, S number of pieces, L length still to be covered, N a way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Covers", "least_prices", "list_covers"]

_ROUNDING: Final = 1e-12  # relative, of prices that are summed in different orders


@dataclass(frozen=True, slots=True)
class Covers:
    """Ways that were found.

    Parameters
    ----------
    instance_N
        Which instance a way belongs to.
    count_NJ
        Pieces of each kind.
    """

    instance_N: NDArray[np.int64]
    count_NJ: NDArray[np.int64]

    def take(self, rows: NDArray[np.int64] | NDArray[np.bool_]) -> Covers:
        """Some of them."""
        return Covers(self.instance_N[rows], self.count_NJ[rows])


def least_prices(
    length_EJ: NDArray[np.int64], price_J: NDArray[np.float64], pieces: int, longest: int
) -> NDArray[np.float64]:
    """Least price of exactly s pieces that cover l, for every s and l.

    Parameters
    ----------
    length_EJ
        Length of a piece of each kind; kinds with 0 are not there.
    price_J
        Price of a piece, not negative.
    pieces, longest
        Largest number of pieces and length asked for.

    Returns
    -------
    ndarray of shape (pieces + 1, E, longest + 1)
        Infinite where there is no way.
    """
    table_SEL = _nothing(len(length_EJ), pieces, longest)
    for j in range(length_EJ.shape[1]):
        _with_kind(table_SEL, length_EJ[:, j], float(price_J[j]))
    return table_SEL


def list_covers(
    length_EJ: NDArray[np.int64],
    price_J: NDArray[np.float64],
    pieces: int,
    need_E: NDArray[np.int64],
    most_E: NDArray[np.float64],
    *,
    size_J: NDArray[np.int64],
    group_J: NDArray[np.int64],
    room: NDArray[np.int64],
    limit: int,
) -> Covers | None:
    """All ways to cover a need with exactly so many pieces that cost no more than what may be paid.

    None if there are more than the limit.

    Parameters
    ----------
    length_EJ, price_J, pieces
        As for `least_prices`.
    need_E, most_E
        Length to be covered, and the highest price.
    size_J, group_J, room
        Pieces of a kind take so much room each in their group, which has no more than that.
    limit
        Most ways, finished or begun, at any time.
    """
    E, J = length_EJ.shape
    # what the kinds from j on can do
    table_SEL = _nothing(E, pieces, int(need_E.max(initial=0)))
    later = [table_SEL]
    for j in range(J - 1, 0, -1):
        table_SEL = table_SEL.copy()
        _with_kind(table_SEL, length_EJ[:, j], float(price_J[j]))
        later.append(table_SEL)
    instance_N = np.arange(E)
    left_N, need_N, money_N = np.full(E, pieces), need_E.copy(), most_E * (1 + _ROUNDING)
    room_NG = np.repeat(room[None], E, axis=0)
    history: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
    for j in range(J):
        after_SEL = later[J - 1 - j]
        parents, counts = [], []
        for count in range(pieces + 1):
            able = np.flatnonzero(left_N >= count)
            if count:
                able = able[(length_EJ[instance_N[able], j] > 0)]
                able = able[room_NG[able, group_J[j]] >= count * size_J[j]]
            if not able.size:
                break
            rest = np.maximum(need_N[able] - count * length_EJ[instance_N[able], j], 0)
            least = after_SEL[left_N[able] - count, instance_N[able], rest]
            able = able[money_N[able] - count * price_J[j] >= least]
            parents.append(able)
            counts.append(np.full(len(able), count))
        if not parents:
            return Covers(np.zeros(0, dtype=np.int64), np.zeros((0, J), dtype=np.int64))
        parent_N, count_N = np.concatenate(parents), np.concatenate(counts)
        if len(parent_N) > limit:
            return None
        history.append((parent_N, count_N))
        instance_N = instance_N[parent_N]
        left_N = left_N[parent_N] - count_N
        need_N = np.maximum(need_N[parent_N] - count_N * length_EJ[instance_N, j], 0)
        money_N = money_N[parent_N] - count_N * price_J[j]
        room_NG = room_NG[parent_N]
        room_NG[:, group_J[j]] -= count_N * size_J[j]
    count_NJ = np.zeros((len(instance_N), J), dtype=np.int64)
    at_N = np.arange(len(instance_N))
    for j in range(J - 1, -1, -1):
        parent_N, count_N = history[j]
        count_NJ[:, j] = count_N[at_N]
        at_N = parent_N[at_N]
    return Covers(instance_N, count_NJ)


def _nothing(instances: int, pieces: int, longest: int) -> NDArray[np.float64]:
    """Prices with no kinds at all: only nothing is covered, by no pieces."""
    table_SEL = np.full((pieces + 1, instances, longest + 1), np.inf)
    table_SEL[0, :, 0] = 0.0
    return table_SEL


def _with_kind(table_SEL: NDArray[np.float64], length_E: NDArray[np.int64], price: float) -> None:
    """Allow for one more kind, any number of its pieces, in place."""
    there_E = np.flatnonzero(length_E > 0)
    if not there_E.size:
        return
    some = len(there_E) < len(length_E)
    width = table_SEL.shape[2]
    from_EL = np.maximum(np.arange(width) - length_E[there_E, None], 0) + np.arange(len(there_E))[:, None] * width
    for s in range(1, len(table_SEL)):
        before_EL = table_SEL[s - 1][there_E] if some else table_SEL[s - 1]
        offered_EL = before_EL.ravel()[from_EL] + price
        if some:
            table_SEL[s, there_E] = np.minimum(table_SEL[s, there_E], offered_EL)
        else:
            np.minimum(table_SEL[s], offered_EL, out=table_SEL[s])
