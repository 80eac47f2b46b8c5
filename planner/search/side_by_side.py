"""Several methods on one problem, one after the other, each with the same budget."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from planner.errors import InfeasibleError, TimeLimitError
from planner.plan import ServingPlan
from planner.plan.certificate import ALONE
from planner.search.problem import Budget, ServingProblem
from planner.search.registry import serving_method

if TYPE_CHECKING:
    from planner.plan import Certificate

__all__ = ["MethodOutcome", "gap_of", "proven_bound", "run_methods"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodOutcome:
    """What one method came to.

    Parameters
    ----------
    method
        Its name.
    plan
        Its plan, or None.
    seconds
        Wall time that it took.
    counts
        What it looked at.
    why_not
        Why there is no plan; "" where there is one.
    history
        Of a method that improves step by step: its best value after each step.
    """

    method: str
    plan: ServingPlan | None
    seconds: float
    counts: Mapping[str, int] = field(default_factory=dict)
    why_not: str = ""
    history: tuple[float, ...] = ()


def run_methods(problem: ServingProblem, methods: Sequence[str], budget: Budget) -> list[MethodOutcome]:
    """Run methods on one problem.

    Parameters
    ----------
    problem
        The problem.
    methods
        Names of the registry; all are looked up before the first one runs.
    budget
        What each of them may use. A method that finds no plan, or none in time, is told as such.

    Raises
    ------
    InputError
        If there is no such method.
    """
    searches = [(name, serving_method(name)) for name in methods]
    outcomes = []
    for done, (name, search) in enumerate(searches):
        started = time.monotonic()

        def report(what: str, share: float, name: str = name, done: int = done) -> None:
            budget.report(f"{name}: {what}", (done + share) / len(searches))

        budget.report(name, done / len(searches))
        try:
            result = search(problem, replace(budget, started=started, progress=report))
        except (InfeasibleError, TimeLimitError) as error:
            spent = time.monotonic() - started
            outcomes.append(MethodOutcome(method=name, plan=None, seconds=spent, why_not=str(error).splitlines()[0]))
            continue
        outcomes.append(
            MethodOutcome(
                method=name,
                plan=result.plan,
                seconds=result.seconds,
                counts=dict(result.counts),
                history=tuple(getattr(result, "history", ())),
            )
        )
    budget.report("done", 1.0)
    return outcomes


def proven_bound(outcomes: Sequence[MethodOutcome]) -> Certificate | None:
    """Certificate with the tightest bound over more than its own plan; None if no method proves any."""
    found = [one.plan.certificate for one in outcomes if one.plan and one.plan.certificate.family != ALONE]
    if not found:
        return None
    first = found[0]
    alike = [c for c in found if c.objective == first.objective]
    return min(alike, key=lambda c: c.bound) if first.sense == "max" else max(alike, key=lambda c: c.bound)


def gap_of(plan: ServingPlan, bound: Certificate) -> float | None:
    """How far a plan is from a bound, relative to it.

    Below 0 for a plan outside the family of the bound that beats it; None where the plan does not do what was asked, or
    its figure is not known.
    """
    figure = plan.predicted.get(bound.objective)
    if figure is None or not bound.bound:
        return None
    if bound.sense == "max":
        return 1.0 - figure.value / bound.bound
    demand, goodput = plan.inputs.workload.rate, plan.predicted.get("goodput")
    if demand is not None and (goodput is None or goodput.value < demand * (1 - 1e-9)):
        return None
    return figure.value / bound.bound - 1.0
