"""Layers to a chain of devices, some of which may stay unused: UELLM's placement, by count vectors.

A device takes consecutive layers as far as its memory goes; passing from one device to the next costs a hop. Devices
that are equal in time, memory and every hop form a class, so that a state is how many of each class are used, which
class came last, and how many layers are placed:

    best[n + e_d, d, j] = min over i, c: combine(best[n, c, i], hop[c, d], time of a device of class d on layers [i, j))

with combine ``+`` (latency) or ``max`` (bottleneck). With one device in each class this is the dynamic program over
subsets; with classes of eight it has ``9^D`` states instead of ``2^(8 D)``. One run gives the best chain for every
number of devices, of which a weight per device picks (`DeviceChains.pick`): the latency alone is UELLM's LR, the number
of devices alone its HE, both together HELR.

Legend: D class of devices, V count vector, N = L + 1 positions between layers.

References
----------
Y. He et al., "UELLM: A unified and efficient approach for LLM inference serving", ICSOC 2024, section 4.3. The paper's
code has no such program; this one follows from what the text says of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise, product
from typing import Final, Literal

import numpy as np

from planner.partition.problem import FloatArray, IntArray

__all__ = ["DeviceChain", "DeviceChains", "chain_devices", "chain_value"]

_NOBODY: Final = -1
_MOST_STATES: Final = 300_000  # count vectors; beyond this the arrays would take gigabytes


@dataclass(frozen=True, slots=True)
class DeviceChain:
    """Devices in order, each by its class, the layers that each holds, and the chain's latency or bottleneck."""

    classes: tuple[int, ...]
    layers: tuple[int, ...]
    value: float


@dataclass(frozen=True, slots=True)
class DeviceChains:
    """The best chain of each number of devices; None where there is none."""

    by_devices: tuple[DeviceChain | None, ...]

    def pick(self, value_weight: float = 1.0, device_weight: float = 0.0) -> DeviceChain | None:
        """Chain of least ``value_weight * value + device_weight * devices``; of equals the one with fewer devices.

        With a `value_weight` of 0, the fewest devices, and of these the best.
        """
        chains = [chain for chain in self.by_devices if chain is not None]
        if not chains:
            return None
        if value_weight == 0.0:
            return chains[0]
        return min(chains, key=lambda one: value_weight * one.value + device_weight * len(one.classes))


def chain_devices(
    time_DNN: FloatArray,
    hop_DD: FloatArray,
    count_D: IntArray,
    objective: Literal["latency", "bottleneck"],
    *,
    most_devices: int | None = None,
) -> DeviceChains:
    """Find the best chain of each number of devices.

    Parameters
    ----------
    time_DNN
        Time of a device on the layers [i, j); infinite where they do not fit its memory. Entries with ``j <= i`` are
        not read.
    hop_DD
        Time to pass from a device of one class to one of another; from one to another of the same on the diagonal.
    count_D
        Devices of each class.
    objective
        ``"latency"``: the sum of all devices and hops. ``"bottleneck"``: the slowest of them.
    most_devices
        Longest chain; None: as many as there are devices or layers.

    Raises
    ------
    ValueError
        If there are more count vectors than memory allows.

    Examples
    --------
    >>> time = np.zeros((1, 3, 3)); time[0, 0, 1] = time[0, 1, 2] = 1.0; time[0, 0, 2] = 1.5
    >>> chain_devices(time, np.ones((1, 1)), np.array([2]), "latency").pick()
    DeviceChain(classes=(0,), layers=(2,), value=1.5)
    """
    D, N, _ = time_DNN.shape
    combine = np.add if objective == "latency" else np.maximum
    time_DNN = np.where(np.triu(np.ones((N, N), dtype=bool), 1), time_DNN, np.inf)
    most = min(int(count_D.sum()), N - 1)
    most = most if most_devices is None else min(most, most_devices)
    vectors = _vectors(count_D, most)

    # level by level: states with one device more follow from those of the level before
    value_VDN = np.full((1, D, N), np.inf)
    levels: list[tuple[dict[tuple[int, ...], int], IntArray, IntArray]] = []
    found: list[DeviceChain | None] = []
    before: dict[tuple[int, ...], int] = {}
    for used in range(1, most + 1):
        index = {vector: row for row, vector in enumerate(vectors[used])}
        new_VDN = np.full((len(index), D, N), np.inf)
        class_VDN = np.full((len(index), D, N), _NOBODY)
        from_VDN = np.full((len(index), D, N), _NOBODY)
        for d in range(D):
            to = [row for vector, row in index.items() if vector[d]]
            if not to:
                continue
            if used == 1:
                new_VDN[to, d] = time_DNN[d, 0]
                from_VDN[to, d] = 0
                continue
            source = [before[_less(vectors[used][row], d)] for row in to]
            reached_VDN = combine(value_VDN[source], hop_DD[None, :, d, None])
            last_VN = reached_VDN.argmin(axis=1)
            base_VN = np.take_along_axis(reached_VDN, last_VN[:, None], axis=1)[:, 0]
            best_VN, at_VN = _extended(combine, base_VN, time_DNN[d])
            new_VDN[to, d], from_VDN[to, d] = best_VN, at_VN
            class_VDN[to, d] = np.take_along_axis(last_VN, at_VN, axis=1)
        levels.append((index, class_VDN, from_VDN))
        found.append(_traced(levels, new_VDN))
        value_VDN, before = new_VDN, index
        if not np.isfinite(new_VDN).any():
            break
    return DeviceChains(tuple(found))


def _extended(combine: np.ufunc, base_VN: FloatArray, time_NN: FloatArray) -> tuple[FloatArray, IntArray]:
    """Add one device: for each position the best value and the position that it came from."""
    V, N = base_VN.shape
    best_VN, at_VN = np.full((V, N), np.inf), np.zeros((V, N), dtype=np.int64)
    for i in range(1, N - 1):  # every device before holds a layer, and so does this one
        if not np.isfinite(time_NN[i]).any():
            continue
        value_VN = combine(base_VN[:, i, None], time_NN[i, None])
        better = value_VN < best_VN
        best_VN, at_VN = np.where(better, value_VN, best_VN), np.where(better, i, at_VN)
    return best_VN, at_VN


def _traced(
    levels: list[tuple[dict[tuple[int, ...], int], IntArray, IntArray]], value_VDN: FloatArray
) -> DeviceChain | None:
    """Read the best chain of the last level back."""
    final_VD = value_VDN[:, :, -1]
    row, d = (int(x) for x in np.unravel_index(int(final_VD.argmin()), final_VD.shape))
    value = float(final_VD[row, d])
    if not np.isfinite(value):
        return None
    classes, layers = [], []
    position = value_VDN.shape[2] - 1
    vector = list(levels[-1][0])[row]
    for index, class_VDN, from_VDN in reversed(levels):
        row = index[vector]
        before = int(from_VDN[row, d, position])
        classes.append(d)
        layers.append(position - before)
        vector, d, position = _less(vector, d), int(class_VDN[row, d, position]), before
    return DeviceChain(tuple(reversed(classes)), tuple(reversed(layers)), value)


def _less(vector: tuple[int, ...], d: int) -> tuple[int, ...]:
    return (*vector[:d], vector[d] - 1, *vector[d + 1 :])


def _vectors(count_D: IntArray, most: int) -> list[list[tuple[int, ...]]]:
    """Count vectors by how many devices they use."""
    ranges = [range(min(int(count), most) + 1) for count in count_D]
    levels: list[list[tuple[int, ...]]] = [[] for _ in range(most + 1)]
    states = 0
    for vector in product(*ranges):
        used = sum(vector)
        if used <= most:
            levels[used].append(vector)
            states += 1
            if states > _MOST_STATES:
                raise ValueError(f"more than {_MOST_STATES:,} count vectors; bound most_devices")
    return levels


def chain_value(
    time_DNN: FloatArray,
    hop_DD: FloatArray,
    chain: DeviceChain,
    objective: Literal["latency", "bottleneck"],
) -> float:
    """Latency or bottleneck of a chain, computed anew."""
    parts, first = [], 0
    for d, count in zip(chain.classes, chain.layers, strict=True):
        parts.append(float(time_DNN[d, first, first + count]))
        first += count
    parts += [float(hop_DD[c, d]) for c, d in pairwise(chain.classes)]
    return sum(parts) if objective == "latency" else max(parts)
