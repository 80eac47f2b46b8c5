"""Which GPUs the stages of a path get, in any order of classes.

A stage whose groups fill nodes gets whole nodes; smaller ones share nodes, those that follow each other side by side,
so that hops between them stay inside. Where groups neither divide a node nor fill nodes, the stages of a node class
are laid out one after the other in the order of the pipeline, as `planner.search.training_layout` does.

Nodes are taken in an order in which each next one is best linked to those before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.search.training_layout import linked_order

if TYPE_CHECKING:
    from planner.cluster import Cluster

__all__ = ["Seat", "place"]


@dataclass(frozen=True, slots=True)
class Seat:
    """A stage that wants GPUs: node class, tensor-parallel degree, and whether it joins the node of the next stage."""

    node_class: int
    tp: int
    with_next: bool = False


def place(cluster: Cluster, seats: Sequence[Seat], dp: int) -> list[list[tuple[str, ...]]] | None:
    """Give every stage its groups.

    Parameters
    ----------
    cluster
        Where.
    seats
        The stages in pipeline order.
    dp
        Groups of each.

    Returns
    -------
    list of groups per stage; None where they do not fit, which only stages that straddle nodes do not.
    """
    placed: list[list[tuple[str, ...]]] = [[] for _ in seats]
    for node_class, members in enumerate(cluster.classes):
        mine = [s for s, seat in enumerate(seats) if seat.node_class == node_class]
        if not mine:
            continue
        nodes, size = linked_order(cluster, members), members.gpus_per_node
        per_node = {s: size // seats[s].tp for s in mine}
        even = all(dp % per_node[s] == 0 or per_node[s] % dp == 0 for s in mine)
        found = _even(seats, mine, nodes, size, dp) if even else _in_order(seats, mine, nodes, size, dp)
        if found is None:
            return None
        for s, groups in found.items():
            placed[s] = groups
    return placed


def _even(
    seats: Sequence[Seat], mine: Sequence[int], nodes: Sequence[str], size: int, dp: int
) -> dict[int, list[tuple[str, ...]]] | None:
    """Whole nodes for large stages, then chains of small ones into nodes, the longest first."""
    found: dict[int, list[tuple[str, ...]]] = {}
    chains: list[list[int]] = []
    at = 0
    for s in mine:
        block = dp * seats[s].tp
        if block >= size:
            taken = nodes[at : at + block // size]
            at += block // size
            if len(taken) < block // size:
                return None
            found[s] = [group for node in taken for group in _groups(node, 0, size, seats[s].tp)]
        elif chains and chains[-1][-1] == s - 1 and seats[s - 1].with_next:
            chains[-1].append(s)
        else:
            chains.append([s])
    free = {node: [size, 0] for node in nodes[at:]}  # room, and where it starts
    waiting = sorted(chains, key=lambda chain: -sum(seats[s].tp for s in chain))
    while waiting:
        chain = waiting.pop(0)
        need = dp * sum(seats[s].tp for s in chain)
        node = min((n for n in free if free[n][0] >= need), key=lambda n: free[n][0], default=None)
        if node is None:
            if len(chain) == 1:
                return None
            waiting = sorted([*waiting, chain[:-1], chain[-1:]], key=lambda one: -sum(seats[s].tp for s in one))
            continue
        for s in sorted(chain, key=lambda one: -seats[one].tp):
            block, first = dp * seats[s].tp, free[node][1]
            found[s] = _groups(node, first, first + block, seats[s].tp)
            free[node][0] -= block
            free[node][1] += block
    return found


def _in_order(
    seats: Sequence[Seat], mine: Sequence[int], nodes: Sequence[str], size: int, dp: int
) -> dict[int, list[tuple[str, ...]]] | None:
    """Groups one after the other, each inside a node."""
    found: dict[int, list[tuple[str, ...]]] = {}
    node, first = 0, 0
    for s in mine:
        tp = seats[s].tp
        groups: list[tuple[str, ...]] = []
        while len(groups) < dp:
            first = -(-first // tp) * tp
            if first + tp > size:
                node, first = node + 1, 0
            if node == len(nodes):
                return None
            groups.append(tuple(f"{nodes[node]}/{first + rank}" for rank in range(tp)))
            first += tp
        found[s] = groups
    return found


def _groups(node: str, first: int, end: int, tp: int) -> list[tuple[str, ...]]:
    return [tuple(f"{node}/{at + rank}" for rank in range(tp)) for at in range(first, end, tp)]
