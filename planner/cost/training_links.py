"""The links of a training plan: tensor-parallel groups, hops between stages, and gradient rings.

Bandwidth between nodes belongs to the node, so everything that leaves or enters a node at the same time shares it:

* a hop from stage to stage is made by all data-parallel groups at once. Without sequence parallelism every rank of
  the larger tensor-parallel group moves its own copy of the activations; with it, each moves its share of one copy;
* the gradient rings of all ranks of a group, and those of other stages on the same node, run at once. A stage's rings
  visit its groups in order, so that groups of one node are neighbours and each ring crosses a node's card once.

Links inside a node belong to the GPUs and are not shared.

Legend: G data-parallel group.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from planner.cluster import Link
from planner.cost.network import Collective, collective_for, group_collective, node_collective, point_to_point

if TYPE_CHECKING:
    from planner.cluster import Cluster
    from planner.cost._types import Array

__all__ = ["Groups", "HopTerms", "gradient_rings", "hop_terms", "tensor_parallel_collective"]

# The tensor-parallel groups of one stage: one per data-parallel rank, each with its GPUs in rank order.
Groups = Sequence[tuple[str, ...]]


def tensor_parallel_collective(cluster: Cluster, gpus: tuple[str, ...]) -> Collective:
    """Collective of one tensor-parallel group.

    Where the GPUs of a node are not all linked alike, a group that starts at a multiple of its size is priced at the
    slowest such position of the node: the price does not depend on which of them a stage gets.
    """
    node = cluster.node_of(gpus[0])
    node_class, size = cluster.class_of_node(node), len(gpus)
    if any(cluster.node_of(gpu) != node for gpu in gpus):
        return group_collective(cluster, gpus)
    if node_class.intra_matrix is None:
        return node_collective(node_class, size)
    first = int(gpus[0].rpartition("/")[2])
    if node_class.gpus_per_node % size or gpus != tuple(f"{node}/{first + i}" for i in range(size)) or first % size:
        return group_collective(cluster, gpus)
    positions = range(0, node_class.gpus_per_node, size)
    aligned = [group_collective(cluster, tuple(f"{node}/{p + i}" for i in range(size))) for p in positions]
    return min(aligned, key=lambda collective: collective.bandwidth)


@dataclass(frozen=True, slots=True, eq=False)
class HopTerms:
    """Time of one hop: ``max over G of latency_G + bytes * slope_G``, bytes being one sequence's activations."""

    latency_G: Array
    slope_G: Array

    def seconds(self, sequence_bytes: Array) -> Array:
        """Time of the slowest group, for any shape of sizes."""
        size = np.asarray(sequence_bytes, dtype=float)
        return np.asarray((self.latency_G + size[..., None] * self.slope_G).max(axis=-1))


def hop_terms(
    cluster: Cluster, sender: Groups, receiver: Groups, shares: Sequence[int], *, sequence_parallel: bool
) -> HopTerms:
    """How long the activations of a microbatch take from one stage to the next; gradients take as long back.

    Parameters
    ----------
    cluster
        Where the GPUs are.
    sender, receiver
        Groups of both stages, as many in each.
    shares
        Sequences of the microbatch in each group.
    sequence_parallel
        Whether each rank moves its share instead of everything.
    """
    ranks = max(len(sender[0]), len(receiver[0]))
    copies, divided = (1, min(len(sender[0]), len(receiver[0]))) if sequence_parallel else (ranks, 1)
    ends = [(cluster.node_of(a[0]), cluster.node_of(b[0])) for a, b in zip(sender, receiver, strict=True)]
    leaves: Counter[str] = Counter()
    enters: Counter[str] = Counter()
    for (here, there), share in zip(ends, shares, strict=True):
        if here != there:
            leaves[here] += share * copies
            enters[there] += share * copies
    terms: dict[tuple[float, float], None] = {}
    for a, b, (here, there), share in zip(sender, receiver, ends, shares, strict=True):
        if here == there:
            links = [cluster.link(a[i % len(a)], b[i % len(b)]) for i in range(ranks)]
            link = min(links, key=lambda one: one.bandwidth)
            sequences = share / divided
        else:
            link = cluster.node_link(here, there)
            sequences = float(max(leaves[here], enters[there]))
        slope = sequences * float(point_to_point(np.array(1.0), link) - link.latency)
        terms[(link.latency, slope)] = None
    latency_G, slope_G = np.array(list(terms)).T
    return HopTerms(latency_G, slope_G)


def gradient_rings(cluster: Cluster, stages: Sequence[Groups], *, every: int = 1) -> list[Collective]:
    """Data-parallel collective of each stage, all stages at once.

    Parameters
    ----------
    cluster
        Where the GPUs are.
    stages
        Groups of each stage. Stages on other nodes than these do not matter to them.
    every
        Rings of every so many groups side by side instead of one of all: those that hold the same experts. It divides
        the groups.

    Returns
    -------
    list of Collective
        Of as many members as a ring has groups; a measured table counts only where a stage stays inside one node.
    """
    nodes_SG = [[cluster.node_of(group[0]) for group in groups] for groups in stages]
    leaves: Counter[str] = Counter()
    enters: Counter[str] = Counter()
    for groups, nodes_G in zip(stages, nodes_SG, strict=True):
        for g, here in enumerate(nodes_G):
            there = nodes_G[(g + every) % len(nodes_G)]
            if here != there:
                leaves[here] += len(groups[g])
                enters[there] += len(groups[g])
    return [
        _ring(cluster, groups, nodes_G, leaves, enters, every) for groups, nodes_G in zip(stages, nodes_SG, strict=True)
    ]


def _ring(
    cluster: Cluster,
    groups: Groups,
    nodes_G: Sequence[str],
    leaves: Counter[str],
    enters: Counter[str],
    every: int,
) -> Collective:
    size = len(groups) // every
    node_class = cluster.class_of_node(nodes_G[0])
    if len(set(nodes_G)) == 1 and node_class.intra_matrix is None:
        # gradients are far larger than any measured message: latency and bandwidth say it all
        return replace(node_collective(node_class, size), points=None)
    bandwidth, latency = float("inf"), 0.0
    for g in range(len(groups)):
        after = (g + every) % len(groups)
        here, there = nodes_G[g], nodes_G[after]
        if here != there:
            link, sharing = cluster.node_link(here, there), max(leaves[here], enters[there])
        else:
            links = [cluster.link(a, b) for a, b in zip(groups[g], groups[after], strict=False)]
            link, sharing = min(links, key=lambda one: one.bandwidth), 1
        bandwidth, latency = min(bandwidth, link.bandwidth / sharing), max(latency, link.latency)
    worst = Link.model_construct(bandwidth=bandwidth, latency=latency)
    return collective_for(node_class.device, size, worst, native=False)
