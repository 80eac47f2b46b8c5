"""What people do without a planner: an even split over everything, and one homogeneous pool per GPU type.

Both get what a careful operator would try: every tensor-parallel degree and every depth, the best of them kept.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from planner.engine import default_split, load_engine
from planner.errors import InfeasibleError, UnsupportedError
from planner.search.chain_plan import plan_of_chains, worth
from planner.search.chains import Chain, ChainPricer, ChainStage, PricedChain
from planner.search.problem import Budget, SearchResult, ServingProblem

if TYPE_CHECKING:
    from planner.plan import ServingPlan

__all__ = ["search_even", "search_even_sglang", "search_even_vllm", "search_pools"]


def search_even(problem: ServingProblem, budget: Budget, *, rule: str | None = None) -> SearchResult[ServingPlan]:
    """Cut all GPUs, in the cluster's order, into equal pipelines with the split of layers that an engine does untold.

    The degrees are those that divide every node; the depths those that divide the number of groups. What serves most
    counts.

    Parameters
    ----------
    problem, budget
        As for every method.
    rule
        Engine whose default split is taken; None: that of the problem.

    Raises
    ------
    InfeasibleError
        If no degree and depth can serve, or the engine cannot be told the split.
    """
    pricer = ChainPricer(problem)
    splitter = problem.engine if rule is None else load_engine(rule)
    classes = problem.cluster.classes
    common = set(pricer.degrees(0)).intersection(*(pricer.degrees(c) for c in range(len(classes))))
    best: list[PricedChain] = []
    tried = 0
    for tp in sorted(common):
        if any(k.gpus_per_node % tp for k in classes):
            continue
        groups = _groups_in_order(pricer, range(len(pricer.nodes)), tp)
        for depth in range(1, min(len(groups), pricer.most_stages) + 1):
            if len(groups) % depth:
                continue
            try:
                layers = default_split(splitter, problem.model.num_layers, depth)
            except UnsupportedError:
                continue
            if not problem.engine.uneven_layers and layers != _told(pricer, depth):
                continue
            tried += 1
            chains = [tuple(groups[i : i + depth]) for i in range(0, len(groups), depth)]
            best = _better(pricer, best, _priced(pricer, chains, layers))
    if not tried:
        raise InfeasibleError(
            f"no even split of {problem.model.name} over all GPUs of {problem.cluster.name} that"
            f" {problem.engine.title} can be told: no TP divides every node, or no depth divides the layers",
            hint="the default method need not use every GPU",
        )
    told = f"even split over all GPUs in order, layers as {splitter.title} splits them when it is told nothing"
    plan = plan_of_chains(pricer, best, told)
    return SearchResult(plan=plan, seconds=time.monotonic() - budget.started, counts={"configurations": tried})


search_even_vllm = partial(search_even, rule="vllm")
search_even_sglang = partial(search_even, rule="sglang")


def search_pools(problem: ServingProblem, budget: Budget) -> SearchResult[ServingPlan]:
    """Serve with a pool of equal replicas on each GPU type of each zone, TP and depth by trying all of them.

    Raises
    ------
    InfeasibleError
        If no pool can serve.
    """
    pricer = ChainPricer(problem)
    pools: dict[tuple[str, str], list[int]] = {}
    for node, c in enumerate(pricer.class_of_node):
        k = problem.cluster.classes[c]
        pools.setdefault((k.device.name, k.zone), []).append(node)
    chosen: list[PricedChain] = []
    tried = 0
    for done, nodes in enumerate(pools.values()):
        best: list[PricedChain] = []
        degrees = sorted({tp for node in nodes for tp in pricer.degrees(pricer.class_of_node[node])})
        for tp in degrees:
            if budget.remaining() <= 0 and best:
                break
            groups = _groups_in_order(pricer, nodes, tp)
            for depth in range(1, min(len(groups), pricer.most_stages) + 1):
                tried += 1
                chains = [tuple(groups[i : i + depth]) for i in range(0, len(groups) - depth + 1, depth)]
                best = _better(pricer, best, pricer.best(chains))
        chosen += pricer.all_polished(best)
        budget.report("trying TP and PP of each pool", (done + 1) / len(pools))
    plan = plan_of_chains(pricer, chosen, "one pool of equal replicas per GPU type, best TP and PP of each")
    return SearchResult(plan=plan, seconds=time.monotonic() - budget.started, counts={"configurations": tried})


def _groups_in_order(pricer: ChainPricer, nodes: Sequence[int], tp: int) -> list[ChainStage]:
    """Tensor-parallel groups of some nodes, node after node."""
    classes = pricer.cluster.classes
    able = [node for node in nodes if tp in pricer.degrees(pricer.class_of_node[node])]
    return [
        ChainStage(node, tp) for node in able for _ in range(classes[pricer.class_of_node[node]].gpus_per_node // tp)
    ]


def _told(pricer: ChainPricer, depth: int) -> tuple[int, ...] | None:
    try:
        return default_split(pricer.engine, pricer.model.num_layers, depth)
    except UnsupportedError:
        return None


def _priced(pricer: ChainPricer, chains: Sequence[Chain], layers: tuple[int, ...]) -> list[PricedChain]:
    """Price chains with given layers; one that the engine cannot be told cannot serve."""
    rates = pricer.goodputs([(chain, layers) for chain in chains]).tolist()
    return [
        PricedChain(chain, layers, rate if pricer.allowed(chain) else 0.0)
        for chain, rate in zip(chains, rates, strict=True)
    ]


def _better(pricer: ChainPricer, best: list[PricedChain], found: list[PricedChain]) -> list[PricedChain]:
    return found if worth(pricer, found) > worth(pricer, best) else best
