"""The asymmetric pipeline: which stages to make of some blocks of devices, and which layers each holds.

A *block* has a number of equal devices side by side, such as a node. A stage takes some devices of one block, as many
as its kind says; blocks are visited in a given order, any may be left out, and devices may stay idle. The recurrence is
over (block, devices used of it, layers held):

    best[u, g + n, j] = min over i, kinds of n devices: combine(best[u, g, i], hop, time of the kind on layers [i, j))

with ``best[u, 0, ·]`` reached over a hop from any earlier block, and combine ``+`` or ``max``. Problems that share
blocks and kinds, such as several loads, go through it together.

Legend: P problem, U block, K kind of stage, N = L + 1 positions between layers.

References
----------
Y. Jiang et al., "HexGen: Generative inference of large language model over heterogeneous environment", ICML 2024,
section 4.2: the dynamic program inside a group.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, Literal

import numpy as np

from planner.partition.problem import FloatArray, IntArray

__all__ = ["Block", "ChainedStage", "best_pipelines", "pipeline_value"]

_START: Final = -1  # where a chain comes from that begins here


@dataclass(frozen=True, slots=True)
class Block:
    """Equal devices side by side, and the kinds of stages that can be made of them: (devices, kind)."""

    devices: int
    kinds: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class ChainedStage:
    """A stage of the answer: its block, its kind, and the layers ``[first, end)``."""

    block: int
    kind: int
    first: int
    end: int


def best_pipelines(
    time_PKNN: FloatArray,
    hop_PUU: FloatArray,
    blocks: Sequence[Block],
    objective: Literal["sum", "bottleneck"],
) -> list[tuple[ChainedStage, ...]]:
    """Best pipeline of each problem; empty where there is none.

    Parameters
    ----------
    time_PKNN
        Time of each kind on the layers [i, j); infinite where they do not fit. Entries with ``j <= i`` are not read.
    hop_PUU
        Time to pass from a stage in a block to one in another, or in the same one.
    blocks
        In the order in which a pipeline may visit them.
    objective
        ``"sum"`` of all stages and hops, or ``"bottleneck"``: the slowest of them.

    Examples
    --------
    >>> time = np.full((1, 1, 3, 3), np.inf)
    >>> time[0, 0, 0, 1] = time[0, 0, 1, 2] = 1.0  # a stage holds one layer of two
    >>> best_pipelines(time, np.zeros((1, 1, 1)), [Block(2, ((1, 0),))], "sum")
    [(ChainedStage(block=0, kind=0, first=0, end=1), ChainedStage(block=0, kind=0, first=1, end=2))]
    """
    P, _, N, _ = time_PKNN.shape
    combine = np.add if objective == "sum" else np.maximum
    upper_NN = np.triu(np.ones((N, N), dtype=bool), 1)
    time_PKNN = np.where(upper_NN, time_PKNN, np.inf)
    begin_PN = np.full((P, N), np.inf)
    begin_PN[:, 0] = 0.0

    done_U: list[FloatArray] = []  # a pipeline that ends in this block, by layers held
    last_U: list[IntArray] = []  # devices used of the block then
    enter_U: list[IntArray] = []  # the block before, by layers held on entering
    step_U: list[list[tuple[IntArray, IntArray, IntArray]]] = []  # devices before, kind, position: how g was reached
    rows_P1, positions_N = np.arange(P)[:, None], np.arange(N)
    for u, block in enumerate(blocks):
        enter_PN, before_PN = begin_PN.copy(), np.full((P, N), _START)
        for v in range(u):
            value_PN = combine(done_U[v], hop_PUU[:, v, u, None])
            better = value_PN < enter_PN
            enter_PN, before_PN = np.where(better, value_PN, enter_PN), np.where(better, v, before_PN)
        at = [enter_PN] + [np.full((P, N), np.inf) for _ in range(block.devices)]
        came = [
            (np.full((P, N), _START), np.full((P, N), _START), np.full((P, N), _START))
            for _ in range(block.devices + 1)
        ]
        for g in range(block.devices):
            base_PN = at[g] if g == 0 else combine(at[g], hop_PUU[:, u, u, None])
            if not np.isfinite(base_PN).any():
                continue
            for size, kind in block.kinds:
                if g + size > block.devices:
                    continue
                value_PNN = combine(base_PN[:, :, None], time_PKNN[:, kind])
                from_PN = value_PNN.argmin(axis=1)
                value_PN = value_PNN[rows_P1, from_PN, positions_N]
                better = value_PN < at[g + size]
                at[g + size] = np.where(better, value_PN, at[g + size])
                used, which, position = came[g + size]
                came[g + size] = (
                    np.where(better, g, used),
                    np.where(better, kind, which),
                    np.where(better, from_PN, position),
                )
        used_GPN = np.stack(at[1:])
        done_U.append(used_GPN.min(axis=0))
        last_U.append(used_GPN.argmin(axis=0) + 1)
        enter_U.append(before_PN)
        step_U.append(came)

    final_PU = np.stack([done[:, -1] for done in done_U], axis=1)
    answers: list[tuple[ChainedStage, ...]] = []
    for p in range(P):
        u = int(final_PU[p].argmin())
        if not np.isfinite(final_PU[p, u]):
            answers.append(())
            continue
        stages: list[ChainedStage] = []
        j = N - 1
        while u != _START:
            g = int(last_U[u][p, j])
            while g > 0:
                used, which, position = step_U[u][g]
                i = int(position[p, j])
                stages.append(ChainedStage(u, int(which[p, j]), i, j))
                g, j = int(used[p, j]), i
            u = int(enter_U[u][p, j])
        answers.append(tuple(reversed(stages)))
    return answers


def pipeline_value(
    time_KNN: FloatArray,
    hop_UU: FloatArray,
    stages: Sequence[ChainedStage],
    objective: Literal["sum", "bottleneck"],
) -> float:
    """Value of one pipeline of one problem; infinite for none."""
    if not stages:
        return float("inf")
    times = [float(time_KNN[stage.kind, stage.first, stage.end]) for stage in stages]
    times += [float(hop_UU[a.block, b.block]) for a, b in pairwise(stages)]
    return sum(times) if objective == "sum" else max(times)
