"""Which type each replica of flexible stages takes: a transport problem with whole replicas.

Legend: C flexible class, K GPU type.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from planner.cost._types import IntArray

__all__ = ["assign"]


def assign(replica_CK: IntArray, replicas_C: IntArray, room_K: IntArray) -> IntArray | None:
    """Replicas of each class on each type, within the room; None where there is no way.

    Parameters
    ----------
    replica_CK
        GPUs of a replica by type; 0 where the class has none there.
    replicas_C
        Replicas of each class.
    room_K
        GPUs of each type.
    """
    room = tuple(int(n) for n in room_K)
    if min(room, default=0) < 0:
        return None
    # free GPUs after the classes so far; of ways that leave the same, any one
    reached: dict[tuple[int, ...], tuple[tuple[int, ...], ...]] = {room: ()}
    for replica_K, replicas in zip(replica_CK, replicas_C, strict=True):
        types = [int(k) for k in np.flatnonzero(replica_K)]
        after: dict[tuple[int, ...], tuple[tuple[int, ...], ...]] = {}
        for left, chosen in reached.items():
            most = [min(int(replicas), left[k] // int(replica_K[k])) for k in types]
            for counts in product(*(range(n + 1) for n in most[:-1])):
                rest = int(replicas) - sum(counts)
                if not 0 <= rest <= most[-1]:
                    continue
                split, still = [0] * len(room), list(left)
                for k, n in zip(types, (*counts, rest), strict=True):
                    split[k] = n
                    still[k] -= n * int(replica_K[k])
                after.setdefault(tuple(still), (*chosen, tuple(split)))
        reached = _undominated(after)
        if not reached:
            return None
    chosen = reached[max(reached)]
    return np.array(chosen, dtype=np.int64).reshape(len(replicas_C), len(room))


def _undominated(
    ways: dict[tuple[int, ...], tuple[tuple[int, ...], ...]],
) -> dict[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Without ways that leave no more of any type than another does."""
    if not ways:
        return ways
    kept: dict[tuple[int, ...], tuple[tuple[int, ...], ...]] = {}
    two = len(next(iter(ways))) == 2
    most = -1
    for left in sorted(ways, reverse=True):
        if two:
            if left[1] > most:
                kept[left], most = ways[left], left[1]
        elif not any(all(a >= b for a, b in zip(other, left, strict=True)) for other in kept):
            kept[left] = ways[left]
    return kept
