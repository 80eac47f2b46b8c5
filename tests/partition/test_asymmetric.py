"""The asymmetric pipeline: against every choice of stages and layers."""

from __future__ import annotations

import math

import numpy as np
import pytest

from planner.partition.asymmetric import Block, best_pipelines, pipeline_value


def every_value(time_KNN: np.ndarray, hop_UU: np.ndarray, blocks: list[Block], objective: str) -> float:
    """Least value by walking through all pipelines, stage after stage."""
    last = time_KNN.shape[1] - 1
    best = math.inf

    def walk(u: int, left: int, position: int, parts: list[float]) -> None:
        nonlocal best
        if position == last:
            best = min(best, sum(parts) if objective == "sum" else max(parts))
            return
        for v in range(u, len(blocks)):
            room = left if v == u else blocks[v].devices
            for size, kind in blocks[v].kinds:
                if size > room:
                    continue
                for end in range(position + 1, last + 1):
                    hop = [hop_UU[u, v]] if parts else []
                    walk(v, room - size, end, [*parts, *hop, time_KNN[kind, position, end]])

    for first in range(len(blocks)):
        # begin in this block: no hop before it
        for size, kind in blocks[first].kinds:
            for end in range(1, last + 1):
                if size <= blocks[first].devices:
                    walk(first, blocks[first].devices - size, end, [time_KNN[kind, 0, end]])
    return best


@pytest.mark.parametrize("objective", ["sum", "bottleneck"])
@pytest.mark.parametrize("seed", range(60))
def test_equals_every_pipeline(seed: int, objective: str) -> None:
    rng = np.random.default_rng(seed)
    K, U, N, P = 3, int(rng.integers(1, 4)), int(rng.integers(2, 6)), 2
    sizes = [1, 2, 2]
    before = np.concatenate([np.zeros((P, K, 1)), rng.uniform(0.3, 2.0, (P, K, N - 1)).cumsum(axis=2)], axis=2)
    time = before[:, :, None, :] - before[:, :, :, None] + rng.uniform(0, 0.4, (P, K, 1, 1))
    span = np.arange(N) - np.arange(N)[:, None]
    time = np.where(span <= rng.integers(1, 4, (P, K, 1, 1)), time, np.inf)
    blocks = []
    for _ in range(U):
        kinds = sorted(rng.choice(K, int(rng.integers(1, K + 1)), replace=False).tolist())
        blocks.append(Block(int(rng.integers(1, 4)), tuple((sizes[k], k) for k in kinds)))
    hop = rng.uniform(0.0, 0.5, (P, U, U))
    found = best_pipelines(time, hop, blocks, objective)  # type: ignore[arg-type]
    for p in range(P):
        best = every_value(time[p], hop[p], blocks, objective)
        assert pipeline_value(time[p], hop[p], found[p], objective) == pytest.approx(best)  # type: ignore[arg-type]
        if not found[p]:
            continue
        assert [s.first for s in found[p]] == [0, *[s.end for s in found[p]][:-1]]
        assert found[p][-1].end == N - 1
        for u, block in enumerate(blocks):
            used = sum({k: size for size, k in block.kinds}[s.kind] for s in found[p] if s.block == u)
            assert used <= block.devices
        assert [s.block for s in found[p]] == sorted(s.block for s in found[p])
