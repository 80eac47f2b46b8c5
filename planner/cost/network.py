"""What moving bytes costs: latency plus bytes over bandwidth, by collective and group.

References
----------
R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of collective communication operations in MPICH", IJHPCA 2005:
the ring moves ``2 (n-1)/n`` of the message per GPU for an all-reduce, half of it for all-gather and reduce-scatter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from planner.cluster import load_link
from planner.cluster.measured import load_fitted
from planner.cost.device import provenance_of
from planner.plan.figure import Provenance

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.cluster import Cluster, DeviceProfile, Link, NodeClass
    from planner.cost._types import Array

__all__ = ["Collective", "collective_for", "group_collective", "node_collective", "point_to_point", "wire_time"]

# Share of a link's nominal bandwidth that a ring or a transfer gets, and how far off that may be. NCCL's bus bandwidth
# is 0.66 of NVLink 3's nominal (201 of 300 GB/s on eight A100) and 0.90 of NVLink 4's (407 of 450 GB/s on eight H100):
# aiconfigurator-core 0.12.0 tables.
_LINK_EFFICIENCY: Final = 0.8
_LINK_ERROR: Final = 0.35


@dataclass(frozen=True, slots=True)
class Collective:
    """Latency and bus bandwidth of a group of GPUs, as nccl-tests defines bus bandwidth.

    Parameters
    ----------
    size
        GPUs in the group.
    latency
        Seconds of the smallest all-reduce.
    bandwidth
        Bus bandwidth in bytes/s.
    error, provenance
        Relative error, and what the figures rest on.
    points
        Measured all-reduces as logarithms of (bytes, seconds), where there are any; beyond the largest the bandwidth
        goes on.
    others
        The same of other operations by name: ``"all_gather"``, ``"reduce_scatter"``, ``"all_to_all"``.
    """

    size: int
    latency: float
    bandwidth: float
    error: float
    provenance: Provenance
    points: tuple[Array, Array] | None = None
    others: Mapping[str, tuple[Array, Array]] = field(default_factory=dict)

    @property
    def facts(self) -> tuple[object, ...]:
        """Everything that its times follow from, for comparing two groups."""
        points = None if self.points is None else tuple(tuple(p.tolist()) for p in self.points)
        others = tuple((name, *(tuple(p.tolist()) for p in both)) for name, both in sorted(self.others.items()))
        return self.size, self.latency, self.bandwidth, self.error, self.provenance, points, others

    def among(self, size: int) -> Collective:
        """Return the same for a part of the group: latency and bandwidth stay, measured times do not count for it."""
        return self if size == self.size else replace(self, size=size, points=None, others={})

    def all_reduce(self, message: Array) -> Array:
        """Seconds to all-reduce `message` bytes held by every GPU."""
        return self._time(message, 2.0, self.points)

    def all_gather(self, message: Array) -> Array:
        """Seconds until every GPU holds all `message` bytes, of which each had its part."""
        return self._time(message, 1.0, self.others.get("all_gather"))

    def reduce_scatter(self, message: Array) -> Array:
        """Seconds to sum `message` bytes held by every GPU, of which each gets its part."""
        return self._time(message, 1.0, self.others.get("reduce_scatter"))

    def all_to_all(self, message: Array) -> Array:
        """Seconds in which every GPU sends `message` bytes, to each its part."""
        return self._time(message, 1.0, self.others.get("all_to_all"))

    def _time(self, message: Array, rounds: float, points: tuple[Array, Array] | None) -> Array:
        ring = self._ring(message, rounds)
        if points is None:
            return ring
        log_bytes, log_seconds = points
        size = np.log(np.maximum(message, 1.0))
        measured = np.exp(np.interp(size, log_bytes, log_seconds))
        return np.where(
            np.asarray(message) > 0, np.where(size <= log_bytes[-1], measured, np.maximum(ring, measured)), 0.0
        )

    def _ring(self, message: Array, rounds: float) -> Array:
        """A ring passes the message once for a gather or a scatter, twice for an all-reduce."""
        if self.size == 1:
            return np.zeros_like(np.asarray(message, dtype=float))
        moved = rounds * (self.size - 1) / self.size * np.asarray(message, dtype=float)
        return np.where(moved > 0, rounds / 2.0 * self.latency + moved / self.bandwidth, 0.0)


def collective_for(device: DeviceProfile, size: int, link: Link, *, native: bool, sharing: int = 1) -> Collective:
    """Collective among `size` GPUs of one type.

    Parameters
    ----------
    device, size
        The GPUs' profile and their number; the profile's measured all-reduce counts where the group runs over the
        device's own link.
    link
        Slowest link in the group.
    native
        Whether that link is the device's own, the one the measurements were made on.
    sharing
        Groups that use the same link at the same time: the data-parallel rings of all tensor-parallel ranks behind
        one network card.
    """
    if native and sharing == 1:
        measured = _measured(device.name, size)
        if measured is not None:
            return measured
    kind: Literal["measured", "link"] = "measured" if native and size in device.efficiency.all_reduce else "link"
    if kind == "measured":
        table = device.efficiency.all_reduce[size]
        error = max(table.bandwidth.error or 0.0, table.latency.error or 0.0)
        points = None
        if table.seconds is not None and sharing == 1:
            points = (np.log(np.asarray(table.seconds.x)), np.log(np.asarray(table.seconds.y)))
            error = table.seconds.error
        return Collective(
            size,
            table.latency.value,
            table.bandwidth.value / sharing,
            error,
            provenance_of(table.bandwidth.kind),
            points,
        )
    # a ring passes 2 (n-1) messages one after the other
    latency = 2 * (size - 1) * link.latency
    return Collective(size, latency, _LINK_EFFICIENCY * link.bandwidth / sharing, _LINK_ERROR, "spec")


@lru_cache(maxsize=256)
def _measured(device: str, size: int) -> Collective | None:
    """Collective from the surfaces of a GPU type: the fastest library at each size; None for sizes beyond them."""
    surfaces = load_fitted(device, "collectives")
    curves: dict[str, tuple[Array, Array]] = {}
    error = 0.0
    for operation in ("all_reduce", "all_gather", "reduce_scatter", "all_to_all"):
        mine = [one for name, one in surfaces.items() if name.partition("/")[0] == operation]
        mine = [one for one in mine if one.surface.axes[0][1][0] <= size <= one.surface.axes[0][1][-1]]
        if not mine:
            continue
        each = np.stack([one.surface.fixed(gpus=size).log_values for one in mine])
        curves[operation] = np.log(mine[0].surface.axes[1][1]), np.minimum.accumulate(each.min(axis=0)[::-1])[::-1]
        if operation == "all_reduce":
            # each library's error counts by the part of the sizes at which it is the fastest
            error = float(np.mean([mine[i].facts.error for i in each.argmin(axis=0)]))
    if "all_reduce" not in curves:
        return None
    log_bytes, log_seconds = points = curves.pop("all_reduce")
    latency = float(np.exp(log_seconds[0]))
    bandwidth = 2.0 * (size - 1) / size * float(np.exp(log_bytes[-1])) / (float(np.exp(log_seconds[-1])) - latency)
    return Collective(size, latency, bandwidth, error, "fitted", points, curves)


def node_collective(node_class: NodeClass, size: int) -> Collective:
    """Fastest collective among `size` GPUs of one node that lie side by side: 0-3, 4-7."""
    groups = [range(i, i + size) for i in range(0, node_class.gpus_per_node - size + 1, size)]
    links = [
        min((node_class.link_between(i, j) for i in group for j in group if i < j), key=lambda link: link.bandwidth)
        for group in groups
        if size > 1
    ]
    link = max(links, key=lambda link: link.bandwidth, default=node_class.intra_link)
    native = _has_native_link(node_class) and link == node_class.intra_link
    return collective_for(node_class.device, size, link, native=native)


def group_collective(cluster: Cluster, gpus: Sequence[str], *, sharing: int = 1) -> Collective:
    """Collective among some GPUs wherever they are: as fast as their slowest link.

    Parameters
    ----------
    cluster
        Where they are.
    gpus
        The group, ``node/index`` each.
    sharing
        Groups that use the same link at the same time.
    """
    node_class = cluster.class_of_node(cluster.node_of(gpus[0]))
    one_node = len({cluster.node_of(gpu) for gpu in gpus}) == 1
    link = cluster.group_link(gpus) if len(gpus) > 1 else node_class.intra_link
    native = one_node and _has_native_link(node_class) and link == node_class.intra_link
    return collective_for(node_class.device, len(gpus), link, native=native, sharing=sharing)


def _has_native_link(node_class: NodeClass) -> bool:
    """Whether a node's GPUs are joined by the link that their all-reduce was measured on."""
    return node_class.intra_link == _native_link(node_class.device.link)


@lru_cache(maxsize=64)
def _native_link(name: str) -> Link:
    return load_link(name).link()


def point_to_point(message: Array, link: Link) -> Array:
    """Seconds to send `message` bytes over a link.

    Examples
    --------
    >>> from planner.cluster import Link
    >>> float(point_to_point(np.array(8e6), Link(bandwidth=1e9, latency=1e-3)))
    0.011
    """
    return link.latency + wire_time(message, link)


def wire_time(message: Array, link: Link) -> Array:
    """Seconds that `message` bytes keep a link busy: what bounds its throughput, latency apart."""
    return np.asarray(message, dtype=float) / (_LINK_EFFICIENCY * link.bandwidth)
