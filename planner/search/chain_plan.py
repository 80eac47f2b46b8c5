"""From chosen chains to a plan: which GPUs, how many of the replicas, and a certificate that claims no bound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from planner.cost.prediction import PlacedStage
from planner.errors import InfeasibleError
from planner.plan import Certificate, ServingPlan, certify
from planner.plan.certificate import ALONE
from planner.search.serving_plan import build_serving_plan

if TYPE_CHECKING:
    from planner.cost.prediction import ServingPrediction
    from planner.search.chains import ChainPricer, PricedChain
    from planner.search.problem import ServingProblem

__all__ = ["chain_cost", "needed", "place_chains", "plan_of_chains", "worth"]


def place_chains(pricer: ChainPricer, chosen: Sequence[PricedChain]) -> list[list[PlacedStage]]:
    """Give every stage GPUs of its node: larger groups first, so that they lie aligned, stages of a chain together.

    Raises
    ------
    ValueError
        If a node has fewer GPUs than the chains ask of it.
    """
    first_free = dict.fromkeys(range(len(pricer.nodes)), 0)
    gpus: dict[tuple[int, int], tuple[str, ...]] = {}
    wanted = [(-stage.tp, c, s, stage.node) for c, one in enumerate(chosen) for s, stage in enumerate(one.chain)]
    for size, c, s, node in sorted(wanted):
        start = first_free[node]
        group = pricer.cluster.gpus_of(pricer.nodes[node])[start : start - size]
        if len(group) < -size:
            raise ValueError(f"node {pricer.nodes[node]} has no {-size} GPUs left")
        gpus[c, s] = group
        first_free[node] = start - size
    placed = []
    for c, one in enumerate(chosen):
        first, stages = 0, []
        for s, count in enumerate(one.layers):
            stages.append(PlacedStage(gpus[c, s], (first, first + count)))
            first += count
        placed.append(stages)
    return placed


def chain_cost(pricer: ChainPricer, one: PricedChain) -> float:
    """USD per hour of a chain's GPUs; their number where not every GPU type has a price."""
    classes = pricer.cluster.classes
    prices = [k.price_per_gpu_hour for k in classes]
    known = [1.0 if None in prices or price is None else price for price in prices]
    return sum(known[pricer.class_of_node[stage.node]] * stage.tp for stage in one.chain)


def needed(pricer: ChainPricer, chosen: Sequence[PricedChain]) -> list[PricedChain]:
    """Leave out replicas that cannot serve, and those that the demand does not need, the dearest per request first."""
    kept = [one for one in chosen if one.rate > 0]
    demand = pricer.problem.workload.rate
    if demand is None:
        return kept
    by_worth = sorted(range(len(kept)), key=lambda i: (kept[i].rate / chain_cost(pricer, kept[i]), -i))
    total, dropped = sum(one.rate for one in kept), set()
    for i in by_worth:
        if total - kept[i].rate >= demand * (1 + 1e-9):
            total -= kept[i].rate
            dropped.add(i)
    return [one for i, one in enumerate(kept) if i not in dropped]


def worth(pricer: ChainPricer, chosen: Sequence[PricedChain]) -> tuple[float, float]:
    """What to rank choices of replicas by: requests/s as far as they are asked for; then, the fewer GPUs the better."""
    kept = needed(pricer, chosen)
    served, demand = sum(one.rate for one in kept), pricer.problem.workload.rate
    gpus = sum(stage.tp for one in kept for stage in one.chain)
    return served if demand is None else min(served, demand), -float(gpus)


def plan_of_chains(pricer: ChainPricer, chosen: Sequence[PricedChain], method: str) -> ServingPlan:
    """Write chains down as a plan, the fastest first.

    Parameters
    ----------
    pricer
        Of the problem.
    chosen
        Chains with their layers; those that cannot serve, or that the demand does not need, are left out.
    method
        For the certificate: how they were found.

    Raises
    ------
    InfeasibleError
        If none of them can serve.
    """
    problem: ServingProblem = pricer.problem
    kept = needed(pricer, chosen)
    if not kept:
        raise InfeasibleError(
            f"{method}: finds no replica of {problem.model.name} on {problem.cluster.name} that serves within the SLO",
            hint="the default method searches all of them, and says which constraint binds",
        )
    kept.sort(key=lambda one: -one.rate)  # stable: equals stay in order
    placed = place_chains(pricer, kept)

    def certificate(prediction: ServingPrediction) -> Certificate:
        goodput = prediction.figures["goodput"].value if "goodput" in prediction.figures else 0.0
        return certify(
            objective="goodput",
            sense="max",
            unit="requests/s",
            value=goodput,
            bound=goodput,
            proven=False,
            method=f"{method}; nothing is proven",
            family=ALONE,
        )

    return build_serving_plan(problem, placed, certificate)
