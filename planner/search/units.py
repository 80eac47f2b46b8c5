"""Units: the stages of a replica that must share a node for the links that the replica was priced with.

Templates are priced as if stages of one node class shared a node for as many GPUs as it has. Where the program over
templates counts GPUs alone, a replica may straddle nodes that it was not priced for, which slow links make dear. Here
what has to lie in one node is one piece: a program over these pieces chooses only what can be placed as it was priced,
and tiles real nodes with them (units of 6 GPUs strand 2 of 8, units of 8 do not).

Legend: M multiset, J stage kind, C node class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from planner.errors import SolverError
from planner.solvers.master import Master, MasterProblem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planner.cluster import Cluster
    from planner.cost._types import Array, IntArray
    from planner.search.packing import StageGroup
    from planner.search.template_pool import MultisetPool
    from planner.search.templates import StageKind

__all__ = ["pack_units", "unit_master", "units_of"]


@dataclass(frozen=True, slots=True)
class _Unit:
    replica: int
    node_class: int
    size: int
    stages: tuple[int, ...]


def units_of(tps: Sequence[int], node_size: int) -> list[list[int]]:
    """Positions of stages that share a node, node after node: the largest first, as many as fit.

    Examples
    --------
    >>> units_of([2, 2, 2, 4, 4], 8)
    [[3, 4], [0, 1, 2]]
    """
    units: list[list[int]] = []
    room = 0
    for position in sorted(range(len(tps)), key=lambda s: -tps[s]):
        if tps[position] > room:
            units.append([])
            room = node_size
        units[-1].append(position)
        room -= tps[position]
    return units


def unit_master(
    cluster: Cluster,
    kinds: Sequence[StageKind],
    pool: MultisetPool,
    cost_J: Array,
    demand: float | None = None,
) -> Master:
    """Write the program over a pool in which a unit is what has to fit a node.

    Parameters
    ----------
    cluster, kinds, pool
        The nodes; the stage kinds; the multisets of them.
    cost_J
        What a stage of each kind costs.
    demand
        As for `Master`.
    """
    size_C = [c.gpus_per_node for c in cluster.classes]
    chunks_MJ = pool.chunks_MJ(len(kinds))
    columns: dict[tuple[int, int], IntArray] = {}
    for c, size in enumerate(size_C):
        mine = [j for j, kind in enumerate(kinds) if kind.node_class == c]
        different, which_M = np.unique(chunks_MJ[:, mine], axis=0, return_inverse=True)
        for i, counts in enumerate(different.tolist()):
            tps = [kinds[j].tp for j, n in zip(mine, counts, strict=True) for _ in range(n)]
            for unit in units_of(tps, size):
                key = c, sum(tps[s] for s in unit)
                column = columns.setdefault(key, np.zeros(len(chunks_MJ), dtype=np.int64))
                column[which_M.reshape(-1) == i] += 1
    unit_kinds = sorted(columns)
    return Master(
        MasterProblem(
            value_T=np.zeros(len(chunks_MJ)),
            cost_T=(chunks_MJ @ np.asarray(cost_J)).astype(float),
            chunks_TJ=np.stack([columns[key] for key in unit_kinds], axis=1),
            class_J=np.array([c for c, _ in unit_kinds]),
            size_J=np.array([size for _, size in unit_kinds]),
            bin_size_C=np.array(size_C),
            bins_C=np.array([len(c.nodes) for c in cluster.classes]),
        ),
        demand=demand,
    )


def pack_units(
    cluster: Cluster,
    replicas: Sequence[Sequence[StageGroup]],
    fills: Mapping[int, Sequence[Sequence[int]]] | None = None,
) -> list[list[tuple[str, ...]]]:
    """Give every stage its GPUs, each unit within one node.

    Large units first. Of the nodes that have room, the one with the best links to those of the replica that are placed
    already, then the fullest. In a node, large groups first, so that they lie aligned.

    Parameters
    ----------
    cluster
        Whose GPUs.
    replicas
        Stages of each replica, in order.
    fills
        As for `planner.search.packing.pack`, in sizes of units.

    Returns
    -------
    list of list of tuple of str
        GPUs by replica and stage.

    Raises
    ------
    SolverError
        If the units do not fit; a solution of `unit_master` always does.
    """
    units: list[_Unit] = []
    for r, stages in enumerate(replicas):
        for c in dict.fromkeys(group.node_class for group in stages):
            mine = [s for s, group in enumerate(stages) if group.node_class == c]
            tps = [stages[s].tp for s in mine]
            for together in units_of(tps, cluster.classes[c].gpus_per_node):
                units.append(_Unit(r, c, sum(tps[i] for i in together), tuple(sorted(mine[i] for i in together))))
    units.sort(key=lambda unit: -unit.size)  # stable
    free = {node: c.gpus_per_node for c in cluster.classes for node in c.nodes}
    slots = {
        node: list(sizes)
        for c, nodes in (fills or {}).items()
        for node, sizes in zip(cluster.classes[c].nodes, nodes, strict=False)
    }
    node_of: dict[tuple[int, int], str] = {}
    inside: dict[str, list[tuple[int, int, int]]] = {}
    for unit in units:
        nodes = [node for node in cluster.classes[unit.node_class].nodes if free[node] >= unit.size]
        if unit.node_class in (fills or {}):
            nodes = [node for node in nodes if unit.size in slots.get(node, ())]
        if not nodes:
            raise SolverError(f"no node of {cluster.classes[unit.node_class].name} has {unit.size} GPUs left")
        beside = [node for (r, _), node in node_of.items() if r == unit.replica]
        node = min(nodes, key=lambda one: (*_slowness(cluster, one, beside), free[one]))
        free[node] -= unit.size
        if node in slots:
            slots[node].remove(unit.size)
        for s in unit.stages:
            node_of[unit.replica, s] = node
            inside.setdefault(node, []).append((-replicas[unit.replica][s].tp, unit.replica, s))
    placed: list[list[tuple[str, ...]]] = [[()] * len(stages) for stages in replicas]
    for node, groups in inside.items():
        gpus, first = cluster.gpus_of(node), 0
        for size, r, s in sorted(groups):
            placed[r][s] = tuple(gpus[first : first - size])
            first -= size
    return placed


def _slowness(cluster: Cluster, node: str, beside: Sequence[str]) -> tuple[float, float]:
    """Worst seconds per byte and latency between a node and some others."""
    links = [cluster.node_link(node, other) for other in beside]
    if not links:
        return 0.0, 0.0
    return max(1.0 / link.bandwidth for link in links), max(link.latency for link in links)
