"""Families of pipelines in which stages of a node class follow each other: what infeasible jobs are explained by.

A *family* fixes the kinds of stage in pipeline order and the data-parallel degree.

Legend: C counts of a family, J kind of stage in pipeline order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations, product
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.search.stage_classes import StageClasses

if TYPE_CHECKING:
    from planner.cost._types import IntArray

__all__ = ["MAX_NODE_CLASSES", "Family", "families"]

# Node classes in one pipeline; every order of them is tried.
MAX_NODE_CLASSES: Final = 4


@dataclass(frozen=True, slots=True)
class Family:
    """Kinds of stage in pipeline order, and position of the data-parallel degree."""

    kinds: tuple[int, ...]
    degree: int

    def counts_CJ(self, stages: StageClasses) -> IntArray:
        """Every way to give each kind at least one stage, in lexicographic order."""
        most = [stages.most_stages(j, self.degree) for j in self.kinds]
        grid = np.stack(np.meshgrid(*(np.arange(1, n + 1) for n in most), indexing="ij"), axis=-1)
        counts = grid.reshape(-1, len(self.kinds))
        return np.asarray(counts[counts.sum(axis=1) <= stages.max_stages])


def families(stages: StageClasses) -> Iterator[Family]:
    """All families of a problem that its engine can run, in a fixed order."""
    problem, engine = stages.problem, stages.problem.engine
    cluster = problem.cluster
    by_class: dict[int, list[int]] = {}
    for j, one in enumerate(stages.classes):
        by_class.setdefault(one.node_class, []).append(j)
    most = min(MAX_NODE_CLASSES, len(by_class), stages.max_stages)
    for size in range(1, most + 1):
        for order in permutations(by_class, size):
            types = {cluster.classes[node_class].device.name for node_class in order}
            if len(types) > 1 and not engine.mixed_gpu_types:
                continue
            for kinds in product(*(by_class[node_class] for node_class in order)):
                if engine.tensor_parallel == "uniform" and len({stages.classes[j].tp for j in kinds}) > 1:
                    continue
                if not stages.joinable(kinds):
                    continue
                for degree in range(len(stages.degrees)):
                    if all(stages.most_stages(j, degree) for j in kinds):
                        yield Family(kinds, degree)
