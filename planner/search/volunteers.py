"""Petals' and Swarm's rules: where servers that join one after the other put their layers.

A server is a tensor-parallel group. Petals: each takes the consecutive layers that so far have the least throughput.
Swarm: the layers are cut into equal stages, and each server joins the stage with the least throughput. Both let any
server of a stage follow any of the one before; a plan has pipelines in which every GPU has one place, so the servers
are made into chains afterwards: from the first layer on, the one that reaches furthest, then the fastest. A server that
no chain takes stays idle. Every degree and a few reserves for the KV cache are tried, what serves most counts.

References
----------
A. Borzunov et al., "Petals: Collaborative inference and fine-tuning of large models", ACL 2023 (block selection).
M. Ryabinin et al., "SWARM parallelism: Training large models can be surprisingly communication-efficient", ICML 2023;
for inference as Y. Mei et al., "Helix", ASPLOS 2025, compare with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.engine import default_split
from planner.search.chain_plan import plan_of_chains, worth
from planner.search.chains import Chain, ChainPricer, ChainStage, PricedChain
from planner.search.problem import Budget, SearchResult, ServingProblem

if TYPE_CHECKING:
    from planner.cost._types import Array
    from planner.plan import ServingPlan

__all__ = ["search_petals", "search_swarm"]

# Decode batch and stages whose sequences the KV cache of a server is to hold: from hardly any to many.
_RESERVES: Final = ((1.0, 1), (16.0, 2), (64.0, 2), (128.0, 4))


@dataclass(frozen=True, slots=True)
class _Server:
    """A tensor-parallel group: where, the layers that fit it, and its layers per second at the load."""

    stage: ChainStage
    most: int
    speed: float


@dataclass(frozen=True, slots=True)
class _Placed:
    """A server and the layers ``[first, end)`` that it has loaded."""

    server: _Server
    first: int
    end: int


def search_petals(problem: ServingProblem, budget: Budget) -> SearchResult[ServingPlan]:
    """Place layers by Petals' rule.

    Raises
    ------
    InfeasibleError
        If no chain of its servers can serve.
    """
    return _search(problem, budget, _petals, "Petals' rule: each server takes the layers with the least throughput")


def search_swarm(problem: ServingProblem, budget: Budget) -> SearchResult[ServingPlan]:
    """Place layers by Swarm's rule.

    Raises
    ------
    InfeasibleError
        If no chain of its servers can serve.
    """
    return _search(problem, budget, _swarm, "Swarm's rule: equal stages, each server joins the slowest")


def _search(
    problem: ServingProblem,
    budget: Budget,
    rule: Callable[[ChainPricer, Sequence[_Server], int], list[_Placed]],
    told: str,
) -> SearchResult[ServingPlan]:
    pricer = ChainPricer(problem)
    classes = problem.cluster.classes
    degrees: list[int | None] = [*sorted({tp for c in range(len(classes)) for tp in pricer.degrees(c)})]
    if not pricer.uniform:
        degrees.append(None)  # each node its largest
    names = list(dict.fromkeys(k.device.name for k in classes))
    pools = [names] if problem.engine.mixed_gpu_types else [[name] for name in names]
    best: list[PricedChain] = []
    tried = 0
    tries = [(tp, batch, stages) for tp in degrees for batch, stages in _RESERVES]
    for done, (tp, batch, stages) in enumerate(tries):
        if budget.remaining() <= 0 and best:
            break
        found: list[PricedChain] = []
        for pool in pools:
            servers = _servers(pricer, tp, batch, stages, pool)
            depths = [0] if rule is _petals else _depths(pricer, servers)
            options = [_chains(pricer, rule(pricer, servers, depth)) for depth in depths]
            tried += len(options)
            found += max(options, key=partial(worth, pricer), default=[])
        if worth(pricer, found) > worth(pricer, best):
            best = found
        budget.report("placing layers on servers", (done + 1) / len(tries))
    plan = plan_of_chains(pricer, best, told)
    return SearchResult(plan=plan, seconds=time.monotonic() - budget.started, counts={"configurations": tried})


def _servers(pricer: ChainPricer, tp: int | None, batch: float, stages: int, devices: Sequence[str]) -> list[_Server]:
    """Servers in the cluster's order, which is the order in which they join."""
    at, sequences = pricer.load(batch, stages)
    layers = pricer.model.num_layers
    found = []
    facts: dict[tuple[int, int], tuple[int, float]] = {}
    for node, c in enumerate(pricer.class_of_node):
        k = pricer.cluster.classes[c]
        legal = [n for n in pricer.degrees(c) if tp is None or n == tp]
        if not legal or k.device.name not in devices:
            continue
        size = max(legal)
        if (c, size) not in facts:
            # with embedding and head, which any server may come to have
            time_NN = pricer.interval_times(c, size, at, sequences, range(layers + 1))
            fitting = [
                n for n in range(1, layers + 1) if np.isfinite([time_NN[0, n], time_NN[layers - n, layers]]).all()
            ]
            per_layer = float(pricer.kind(c, size).times.layer_KG["mean"][:, at].max())
            facts[c, size] = max(fitting, default=0), float(pricer.grid_G[at]) / per_layer
        most, speed = facts[c, size]
        if most:
            found += [_Server(ChainStage(node, size), most, speed)] * (k.gpus_per_node // size)
    return found


def _depths(pricer: ChainPricer, servers: Sequence[_Server]) -> list[int]:
    """Numbers of stages that Swarm could be started with."""
    most = min(len(servers), pricer.most_stages)
    return list(range(1, most + 1))


def _petals(pricer: ChainPricer, servers: Sequence[_Server], _: int) -> list[_Placed]:
    """Each server in turn: of all places for its layers, the one whose throughputs, sorted, come first."""
    layers = pricer.model.num_layers
    through_L: Array = np.zeros(layers)
    placed = []
    for server in servers:
        count = min(server.most, layers)
        windows = np.sort(np.lib.stride_tricks.sliding_window_view(through_L, count), axis=1)
        first = int(np.lexsort(windows.T[::-1])[0])
        through_L[first : first + count] += server.speed / count
        placed.append(_Placed(server, first, first + count))
    return placed


def _swarm(pricer: ChainPricer, servers: Sequence[_Server], depth: int) -> list[_Placed]:
    """Each server in turn joins the stage with the least throughput, among those whose layers fit it."""
    counts = default_split(pricer.engine, pricer.model.num_layers, depth) if _splits(pricer, depth) else ()
    ends = np.cumsum(counts).tolist()
    through = [0.0] * len(counts)
    placed = []
    for server in servers:
        able = [s for s, count in enumerate(counts) if count <= server.most]
        if able:
            s = min(able, key=lambda at: through[at])
            through[s] += server.speed / counts[s]
            placed.append(_Placed(server, ends[s] - counts[s], ends[s]))
    return placed


def _splits(pricer: ChainPricer, depth: int) -> bool:
    return pricer.engine.default_split != "even_only" or pricer.model.num_layers % depth == 0


def _chains(pricer: ChainPricer, placed: Sequence[_Placed]) -> list[PricedChain]:
    """Make servers into chains, each server in one, as long as that works."""
    left = list(placed)
    found: list[tuple[Chain, tuple[int, ...]]] = []
    while True:
        chain: list[_Placed] = []
        layers: list[int] = []
        position = 0
        while position < pricer.model.num_layers:
            able = [one for one in left if one.first <= position < one.end and one not in chain]
            if not able:
                return _priced(pricer, found)
            following = max(able, key=lambda one: (one.end, one.server.speed))
            chain.append(following)
            layers.append(following.end - position)
            position = following.end
        for one in chain:
            left.remove(one)
        found.append((tuple(one.server.stage for one in chain), tuple(layers)))


def _priced(pricer: ChainPricer, found: Sequence[tuple[Chain, tuple[int, ...]]]) -> list[PricedChain]:
    rates = pricer.goodputs(found).tolist()
    return [
        PricedChain(chain, layers, rate if pricer.allowed(chain) and _tellable(pricer, layers) else 0.0)
        for (chain, layers), rate in zip(found, rates, strict=True)
    ]


def _tellable(pricer: ChainPricer, layers: tuple[int, ...]) -> bool:
    if pricer.engine.uneven_layers:
        return True
    depth = len(layers)
    return _splits(pricer, depth) and layers == default_split(pricer.engine, pricer.model.num_layers, depth)
