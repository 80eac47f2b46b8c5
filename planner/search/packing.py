"""From counts to GPUs: tensor-parallel groups into nodes, the stages of a replica side by side where they fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from planner.cluster import Cluster
from planner.errors import SolverError

__all__ = ["Packing", "StageGroup", "pack"]


@dataclass(frozen=True, slots=True)
class StageGroup:
    """One stage to be placed: a node class by its position in the cluster, and a tensor-parallel degree."""

    node_class: int
    tp: int


# Cluster, stages of each replica, and the sizes that nodes are to hold: GPUs by replica and stage.
Packing: TypeAlias = Callable[
    [Cluster, Sequence[Sequence[StageGroup]], Mapping[int, Sequence[Sequence[int]]] | None],
    list[list[tuple[str, ...]]],
]


def pack(
    cluster: Cluster,
    replicas: Sequence[Sequence[StageGroup]],
    fills: Mapping[int, Sequence[Sequence[int]]] | None = None,
) -> list[list[tuple[str, ...]]]:
    """Give every stage of every replica its GPUs, each group within one node.

    Large groups first: then whatever fits in sum fits (see `planner.solvers.master`). Within that order a replica's
    stages follow each other into the node they have begun, then into the fullest node that takes all that are left.

    Parameters
    ----------
    cluster
        Whose GPUs.
    replicas
        Stages of each replica, in order.
    fills
        For node classes whose group sizes do not divide: the sizes that each node is to hold.

    Returns
    -------
    list of list of tuple of str
        GPUs by replica and stage.

    Raises
    ------
    SolverError
        If the groups do not fit; a solution of the master program always does.
    """
    free = {node: node_class.gpus_per_node for node_class in cluster.classes for node in node_class.nodes}
    placed: list[list[tuple[str, ...]]] = [[()] * len(stages) for stages in replicas]
    sizes = sorted({group.tp for stages in replicas for group in stages}, reverse=True)
    begun: dict[tuple[int, int], str] = {}
    slots = {
        node: list(sizes)
        for c, nodes in (fills or {}).items()
        for node, sizes in zip(cluster.classes[c].nodes, nodes, strict=False)
    }
    filled = set(fills or {})
    for size in sizes:
        for r, stages in enumerate(replicas):
            for s, group in enumerate(stages):
                if group.tp != size:
                    continue
                left = sum(g.tp for g in stages[s:] if g == group)
                nodes = [node for node in cluster.classes[group.node_class].nodes if free[node] >= size]
                if group.node_class in filled:
                    nodes = [node for node in nodes if size in slots.get(node, ())]
                node = _node_for(cluster, free, nodes, group, left, begun.get((r, group.node_class)))
                if group.node_class in filled:
                    slots[node].remove(size)
                begun[r, group.node_class] = node
                total = cluster.class_of_node(node).gpus_per_node
                first = total - free[node]
                placed[r][s] = tuple(cluster.gpus_of(node)[first : first + size])
                free[node] -= size
    return placed


def _node_for(
    cluster: Cluster, free: dict[str, int], nodes: list[str], group: StageGroup, left: int, begun: str | None
) -> str:
    if begun is not None and begun in nodes:
        return begun
    if not nodes:
        raise SolverError(f"no node of {cluster.classes[group.node_class].name} has {group.tp} GPUs left")
    whole = [node for node in nodes if free[node] >= left]
    # min and max keep the first of equals: nodes in the cluster's order
    return min(whole, key=lambda node: free[node]) if whole else max(nodes, key=lambda node: free[node])
