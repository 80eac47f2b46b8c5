"""Hops and gradient rings of a stage before it is placed: what any placement of its kind pays at least.

Placements are those of `planner.search.training.placing`: a stage fills whole nodes, or lies inside one node beside
others, wherever its groups divide nodes or are divided by them; there the least is what it pays. Other stages may
straddle nodes, and pay as if they did not.

Legend: J kind of stage.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from planner.cluster import Link
from planner.cost.network import Collective, collective_for, node_collective, point_to_point

if TYPE_CHECKING:
    from collections.abc import Iterable

    from planner.cluster import Cluster

__all__ = ["JobLinks"]


class JobLinks:
    """Best links between and inside the node classes of a cluster, and what stages on them pay.

    Parameters
    ----------
    cluster
        The cluster.
    kinds
        Node class and tensor-parallel degree of all stages that may be in one pipeline.
    """

    def __init__(self, cluster: Cluster, kinds: Iterable[tuple[int, int]]) -> None:
        self.cluster = cluster
        self._groups: dict[int, set[int]] = {}  # groups that a node has, for every degree
        for node_class, tp in kinds:
            self._groups.setdefault(node_class, set()).add(cluster.classes[node_class].gpus_per_node // tp)
        self._between: dict[tuple[int, int], Link | None] = {}
        self._named = {end for pair in cluster.spec.links.pairs for end in pair.between}

    def between(self, a: int, b: int) -> Link | None:
        """Best link between different nodes of two classes; None where there are none."""
        key = (min(a, b), max(a, b))
        if key not in self._between:
            here, there = (self.cluster.classes[one].nodes for one in key)
            if self._named.isdisjoint(here):  # no node is told apart from the others of its class
                here = here[:1] if a != b else here[:2]
            if self._named.isdisjoint(there):
                there = there[:1] if a != b else there[:2]
            links = [self.cluster.node_link(one, other) for one in here for other in there if one != other]
            self._between[key] = _best(links)
        return self._between[key]

    def inside(self, a: int) -> Link:
        """Best link between two GPUs of a node."""
        members = self.cluster.classes[a]
        if members.intra_matrix is None:
            return members.intra_link
        size = range(members.gpus_per_node)
        found = _best([members.link_between(i, j) for i in size for j in size if i < j])
        return members.intra_link if found is None else found

    def aligned(self, node_class: int, dp: int) -> bool:
        """Whether the groups of all stages on a class divide a node, or fill nodes to the last."""
        return all(dp % per_node == 0 or per_node % dp == 0 for per_node in self._groups[node_class])

    def alike(self, node_class: int, dp: int) -> bool:
        """Whether, besides, all GPUs of a node and all nodes of a class are linked alike."""
        members = self.cluster.classes[node_class]
        return self.aligned(node_class, dp) and members.intra_matrix is None and self._named.isdisjoint(members.nodes)

    def hop(
        self,
        sender: tuple[int, int],
        receiver: tuple[int, int],
        dp: int,
        size: float,
        *,
        same_node: bool,
        sequence_parallel: bool,
    ) -> float | None:
        """Seconds of one hop in one direction, at least; None where no two nodes are there for it.

        Parameters
        ----------
        sender, receiver
            Node class and tensor-parallel degree.
        dp
            Groups of either.
        size
            Bytes of a microbatch on one group.
        same_node, sequence_parallel
            Whether both are in one node, and whether each rank moves its share only.
        """
        if same_node:
            divided = min(sender[1], receiver[1]) if sequence_parallel else 1
            return float(point_to_point(np.array(size / divided), self.inside(sender[0])))
        link = self.between(sender[0], receiver[0])
        if link is None:
            return None
        groups = 1
        for node_class, tp in (sender, receiver):
            if self.aligned(node_class, dp):
                groups = max(groups, min(dp, self.cluster.classes[node_class].gpus_per_node // tp))
        copies = 1 if sequence_parallel else max(sender[1], receiver[1])
        return float(point_to_point(np.array(size * groups * copies), link))

    def ring(self, node_class: int, tp: int, dp: int) -> Collective:
        """Data-parallel collective of a stage that shares no network card with another."""
        members = self.cluster.classes[node_class]
        per_node = members.gpus_per_node // tp
        inside = self.inside(node_class)
        if dp <= per_node:
            if members.intra_matrix is None:
                return replace(node_collective(members, dp), points=None)
            return collective_for(members.device, dp, inside, native=False)
        outside = self.between(node_class, node_class) or members.nic
        bandwidth, latency = outside.bandwidth / tp, outside.latency
        if per_node > 1:
            bandwidth, latency = min(bandwidth, inside.bandwidth), max(latency, inside.latency)
        worst = Link.model_construct(bandwidth=bandwidth, latency=latency)
        return collective_for(members.device, dp, worst, native=False)


def _best(links: list[Link]) -> Link | None:
    """Highest bandwidth and lowest latency of some links."""
    if not links:
        return None
    return Link.model_construct(
        bandwidth=max(one.bandwidth for one in links), latency=min(one.latency for one in links)
    )
