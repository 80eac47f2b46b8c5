"""Serving by replica templates and a master integer program: the exact default.

1. enumerate the stage kinds, and the sequences of them that a replica may be made of (`planner.search.templates`);
2. price every template for the fastest links that it could get (`planner.search.template_pricer`): goodput at the SLO,
   layers split exactly;
3. drop templates that another one matches with fewer GPUs;
4. choose how many of each by an integer program that tiles real nodes (`planner.solvers.master`): least cost if the
   demand can be met, greatest goodput otherwise;
5. give every stage its GPUs and price the plan with the links it really got.

The program's bound holds for every plan of the family, because step 2 prices no template too low; the plan's own value
comes from step 5. The distance between the two is the certificate's gap.
"""

from __future__ import annotations

import time
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.prediction import PlacedStage, ServingPrediction
from planner.errors import TimeLimitError
from planner.plan import Certificate, ServingPlan, certify
from planner.search.infeasible import explain_infeasible
from planner.search.packing import StageGroup, pack
from planner.search.problem import Budget, SearchResult, ServingProblem
from planner.search.serving_plan import build_serving_plan
from planner.search.template_pricer import TemplatePricer
from planner.search.templates import StageKind, Templates, enumerate_templates, stage_kinds
from planner.solvers.master import MasterProblem, MasterSolution, solve_max_value, solve_min_cost

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from planner.cost._types import IntArray

__all__ = ["search_templates"]

_MAX_STAGES: Final = 8  # longer pipelines are tried only where shorter ones cannot serve at all
_LONG_STAGES: Final = 16
_BATCH: Final = 1024  # templates priced between two looks at the clock; also what one worker gets
_DEMAND_ROUNDS: Final = 4  # times that a plan which its real links leave short of the demand is planned again, larger


def search_templates(problem: ServingProblem, budget: Budget) -> SearchResult[ServingPlan]:
    """Search by templates and a master program; see the module.

    Raises
    ------
    InfeasibleError
        If no replica can serve within the SLO; names the binding constraint.
    TimeLimitError
        If the time limit passes before any template is priced.
    """
    kinds = stage_kinds(problem)
    pricer = TemplatePricer(problem, kinds) if kinds else None
    if pricer is None:
        raise explain_infeasible(problem, kinds, None)
    depths = (problem.max_stages,) if problem.max_stages else (_MAX_STAGES, _LONG_STAGES)
    for depth in depths:
        priced, complete = _price_all(problem, pricer, kinds, depth, budget)
        alive = np.flatnonzero(priced.rate_B > 0)
        if alive.size:
            break
    else:
        raise explain_infeasible(problem, kinds, priced)
    pool = _undominated(problem, kinds, priced.take(alive))
    plan = _plan(problem, kinds, pool, budget, depth=depth, complete=complete)
    return SearchResult(
        plan=plan,
        seconds=time.monotonic() - budget.started,
        counts={"templates": len(priced.rate_B), "feasible": int(alive.size), "columns": len(pool.rate_B)},
    )


def _family(problem: ServingProblem, depth: int) -> list[tuple[int, int, bool]]:
    """Parts of the family, as (most stages, most kinds, uniform TP)."""
    if problem.engine.tensor_parallel == "uniform":
        return [(depth, 3, True)]
    return [(depth, 3, True), (min(depth, 6), 2, False)]


def _sequences(problem: ServingProblem, kinds: Sequence[StageKind], depth: int) -> list[tuple[int, ...]]:
    found: dict[tuple[int, ...], None] = {}
    for stages, distinct, uniform in _family(problem, depth):
        found |= dict.fromkeys(
            enumerate_templates(problem, kinds, max_stages=stages, max_kinds=distinct, uniform=uniform)
        )
    return list(found)


def _price_all(
    problem: ServingProblem, pricer: TemplatePricer, kinds: Sequence[StageKind], depth: int, budget: Budget
) -> tuple[Templates, bool]:
    """Price every template, shortest first, until done or out of time."""
    sequences = sorted(_sequences(problem, kinds, depth), key=len)
    batches = [sequences[i : i + _BATCH] for i in range(0, len(sequences), _BATCH)]
    parts: list[Templates] = []
    for part in _mapped(pricer, batches, budget):
        parts.append(part)
        budget.report("pricing templates", len(parts) / len(batches))
        if budget.remaining() <= 0 and len(parts) < len(batches):
            break
    if not parts:
        raise TimeLimitError(f"no template was priced within {budget.time_limit:g} s; allow more time")
    width = max(part.kinds_BS.shape[1] for part in parts)
    return Templates.join([part.padded(width, problem.model.num_layers) for part in parts]), len(parts) == len(batches)


def _mapped(
    pricer: TemplatePricer, batches: Sequence[Sequence[tuple[int, ...]]], budget: Budget
) -> Iterator[Templates]:
    """Price batches in order, here or in a pool; a pool pays only where there is more than one batch."""
    if budget.executor is not None:
        yield from budget.executor.map(pricer.price, batches)
    elif budget.workers > 1 and len(batches) > 1:
        pool: Executor = ProcessPoolExecutor(max_workers=budget.workers)
        with pool:
            yield from pool.map(pricer.price, batches)
    else:
        yield from map(pricer.price, batches)


def _undominated(problem: ServingProblem, kinds: Sequence[StageKind], templates: Templates) -> Templates:
    """Keep the best template of each set of stages, then those that no other matches with fewer GPUs.

    The second step needs capacity to add up, so it compares only within equal tensor parallelism.
    """
    count_BJ = _counts(templates, len(kinds))
    best: dict[bytes, int] = {}
    for row in np.lexsort((np.arange(len(templates.rate_B)), -templates.rate_B)):
        best.setdefault(count_BJ[row].tobytes(), int(row))
    rows = np.array(sorted(best.values()))
    kept = templates.take(rows)
    count_BJ = count_BJ[rows]
    order = np.lexsort((np.arange(len(rows)), count_BJ.sum(axis=1), -kept.rate_B))
    front: list[int] = []
    for row in order:
        better = count_BJ[front]
        if not (better <= count_BJ[row]).all(axis=1).any():
            front.append(int(row))
    return kept.take(sorted(front))


def _counts(templates: Templates, kinds: int) -> IntArray:
    return np.stack([(templates.kinds_BS == j).sum(axis=1) for j in range(kinds)], axis=1)


def _master(problem: ServingProblem, kinds: Sequence[StageKind], pool: Templates) -> MasterProblem:
    classes = problem.cluster.classes
    price_C = [c.price_per_gpu_hour for c in classes]
    known = [p for p in price_C if p is not None]
    weight_C = np.array(known) if len(known) == len(classes) else np.ones(len(classes))
    count_TJ = _counts(pool, len(kinds))
    class_J = np.array([k.node_class for k in kinds])
    size_J = np.array([k.tp for k in kinds])
    return MasterProblem(
        value_T=pool.rate_B,
        cost_T=(count_TJ * size_J * weight_C[class_J]).sum(axis=1),
        chunks_TJ=count_TJ,
        class_J=class_J,
        size_J=size_J,
        bin_size_C=np.array([c.gpus_per_node for c in classes]),
        bins_C=np.array([len(c.nodes) for c in classes]),
    )


def _plan(
    problem: ServingProblem,
    kinds: Sequence[StageKind],
    pool: Templates,
    budget: Budget,
    *,
    depth: int,
    complete: bool,
) -> ServingPlan:
    master = _master(problem, kinds, pool)
    priced = all(c.price_per_gpu_hour is not None for c in problem.cluster.classes)
    family = _in_words(problem, depth, complete=complete)
    budget.report("choosing replicas", 0.0)
    demand = problem.workload.rate
    if demand is not None:
        cheapest = solve_min_cost(master, demand, time_limit=budget.remaining(), seed=budget.seed)
        target = demand
        answer = cheapest
        for _ in range(_DEMAND_ROUNDS):
            if answer is None or cheapest is None:
                break
            plan = build_serving_plan(
                problem,
                _placed(problem, kinds, pool, answer.copies_T),
                _cost_certificate(cheapest, master, answer.copies_T, priced, family, complete),
            )
            reached = plan.predicted["goodput"].value if "goodput" in plan.predicted else 0.0
            if reached >= demand * (1 - 1e-9):
                budget.report("choosing replicas", 1.0)
                return plan
            target *= 1.0 + max(demand / reached - 1.0 if reached else 0.5, 0.005)
            answer = solve_min_cost(master, target, time_limit=budget.remaining(), seed=budget.seed)
    best = solve_max_value(master, time_limit=budget.remaining(), seed=budget.seed)

    def certificate_of(prediction: ServingPrediction) -> Certificate:
        value = prediction.figures["goodput"].value if "goodput" in prediction.figures else 0.0
        # No replica beats its template as long as a larger decode batch does not free one that a smaller could not
        # use; should that ever happen, the bound is what was reached, and nothing is proven.
        beaten = value > best.bound * (1 + 1e-6)
        return certify(
            objective="goodput",
            sense="max",
            unit="requests/s",
            value=value,
            bound=max(best.bound, value),
            proven=best.proven and complete and not beaten,
            method="integer program over all priced templates, each priced for the fastest links (CP-SAT)",
            family=family,
        )

    plan = build_serving_plan(problem, _placed(problem, kinds, pool, best.copies_T), certificate_of)
    budget.report("choosing replicas", 1.0)
    return plan


def _cost_certificate(
    cheapest: MasterSolution, master: MasterProblem, copies_T: IntArray, priced: bool, family: str, complete: bool
) -> Certificate:
    return certify(
        objective="cost_per_hour" if priced else "gpus",
        sense="min",
        unit="USD/h" if priced else "GPUs",
        value=float(master.cost_T @ copies_T),
        bound=min(cheapest.bound, float(master.cost_T @ copies_T)),
        proven=cheapest.proven and complete,
        method="integer program over all priced templates, demand as a constraint (CP-SAT)",
        family=family,
    )


def _placed(
    problem: ServingProblem, kinds: Sequence[StageKind], pool: Templates, copies_T: IntArray
) -> list[list[PlacedStage]]:
    """Write each chosen copy with its GPUs, the fastest replicas first."""
    order = np.lexsort((np.arange(len(copies_T)), -pool.rate_B))
    rows = [int(t) for t in order for _ in range(int(copies_T[t]))]
    groups = [[StageGroup(kinds[j].node_class, kinds[j].tp) for j in pool.kinds_BS[t] if j >= 0] for t in rows]
    devices = pack(problem.cluster, groups)
    placed = []
    for t, stages in zip(rows, devices, strict=True):
        bounds = pool.bounds_BS1[t]
        placed.append([PlacedStage(gpus, (int(bounds[s]), int(bounds[s + 1]))) for s, gpus in enumerate(stages)])
    return placed


def _in_words(problem: ServingProblem, depth: int, *, complete: bool) -> str:
    """What the bound covers."""
    parts = [
        f"pipelines of at most {stages} stages with {'one TP' if uniform else 'any TP per stage'}"
        f" and at most {distinct} kinds of stages (node class, TP)"
        for stages, distinct, uniform in _family(problem, depth)
    ]
    text = (
        f"replicas within what {problem.engine.title} can be told, prefill and decode together:"
        f" {' or '.join(parts)}; stages of one kind side by side in any order of kinds; TP inside a node; every"
        " contiguous layer split; decode batches on a grid with steps of at most 6 %; every number of replicas that"
        " tiles the nodes"
    )
    return text if complete else f"{text}; of these only the shortest pipelines, as the time limit passed"
