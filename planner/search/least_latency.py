"""The least TPOT at which a cluster serves a rate, or anything: serving plans for ever tighter promises."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from planner.errors import InfeasibleError, TimeLimitError
from planner.plan import certify
from planner.search.problem import SearchResult

if TYPE_CHECKING:
    from planner.plan import ServingPlan
    from planner.search.problem import Budget, Searcher, ServingProblem

__all__ = ["search_least_tpot"]

_LOOSEST: Final = 10.0  # seconds per token, where no promise is given: slower than anybody reads
_CLOSE: Final = 1.01  # ratio of a promise that is kept to one that cannot be, at which the search ends
_TURNS: Final = 16


def search_least_tpot(
    problem: ServingProblem, budget: Budget, searcher: Searcher[ServingProblem, ServingPlan]
) -> SearchResult[ServingPlan]:
    """Halve the interval between a TPOT that some plan keeps and one that none does, by `searcher` for the goodput.

    Parameters
    ----------
    problem
        Its TPOT is the loosest that will do, its rate what is to be served; without a rate a single replica will do.
    budget, searcher
        For each of the plans.

    Raises
    ------
    InfeasibleError
        If the loosest TPOT cannot be kept at the rate.
    """
    workload = problem.workload
    demand = workload.rate or 0.0
    high = workload.slo.tpot or _LOOSEST
    low = high / 1e4

    def within(tpot: float) -> SearchResult[ServingPlan] | None:
        slo = workload.slo.model_copy(update={"tpot": tpot})
        part = replace(problem, workload=workload.with_slo(slo).with_rate(None), objective="goodput")
        try:
            return searcher(part, replace(budget, progress=None))
        except InfeasibleError:
            return None

    best = within(high)
    if best is None or best.plan.predicted["goodput"].value < demand:
        served = 0.0 if best is None else best.plan.predicted["goodput"].value
        raise InfeasibleError(
            f"{demand:.4g} requests/s are not served within a TPOT of {high:.4g} s: {served:.4g} are",
            hint="a looser TPOT, a lower rate, or more GPUs",
        )
    closed = True
    for turn in range(_TURNS):
        if high / low <= _CLOSE or budget.remaining() <= 0:
            break
        middle = math.sqrt(low * high)
        try:
            found = within(middle)
        except TimeLimitError:
            break
        budget.report("tightening the TPOT", turn / _TURNS)
        if found is not None and found.plan.predicted["goodput"].value >= demand:
            best, high = found, middle
        else:
            # between what is reached and what is proven to be out of reach nothing is known
            closed &= found is None or found.plan.certificate.bound < demand
            low = middle
    value = best.plan.predicted["tpot"].value
    certificate = certify(
        objective="tpot",
        sense="min",
        unit="s",
        value=value,
        bound=min(low, value) if closed else 0.0,
        proven=False,
        method=f"bisection over the promised TPOT; {best.plan.certificate.method}",
        family=best.plan.certificate.family,
    )
    plan = best.plan.model_copy(update={"certificate": certificate})
    return SearchResult(
        plan=plan,
        seconds=time.monotonic() - budget.started,
        counts=best.counts,
        explanation=best.explanation,
    )
