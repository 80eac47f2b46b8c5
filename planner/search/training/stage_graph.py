"""A pipeline as a path: layer boundaries are nodes, stages are edges, GPUs are what a path may spend.

One graph fixes the number of microbatches m. A stage is an interval of layers on a *class*, and what it costs depends
on the class and the interval only. The iteration takes

    ``(m - 1) max_s z_s + sum_s v_s + max_s g_s + max_s u_s + constant``

with ``z`` and ``v`` a stage's time and its hops in two weightings (most costs count them alike), ``g`` its gradient
sync and ``u`` its optimizer. A boundary is as slow as the slower of its two ends.

A class spends a fixed number of GPUs of each type, or it is *flexible*: it has `degree` replicas, each on one of
several types, and only their sum is fixed. A flexible stage is priced as if all its types took part.

Where a boundary's cost is not the slower of two ends, classes can say instead what may follow them: each offers a
*port* to the stage in front of it, and has a list of ports that it joins. Its own times then hold the boundary.

Legend: C class, K GPU type, N layer boundary (number of layers + 1), E edge, P port.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from planner.cost._types import Array, BoolArray, IntArray

__all__ = ["Edges", "Hops", "Stage", "StageGraph"]


def _even(types: int) -> Array:
    """Price vectors that point evenly everywhere, the sum of each 1."""
    steps = {1: 1, 2: 8, 3: 4}.get(types, 2)
    grid = [one for one in itertools.product(range(steps + 1), repeat=types) if sum(one) == steps]
    return np.asarray(grid, dtype=float) / steps


# A stage of a path: class, first layer, one past the last.
Stage = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Hops:
    """How often a stage pays for the boundary before and after it, in its bottleneck time and in the sum.

    The last stage of several pays `last` times for the boundary before it, instead of once.
    """

    peak_before: float = 0.0
    peak_after: float = 0.0
    sum_before: float = 0.0
    sum_after: float = 0.0
    last: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Edges:
    """Stages that may be, sorted by their last layer; each with the boundary before it promised no slower than a level.

    Parameters
    ----------
    class_E, start_E, end_E
        Class and layers.
    level_E, own_E
        Rank of the promised boundary before the stage, and of the stage's own end of the boundary after it; with
        ports, the port that the stage offers, and its class.
    peak_E, total_E
        Seconds in the bottleneck and in the sum, the boundary after it as fast as the stage itself.
    sync_E, update_E
        Seconds of gradient sync and optimizer.
    depth_E
        Most stages from this one to the end, by memory.
    relaxed_E
        Whether the edge counts in bounds: the promised level is its own.
    """

    class_E: IntArray
    start_E: IntArray
    end_E: IntArray
    level_E: IntArray
    own_E: IntArray
    peak_E: Array
    total_E: Array
    sync_E: Array
    update_E: Array
    depth_E: IntArray
    relaxed_E: BoolArray

    def __len__(self) -> int:
        return len(self.class_E)

    def take(self, rows: BoolArray | IntArray) -> Edges:
        """Some of them, in order."""
        return Edges(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})


@dataclass(frozen=True, kw_only=True, eq=False)
class StageGraph:
    """Everything that the search is told about one number of microbatches.

    Parameters
    ----------
    microbatches
        Per iteration.
    counts_K
        GPUs of each type.
    use_CK
        GPUs that a stage of a class takes; zeros for flexible classes.
    replica_CK
        GPUs of one replica of a flexible class by type, 0 where it has none there; zeros for the others.
    degree
        Replicas of a flexible stage.
    peak_CNN, total_CNN
        Seconds of the layers from one boundary to another, without hops, in the bottleneck and in the sum; infinite
        where there can be no such stage.
    sync_CNN, update_CNN
        Seconds of gradient sync and optimizer.
    depth_CNN
        Most stages from this one to the end that memory allows; 0: none.
    end_CN
        Seconds of a boundary, as far as this class decides it.
    hops
        How boundaries count.
    constant
        Seconds on top of every iteration.
    max_stages, min_stages
        Most and fewest stages.
    bounding_C
        Classes that bounds need: another is never cheaper than one of these in time and GPUs alike. None: all.
    port_C, joins_CP
        Port that a class offers to the stage in front of it, and ports that it may have behind it; None: any class
        follows any other. Port 0 is the end of the pipeline.
    label
        What the caller wants to recognise it by.
    """

    microbatches: int
    counts_K: IntArray
    use_CK: IntArray
    replica_CK: IntArray
    degree: int
    peak_CNN: Array
    total_CNN: Array
    sync_CNN: Array
    update_CNN: Array
    depth_CNN: IntArray
    end_CN: Array
    hops: Hops = field(default_factory=Hops)
    constant: float = 0.0
    max_stages: int = 16
    min_stages: int = 1
    bounding_C: BoolArray | None = None
    port_C: IntArray | None = None
    joins_CP: BoolArray | None = None
    label: Any = None

    @property
    def num_layers(self) -> int:
        """Layers of the model."""
        return int(self.peak_CNN.shape[1]) - 1

    @cached_property
    def flexible_C(self) -> BoolArray:
        """Classes whose replicas choose their type."""
        return np.asarray((self.replica_CK > 0).any(axis=1))

    @property
    def num_ports(self) -> int:
        """Ports; 1 where there are none to speak of."""
        return 1 if self.joins_CP is None else int(self.joins_CP.shape[1])

    @cached_property
    def alike_joins(self) -> tuple[list[IntArray], IntArray]:
        """Lists of ports that some class joins, and for each class which of them."""
        if self.joins_CP is None:
            return [np.zeros(1, dtype=np.int64)], np.zeros(len(self.use_CK), dtype=np.int64)
        rows, of_C = np.unique(self.joins_CP, axis=0, return_inverse=True)
        return [np.flatnonzero(row) for row in rows], np.asarray(of_C).reshape(-1)

    @cached_property
    def levels_N(self) -> list[Array]:
        """Speeds that a boundary can have: the distinct ends of classes there."""
        return [np.unique(self.end_CN[:, n]) for n in range(self.num_layers + 1)]

    @cached_property
    def _seconds_NV(self) -> Array:
        width = max(len(levels) for levels in self.levels_N)
        return np.array([np.pad(levels, (0, width - len(levels)), mode="edge") for levels in self.levels_N])

    @cached_property
    def directions_XK(self) -> Array:
        """Prices on GPUs that may bound well, all GPUs together worth 1: even ones, and those that make types alike."""
        counts_K = np.maximum(self.counts_K, 1)
        even_XK = _even(len(counts_K)) / counts_K
        N = self.num_layers + 1
        order = np.arange(N)
        length = np.where(order[:, None] < order, order - order[:, None], 1)
        each_CNN = np.where(self.depth_CNN > 0, self.peak_CNN, np.inf) / length
        each_C = each_CNN.reshape(len(each_CNN), -1).min(axis=1, initial=np.inf)
        use_C = self.use_CK.sum(axis=1)
        single = np.isfinite(each_C) & ((self.use_CK > 0).sum(axis=1) == 1) & (each_C > 0)
        if not single.any():
            return np.asarray(even_XK)
        at_C = self.use_CK.argmax(axis=1)
        place_X = np.linspace(0.0, 0.9, 5)[:, None] / each_C[single].min()
        worth_XC = np.maximum(1.0 / each_C[single] - place_X, 0.0) / use_C[single]
        price_XK = np.zeros((len(place_X), len(counts_K)))
        for k in np.unique(at_C[single]):
            price_XK[:, k] = worth_XC[:, at_C[single] == k].max(axis=1)
        total_X = price_XK @ self.counts_K
        alike_XK = price_XK[total_X > 0] / total_X[total_X > 0][:, None]
        return np.concatenate([alike_XK, even_XK])

    def prices_C(self, price_XK: Array) -> Array:
        """What a stage of each class pays for its GPUs at least, shape (X, C), for prices of shape (X, K)."""
        paid_XC = price_XK @ self.use_CK.T
        flexible = np.flatnonzero(self.flexible_C)
        if len(flexible):
            replica_cK = self.replica_CK[flexible]
            each_XcK = np.where(replica_cK > 0, price_XK[:, None, :] * replica_cK, np.inf)
            paid_XC[:, flexible] += self.degree * each_XcK.min(axis=2)
        return np.asarray(paid_XC)

    @cached_property
    def edges(self) -> Edges:
        """All stages that may be, with every promise of the boundary before them."""
        N, hops = self.num_layers + 1, self.hops
        order = np.arange(N)
        possible: BoolArray = np.isfinite(self.peak_CNN) & (self.depth_CNN > 0) & (order[:, None] < order)
        if self.bounding_C is None:  # else what no budget affords may stand for others in bounds
            possible &= np.asarray((self.use_CK <= self.counts_K).all(axis=1))[:, None, None]
        c, i, j = np.nonzero(possible)
        if self.port_C is not None:
            return self._ported(c, i, j)
        rank_NC = [np.searchsorted(levels, self.end_CN[:, n]) for n, levels in enumerate(self.levels_N)]
        rank_CN = np.stack(rank_NC, axis=1).astype(np.int64)
        own_in, own_out = rank_CN[c, i], rank_CN[c, j]
        inner = (i > 0) & (j - i < self.num_layers)
        promises = np.where(inner, np.array([len(levels) for levels in self.levels_N])[i] - own_in, 1)
        row = np.repeat(np.arange(len(c)), promises)
        first = np.cumsum(promises) - promises
        more = np.arange(len(row)) - first[row]
        c, i, j, own_out = c[row], i[row], j[row], own_out[row]
        level = np.where(i > 0, own_in[row] + more, 0).astype(np.int64)
        before = np.where(i > 0, self._seconds_NV[i, level], 0.0)
        after = np.where(j < self.num_layers, self.end_CN[c, j], 0.0)
        before = before * np.where((j == self.num_layers) & (i > 0), hops.last, 1.0)
        found = Edges(
            class_E=c,
            start_E=i,
            end_E=j,
            level_E=level,
            own_E=np.where(j < self.num_layers, own_out, 0),
            peak_E=self.peak_CNN[c, i, j] + hops.peak_before * before + hops.peak_after * after,
            total_E=self.total_CNN[c, i, j] + hops.sum_before * before + hops.sum_after * after,
            sync_E=self.sync_CNN[c, i, j],
            update_E=self.update_CNN[c, i, j],
            depth_E=np.minimum(self.depth_CNN[c, i, j], self.max_stages),
            relaxed_E=(more == 0) & (True if self.bounding_C is None else self.bounding_C[c]),
        )
        return found.take(np.lexsort((found.level_E, found.class_E, found.start_E, found.end_E)))

    def _ported(self, c: IntArray, i: IntArray, j: IntArray) -> Edges:
        """Edges of classes that say what they join."""
        if self.port_C is None:
            raise ValueError("the graph has no ports")
        found = Edges(
            class_E=c,
            start_E=i,
            end_E=j,
            level_E=np.where(i > 0, self.port_C[c], 0),
            own_E=c,
            peak_E=self.peak_CNN[c, i, j],
            total_E=self.total_CNN[c, i, j],
            sync_E=self.sync_CNN[c, i, j],
            update_E=self.update_CNN[c, i, j],
            depth_E=np.minimum(self.depth_CNN[c, i, j], self.max_stages),
            relaxed_E=np.ones(len(c), dtype=bool),
        )
        return found.take(np.lexsort((c, i, j)))

    def joined(self, own: IntArray, level: IntArray) -> BoolArray:
        """Whether stages with such ends of a boundary may be in front of a promised one."""
        return np.asarray(own <= level) if self.joins_CP is None else np.asarray(self.joins_CP[own, level])

    def extra(self, node: IntArray, own: IntArray, level: IntArray) -> Array:
        """Seconds by which promised boundaries are slower than stages' own ends of them."""
        if self.joins_CP is not None:
            return np.zeros(len(node))
        return np.asarray(self._seconds_NV[node, level] - self._seconds_NV[node, own])

    @cached_property
    def peaks(self) -> Array:
        """Every bottleneck that there can be, sorted."""
        edges, values = self.edges, [self.edges.peak_E]
        if self.hops.peak_after and self.joins_CP is None:
            for level in range(1, max(len(levels) for levels in self.levels_N)):
                slower = (edges.end_E < self.num_layers) & (edges.own_E < level)
                slower &= np.array([len(levels) for levels in self.levels_N])[edges.end_E] > level
                rows = np.flatnonzero(slower)
                extra = self.extra(edges.end_E[rows], edges.own_E[rows], np.full(len(rows), level))
                values.append(edges.peak_E[rows] + self.hops.peak_after * extra)
        return np.unique(np.concatenate(values))

    def price(self, path: Sequence[Stage]) -> tuple[float, Array, Array]:
        """Seconds of an iteration, and of each stage in the bottleneck and in the sum.

        Parameters
        ----------
        path
            Stages in order; they must cover the layers.
        """
        hops, last = self.hops, len(path) - 1
        bound_s = [
            max(float(self.end_CN[a[0], a[2]]), float(self.end_CN[b[0], b[1]])) for a, b in itertools.pairwise(path)
        ]
        before_S = np.array([0.0, *bound_s])
        before_S[last] *= hops.last if last else 1.0
        after_S = np.array([*bound_s, 0.0])
        at = tuple(np.array(path).T)
        peak_S = self.peak_CNN[at] + hops.peak_before * before_S + hops.peak_after * after_S
        total_S = self.total_CNN[at] + hops.sum_before * before_S + hops.sum_after * after_S
        seconds = (self.microbatches - 1) * float(peak_S.max()) + float(total_S.sum())
        seconds += float(self.sync_CNN[at].max()) + float(self.update_CNN[at].max()) + self.constant
        return seconds, peak_S, total_S
