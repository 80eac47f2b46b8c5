"""Links that a placement could get at best, for bounds that no placement beats; and nodes that links set apart."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from planner.cluster import Cluster, Link, NodeClass

__all__ = ["alike_by_links", "fastest_inside", "fastest_link"]

_MOST_NODES: Final = 256  # whose links are compared pair by pair


@lru_cache(maxsize=1024)  # asked for every template of a class, and clusters do not change
def fastest_link(cluster: Cluster, class_a: int, class_b: int) -> Link:
    """Fastest link between different nodes of two classes, given by their positions: highest bandwidth, lowest latency.

    A class of one node asked against itself answers with the link inside that node.
    """
    first, second = cluster.classes[class_a], cluster.classes[class_b]
    links = [
        cluster.node_link(a, b)
        for i, a in enumerate(first.nodes)
        for b in (second.nodes[i + 1 :] if class_a == class_b else second.nodes)
    ]
    if not links:
        return fastest_inside(first)
    return type(links[0])(bandwidth=max(x.bandwidth for x in links), latency=min(x.latency for x in links))


def fastest_inside(node_class: NodeClass) -> Link:
    """Fastest link between two GPUs of one node."""
    if node_class.intra_matrix is None:
        return node_class.intra_link
    size = node_class.gpus_per_node
    links = [node_class.link_between(i, j) for i in range(size) for j in range(i)]
    return max(links, key=lambda link: link.bandwidth, default=node_class.intra_link)


def alike_by_links(cluster: Cluster, *, most: int) -> tuple[Cluster, tuple[int, ...]]:
    """Divide node classes until nodes of one class have equal links to the nodes of every class.

    Only links that the cluster's file gives to single nodes set nodes of a class apart.

    Parameters
    ----------
    cluster
        The cluster.
    most
        Classes there may be; where it takes more, the cluster is left as it is.

    Returns
    -------
    cluster, origin
        The same nodes and links in more classes, in the order of the cluster's; and the position of the class that each
        is a part of.
    """
    named = {name for pair in cluster.spec.links.pairs for name in pair.between}
    whole = cluster, tuple(range(len(cluster.classes)))
    if not named & set(cluster.nodes) or len(cluster.nodes) > _MOST_NODES:
        return whole
    colour: dict[str, tuple[int, ...]] = {
        node: (c,) for c, node_class in enumerate(cluster.classes) for node in node_class.nodes
    }
    while True:
        seen: dict[str, tuple[object, ...]] = {}
        for node in cluster.nodes:
            to: Counter[tuple[object, ...]] = Counter()
            for other in cluster.nodes:
                if other != node:
                    link = cluster.node_link(node, other)
                    to[colour[other], link.bandwidth, link.latency] += 1
            seen[node] = colour[node], tuple(sorted(to.items()))
        number = {found: i for i, found in enumerate(dict.fromkeys(seen[node] for node in cluster.nodes))}
        finer: dict[str, tuple[int, ...]] = {node: (colour[node][0], number[seen[node]]) for node in cluster.nodes}
        if len(number) > most:
            return whole
        if len(number) == len(set(colour.values())):
            break
        colour = finer
    parts: list[NodeClass] = []
    origin: list[int] = []
    for c, node_class in enumerate(cluster.classes):
        for one in dict.fromkeys(colour[node] for node in node_class.nodes):
            nodes = tuple(node for node in node_class.nodes if colour[node] == one)
            parts.append(replace(node_class, nodes=nodes))
            origin.append(c)
    divided = replace(cluster, classes=tuple(parts))
    # of two rules that fit a pair of nodes alike, the order of the nodes decides
    alike = all(divided.node_link(a, b) == cluster.node_link(a, b) for a, b in combinations(cluster.nodes, 2))
    return (divided, tuple(origin)) if alike else whole
