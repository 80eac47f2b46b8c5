"""The pool: all multisets of stage kinds that a replica may be made of, as arrays.

The order of the stages is left open here; `planner.search.template_caps` bounds a multiset for every order and split at
once, and `planner.search.template_pricer` prices the orders of those few that matter.

Legend: M multiset, D place of a kind in it, C node class.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations, islice, permutations
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.search.templates import compositions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.cost._types import IntArray
    from planner.search.problem import ServingProblem
    from planner.search.templates import StageKind

__all__ = ["MOST_MULTISETS", "MultisetPool", "enumerate_multisets", "most_stages", "multisets_of", "orders"]

MOST_MULTISETS: Final = 6_000  # rows of a pool; a family with more is enumerated up to fewer kinds, two at least


@dataclass(frozen=True, slots=True, kw_only=True)
class MultisetPool:
    """Multisets of stage kinds.

    Parameters
    ----------
    kind_MD
        The different kinds, ascending, -1 behind the last.
    count_MD
        Stages of each; 0 behind the last.
    most_kinds
        Most different kinds in one; every multiset with no more is here.
    complete
        Whether no multiset of the family has more kinds than that.
    """

    kind_MD: IntArray
    count_MD: IntArray
    most_kinds: int
    complete: bool

    @property
    def stages_M(self) -> IntArray:
        """Stages of each."""
        return np.asarray(self.count_MD.sum(axis=1))

    def chunks_MJ(self, kinds: int) -> IntArray:
        """Stages of each kind."""
        chunks_MJ = np.zeros((len(self.kind_MD), kinds), dtype=np.int64)
        for d in range(self.kind_MD.shape[1]):
            rows = np.flatnonzero(self.kind_MD[:, d] >= 0)
            chunks_MJ[rows, self.kind_MD[rows, d]] = self.count_MD[rows, d]
        return chunks_MJ

    def joined(self, others: tuple[IntArray, IntArray]) -> MultisetPool:
        """Add multisets, given by their kinds and counts; what is said of the pool's completeness stays."""
        kind_XD, count_XD = others
        width = max(self.kind_MD.shape[1], kind_XD.shape[1])
        return self.of(
            (
                np.concatenate([_wide(self.kind_MD, width, -1), _wide(kind_XD, width, -1)]),
                np.concatenate([_wide(self.count_MD, width, 0), _wide(count_XD, width, 0)]),
            )
        )

    def of(self, multisets: tuple[IntArray, IntArray]) -> MultisetPool:
        """Other multisets of the same family."""
        return replace(self, kind_MD=multisets[0], count_MD=multisets[1])

    def take(self, rows: IntArray) -> MultisetPool:
        """Some of the multisets."""
        return MultisetPool(
            kind_MD=self.kind_MD[rows],
            count_MD=self.count_MD[rows],
            most_kinds=self.most_kinds,
            complete=self.complete,
        )


def most_stages(problem: ServingProblem, depth: int) -> int:
    """Most stages that model, engine and problem allow, `depth` at most."""
    if not problem.engine.pipeline:
        return 1
    return min(depth, problem.model.num_layers, problem.engine.max_pipeline or depth, problem.max_stages or depth)


def enumerate_multisets(
    problem: ServingProblem, kinds: Sequence[StageKind], depth: int, *, most: int = MOST_MULTISETS
) -> MultisetPool:
    """All multisets that the inventory and the engine allow, with as many different kinds as `most` rows have room for.

    Parameters
    ----------
    problem
        Cluster and engine.
    kinds
        Stage kinds, by position.
    depth
        Most stages.
    most
        Most rows; multisets of two kinds come in any case.
    """
    uniform = problem.engine.tensor_parallel == "uniform"
    class_J = np.array([kind.node_class for kind in kinds])
    tp_J = np.array([kind.tp for kind in kinds])
    room_C = np.array([c.num_gpus for c in problem.cluster.classes])
    stages = most_stages(problem, depth)
    per_tp = max(int((tp_J == tp).sum()) for tp in set(tp_J.tolist()))
    largest = min(stages, per_tp if uniform else len(kinds))
    if not problem.engine.mixed_gpu_types:
        largest = 1
    parts: list[tuple[IntArray, IntArray]] = []
    rows, reached = 0, 0
    for chosen in range(1, largest + 1):
        groups = [g for g in combinations(range(len(kinds)), chosen) if not uniform or len({tp_J[j] for j in g}) == 1]
        shares = [c for total in range(chosen, stages + 1) for c in compositions(total, chosen)]
        if chosen > 2 and rows + len(groups) * len(shares) > most:
            break
        group_GD, share_PD = np.array(groups, dtype=np.int64), np.array(shares, dtype=np.int64)
        used_GPC = np.zeros((len(groups), len(shares), len(room_C)), dtype=np.int64)
        for d in range(chosen):
            for c in range(len(room_C)):
                used_GPC[:, :, c] += np.outer(
                    np.where(class_J[group_GD[:, d]] == c, tp_J[group_GD[:, d]], 0), share_PD[:, d]
                )
        g, p = np.nonzero((used_GPC <= room_C).all(axis=2))
        parts.append((group_GD[g], share_PD[p]))
        rows += len(g)
        reached = chosen
    width = max(reached, 1)
    return MultisetPool(
        kind_MD=np.concatenate([_wide(kind, width, -1) for kind, _ in parts]),
        count_MD=np.concatenate([_wide(count, width, 0) for _, count in parts]),
        most_kinds=reached,
        complete=reached == largest,
    )


def _wide(rows: IntArray, width: int, fill: int) -> IntArray:
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])), constant_values=fill)


def multisets_of(count_MJ: IntArray) -> tuple[IntArray, IntArray]:
    """Kinds and counts of multisets, as a pool has them, from the stages of every kind.

    Examples
    --------
    >>> multisets_of(np.array([[0, 2, 1], [3, 0, 0]]))[0].tolist()
    [[1, 2], [0, -1]]
    """
    width = max(int((count_MJ > 0).sum(axis=1).max(initial=1)), 1)
    kind_MD, place = np.full((len(count_MJ), width), -1), np.zeros(len(count_MJ), dtype=int)
    count_MD = np.zeros_like(kind_MD)
    for j in range(count_MJ.shape[1]):
        rows = np.flatnonzero(count_MJ[:, j] > 0)
        kind_MD[rows, place[rows]], count_MD[rows, place[rows]] = j, count_MJ[rows, j]
        place[rows] += 1
    return kind_MD, count_MD


def orders(kind_D: IntArray, count_D: IntArray, most: int | None = None) -> list[tuple[int, ...]]:
    """Sequences of a multiset's stages, equal kinds side by side, in every order of the kinds, or so many of them.

    Examples
    --------
    >>> orders(np.array([3, 5, -1]), np.array([2, 1, 0]))
    [(3, 3, 5), (5, 3, 3)]
    """
    groups = [(int(j),) * int(n) for j, n in zip(kind_D, count_D, strict=True) if j >= 0]
    return [tuple(j for group in order for j in group) for order in islice(permutations(groups), most)]
