"""Who decodes what whom prefills, once replicas are placed: shares of the requests, and routes between replicas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from planner.cost.replica import Operation
from planner.cost.role_prediction import RoleCapacities
from planner.cost.roles import PlacedRoute
from planner.solvers.gscip import solve_relaxation
from planner.solvers.program import IntegerProgram

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from planner.cost._types import Array
    from planner.cost.roles import PlacedReplica

__all__ = ["Routing", "fill_in_turn", "route_requests"]


@dataclass(frozen=True, slots=True)
class Routing:
    """Share of a model's requests that each replica takes part in, and the routes between them."""

    shares: tuple[float, ...]
    routes: tuple[PlacedRoute, ...]


def route_requests(
    capacities: RoleCapacities,
    replicas: Sequence[PlacedReplica],
    places: Sequence[tuple[int, ...]],
    most: Mapping[tuple[int, int], float],
) -> Routing:
    """Share requests out by what placed replicas serve, so that all who do the same thing are equally full.

    Parameters
    ----------
    capacities
        Of the model's replicas.
    replicas
        Placed.
    places
        Of each that prefills the places that it may send to, of each that decodes its own alone, as of
        `planner.search.role_templates`; none of the others.
    most
        Requests/s that may flow from a node class to a place, where a link bounds them.
    """
    own = [capacities.node_class(replica) for replica in replicas]
    classes = len(capacities.cluster.classes)
    first = [r for r, replica in enumerate(replicas) if replica.role == "prefill"]
    second = [r for r, replica in enumerate(replicas) if replica.role == "decode"]
    rate: list[float] = []
    for r, replica in enumerate(replicas):
        others = {place % classes for place in places[r]}
        if replica.role == "decode":
            others = {own[p] for p in first if places[r][0] in places[p]} or {own[r]}
        _, found = capacities.of(replica, sorted(others))
        rate.append(found.rate if isinstance(found, Operation) else found if isinstance(found, float) else 0.0)
    senders = sorted({(own[r], places[r]) for r in first})
    takers = sorted({places[r][0] for r in second})
    offered = [math.fsum(rate[r] for r in first if (own[r], places[r]) == sender) for sender in senders]
    wanted = [math.fsum(rate[r] for r in second if places[r][0] == taker) for taker in takers]
    flow_IJ = _flows(senders, takers, offered, wanted, most)
    flows: list[tuple[int, int, float]] = []
    arriving: dict[int, list[tuple[int, float]]] = {taker: [] for taker in takers}
    for sender, flow_J in zip(senders, flow_IJ, strict=True):
        mine = [(r, rate[r]) for r in first if (own[r], places[r]) == sender]
        for r, j, flow in fill_in_turn(mine, list(enumerate(flow_J.tolist()))):
            arriving[takers[j]].append((r, flow))
    for taker, sending in arriving.items():
        flows += fill_in_turn(sending, [(r, rate[r]) for r in second if places[r][0] == taker])
    whole = {r: rate[r] for r, replica in enumerate(replicas) if replica.role == "both"}
    total = math.fsum([*whole.values(), *(flow for _, _, flow in flows)])
    if total <= 0:
        return Routing(tuple(0.0 for _ in replicas), ())
    routes = tuple(PlacedRoute(prefill=p, decode=d, share=flow / total) for p, d, flow in flows)
    shares = [whole.get(r, 0.0) / total for r in range(len(replicas))]
    for r in (*first, *second):
        shares[r] = math.fsum(route.share for route in routes if r in (route.prefill, route.decode))
    return Routing(tuple(shares), routes)


def _flows(
    senders: Sequence[tuple[int, tuple[int, ...]]],
    takers: Sequence[int],
    offered: Sequence[float],
    wanted: Sequence[float],
    most: Mapping[tuple[int, int], float],
) -> Array:
    """Greatest flows from senders to the places that they reach, by a linear program; axes: senders, takers."""
    pairs = [(i, j) for i, (_, reach) in enumerate(senders) for j, taker in enumerate(takers) if taker in reach]
    flow_IJ = np.zeros((len(senders), len(takers)))
    if not pairs:
        return flow_IJ
    links = sorted({(senders[i][0], takers[j]) for i, j in pairs} & set(most))
    rows_RX = np.zeros((len(senders) + len(takers) + len(links), len(pairs)))
    for x, (i, j) in enumerate(pairs):
        rows_RX[i, x] = rows_RX[len(senders) + j, x] = 1.0
        if (senders[i][0], takers[j]) in links:
            rows_RX[len(senders) + len(takers) + links.index((senders[i][0], takers[j])), x] = 1.0
    answer = solve_relaxation(
        IntegerProgram(
            gain_X=np.ones(len(pairs)),
            rows_RX=rows_RX,
            limit_R=np.array([*offered, *wanted, *(most[link] for link in links)]),
            most_X=np.full(len(pairs), np.inf),
            whole_X=np.zeros(len(pairs), dtype=bool),
        )
    )
    if answer is not None:
        for (i, j), flow in zip(pairs, answer.x_X, strict=True):
            flow_IJ[i, j] = max(float(flow), 0.0)
    return flow_IJ


def fill_in_turn(
    sending: Sequence[tuple[int, float]], taking: Sequence[tuple[int, float]]
) -> list[tuple[int, int, float]]:
    """Divide what one side does over the other with as few routes as there are replicas, all equally full on each side.

    Parameters
    ----------
    sending, taking
        Replicas with what each may do.

    Examples
    --------
    >>> fill_in_turn([(0, 3.0), (1, 1.0)], [(2, 4.0), (3, 4.0)])
    [(0, 2, 2.0), (0, 3, 1.0), (1, 3, 1.0)]
    """
    offered, wanted = (math.fsum(rate for _, rate in side) for side in (sending, taking))
    passed = min(offered, wanted)
    if passed <= 0:
        return []
    left = [[r, rate * passed / offered] for r, rate in sending if rate > 0]
    room = [[r, rate * passed / wanted] for r, rate in taking if rate > 0]
    flows, p, d = [], 0, 0
    while p < len(left) and d < len(room):
        flow = min(left[p][1], room[d][1])
        if flow > 1e-12 * passed:
            flows.append((int(left[p][0]), int(room[d][0]), float(flow)))
        left[p][1] -= flow
        room[d][1] -= flow
        # of two that are done, the last one of each side stays for what rounding leaves over
        if left[p][1] <= room[d][1]:
            p += 1
        else:
            d += 1
    return flows
