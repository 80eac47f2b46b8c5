"""Exact training search at Sailor's prices: OPT-350M, global batch 1024; seconds, iterations/s and proven gap."""

from __future__ import annotations

import time

from planner.cost.sailor_tables import load_sailor_tables
from planner.search.problem import Budget
from planner.search.training.sailor import SailorJob, search_sailor

CASES = ((128, 0, 30.0, 0.4175), (32, 96, 60.0, 0.1700), (128, 384, 60.0, 0.523))


def main() -> None:
    """Print one line per cluster."""
    print("A100-40 V100-16   it/s  Sailor      gap  wall s  first good  CPU s")
    tables = load_sailor_tables("opt-350m")
    for a100, v100, limit, published in CASES:
        gpus = {name: n for name, n in (("a100_sxm_40", a100), ("v100_sxm_16", v100)) if n}
        job = SailorJob(
            tables=tables,
            gpus=gpus,
            memory={"a100_sxm_40": 42_338_615_296.0, "v100_sxm_16": 17_179_869_184.0},
            batch=1024,
        )
        cpu = time.process_time()
        plan = search_sailor(job, Budget(time_limit=limit))
        cpu = time.process_time() - cpu
        total, found = plan.answer.elapsed
        print(
            f"{a100:7} {v100:7} {1 / plan.seconds:6.4f} {published:7.4f} {plan.answer.gap:8.3%} {total:7.1f}"
            f" {found:11.1f} {cpu:6.1f}"
        )


if __name__ == "__main__":
    main()
