"""What plans trade: throughput against latency, by loading them less, and against cost, by renting fewer replicas.

The points of all plans together have a Pareto frontier: those that no other point matches in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.prediction import PlacedStage, predict_serving

if TYPE_CHECKING:
    from planner.plan import ServingPlan
    from planner.search.problem import ServingProblem

__all__ = ["CostPoint", "LoadPoint", "PlanCurve", "envelope", "merged", "pareto", "plan_curve"]

_LOADS: Final = (0.05, 0.12, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.78, 0.85, 0.9, 0.94, 0.97, 1.0)
_STEPS: Final = 400  # of throughput, along which the latencies of curves are compared
_ALIKE: Final = 1e-3  # relative distance below which two plans trade the same


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """A plan at a rate in requests/s: TTFT at the SLO's percentile and mean TPOT of its slowest replica, in seconds."""

    rate: float
    ttft: float
    tpot: float


@dataclass(frozen=True, slots=True)
class CostPoint:
    """Some of a plan's replicas: requests/s within the SLO, and USD per hour, or GPUs where not all have a price."""

    rate: float
    cost: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCurve:
    """What one plan can trade.

    Parameters
    ----------
    name
        What to call it.
    loads
        From light load to its goodput.
    costs
        With its cheapest replica per request alone, then the next ones added.
    cost_unit
        ``"USD/h"`` or ``"GPUs"``.
    """

    name: str
    loads: tuple[LoadPoint, ...]
    costs: tuple[CostPoint, ...]
    cost_unit: str


def plan_curve(name: str, plan: ServingPlan, problem: ServingProblem) -> PlanCurve:
    """Predict a plan at several loads, and with fewer replicas."""
    replicas = [[PlacedStage(stage.devices, stage.layers) for stage in replica.stages] for replica in plan.replicas]
    goodput = plan.predicted["goodput"].value
    loads = []
    for share in _LOADS:
        workload = problem.workload.model_copy(update={"rate": goodput * share})
        at = predict_serving(problem.model, problem.cluster, problem.engine, workload, replicas).figures
        loads.append(LoadPoint(at["rate"].value, at["ttft"].value, at["tpot"].value))
    gpus = [[gpu for stage in replica.stages for gpu in stage.devices] for replica in plan.replicas]
    prices = [problem.cluster.price_per_hour(each) for each in gpus]
    priced = all(price is not None for price in prices)
    costs = [
        price if priced and price is not None else float(len(each)) for price, each in zip(prices, gpus, strict=True)
    ]
    rates = [replica.predicted["goodput"].value for replica in plan.replicas]
    total_rate = total_cost = 0.0
    points = []
    for r in sorted(range(len(rates)), key=lambda i: (costs[i] / rates[i], i)):
        total_rate, total_cost = total_rate + rates[r], total_cost + costs[r]
        points.append(CostPoint(total_rate, total_cost))
    return PlanCurve(name=name, loads=tuple(loads), costs=tuple(points), cost_unit="USD/h" if priced else "GPUs")


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points (throughput, price of it) that no other one matches with as much throughput for as little, by throughput.

    Examples
    --------
    >>> pareto([(1.0, 2.0), (2.0, 1.0), (3.0, 5.0), (2.5, 6.0)])
    [(2.0, 1.0), (3.0, 5.0)]
    """
    front: list[tuple[float, float]] = []
    for throughput, price in sorted(set(points), key=lambda point: (-point[0], point[1])):
        if not front or price < front[-1][1]:
            front.append((throughput, price))
    return front[::-1]


def envelope(curves: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Least latency for at least so much throughput, over curves that run between their points.

    Examples
    --------
    >>> lower = envelope([[(0.0, 1.0), (1.0, 3.0)], [(0.0, 2.0), (2.0, 2.0)]])
    >>> lower[0], lower[-1]
    ((0.0, 1.0), (2.0, 2.0))
    """
    own = [rate for curve in curves for rate, _ in curve]
    rates = np.unique(np.concatenate([own, np.linspace(min(own), max(own), _STEPS)]))
    price = np.full(len(rates), np.inf)
    for curve in curves:
        x, y = np.array(curve).T
        price = np.minimum(price, np.interp(rates, x, y, left=y[0], right=np.inf))
    # with more throughput for less latency one can also serve less
    price = np.minimum.accumulate(price[::-1])[::-1]
    return list(zip(rates.tolist(), price.tolist(), strict=True))


def merged(curves: Sequence[PlanCurve]) -> list[PlanCurve]:
    """Make one of curves that are alike, with the names of all."""
    found: list[PlanCurve] = []
    for curve in curves:
        twin = next((i for i, other in enumerate(found) if _alike(curve, other)), None)
        if twin is None:
            found.append(curve)
        else:
            found[twin] = replace(found[twin], name=f"{found[twin].name}, {curve.name}")
    return found


def _alike(one: PlanCurve, other: PlanCurve) -> bool:
    if len(one.costs) != len(other.costs):
        return False
    loads = [[(p.rate, p.ttft, p.tpot) for p in curve.loads] for curve in (one, other)]
    costs = [[(p.rate, p.cost) for p in curve.costs] for curve in (one, other)]
    return all(bool(np.allclose(a, b, rtol=_ALIKE, atol=0.0)) for a, b in (loads, costs))
