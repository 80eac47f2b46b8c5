"""Serving by replica templates and a master integer program: the exact default.

1. enumerate the stage kinds, and the multisets of them that a replica may be made of (`planner.search.template_pool`);
2. bound each by what its stages can hold and compute, whatever their order (`planner.search.template_caps`);
3. choose how many of each by an integer program that tiles real nodes (`planner.solvers.master`): least cost if the
   demand can be met, greatest goodput otherwise; what it chooses is priced with exact layer splits and the fastest
   links that its stages could get, until it chooses priced templates alone (`planner.search.template_choice`);
4. give every stage its GPUs and price the plan with the links it really got.

The program over the bounds bounds every plan of the family; the plan's own value comes from step 4. The distance
between the two is the certificate's gap.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.prediction import PlacedStage, ServingPrediction
from planner.cost.serving import BATCH_GRID, Demand
from planner.errors import InfeasibleError, InputError, TimeLimitError
from planner.plan import Certificate, ServingPlan, certify
from planner.search.explain import Explanation, explain_bindings
from planner.search.fleet import search_fleet
from planner.search.infeasible import explain_infeasible
from planner.search.least_latency import search_least_tpot
from planner.search.links import alike_by_links
from planner.search.packing import Packing, StageGroup, pack
from planner.search.problem import Budget, FleetProblem, SearchResult, ServedModel, ServingProblem
from planner.search.serving_plan import build_serving_plan
from planner.search.settling import Settler
from planner.search.template_choice import Choice, TemplateChooser
from planner.search.template_pool import MOST_MULTISETS, enumerate_multisets, most_stages, orders
from planner.search.template_pricer import TemplatePricer
from planner.search.templates import StageKind, Templates, stage_kinds
from planner.search.units import pack_units, unit_master

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["gpu_prices", "search_templates"]

_MAX_STAGES: Final = 8  # longer pipelines are tried only where shorter ones cannot serve at all
_LONG_STAGES: Final = 16
_DEMAND_ROUNDS: Final = 4  # times that a plan is made for a demand which its real links may leave it short of
_CLOSED: Final = 1e-4  # relative distance at which value and bound count as one, as solvers of integer programs do
_MOST_CLASSES: Final = 6  # that nodes are divided into by their links; the pool grows with their third power
_MOST_CLASSES_ANY_TP: Final = 4
_EQUAL: Final = 1e-9  # relative distance of what counts as equal
_LEAST_LEFT: Final = 0.3  # seconds
_AS_PROMISED: Final = 0.995  # of what templates promise with the fastest links; a plan that reaches it has good ones
_PER_SECOND: Final = 2_000  # multisets that a second of the time limit buys
_NEAREST: Final = 40  # multisets that are priced to say how far off an SLO is
_METHOD: Final = (
    "integer program over bounds of all templates, those it rests on priced for their best layer split and fastest"
    " links (SCIP)"
)


def search_templates(problem: ServingProblem, budget: Budget) -> SearchResult[ServingPlan]:
    """Search by templates and a master program; see the module.

    Raises
    ------
    InfeasibleError
        If no replica can serve within the SLO; names the binding constraint.
    TimeLimitError
        If the time limit passes before any replica that can serve is found.
    """
    if problem.roles != "colocated":
        return search_fleet(_as_fleet(problem), budget)
    if problem.objective == "tpot":
        return search_least_tpot(problem, budget, search_templates)
    result = _search_by_links(problem, budget)
    if problem.engine.tensor_parallel == "per_stage":
        result = _at_least_with_one_tp(problem, budget, result)
    return result


def _search_by_links(problem: ServingProblem, budget: Budget) -> SearchResult[ServingPlan]:
    """Search with nodes set apart whose links differ, where that makes few enough kinds of stages."""
    uniform = problem.engine.tensor_parallel == "uniform"
    cluster, origin = alike_by_links(problem.cluster, most=_MOST_CLASSES if uniform else _MOST_CLASSES_ANY_TP)
    if len(origin) == len(problem.cluster.classes):
        return _search(problem, budget)
    found = _search(replace(problem, cluster=cluster), budget)
    told = None if found.explanation is None else found.explanation.among(origin)
    return replace(found, explanation=told)


def _search(problem: ServingProblem, budget: Budget) -> SearchResult[ServingPlan]:
    if problem.objective in {"cost", "gpus"} and problem.workload.rate is None:
        raise InputError(
            f"the objective {problem.objective} needs a rate to serve", expected="a rate", hint="--rate 5, say"
        )
    kinds = stage_kinds(problem)
    if not kinds or not Demand.of(problem.workload, problem.engine).runs(np.array([BATCH_GRID[0]])).all():
        raise explain_infeasible(problem, kinds, None)
    pricer = TemplatePricer(problem, kinds)
    depths = (problem.max_stages,) if problem.max_stages else (_MAX_STAGES, _LONG_STAGES)
    most = int(min(MOST_MULTISETS, _PER_SECOND * budget.time_limit))
    for depth in depths:
        budget.report("bounding templates", 0.0)
        pool = enumerate_multisets(problem, kinds, depth, most=most)
        chooser = TemplateChooser(problem, kinds, pricer, pool, most_stages(problem, depth), budget)
        planner = _Planner(chooser, budget, depth=depth)
        plan = planner.plan()
        if plan is not None:
            return SearchResult(
                plan=plan,
                seconds=time.monotonic() - budget.started,
                counts=chooser.looked_at,
                explanation=planner.explanation(plan),
            )
    raise explain_infeasible(problem, kinds, _nearest(pricer, chooser))


def _as_fleet(problem: ServingProblem) -> FleetProblem:
    """One model with prefill and decode replicas: a fleet of one."""
    if problem.objective == "tpot":
        raise InputError(
            "the least TPOT is searched for among colocated replicas only",
            field="roles",
            expected="the objective goodput, cost or gpus",
        )
    return FleetProblem(
        served=(ServedModel(model=problem.model, workload=problem.workload),),
        cluster=problem.cluster,
        engine=problem.engine,
        max_stages=problem.max_stages,
        objective=problem.objective,
        roles=problem.roles,
    )


def _at_least_with_one_tp(
    problem: ServingProblem, budget: Budget, result: SearchResult[ServingPlan]
) -> SearchResult[ServingPlan]:
    """The better of a result and of what an engine with one TP for all stages would get, within the bound of the first.

    What is best with any TP per stage is best before it is placed: slow links, or the time limit, may leave less of it.
    """
    found = result.plan.certificate
    if found.gap <= _EQUAL:
        return result
    strict = replace(problem, engine=problem.engine.model_copy(update={"tensor_parallel": "uniform"}))
    left = replace(budget, time_limit=max(budget.remaining(), _LEAST_LEFT), started=time.monotonic(), progress=None)
    try:
        other = _search_by_links(strict, left).plan
    except (InfeasibleError, TimeLimitError):
        return result
    theirs = other.certificate
    sign = 1.0 if found.sense == "max" else -1.0
    if theirs.objective != found.objective or sign * (theirs.value - found.value) <= _EQUAL * abs(found.value):
        return result
    placed = [[PlacedStage(stage.devices, stage.layers) for stage in replica.stages] for replica in other.replicas]
    certificate = certify(
        objective=found.objective,
        sense=found.sense,
        unit=found.unit,
        value=theirs.value,
        bound=max(found.bound, theirs.value) if found.sense == "max" else min(found.bound, theirs.value),
        proven=found.proven and abs(theirs.value - found.bound) <= _CLOSED * abs(found.bound),
        method=found.method,
        family=found.family,
    )
    return replace(result, plan=build_serving_plan(problem, placed, certificate))


def gpu_prices(problem: ServingProblem) -> list[float]:
    """Price of a GPU-hour of each class; 1 each where not all are known."""
    known = [c.price_per_gpu_hour for c in problem.cluster.classes]
    return [1.0 if None in known or price is None else price for price in known]


def _nearest(pricer: TemplatePricer, chooser: TemplateChooser) -> Templates:
    """Price the multisets that come closest to an SLO which none meets."""
    pool = chooser.values.pool
    rows = chooser.values.form.nearest(pool, _NEAREST)
    sequences = [order for row in rows.tolist() for order in orders(pool.kind_MD[row], pool.count_MD[row])[:2]]
    return pricer.price(sequences)


class _Planner:
    """Place the chosen replicas, and say how good the plan is."""

    def __init__(self, chooser: TemplateChooser, budget: Budget, *, depth: int) -> None:
        self._chooser, self._budget = chooser, budget
        self._problem, self._kinds = chooser.problem, chooser.kinds
        self._family = _in_words(self._problem, self._kinds, depth)
        self._chosen: Choice | None = None
        self._settler: Settler | None = None
        self._all_priced = not self._unpriced()
        if self._problem.objective == "gpus":
            self._all_priced = False
        weight_C = gpu_prices(self._problem) if self._all_priced else [1.0] * len(self._problem.cluster.classes)
        self._cost_J = np.array([weight_C[kind.node_class] * kind.tp for kind in self._kinds])

    def explanation(self, plan: ServingPlan) -> Explanation | None:
        """Say why the plan looks as it does."""
        if self._chosen is None:
            return None
        return Explanation(
            bindings=explain_bindings(self._problem, plan),
            price_C=tuple(float(price) for price in self._chosen.price_C),
            alone_C=tuple(self._chooser.values.alone()),
            alternatives=self._chosen.passed_over,
        )

    def plan(self) -> ServingPlan | None:
        """Meet the demand at least cost, or serve as much as possible; None where nothing can serve."""
        wanted = self._problem.workload.rate is not None and self._problem.objective != "goodput"
        plan = self._cheapest() if wanted else None
        if plan is None:
            before = len(self._chooser.values.up_M)
            plan = self._greatest()
            if wanted and plan is not None and len(self._chooser.values.up_M) > before:
                # with what has joined the pool the demand may be met after all
                plan = self._cheapest() or plan
        self._budget.report("choosing replicas", 1.0)
        return plan

    def _cheapest(self) -> ServingPlan | None:
        """Plan that meets the demand; None where the cluster cannot."""
        demand = target = self._problem.workload.rate or 0.0
        floor, closed = 0.0, False
        for turn in range(_DEMAND_ROUNDS):
            try:
                choice = self._chooser.choose(self._cost_J, target)
            except TimeLimitError:
                return None
            if choice is None:
                return None
            if turn == 0:
                floor, closed = choice.bound, choice.proven
            replicas = self._placed(choice)
            value = sum(
                float(self._cost_J[j]) * int(n)
                for row, n in zip(choice.templates.kinds_BS, choice.copies_T, strict=True)
                for j in row
                if j >= 0
            )
            certificate = certify(
                objective="cost_per_hour" if self._all_priced else "gpus",
                sense="min",
                unit="USD/h" if self._all_priced else "GPUs",
                value=value,
                bound=min(floor, value),
                proven=closed and value <= floor * (1 + _CLOSED),
                method=f"{_METHOD}, demand as a constraint{self._unpriced()}",
                family=self._family,
            )
            plan = build_serving_plan(self._problem, replicas, certificate)
            reached = plan.predicted["goodput"].value if "goodput" in plan.predicted else 0.0
            if reached >= demand * (1 - 1e-9):
                return plan
            # its real links leave it short of the demand: plan for more
            target *= 1.0 + max(demand / reached - 1.0 if reached else 0.5, 0.005)
        return None

    def _unpriced(self) -> str:
        """Say why GPUs are counted instead of money."""
        if self._problem.objective == "gpus":
            return ""
        names = [c.name for c in self._problem.cluster.classes if c.price_per_gpu_hour is None]
        return f"; GPUs are counted, as {', '.join(names)} has no price_per_hour" if names else ""

    def _greatest(self) -> ServingPlan | None:
        """Plan of greatest goodput; among equals, of least cost."""
        choice = self._chooser.choose(self._cost_J)
        if choice is None:
            return None
        plan = self._greatest_of(choice, choice)
        if _reached(plan) >= _promised(choice) * (1 - _CLOSED):
            return plan
        # stages that should share a node do not: choose what can be placed as it was priced
        chooser = self._chooser
        units = unit_master(self._problem.cluster, self._kinds, chooser.values.pool, self._cost_J)
        everything_M = np.ones(len(chooser.values.up_M), dtype=bool)
        parts = chooser.values.parts().values()
        tries = [(units, everything_M, pack_units), *((None, among_M, pack) for among_M in parts)]
        for program, among_M, packing in tries:
            try:
                other = chooser.choose_among(among_M, program)
            except TimeLimitError:
                break
            if other is None:
                continue
            candidate = self._greatest_of(other, choice, packing=packing)
            if _reached(candidate) > _reached(plan) * (1 + _EQUAL):
                plan = candidate
            if program is units and _reached(candidate) >= _promised(other) * _AS_PROMISED:
                break  # what the others may find has slower links than it is priced with
        return plan

    def _greatest_of(self, chosen: Choice, choice: Choice, *, packing: Packing = pack) -> ServingPlan:
        """Plan of a choice, within the bound of another; layers are split anew where links are not as priced."""

        def certificate(prediction: ServingPrediction) -> Certificate:
            value = prediction.figures["goodput"].value if "goodput" in prediction.figures else 0.0
            return certify(
                objective="goodput",
                sense="max",
                unit="requests/s",
                value=value,
                bound=max(choice.bound, value),
                # a plan beyond the bound would prove that the bound is none
                proven=choice.proven and abs(value - choice.bound) <= _CLOSED * choice.bound,
                method=_METHOD,
                family=self._family,
            )

        placed = self._placed(chosen, packing)
        plan = build_serving_plan(self._problem, placed, certificate)
        if _reached(plan) < _promised(chosen) * (1 - _CLOSED):
            self._settler = self._settler or Settler(self._problem)
            settled = build_serving_plan(self._problem, self._settler.settle(placed), certificate)
            plan = settled if _reached(settled) > _reached(plan) else plan
        return plan

    def _placed(self, choice: Choice, packing: Packing = pack) -> list[list[PlacedStage]]:
        """Write each chosen copy with its GPUs, the fastest replicas first."""
        self._chosen = self._chosen or choice
        pool, kinds = self._chooser.values.polished(choice.templates), self._kinds
        order = np.lexsort((np.arange(len(choice.copies_T)), -pool.rate_B))
        rows = [int(t) for t in order for _ in range(int(choice.copies_T[t]))]
        groups = [[StageGroup(kinds[j].node_class, kinds[j].tp) for j in pool.kinds_BS[t] if j >= 0] for t in rows]
        placed = []
        for t, stages in zip(rows, packing(self._problem.cluster, groups, choice.fills), strict=True):
            bounds = pool.bounds_BS1[t]
            placed.append([PlacedStage(gpus, (int(bounds[s]), int(bounds[s + 1]))) for s, gpus in enumerate(stages)])
        return placed


def _reached(plan: ServingPlan) -> float:
    return plan.predicted["goodput"].value if "goodput" in plan.predicted else 0.0


def _promised(choice: Choice) -> float:
    """Requests/s with the links that templates are priced with."""
    return float(choice.templates.rate_B @ choice.copies_T)


def _in_words(problem: ServingProblem, kinds: Sequence[StageKind], depth: int) -> str:
    """What the bound covers."""
    uniform = problem.engine.tensor_parallel == "uniform"
    degrees = ", ".join(str(tp) for tp in sorted({kind.tp for kind in kinds}))
    return (
        f"replicas within what {problem.engine.title} can be told, prefill and decode together: pipelines of at most"
        f" {depth} stages with {'one TP' if uniform else 'any TP per stage'}; stages of one kind side by side in"
        f" any order of kinds; TP {degrees}, on neighbouring GPUs of a node; every contiguous layer split; decode"
        " batches on a grid with steps of at most 6 %; every number of replicas that tiles the nodes"
    )
