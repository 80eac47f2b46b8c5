"""How long the layer partition takes: one problem, and a batch of a thousand, of 80 layers on 8 stages.

Prints a table and ends with exit code 1 if a budget is missed: 2 ms for one problem and 0.5 s for the batch. The
pipeline objective takes a walk whose length depends on the instance and on m; m = 32 has the same budget, smaller m
is shown without one.

    python benchmarks/interval_dp.py
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Final

import numpy as np
from rich.console import Console
from rich.table import Table

from planner.partition import Objective, StageCosts, partition_layers

LAYERS: Final = 80
STAGES: Final = 8
BATCH: Final = 1_000
SINGLES: Final = 25  # single problems that the median is over: one may be luckier than another
RUNS: Final = 3
BUDGET_ONE: Final = 2e-3
BUDGET_BATCH: Final = 0.5

CASES: Final[tuple[tuple[Objective, int, bool], ...]] = (
    ("bottleneck", 1, True),
    ("sum", 1, True),
    ("pipeline", 32, True),
    ("pipeline", 8, False),
    ("pipeline", 2, False),
)


def random_layers(rng: np.random.Generator) -> np.ndarray:
    """Layers that differ, and differently on each of 8 devices of different speed."""
    return rng.uniform(0.5, 1.5, (BATCH, STAGES, LAYERS)) * rng.uniform(0.5, 3.0, (BATCH, STAGES, 1))


def uniform_layers(rng: np.random.Generator) -> np.ndarray:
    """Equal layers, as in a dense model, on stages drawn from four kinds of device."""
    return np.broadcast_to(rng.choice([1.0, 1.7, 2.9, 4.3], (BATCH, STAGES, 1)), (BATCH, STAGES, LAYERS))


def build(layers: Callable[[np.random.Generator], np.ndarray], memory: bool) -> StageCosts:
    rng = np.random.default_rng(0)
    layer_BSL, fixed_BS = layers(rng), rng.uniform(0.0, 2.0, (BATCH, STAGES))
    if not memory:
        return StageCosts(layer_BSL=layer_BSL, fixed_BS=fixed_BS)
    return StageCosts(
        layer_BSL=layer_BSL,
        fixed_BS=fixed_BS,
        memory_BSL=np.full((1, 1, LAYERS), 1.7e9),
        capacity_BS=rng.choice([8e9, 16e9, 24e9, 40e9], (BATCH, STAGES)),
    )


def median_seconds(problems: list[StageCosts], objective: Objective, m: int, runs: int) -> float:
    """CPU time of a call: the work has one thread, and other programs may be using the machine."""
    times = []
    for costs in problems:
        for _ in range(runs):
            start = time.process_time()
            partition_layers(costs, objective, m)
            times.append(time.process_time() - start)
    return median(times)


def main() -> int:
    table = Table(title=f"{LAYERS} layers, {STAGES} stages: median CPU time in ms (budget)")
    for heading in ("layers", "memory", "objective"):
        table.add_column(heading)
    for heading in ("one", f"batch of {BATCH:,}", "feasible"):
        table.add_column(heading, justify="right")

    missed = 0
    for name, layers in (("random", random_layers), ("uniform", uniform_layers)):
        for memory in (False, True):
            costs = build(layers, memory)
            for objective, m, has_budget in CASES:
                feasible = partition_layers(costs, objective, m).feasible_B
                batch = median_seconds([costs], objective, m, RUNS if has_budget else 1)
                singles = [costs.rows(slice(b, b + 1)) for b in np.flatnonzero(feasible)[:SINGLES]]
                one = median_seconds(singles, objective, m, RUNS)
                over = has_budget and (one > BUDGET_ONE or batch > BUDGET_BATCH)
                missed += over
                table.add_row(
                    name,
                    "limited" if memory else "-",
                    f"pipeline, m = {m}" if objective == "pipeline" else objective,
                    f"{one * 1e3:.2f} ({BUDGET_ONE * 1e3:.0f})" if has_budget else f"{one * 1e3:.2f}    ",
                    f"{batch * 1e3:.0f} ({BUDGET_BATCH * 1e3:.0f})" if has_budget else f"{batch * 1e3:.0f}      ",
                    f"{feasible.mean():.0%}",
                    style="red" if over else None,
                )
    console = Console()
    console.print(table)
    console.print(f"{missed} over budget" if missed else "all within budget")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
