"""Serving by replica templates and a master integer program: the exact default.

1. enumerate the stage kinds, and the sequences of them that a replica may be made of (`planner.search.templates`);
2. price every template for the fastest links that it could get: the goodput that some layer split reaches, and one that
   no split exceeds (`planner.search.template_pricer`);
3. drop templates that another one matches with fewer GPUs;
4. choose how many of each by an integer program that tiles real nodes (`planner.solvers.master`): least cost if the
   demand can be met, greatest goodput otherwise;
5. give every stage its GPUs and price the plan with the links it really got.

The same program over the second goodput of step 2 bounds every plan of the family; the plan's own value comes from step
5. The distance between the two is the certificate's gap.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.prediction import PlacedStage, ServingPrediction
from planner.cost.serving import BATCH_GRID, Demand
from planner.errors import TimeLimitError
from planner.plan import Certificate, ServingPlan, certify
from planner.search.infeasible import explain_infeasible
from planner.search.packing import StageGroup, pack
from planner.search.problem import Budget, SearchResult, ServingProblem
from planner.search.serving_plan import build_serving_plan
from planner.search.template_pricer import TemplatePricer
from planner.search.template_sweep import family, gpu_prices, price_all
from planner.search.templates import StageKind, Templates, stage_kinds
from planner.solvers.master import MasterProblem, MasterSolution, solve_max_value, solve_min_cost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.cost._types import Array, IntArray

__all__ = ["search_templates"]

_MAX_STAGES: Final = 8  # longer pipelines are tried only where shorter ones cannot serve at all
_LONG_STAGES: Final = 16
_DEMAND_ROUNDS: Final = 4  # times that a plan is made for a demand which its real links may leave it short of
_LEAST_SECONDS: Final = 0.5  # of a program, whatever the limit: the plans so far must not be thrown away
_CLOSED: Final = 1e-4  # relative distance at which value and bound count as one, as solvers of integer programs do
_METHOD: Final = (
    "integer program over the bounds of all templates, each for its best layer split and fastest links (CP-SAT)"
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
    kinds = stage_kinds(problem)
    if not kinds or not Demand.of(problem.workload, problem.engine).runs(np.array([BATCH_GRID[0]])).all():
        raise explain_infeasible(problem, kinds, None)
    pricer = TemplatePricer(problem, kinds)
    depths = (problem.max_stages,) if problem.max_stages else (_MAX_STAGES, _LONG_STAGES)
    for depth in depths:
        priced, complete = price_all(problem, pricer, kinds, depth, budget)
        if (priced.rate_B > 0).any():
            break
        if not complete:
            raise TimeLimitError(
                f"none of the {len(priced.rate_B)} templates priced within {budget.time_limit:g} s can serve;"
                " allow more time"
            )
    else:
        raise explain_infeasible(problem, kinds, priced)
    plan = _Planner(problem, kinds, pricer, priced, budget, depth=depth, complete=complete).plan()
    return SearchResult(
        plan=plan,
        seconds=time.monotonic() - budget.started,
        counts={"templates": len(priced.rate_B), "feasible": int((priced.rate_B > 0).sum())},
    )


def _undominated(kinds: int, templates: Templates, value_B: Array) -> IntArray:
    """Rows of the best template of each set of stages that no other matches with fewer of the same stages."""
    count_BJ = _counts(templates, kinds)
    best: dict[bytes, int] = {}
    for row in np.lexsort((np.arange(len(value_B)), -value_B)):
        if value_B[row] > 0:
            best.setdefault(count_BJ[row].tobytes(), int(row))
    rows = np.array(sorted(best.values()), dtype=int)
    order = rows[np.lexsort((rows, count_BJ[rows].sum(axis=1), -value_B[rows]))]
    front: list[int] = []
    for row in order:
        if not (count_BJ[front] <= count_BJ[row]).all(axis=1).any():
            front.append(int(row))
    return np.array(sorted(front), dtype=int)


def _counts(templates: Templates, kinds: int) -> IntArray:
    return np.stack([(templates.kinds_BS == j).sum(axis=1) for j in range(kinds)], axis=1)


class _Planner:
    """Choose replicas from priced templates, place them, and say how good the plan is."""

    def __init__(
        self,
        problem: ServingProblem,
        kinds: Sequence[StageKind],
        pricer: TemplatePricer,
        priced: Templates,
        budget: Budget,
        *,
        depth: int,
        complete: bool,
    ) -> None:
        self._problem, self._kinds, self._budget, self._complete = problem, kinds, budget, complete
        self._family = _in_words(problem, kinds, depth, complete=complete)
        self._all_priced = not self._unpriced()
        self._pool = pricer.polished(priced.take(_undominated(len(kinds), priced, priced.rate_B)))
        best = priced.take(_undominated(len(kinds), priced, priced.bound_B))
        self._master = self._program(self._pool, self._pool.rate_B)
        self._relaxed = self._program(best, best.bound_B)

    def _program(self, pool: Templates, value_T: Array) -> MasterProblem:
        classes = self._problem.cluster.classes
        weight_C = np.array(gpu_prices(self._problem))
        count_TJ = _counts(pool, len(self._kinds))
        class_J = np.array([k.node_class for k in self._kinds])
        size_J = np.array([k.tp for k in self._kinds])
        return MasterProblem(
            value_T=value_T,
            cost_T=(count_TJ * size_J * weight_C[class_J]).sum(axis=1),
            chunks_TJ=count_TJ,
            class_J=class_J,
            size_J=size_J,
            bin_size_C=np.array([c.gpus_per_node for c in classes]),
            bins_C=np.array([len(c.nodes) for c in classes]),
        )

    def _limit(self) -> dict[str, float | int]:
        """What a program may use: half of what is left, and enough for a small one in any case."""
        return {"time_limit": max(self._budget.remaining() / 2, _LEAST_SECONDS), "seed": self._budget.seed}

    def plan(self) -> ServingPlan:
        """Meet the demand at least cost, or serve as much as possible."""
        self._budget.report("choosing replicas", 0.0)
        plan = self._cheapest() if self._problem.workload.rate is not None else None
        if plan is None:
            plan = self._greatest()
        self._budget.report("choosing replicas", 1.0)
        return plan

    def _cheapest(self) -> ServingPlan | None:
        """Plan that meets the demand; None where the cluster cannot."""
        demand = target = self._problem.workload.rate or 0.0
        for turn in range(_DEMAND_ROUNDS):
            try:
                answer = solve_min_cost(self._master, target, **self._limit())  # type: ignore[arg-type]
            except TimeLimitError:
                answer = None
            if answer is None:
                return None
            if turn == 0:
                bound = solve_min_cost(self._relaxed, demand, **self._limit())  # type: ignore[arg-type]
            value = float(self._master.cost_T @ answer.copies_T)
            floor = bound.bound if bound is not None else 0.0
            certificate = certify(
                objective="cost_per_hour" if self._all_priced else "gpus",
                sense="min",
                unit="USD/h" if self._all_priced else "GPUs",
                value=value,
                bound=min(floor, value),
                proven=bound is not None and bound.proven and self._complete and value <= floor * (1 + _CLOSED),
                method=f"{_METHOD}, demand as a constraint{self._unpriced()}",
                family=self._family,
            )
            plan = build_serving_plan(self._problem, self._placed(answer), certificate)
            reached = plan.predicted["goodput"].value if "goodput" in plan.predicted else 0.0
            if reached >= demand * (1 - 1e-9):
                return plan
            # its real links leave it short of the demand: plan for more
            target *= 1.0 + max(demand / reached - 1.0 if reached else 0.5, 0.005)
        return None

    def _unpriced(self) -> str:
        """Say why GPUs are counted instead of money."""
        names = [c.name for c in self._problem.cluster.classes if c.price_per_gpu_hour is None]
        return f"; GPUs are counted, as {', '.join(names)} has no price_per_hour" if names else ""

    def _greatest(self) -> ServingPlan:
        """Plan of greatest goodput; among equals, of least cost."""
        best = solve_max_value(self._master, **self._limit())  # type: ignore[arg-type]
        bound = solve_max_value(self._relaxed, **self._limit())  # type: ignore[arg-type]

        def certificate(prediction: ServingPrediction) -> Certificate:
            value = prediction.figures["goodput"].value if "goodput" in prediction.figures else 0.0
            return certify(
                objective="goodput",
                sense="max",
                unit="requests/s",
                value=value,
                bound=max(bound.bound, value),
                # a plan beyond the bound would prove that the bound is none
                proven=bound.proven and self._complete and abs(value - bound.bound) <= _CLOSED * bound.bound,
                method=_METHOD,
                family=self._family,
            )

        return build_serving_plan(self._problem, self._placed(best), certificate)

    def _placed(self, answer: MasterSolution) -> list[list[PlacedStage]]:
        """Write each chosen copy with its GPUs, the fastest replicas first."""
        pool, kinds = self._pool, self._kinds
        order = np.lexsort((np.arange(len(answer.copies_T)), -pool.rate_B))
        rows = [int(t) for t in order for _ in range(int(answer.copies_T[t]))]
        groups = [[StageGroup(kinds[j].node_class, kinds[j].tp) for j in pool.kinds_BS[t] if j >= 0] for t in rows]
        placed = []
        for t, stages in zip(rows, pack(self._problem.cluster, groups, answer.fills), strict=True):
            bounds = pool.bounds_BS1[t]
            placed.append([PlacedStage(gpus, (int(bounds[s]), int(bounds[s + 1]))) for s, gpus in enumerate(stages)])
        return placed


def _in_words(problem: ServingProblem, kinds: Sequence[StageKind], depth: int, *, complete: bool) -> str:
    """What the bound covers."""
    parts = [
        f"pipelines of at most {stages} stages with {'one TP' if uniform else 'any TP per stage'}"
        f" and at most {distinct} kinds of stages (node class, TP)"
        for stages, distinct, uniform in family(problem, depth)
    ]
    degrees = ", ".join(str(tp) for tp in sorted({kind.tp for kind in kinds}))
    text = (
        f"replicas within what {problem.engine.title} can be told, prefill and decode together:"
        f" {' or '.join(parts)}; stages of one kind side by side in any order of kinds; TP {degrees}, on"
        " neighbouring GPUs of a node; every contiguous layer split; decode batches on a grid with steps of at most"
        " 6 %; every number of replicas that tiles the nodes"
    )
    return text if complete else f"{text}; of these only the shortest pipelines, as the time limit passed"
