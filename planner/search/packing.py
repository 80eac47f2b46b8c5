"""From counts to GPUs: tensor-parallel groups into nodes, the stages of a replica side by side where they fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.errors import SolverError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.cluster import Cluster

__all__ = ["StageGroup", "pack"]


@dataclass(frozen=True, slots=True)
class StageGroup:
    """One stage to be placed: a node class by its position in the cluster, and a tensor-parallel degree."""

    node_class: int
    tp: int


def pack(cluster: Cluster, replicas: Sequence[Sequence[StageGroup]]) -> list[list[tuple[str, ...]]]:
    """Give every stage of every replica its GPUs, each group within one node.

    Large groups first: then whatever fits in sum fits (see `planner.solvers.master`). Within that order a replica's
    stages follow each other into the node they have begun, then into the fullest node that takes all that are left.

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
    for size in sizes:
        for r, stages in enumerate(replicas):
            for s, group in enumerate(stages):
                if group.tp != size:
                    continue
                left = sum(g.tp for g in stages[s:] if g == group)
                node = _node_for(cluster, free, group, left, begun.get((r, group.node_class)))
                begun[r, group.node_class] = node
                total = cluster.class_of_node(node).gpus_per_node
                first = total - free[node]
                placed[r][s] = tuple(cluster.gpus_of(node)[first : first + size])
                free[node] -= size
    return placed


def _node_for(cluster: Cluster, free: dict[str, int], group: StageGroup, left: int, begun: str | None) -> str:
    if begun is not None and free[begun] >= group.tp:
        return begun
    nodes = [node for node in cluster.classes[group.node_class].nodes if free[node] >= group.tp]
    if not nodes:
        raise SolverError(f"no node of {cluster.classes[group.node_class].name} has {group.tp} GPUs left")
    whole = [node for node in nodes if free[node] >= left]
    # min and max keep the first of equals: nodes in the cluster's order
    return min(whole, key=lambda node: free[node]) if whole else max(nodes, key=lambda node: free[node])
