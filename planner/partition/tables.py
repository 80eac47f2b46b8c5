"""Prefix sums of a batch of candidates, in the form in which the search reads them.

Axes in names: B candidate, S stage, L layer, N = L + 1 positions between layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from planner.partition.problem import BoolArray, FloatArray, IntArray, StageCosts, interval_sums

__all__ = ["Sums", "Tables"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sums:
    """Something that adds up over layers, and how much of it a stage may have.

    Stage s comes to ``end[s, j] - start[s, i]`` on the layers [i, j), its fixed part included.
    """

    start_BSN: FloatArray
    end_BSN: FloatArray
    limit_BS: FloatArray

    @classmethod
    def of(cls, layer_BSL: FloatArray, fixed_BS: FloatArray, limit_BS: FloatArray, padding_BS: BoolArray) -> Sums:
        """Sum up; padding stages come to zero and have no limit."""
        start_BSN, end_BSN = interval_sums(layer_BSL, fixed_BS)
        start_BSN[padding_BS] = end_BSN[padding_BS] = 0.0
        return cls(start_BSN=start_BSN, end_BSN=end_BSN, limit_BS=np.where(padding_BS, np.inf, limit_BS))

    def take(self, keep_B: IntArray) -> Sums:
        """Keep some candidates."""
        return Sums(start_BSN=self.start_BSN[keep_B], end_BSN=self.end_BSN[keep_B], limit_BS=self.limit_BS[keep_B])

    def capped(self, cap_B: FloatArray) -> Sums:
        """Put another limit, the same for all stages of a candidate."""
        limit_BS = np.broadcast_to(cap_B[:, None], self.limit_BS.shape)
        return Sums(start_BSN=self.start_BSN, end_BSN=self.end_BSN, limit_BS=limit_BS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """Time, memory and outer bounds of a batch."""

    time: Sums
    memory: Sums | None
    padding_BS: BoolArray
    low_BS1: IntArray  # each boundary leaves at least one layer to every stage on either side of it
    high_BS1: IntArray

    @classmethod
    def of(cls, costs: StageCosts) -> Tables:
        """Sum up a batch."""
        padding_BS = costs.padding_BS
        memory = None
        if costs.memory_BSL is not None and costs.capacity_BS is not None:
            memory = Sums.of(costs.memory_BSL, costs.memory_fixed_BS, costs.capacity_BS, padding_BS)
        layers, boundary_1 = costs.num_layers, np.arange(costs.num_stages + 1)
        depth_B1 = costs.num_stages - padding_BS.sum(axis=1, keepdims=True)
        past_BS1 = boundary_1 >= depth_B1  # after the last real stage, where nothing is left
        # Clipped to positions that exist; with more stages than layers, low is above high all the same.
        low_BS1 = np.where(past_BS1, layers, np.minimum(boundary_1, layers))
        high_BS1 = np.where(past_BS1, layers, np.maximum(layers - depth_B1 + boundary_1, 0))
        high_BS1[:, 0] = 0
        return cls(
            time=Sums.of(costs.layer_BSL, costs.fixed_BS, np.full(padding_BS.shape, np.inf), padding_BS),
            memory=memory,
            padding_BS=padding_BS,
            low_BS1=low_BS1,
            high_BS1=high_BS1,
        )

    @property
    def batch(self) -> int:
        """Number of candidates, B."""
        return len(self.padding_BS)

    @property
    def num_stages(self) -> int:
        """Number of stages with padding, S."""
        return int(self.padding_BS.shape[1])

    @property
    def num_layers(self) -> int:
        """Number of layers, L."""
        return int(self.time.start_BSN.shape[2]) - 1

    def take(self, keep_B: IntArray) -> Tables:
        """Keep some candidates."""
        return Tables(
            time=self.time.take(keep_B),
            memory=None if self.memory is None else self.memory.take(keep_B),
            padding_BS=self.padding_BS[keep_B],
            low_BS1=self.low_BS1[keep_B],
            high_BS1=self.high_BS1[keep_B],
        )

    def limited(self, cap_B: FloatArray) -> list[Sums]:
        """List what a stage must not exceed: memory if there is any, and last the time under a cap."""
        time = self.time.capped(cap_B)
        return [time] if self.memory is None else [self.memory, time]

    def times(self, bounds_BS1: IntArray) -> FloatArray:
        """Look up the time of each stage, (B, S); infinite where bounds are -1."""
        row, stage = np.arange(self.batch)[:, None], np.arange(self.num_stages)
        first_BS, last_BS = bounds_BS1[:, :-1], bounds_BS1[:, 1:]
        time_BS = self.time.end_BSN[row, stage, last_BS] - self.time.start_BSN[row, stage, first_BS]
        return np.where(bounds_BS1[:, :1] < 0, np.inf, time_BS)
