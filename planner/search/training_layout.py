"""Which GPUs the stages of a training pipeline get.

A stage is `dp` tensor-parallel groups of one node class. The groups of a class are laid out node by node, each inside
one node, and its stages take them in order: stage after stage, the groups of a stage side by side. Gradients, the
largest messages, thus stay inside a node where they can, and only activations cross.

Nodes are taken in an order in which each next one is best linked to those before it; where all links are alike that
is the cluster's own order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.cost.training_replica import PlacedTrainingStage

if TYPE_CHECKING:
    from planner.cluster import Cluster, NodeClass

__all__ = ["Run", "class_groups", "linked_order", "place_stages"]


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive stages on one node class (its position in the cluster), each on groups of `tp` GPUs."""

    node_class: int
    tp: int
    stages: int


def class_groups(cluster: Cluster, node_class: int, tp: int) -> list[tuple[str, ...]]:
    """Tensor-parallel groups of a node class, in the order in which stages take them.

    GPUs that do not fill a group inside their node are left out.
    """
    members = cluster.classes[node_class]
    return [
        tuple(f"{node}/{first + rank}" for rank in range(tp))
        for node in linked_order(cluster, members)
        for first in range(0, members.gpus_per_node - tp + 1, tp)
    ]


def place_stages(
    cluster: Cluster, runs: Sequence[Run], dp: int, layers: Sequence[tuple[int, int]], shares: Sequence[int]
) -> list[PlacedTrainingStage]:
    """Put the stages of a pipeline on GPUs.

    Parameters
    ----------
    cluster
        Where.
    runs
        Its stages, class by class; no class twice.
    dp
        Groups per stage.
    layers, shares
        ``[first, end)`` of each stage, and sequences of a microbatch for each group.
    """
    placed: list[PlacedTrainingStage] = []
    for run in runs:
        groups = class_groups(cluster, run.node_class, run.tp)
        for stage in range(run.stages):
            mine = groups[stage * dp : (stage + 1) * dp]
            placed.append(
                PlacedTrainingStage(
                    devices=tuple(gpu for group in mine for gpu in group),
                    layers=layers[len(placed)],
                    tp=run.tp,
                    dp=dp,
                    microbatch_shares=tuple(shares),
                )
            )
    return placed


def linked_order(cluster: Cluster, members: NodeClass) -> list[str]:
    """Nodes of a class: first the one with the fastest links, then always the best linked to those taken."""
    nodes = list(members.nodes)
    named = {end for pair in cluster.spec.links.pairs for end in pair.between}
    if named.isdisjoint(nodes):  # no node is told apart from the others
        return nodes
    speed = {(a, b): cluster.node_link(a, b).bandwidth for a in nodes for b in nodes if a != b}
    order = [max(nodes, key=lambda a: sum(speed[a, b] for b in nodes if b != a))]
    while len(order) < len(nodes):
        left = [node for node in nodes if node not in order]
        order.append(max(left, key=lambda a: min(speed[a, b] for b in order)))
    return order
