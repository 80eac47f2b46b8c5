"""Pricing all templates that can matter: in batches, here or in a pool, until done or out of time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import Final

from planner.errors import TimeLimitError
from planner.search.problem import Budget, ServingProblem
from planner.search.template_pricer import TemplatePricer
from planner.search.templates import StageKind, Templates, enumerate_templates
from planner.solvers.master import packs_by_sum

__all__ = ["MASTER_SHARE", "family", "gpu_prices", "price_all"]

MASTER_SHARE: Final = 0.3  # of the time limit, kept for the programs that follow
_BATCH: Final = 1024  # templates priced between two looks at the clock; also what one worker gets
_DEMAND_MARGIN: Final = 1.5  # templates are kept for a plan that has to be made for so much more


def family(problem: ServingProblem, depth: int) -> list[tuple[int, int, bool]]:
    """Parts of the family of templates, as (most stages, most kinds, uniform TP)."""
    if problem.engine.tensor_parallel == "uniform":
        return [(depth, 3, True)]
    return [(depth, 3, True), (min(depth, 6), 2, False)]


def _sequences(problem: ServingProblem, kinds: Sequence[StageKind], depth: int) -> list[tuple[int, ...]]:
    found: dict[tuple[int, ...], None] = {}
    for stages, distinct, uniform in family(problem, depth):
        found |= dict.fromkeys(
            enumerate_templates(problem, kinds, max_stages=stages, max_kinds=distinct, uniform=uniform)
        )
    return list(found)


def price_all(
    problem: ServingProblem, pricer: TemplatePricer, kinds: Sequence[StageKind], depth: int, budget: Budget
) -> tuple[Templates, bool]:
    """Price every template that can matter, until done or out of time.

    Without a demand the shortest come first. With one the cheapest do, and none is priced that costs more than a plan
    which meets the demand with what was priced before: no plan that contains it is the cheapest.

    Returns
    -------
    templates, complete
    """
    demand = problem.workload.rate
    if demand is None:
        order = sorted(((float(len(q)), q) for q in _sequences(problem, kinds, depth)), key=lambda entry: entry[0])
    else:
        order = sorted(
            ((_cost(problem, kinds, q), q) for q in _sequences(problem, kinds, depth)),
            key=lambda entry: (entry[0], len(entry[1])),
        )
    batches = [order[i : i + _BATCH] for i in range(0, len(order), _BATCH)]
    parts: list[Templates] = []
    enough = math.inf
    complete = True
    for batch, part in zip(batches, _mapped(pricer, [[q for _, q in b] for b in batches], budget), strict=False):
        parts.append(part)
        budget.report("pricing templates", len(parts) / len(batches))
        following = batches[len(parts)][0][0] if len(parts) < len(batches) else math.inf
        if demand is not None:
            enough = min(enough, _cheapest_alone(problem, kinds, batch, part, demand * _DEMAND_MARGIN))
            if following > enough * (1 + 1e-9):
                break
        if budget.remaining() <= MASTER_SHARE * budget.time_limit:
            complete = len(parts) == len(batches)
            break
    if not parts:
        raise TimeLimitError(f"no template was priced within {budget.time_limit:g} s; allow more time")
    width = max(part.kinds_BS.shape[1] for part in parts)
    return Templates.join([part.padded(width, problem.model.num_layers) for part in parts]), complete


def gpu_prices(problem: ServingProblem) -> list[float]:
    """Price of a GPU-hour of each class; 1 each where not all are known."""
    known = [c.price_per_gpu_hour for c in problem.cluster.classes]
    return [1.0 if None in known or price is None else price for price in known]


def _cost(problem: ServingProblem, kinds: Sequence[StageKind], sequence: Sequence[int]) -> float:
    prices = gpu_prices(problem)
    return math.fsum(prices[kinds[j].node_class] * kinds[j].tp for j in sequence)


def _cheapest_alone(
    problem: ServingProblem,
    kinds: Sequence[StageKind],
    batch: Sequence[tuple[float, tuple[int, ...]]],
    priced: Templates,
    demand: float,
) -> float:
    """Least cost of meeting a demand with copies of one of these templates; infinite if none can."""
    classes = problem.cluster.classes
    least = math.inf
    for (cost, sequence), rate in zip(batch, priced.rate_B, strict=True):
        if rate <= 0:
            continue
        copies = math.ceil(demand / float(rate))
        used = [[kinds[j].tp for j in sequence if kinds[j].node_class == c] for c in range(len(classes))]
        if all(
            not sizes or (packs_by_sum(sizes, k.gpus_per_node) and copies * sum(sizes) <= k.num_gpus)
            for sizes, k in zip(used, classes, strict=True)
        ):
            least = min(least, copies * cost)
    return least


def _mapped(
    pricer: TemplatePricer, batches: Sequence[Sequence[tuple[int, ...]]], budget: Budget
) -> Iterator[Templates]:
    """Price batches in order, here or in a pool; a pool pays only where there is more than one batch."""
    if budget.executor is not None:
        yield from budget.executor.map(pricer.price, batches)
    elif budget.workers > 1 and len(batches) > 1:
        pool: Executor = ProcessPoolExecutor(max_workers=budget.workers)
        try:
            yield from pool.map(pricer.price, batches)
        finally:
            pool.shutdown(cancel_futures=True)
    else:
        yield from map(pricer.price, batches)
