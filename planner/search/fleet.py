"""Serving several models on one cluster, and prefill and decode apart: one master program over all templates.

1. enumerate what the replicas of each model may be made of, and bound them (`planner.search.fleet_pool`);
2. choose how many of each, of all models at once, by an integer program whose columns share the rows of room and whose
   continuous rows say who serves whom (`planner.solvers.fleet`, `planner.search.fleet_choice`);
3. give every stage its GPUs, route prompts to those who decode them, and price the plan with its real links.

The program over the bounds bounds every plan of the family; the plan's own value comes from step 3.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.disaggregated import sent_bytes_L
from planner.cost.fleet import FleetPrediction, ModelDeployment
from planner.cost.prediction import PlacedStage
from planner.cost.role_prediction import RoleCapacities
from planner.cost.roles import PlacedReplica, PlacedRoute, link_capacity
from planner.cost.serving import BATCH_GRID, Demand
from planner.errors import InfeasibleError, InputError, TimeLimitError
from planner.plan import Certificate, ServingPlan, certify
from planner.search.fleet_choice import FleetChoice, FleetChooser
from planner.search.fleet_plan import build_fleet_plan
from planner.search.fleet_pool import FleetPool, ModelPool
from planner.search.infeasible import explain_infeasible
from planner.search.packing import StageGroup, pack
from planner.search.problem import Budget, FleetProblem, SearchResult
from planner.search.routes import route_requests
from planner.search.template_pool import MOST_MULTISETS, orders
from planner.search.templates import stage_kinds
from planner.solvers.fleet import FleetMaster
from planner.solvers.fleet_columns import PREFILL, WHOLE, FleetDemand, FleetLink

if TYPE_CHECKING:
    from collections.abc import Callable

    from planner.cluster import Cluster
    from planner.plan import Role
    from planner.search.templates import Templates

__all__ = ["search_fleet", "zone_links"]

_MAX_STAGES: Final = 8  # longer pipelines are tried only where a model cannot be served by shorter ones at all
_LONG_STAGES: Final = 16
_DEMAND_ROUNDS: Final = 4  # times that a plan is made for demands which its real links may leave it short of
_CLOSED: Final = 1e-4  # relative distance at which value and bound count as one
_PER_SECOND: Final = 2_000  # multisets of all models together that a second of the time limit buys
_IN_ORDER: Final = ("both", "prefill", "decode")
_NEAREST: Final = 40  # multisets that are priced to say how far off an SLO is
_METHOD: Final = (
    "integer program over bounds of all templates of all models, those it rests on priced for their best layer split"
    " and fastest links (SCIP, HiGHS)"
)


def search_fleet(problem: FleetProblem, budget: Budget) -> SearchResult[ServingPlan]:
    """Search by templates and a master program; see the module.

    Raises
    ------
    InputError
        If the objective needs rates that are not there.
    InfeasibleError
        If a model cannot be served within its SLO, or not all of them at once; names the binding constraint.
    TimeLimitError
        If the time limit passes before any plan is found.
    """
    rates = [one.workload.rate for one in problem.served]
    if problem.objective in {"cost", "gpus", "scale"} and None in rates:
        missing = problem.served[rates.index(None)].model.name
        raise InputError(
            f"the objective {problem.objective} needs a rate for every model; {missing} has none",
            expected="a rate",
            hint="rate: 5, say; or the objective goodput",
        )
    pool = FleetPool(problem, _pools(problem, budget))
    planner = _Planner(problem, pool, budget)
    plan = planner.plan()
    return SearchResult(plan=plan, seconds=time.monotonic() - budget.started, counts=pool.looked_at)


def _pools(problem: FleetProblem, budget: Budget) -> list[ModelPool]:
    """Pool of each model; pipelines are longer where shorter ones cannot hold it."""
    most = int(min(MOST_MULTISETS, _PER_SECOND * budget.time_limit) / len(problem.served))
    depths = (problem.max_stages,) if problem.max_stages else (_MAX_STAGES, _LONG_STAGES)
    found = []
    for index, one in enumerate(problem.served):
        budget.report(f"bounding templates of {one.model.name}", index / len(problem.served) / 2)
        alone = problem.alone(index)
        kinds = stage_kinds(alone)
        if not kinds or not Demand.of(one.workload, problem.engine).runs(np.array([BATCH_GRID[0]])).all():
            raise _of_model(problem, index, explain_infeasible(alone, kinds, None))
        for depth in depths:
            model = ModelPool.of(problem, index, depth, most)
            if model.able:
                break
        else:
            raise _of_model(problem, index, explain_infeasible(alone, kinds, _nearest(model)))
        found.append(model)
    return found


def _nearest(model: ModelPool) -> Templates | None:
    """Price the multisets that come closest to an SLO which none meets."""
    if model.values is None:
        return None
    pool = model.values.pool
    rows = model.values.form.nearest(pool, _NEAREST)
    sequences = [order for row in rows.tolist() for order in orders(pool.kind_MD[row], pool.count_MD[row])[:2]]
    return model.pricer.price(sequences)


def _of_model(problem: FleetProblem, index: int, error: InfeasibleError) -> InfeasibleError:
    """Say which model an error is about."""
    if len(problem.served) == 1:
        return error
    return InfeasibleError(f"{problem.served[index].model.name}: {error.what}", hint=error.hint)


@dataclass(frozen=True, slots=True)
class _Shape:
    """A copy of a template: role, requests/s, stage kinds, layer bounds, and of one role the places that decode."""

    role: Role
    rate: float
    kinds: tuple[int, ...]
    bounds: tuple[int, ...]
    places: tuple[int, ...]


def zone_links(cluster: Cluster) -> tuple[FleetLink, ...]:
    """One link for each two zones, in each direction: what all KV caches between them share."""
    zones: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for z, first in enumerate(cluster.classes):
        for w, second in enumerate(cluster.classes):
            if first.zone != second.zone:
                zones.setdefault((first.zone, second.zone), []).append((z, w))
    return tuple(
        FleetLink(
            pairings=frozenset(pairs),
            capacity=link_capacity(min(cluster.class_link(*(cluster.classes[c] for c in p)).bandwidth for p in pairs)),
        )
        for pairs in zones.values()
    )


def _sent_bytes(problem: FleetProblem, index: int) -> float:
    """Bytes of KV cache that pass from a prefill to a decode replica with a request."""
    one = problem.served[index]
    tokens = Demand.of(one.workload, problem.engine).prompt
    return float(sent_bytes_L(one.model, 1).sum()) * tokens


class _Planner:
    """Place the chosen replicas, and say how good the plan is."""

    def __init__(self, problem: FleetProblem, pool: FleetPool, budget: Budget) -> None:
        self._problem, self._pool, self._budget = problem, pool, budget
        self._chooser = FleetChooser(pool, budget)
        classes = problem.cluster.classes
        prices = [c.price_per_gpu_hour for c in classes]
        self._all_priced = None not in prices and problem.objective != "gpus"
        weight_C = [price or 0.0 for price in prices] if self._all_priced else [1.0] * len(classes)
        self._cost_J = np.array([weight_C[kind.node_class] * kind.tp for kind in pool.kinds])
        self._demand_A = np.array([one.workload.rate or math.inf for one in problem.served])
        self._several = len(problem.served) > 1
        self._bytes_A = np.array([_sent_bytes(problem, index) for index in range(len(problem.served))])
        self._links = zone_links(problem.cluster) if problem.roles != "colocated" else ()

    def plan(self) -> ServingPlan:
        """Meet the demands at least cost, or serve as much as possible of them."""
        objective = self._problem.objective
        known = bool(np.isfinite(self._demand_A).all())
        plan = None
        if known and objective in {"auto", "cost", "gpus"}:
            plan = self._cheapest()
        if plan is None:
            scale = known and objective != "goodput"
            plan = self._greatest("scale" if scale or not self._several else "goodput")
        self._budget.report("choosing replicas", 1.0)
        return plan

    def _master(self, objective: str, demand_A: np.ndarray) -> FleetMaster:
        served = self._problem.served
        demand = FleetDemand(
            objective=objective,  # type: ignore[arg-type]
            demand_A=demand_A,
            weight_A=np.array([one.weight for one in served]),
            bytes_A=self._bytes_A,
            links=self._links,
        )
        return FleetMaster(self._pool.columns(self._cost_J), demand, self._pool.up_T)

    def _cheapest(self) -> ServingPlan | None:
        """Plan that meets the demands; None where the cluster cannot."""
        target_A = self._demand_A.copy()
        floor, closed = 0.0, False
        for turn in range(_DEMAND_ROUNDS):
            try:
                choice = self._chooser.choose(self._master("cost", target_A))
            except TimeLimitError:
                return None
            if choice is None:
                return None
            if turn == 0:
                floor, closed = choice.bound, choice.proven
            plan, reached_A = self._placed(choice, self._least(floor, closed=closed))
            if (reached_A >= self._demand_A * (1 - 1e-9)).all():
                return plan
            # its real links leave it short of a demand: plan for more
            short_A = np.where(reached_A > 0, self._demand_A / np.maximum(reached_A, 1e-300), 1.5)
            target_A = target_A * np.where(short_A > 1 + 1e-9, np.maximum(short_A, 1.005), 1.0)
        return None

    def _least(self, floor: float, *, closed: bool) -> Callable[[FleetPrediction], Certificate]:
        """Certify a plan that meets the demands, by the least that any such plan costs."""
        name = "cost_per_hour" if self._all_priced else "gpus"

        def certificate(prediction: FleetPrediction) -> Certificate:
            value = prediction.figures[name].value
            return certify(
                objective=name,
                sense="min",
                unit="USD/h" if self._all_priced else "GPUs",
                value=value,
                bound=min(floor, value),
                proven=closed and value <= floor * (1 + _CLOSED),
                method=f"{_METHOD}, demands as constraints",
                family=self._family(),
            )

        return certificate

    def _greatest(self, objective: str) -> ServingPlan:
        """Plan of greatest scale of the demands, or of greatest weighted goodput; among equals, of least cost."""
        demand_A = self._demand_A if self._several else np.ones(1)
        master = self._master(objective, demand_A)
        choice = self._chooser.choose(master)
        if choice is None or not choice.solution.copies_T.any():
            raise self._infeasible()
        name = ("demand_scale" if objective == "scale" else "weighted_goodput") if self._several else "goodput"

        def certificate(prediction: FleetPrediction) -> Certificate:
            value = prediction.figures[name].value if name in prediction.figures else 0.0
            return certify(
                objective=name,
                sense="max",
                unit="x demand" if name == "demand_scale" else "requests/s",
                value=value,
                bound=max(choice.bound, value),
                # a plan beyond the bound would prove that the bound is none
                proven=choice.proven and abs(value - choice.bound) <= _CLOSED * choice.bound,
                method=_METHOD,
                family=self._family(),
            )

        return self._placed(choice, certificate)[0]

    def _infeasible(self) -> InfeasibleError:
        """Each model can be served by templates; but not all of them, or none as a whole."""
        names = [one.model.name for one in self._problem.served]
        for index in range(len(names)):
            if not (self._pool.rate_T[self._pool.client_T == index] > 0).any():
                model = self._pool.models[index]
                alone = self._problem.alone(index)
                return _of_model(self._problem, index, explain_infeasible(alone, model.kinds, _nearest(model)))
        return InfeasibleError(
            f"{', '.join(names)} do not all fit {self._problem.cluster.name} at once, although each would alone",
            hint="more GPUs, weights in fewer bits, or the objective goodput, which may leave a model out",
        )

    def _placed(
        self, choice: FleetChoice, certificate: Callable[[FleetPrediction], Certificate]
    ) -> tuple[ServingPlan, np.ndarray]:
        """Give every chosen copy its GPUs; the plan, and the goodput of each model."""
        pool, problem = self._pool, self._problem
        chosen: list[tuple[int, _Shape]] = []
        for t in np.flatnonzero(choice.solution.copies_T).tolist():
            chosen += [(int(pool.client_T[t]), self._shape(t))] * int(choice.solution.copies_T[t])
        # models in order, of each the fastest replicas of each role first
        chosen.sort(key=lambda one: (one[0], _IN_ORDER.index(one[1].role), -one[1].rate))
        groups = [
            [StageGroup(pool.models[a].kinds[j].node_class, pool.models[a].kinds[j].tp) for j in shape.kinds]
            for a, shape in chosen
        ]
        replicas: list[list[PlacedReplica]] = [[] for _ in problem.served]
        places: list[list[tuple[int, ...]]] = [[] for _ in problem.served]
        for (a, shape), stages in zip(chosen, pack(problem.cluster, groups, choice.solution.fills), strict=True):
            placed = [PlacedStage(gpus, (shape.bounds[s], shape.bounds[s + 1])) for s, gpus in enumerate(stages)]
            replicas[a].append(PlacedReplica(stages=placed, role=shape.role))
            places[a].append(shape.places)
        deployments = [self._routed(a, replicas[a], places[a], choice) for a in range(len(problem.served))]
        reached: list[float] = []

        def certified(prediction: FleetPrediction) -> Certificate:
            reached.extend(
                model.figures["goodput"].value if "goodput" in model.figures else 0.0 for model in prediction.models
            )
            return certificate(prediction)

        plan = build_fleet_plan(problem, deployments, certified)
        return plan, np.array(reached)

    def _routed(
        self, a: int, replicas: list[PlacedReplica], places: list[tuple[int, ...]], choice: FleetChoice
    ) -> ModelDeployment:
        """Replicas of a model with their shares, and routes from those that prefill to those that decode."""
        one = self._problem.served[a]
        if all(replica.role == "both" for replica in replicas):
            return ModelDeployment(model=one.model, workload=one.workload, weight=one.weight, replicas=replicas)
        on_links = {pair for link in self._links for pair in link.pairings}
        most: dict[tuple[int, int], float] = {}
        for (client, z, _, w), flow in zip(choice.pairings, choice.solution.flow_Y, strict=True):
            if client == a and (z, w) in on_links:
                most[z, w] = most.get((z, w), 0.0) + float(flow)
        capacities = RoleCapacities(one.model, self._problem.cluster, self._problem.engine, one.workload)
        routing = route_requests(capacities, replicas, places, most)
        # whom no request reaches is not part of the plan
        used = [r for r, share in enumerate(routing.shares) if share > 0]
        place = {r: i for i, r in enumerate(used)}
        return ModelDeployment(
            model=one.model,
            workload=one.workload,
            weight=one.weight,
            replicas=[replicas[r] for r in used],
            shares=[routing.shares[r] for r in used],
            routes=[
                PlacedRoute(prefill=place[x.prefill], decode=place[x.decode], share=x.share) for x in routing.routes
            ],
        )

    def _shape(self, t: int) -> _Shape:
        """What a copy of a template looks like."""
        pool = self._pool
        role = pool.role_T[t]
        if role == WHOLE:
            a, row = pool.whole_row(t)
            values = pool.models[a].values
            assert values is not None  # such templates come from it
            best = values.polished(values.best_of([row]))
            kinds = tuple(int(j) for j in best.kinds_BS[0] if j >= 0)
            bounds = tuple(int(x) for x in best.bounds_BS1[0][: len(kinds) + 1])
            return _Shape("both", float(best.rate_B[0]), kinds, bounds, ())
        a, row = pool.apart_row(t)
        apart = pool.models[a].apart
        assert apart is not None
        return _Shape(
            "prefill" if role == PREFILL else "decode",
            float(apart.rate_T[row]),
            (int(apart.kind_T[row]),) * int(apart.stages_T[row]),
            apart.bounds[row],
            apart.reach[int(apart.to_T[row])] if role == PREFILL else (int(apart.to_T[row]),),
        )

    def _family(self) -> str:
        """Say what the bound covers."""
        problem, engine = self._problem, self._problem.engine
        uniform = engine.tensor_parallel == "uniform"
        parts = []
        for one, model in zip(problem.served, self._pool.models, strict=True):
            pool = None if model.values is None else model.values.pool
            mixed = "" if pool is None or pool.complete else f" and at most {pool.most_kinds} kinds of stages"
            degrees = ", ".join(str(tp) for tp in sorted({kind.tp for kind in model.kinds}))
            parts.append(f"{one.model.name}: at most {model.depth} stages{mixed}, TP {degrees}")
        roles = {
            "colocated": "prefill and decode together",
            "disaggregated": "prefill and decode apart",
            "any": "prefill and decode together or apart",
        }[problem.roles]
        text = (
            f"replicas within what {engine.title} can be told, {roles}, each of one model on GPUs of its own"
            f" ({'; '.join(parts)}); {'one TP each' if uniform else 'any TP per stage'}; stages of one kind side by"
            " side in any order of kinds, on neighbouring GPUs of a node; every contiguous layer split; decode batches"
            " on a grid with steps of at most 6 %; every number of replicas that tiles the nodes"
        )
        if problem.roles != "colocated":
            text += (
                "; prefill and decode replicas of equal stages (one node class, one TP), prefill replicas each for"
                " decode replicas over equally good links, TTFT divided between the two as TPOT allows; KV caches over"
                " the network cards, each GPU at its part of the node's, one link between two zones. What separate"
                " roles gain is a prediction that no replay has confirmed"
            )
        return text
