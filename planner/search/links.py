"""Links that a placement could get at best, for bounds that no placement beats."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planner.cluster import Cluster, Link

__all__ = ["fastest_link"]


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
        return first.intra_link
    return type(links[0])(bandwidth=max(x.bandwidth for x in links), latency=min(x.latency for x in links))
