"""Replica templates: which kinds of stages a replica may be made of.

A template is a sequence of stage kinds (node class, TP), equal kinds side by side. `planner.search.template_pricer`
says how fast each such replica is at best.

Legend: B batch of templates, S stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise, permutations
from typing import TYPE_CHECKING

import numpy as np

from planner.cost.memory import tensor_parallel_fault
from planner.engine import check_device

if TYPE_CHECKING:
    from planner.cost._types import Array, BoolArray, IntArray
    from planner.search.problem import ServingProblem

__all__ = ["StageKind", "Templates", "compositions", "enumerate_templates", "stage_kinds"]


@dataclass(frozen=True, slots=True)
class StageKind:
    """Node class, by its position in the cluster, and tensor-parallel degree."""

    node_class: int
    tp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Templates:
    """Priced templates.

    Parameters
    ----------
    kinds_BS
        Stage kind of each stage, -1 behind the last.
    stages_B
        Number of stages.
    bounds_BS1
        First layer of each stage, and the number of layers at the end.
    rate_B, bound_B
        Goodput in requests/s with these layers, and of any layers at most; 0 where SLO or memory cannot be met.
    tpot_B, ttft_B, memory_B
        At the smallest load: what is within reach where the rate is 0; `memory_B` tells whether the weights fit.
    """

    kinds_BS: IntArray
    stages_B: IntArray
    bounds_BS1: IntArray
    rate_B: Array
    bound_B: Array
    tpot_B: Array
    ttft_B: Array
    memory_B: BoolArray

    def take(self, rows: IntArray | Sequence[int]) -> Templates:
        """Some of the templates."""
        index = np.asarray(rows, dtype=int)
        return Templates(**{name: getattr(self, name)[index] for name in self.__dataclass_fields__})

    def padded(self, width: int, layers: int) -> Templates:
        """Return the same with room for `width` stages."""
        missing = width - self.kinds_BS.shape[1]
        tail = np.where(self.bounds_BS1[:, -1:] >= 0, layers, -1)
        return replace(
            self,
            kinds_BS=np.pad(self.kinds_BS, ((0, 0), (0, missing)), constant_values=-1),
            bounds_BS1=np.concatenate([self.bounds_BS1, np.repeat(tail, missing, axis=1)], axis=1),
        )

    @classmethod
    def join(cls, parts: Sequence[Templates]) -> Templates:
        """Several batches one after the other."""
        return cls(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in cls.__dataclass_fields__})


def stage_kinds(problem: ServingProblem) -> list[StageKind]:
    """Stage kinds that the model's heads and the nodes allow."""
    able = [
        check_device(problem.engine, vendor=c.device.vendor, compute_capability=c.device.compute_capability) is None
        for c in problem.cluster.classes
    ]
    largest = max(node_class.gpus_per_node for node_class in problem.cluster.classes)
    legal = [tp for tp in range(1, largest + 1) if tensor_parallel_fault(problem.model, tp) is None]
    return [
        StageKind(c, tp)
        for c, node_class in enumerate(problem.cluster.classes)
        for tp in legal
        if able[c] and tp <= node_class.gpus_per_node
    ]


def enumerate_templates(
    problem: ServingProblem, kinds: Sequence[StageKind], *, max_stages: int, max_kinds: int, uniform: bool
) -> Iterator[tuple[int, ...]]:
    """Sequences of stage kinds, equal kinds side by side, that the inventory and the engine allow.

    Parameters
    ----------
    problem
        Cluster and engine.
    kinds
        Stage kinds, by position.
    max_stages
        Most stages; also bounded by the model's layers and the engine.
    max_kinds
        Most different stage kinds in one template.
    uniform
        Whether all stages have one TP.

    Yields
    ------
    tuple of int
        Positions in `kinds`; every order of the groups is a template of its own.
    """
    classes = problem.cluster.classes
    room = [c.num_gpus for c in classes]
    engine = problem.engine
    most = min(max_stages, problem.model.num_layers, engine.max_pipeline or max_stages)
    if not engine.pipeline:
        most = 1
    if not engine.mixed_gpu_types:
        max_kinds = 1
    for chosen in range(1, max_kinds + 1):
        for group in combinations(range(len(kinds)), chosen):
            if uniform and len({kinds[j].tp for j in group}) > 1:
                continue
            for stages in range(chosen, most + 1):
                for counts in compositions(stages, chosen):
                    used = [0] * len(classes)
                    for j, n in zip(group, counts, strict=True):
                        used[kinds[j].node_class] += n * kinds[j].tp
                    if any(u > r for u, r in zip(used, room, strict=True)):
                        continue
                    for order in permutations(range(chosen)):
                        yield tuple(group[i] for i in order for _ in range(counts[i]))


def compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """Ways to write a total as positive parts, in order.

    Examples
    --------
    >>> list(compositions(4, 2))
    [(1, 3), (2, 2), (3, 1)]
    """
    for cuts in combinations(range(1, total), parts - 1):
        edges = (0, *cuts, total)
        yield tuple(b - a for a, b in pairwise(edges))
