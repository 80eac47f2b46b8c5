"""Mixes of four GPU types for a hundred request sizes: time to the proof, on synthetic tables."""

from __future__ import annotations

import sys
import time

import numpy as np

from planner.search.melange import cheapest_mix

BUDGET = 0.5  # seconds of CPU time


def main() -> int:
    """Print the table."""
    print("buckets  seed  CPU s     cost    bound  counts")
    slow = False
    for buckets in (16, 100, 400):
        for seed in range(4):
            rng = np.random.default_rng(seed)
            size_W = np.exp(rng.uniform(np.log(32), np.log(8192), buckets))
            speed_U, room_U = np.array([2.0, 5.0, 14.0, 30.0]), np.array([2e3, 8e3, 6e4, 1.2e5])
            throughput_UW = speed_U[:, None] / (size_W / 400 + size_W**2 / (400 * room_U[:, None]))
            throughput_UW[0, size_W > 4000] = 0.0
            rate_W = 64.0 * rng.dirichlet(np.ones(buckets))
            cheapest_mix(rate_W[:1] * 0 + 1, throughput_UW[1:, :1], np.ones(3))  # imports
            began = time.process_time()
            mix = cheapest_mix(rate_W, throughput_UW, np.array([0.7, 1.01, 3.67, 7.52]))
            spent = time.process_time() - began
            slow |= buckets == 100 and (spent > 3 * BUDGET or not mix.proven)
            print(f"{buckets:7d}  {seed:4d}  {spent:5.2f}  {mix.cost:7.2f}  {mix.bound:7.2f}  {mix.count_U.tolist()}")
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
