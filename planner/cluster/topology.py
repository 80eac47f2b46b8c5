"""A cluster ready for questions: which GPU sits where, and what lies between any two of them.

Axes: N node, D GPU (device), both in the order of `Cluster.nodes` and `Cluster.gpus`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, pairwise
from math import fsum
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from planner.cluster.device import DeviceProfile
from planner.cluster.link import SAME_GPU, Link, worst_of
from planner.cluster.node_class import NodeClass, node_class_of
from planner.cluster.spec import ClusterSpec
from planner.errors import InputError, unknown_name

if TYPE_CHECKING:
    from collections.abc import Iterable

    import networkx as nx
    from numpy.typing import NDArray

__all__ = ["Cluster", "NodeClass"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Cluster:
    """A cluster with its views. Immutable; build it by `load_cluster` or `Cluster.from_spec`.

    Parameters
    ----------
    name
        As plans refer to it.
    spec
        The file's content.
    source
        The file's path or shipped name.
    sha256
        Hash of the file's text.
    classes
        The groups of equal nodes.

    Examples
    --------
    >>> from planner.cluster import load_cluster
    >>> cluster = load_cluster("a100-l40s-l4-24")
    >>> cluster.num_gpus, [c.device.name for c in cluster.classes]
    (24, ['a100_sxm_80', 'l40s', 'l4'])
    >>> cluster.link("a100-0/0", "a100-0/1").bandwidth > 10 * cluster.link("a100-0/0", "l4-1/3").bandwidth
    True
    """

    name: str
    spec: ClusterSpec
    source: str
    sha256: str
    classes: tuple[NodeClass, ...]

    @classmethod
    def from_spec(cls, spec: ClusterSpec, *, source: str, sha256: str, folder: Path | None = None) -> Cluster:
        """Look up the GPU types and links that a cluster file names.

        Parameters
        ----------
        spec
            The file's content.
        source
            The file, for messages and plans.
        sha256
            Hash of the file's text.
        folder
            Where relative paths of device profiles start.

        Raises
        ------
        InputError
            If a GPU or link is unknown; names the field.
        """
        classes = tuple(node_class_of(group, index, source, folder) for index, group in enumerate(spec.nodes))
        return cls(name=spec.name, spec=spec, source=source, sha256=sha256, classes=classes)

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """Names of all nodes, class by class."""
        return tuple(node for node_class in self.classes for node in node_class.nodes)

    @cached_property
    def gpus(self) -> tuple[str, ...]:
        """Names of all GPUs, ``node/index``."""
        return tuple(gpu for node in self.nodes for gpu in self.gpus_of(node))

    @property
    def num_gpus(self) -> int:
        """How many GPUs there are."""
        return len(self.gpus)

    @cached_property
    def _class_of_node(self) -> dict[str, NodeClass]:
        return {node: node_class for node_class in self.classes for node in node_class.nodes}

    @cached_property
    def _class_by_name(self) -> dict[str, NodeClass]:
        return {node_class.name: node_class for node_class in self.classes}

    @cached_property
    def _gpu_index(self) -> dict[str, int]:
        return {gpu: index for index, gpu in enumerate(self.gpus)}

    @cached_property
    def _pair_rules(self) -> dict[tuple[str, str], Link]:
        rules: dict[tuple[str, str], Link] = {}
        for pair in self.spec.links.pairs:
            link = Link(bandwidth=pair.bandwidth, latency=pair.latency)
            rules[pair.between] = rules[pair.between[::-1]] = link
        return rules

    def class_of_node(self, node: str) -> NodeClass:
        """Class that a node belongs to; `InputError` if there is no such node."""
        try:
            return self._class_of_node[node]
        except KeyError:
            raise unknown_name("node", node, self.nodes) from None

    def node_of(self, gpu: str) -> str:
        """Node that a GPU sits in; `InputError` if there is no such GPU."""
        if gpu not in self._gpu_index:
            raise InputError(
                f"cluster {self.name!r} has no GPU {gpu!r}",
                expected=f"node/index, from {self.gpus[0]} to {self.gpus[-1]}",
            )
        return gpu.rpartition("/")[0]

    def device_of(self, gpu: str) -> DeviceProfile:
        """Type of a GPU; `InputError` if there is no such GPU."""
        return self.class_of_node(self.node_of(gpu)).device

    def gpus_of(self, node: str) -> tuple[str, ...]:
        """GPUs of a node."""
        return tuple(f"{node}/{index}" for index in range(self.class_of_node(node).gpus_per_node))

    def node_link(self, node_a: str, node_b: str) -> Link:
        """Link between two nodes; within one node, the link between two of its GPUs.

        The most specific pair of the file counts: a node is more specific than a group, a group than a zone,
        the more specific end decides first, and of two alike the one that names the node standing earlier in
        the cluster. Then the tier counts, then the slower of both network cards with the latencies of both.
        """
        class_a, class_b = self.class_of_node(node_a), self.class_of_node(node_b)
        if node_a == node_b:
            return class_a.intra_link
        if self._pair_rules:
            if self._node_order[node_a] > self._node_order[node_b]:  # so that both directions agree
                node_a, node_b, class_a, class_b = node_b, node_a, class_b, class_a
            names_a, names_b = (node_a, class_a.name, class_a.zone), (node_b, class_b.name, class_b.zone)
            for level_a, level_b in _BY_SPECIFICITY:
                link = self._pair_rules.get((names_a[level_a], names_b[level_b]))
                if link is not None:
                    return link
        tiers = self.spec.links.tiers
        tier = tiers.same_zone if class_a.zone == class_b.zone else tiers.cross_zone
        if tier is not None:
            return tier
        return Link.model_construct(
            bandwidth=min(class_a.nic.bandwidth, class_b.nic.bandwidth),
            latency=class_a.nic.latency + class_b.nic.latency,
        )

    @cached_property
    def _node_order(self) -> dict[str, int]:
        return {node: index for index, node in enumerate(self.nodes)}

    def link(self, gpu_a: str, gpu_b: str) -> Link:
        """Link between two GPUs; a GPU to itself has no limit."""
        node_a, node_b = self.node_of(gpu_a), self.node_of(gpu_b)
        if node_a != node_b:
            return self.node_link(node_a, node_b)
        index_a, index_b = int(gpu_a.rpartition("/")[2]), int(gpu_b.rpartition("/")[2])
        return self.class_of_node(node_a).link_between(index_a, index_b)

    def class_link(self, class_a: str | NodeClass, class_b: str | NodeClass) -> Link:
        """Slowest link between a node of one class and a different node of the other.

        Bandwidth is the lowest and latency the highest of all such pairs. A class of a single node, asked
        against itself, answers with the link inside the node.
        """
        first, second = self._named_class(class_a), self._named_class(class_b)
        key = (first.name, second.name)
        if key not in self._class_links:
            found: Link | None = None
            for node_a in first.nodes:
                for node_b in second.nodes:
                    if node_a != node_b:
                        link = self.node_link(node_a, node_b)
                        found = link if found is None else worst_of(found, link)
            answer = first.intra_link if found is None else found
            self._class_links[key] = self._class_links[key[::-1]] = answer
        return self._class_links[key]

    @cached_property
    def _class_links(self) -> dict[tuple[str, str], Link]:
        return {}  # filled as asked: a pure function of immutable fields

    def _named_class(self, name: str | NodeClass) -> NodeClass:
        name = name if isinstance(name, str) else name.name
        try:
            return self._class_by_name[name]
        except KeyError:
            raise unknown_name("node class", name, self._class_by_name) from None

    def group_link(self, gpus: Iterable[str]) -> Link:
        """Worst link among some GPUs: the lowest bandwidth and the highest latency of any two of them."""
        members = tuple(dict.fromkeys(gpus))
        worst = SAME_GPU
        for position, gpu_a in enumerate(members):
            for gpu_b in members[:position]:
                worst = worst_of(worst, self.link(gpu_a, gpu_b))
        return worst

    def bandwidth_DD(self) -> NDArray[np.float64]:
        """Bandwidth between each two GPUs in bytes/s, infinite on the diagonal; order of `gpus`."""
        return self._matrices_DD[0].copy()

    def latency_DD(self) -> NDArray[np.float64]:
        """Latency between each two GPUs in seconds, zero on the diagonal; order of `gpus`."""
        return self._matrices_DD[1].copy()

    @cached_property
    def _matrices_DD(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        bandwidth_DD = np.full((self.num_gpus, self.num_gpus), np.inf)
        latency_DD = np.zeros((self.num_gpus, self.num_gpus))
        sizes_N = [self.class_of_node(node).gpus_per_node for node in self.nodes]
        start_N = np.concatenate([[0], np.cumsum(sizes_N)])
        blocks_N = [slice(first, last) for first, last in pairwise(start_N.tolist())]
        for position, node_a in enumerate(self.nodes):
            here = blocks_N[position]
            node_class = self.class_of_node(node_a)
            for i in range(node_class.gpus_per_node):
                for j in range(node_class.gpus_per_node):
                    link = node_class.link_between(i, j)
                    bandwidth_DD[here.start + i, here.start + j] = link.bandwidth
                    latency_DD[here.start + i, here.start + j] = link.latency
            for there, node_b in zip(blocks_N[:position], self.nodes, strict=False):
                link = self.node_link(node_a, node_b)
                bandwidth_DD[here, there] = bandwidth_DD[there, here] = link.bandwidth
                latency_DD[here, there] = latency_DD[there, here] = link.latency
        return bandwidth_DD, latency_DD

    def graph(self) -> nx.Graph[str]:
        """Build the cluster as a networkx graph.

        Vertices are zones (``level="zone"``), nodes (``level="node"``, ``gpu_class``, ``zone``) and GPUs
        (``level="gpu"``, ``device``, ``node``, ``memory`` in bytes). Edges with ``relation="link"`` carry
        ``bandwidth`` and ``latency``, from GPU to GPU within a node and from node to node; those with
        ``relation="part"`` lead from zone to node to GPU.
        """
        import networkx as nx

        graph: nx.Graph[str] = nx.Graph(name=self.name)
        for node_class in self.classes:
            graph.add_node(f"zone:{node_class.zone}", level="zone")
            for node in node_class.nodes:
                graph.add_node(node, level="node", gpu_class=node_class.name, zone=node_class.zone)
                graph.add_edge(f"zone:{node_class.zone}", node, relation="part")
                for gpu in self.gpus_of(node):
                    device = node_class.device
                    graph.add_node(gpu, level="gpu", device=device.name, node=node, memory=device.memory.value)
                    graph.add_edge(node, gpu, relation="part")
                for i, j in combinations(range(node_class.gpus_per_node), 2):
                    link = node_class.link_between(i, j)
                    graph.add_edge(
                        f"{node}/{j}",
                        f"{node}/{i}",
                        relation="link",
                        bandwidth=link.bandwidth,
                        latency=link.latency,
                    )
        for position, node_a in enumerate(self.nodes):
            for node_b in self.nodes[:position]:
                link = self.node_link(node_a, node_b)
                graph.add_edge(node_b, node_a, relation="link", bandwidth=link.bandwidth, latency=link.latency)
        return graph

    def subset(self, nodes: Iterable[str]) -> Cluster:
        """Return the cluster with some of its nodes only; names and links stay as they are.

        Raises
        ------
        InputError
            If a node is unknown, or none is named.
        """
        wanted = dict.fromkeys(nodes)
        for node in wanted:
            self.class_of_node(node)
        kept = []
        for node_class in self.classes:
            names = tuple(node for node in node_class.nodes if node in wanted)
            if names:
                kept.append(replace(node_class, nodes=names))
        if not kept:
            raise InputError(f"no node of cluster {self.name!r} is left", expected="at least one node")
        return Cluster(name=self.name, spec=self.spec, source=self.source, sha256=self.sha256, classes=tuple(kept))

    def price_per_hour(self, gpus: Iterable[str]) -> float | None:
        """USD per hour of some GPUs, each at its share of its node; None where a price is not known."""
        prices = [self.class_of_node(self.node_of(gpu)).price_per_gpu_hour for gpu in gpus]
        known = [price for price in prices if price is not None]
        return fsum(known) if len(known) == len(prices) else None


# Levels are 0 node, 1 group, 2 zone. The pair with the more specific end wins, then the other end decides.
_BY_SPECIFICITY = sorted(
    ((a, b) for a in range(3) for b in range(3)), key=lambda levels: (min(levels), max(levels), levels)
)
