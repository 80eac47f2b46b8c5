"""Exact training search on Sailor's measurements: OPT-350M, global batch 1024; seconds, iterations/s and proven gap.

Under Sailor's own prices, and under this planner's terms on the same tables (network cards shared by the ranks of a
group, the update of all of a stage's layers): both answers, and either's price for both.
"""

from __future__ import annotations

import time

from planner.cost.sailor import sailor_price
from planner.cost.sailor_tables import load_sailor_tables
from planner.search.problem import Budget
from planner.search.training.measured import reprice, search_measured
from planner.search.training.sailor import SailorJob, SailorPlan, search_sailor

CASES = ((128, 0, 30.0, 0.4175), (32, 96, 60.0, 0.1700), (128, 384, 60.0, 0.523))


def layout(plan: SailorPlan) -> str:
    """Write a plan on one line."""
    stages = []
    for stage in plan.stages:
        replicas = "+".join(f"{one.count}x{one.device.split('_')[0]} tp{one.tp}" for one in stage.replicas)
        stages.append(f"[{stage.layers[0]},{stage.layers[1]}) {replicas}")
    return f"mbs {plan.microbatch}: " + " | ".join(stages)


def main() -> None:
    """Print one line per cluster, and then both answers under both prices."""
    print("A100-40 V100-16   it/s  Sailor      gap  wall s  first good  CPU s")
    tables = load_sailor_tables("opt-350m")
    found: list[tuple[str, SailorJob, SailorPlan, SailorPlan]] = []
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
        total, first = plan.answer.elapsed
        print(
            f"{a100:7} {v100:7} {1 / plan.seconds:6.4f} {published:7.4f} {plan.answer.gap:8.3%} {total:7.1f}"
            f" {first:11.1f} {cpu:6.1f}"
        )
        found.append((f"{a100} + {v100}", job, plan, search_measured(job, Budget(time_limit=limit))))
    print("\nseconds an iteration, by whose price; what is best under one need not be under the other")
    print("A100 + V100  best under  Sailor's    own      gap  plan")
    for name, job, theirs, ours in found:
        for whose, plan in (("Sailor's", theirs), ("own", ours)):
            sailor = sailor_price(tables, plan.stages, microbatch=plan.microbatch, batch=job.batch).seconds
            own = reprice(job, plan).seconds
            print(f"{name:>11}  {whose:>10}  {sailor:8.4f} {own:6.4f} {plan.answer.gap:8.3%}  {layout(plan)}")


if __name__ == "__main__":
    main()
