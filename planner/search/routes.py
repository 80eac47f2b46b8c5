"""Who decodes what whom prefills, once replicas are placed: shares of the requests, and routes between replicas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.cost.replica import Operation
from planner.cost.role_prediction import RoleCapacities
from planner.cost.roles import PlacedRoute

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

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
    places: Sequence[int],
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
        Of each that prefills the place that it sends to, of each that decodes its own, as of
        `planner.search.role_templates`; -1 of the others.
    most
        Requests/s that may flow from a node class to a place, where a link bounds them.
    """
    own = [capacities.node_class(replica) for replica in replicas]
    classes = len(capacities.cluster.classes)
    sources: dict[int, set[int]] = {}
    for r, replica in enumerate(replicas):
        if replica.role == "prefill":
            sources.setdefault(places[r], set()).add(own[r])
    rate = []
    for r, replica in enumerate(replicas):
        others = {
            "both": [],
            "prefill": [places[r] % classes],
            "decode": sorted(sources.get(places[r], {own[r]})),
        }[replica.role]
        _, found = capacities.of(replica, others)
        rate.append(found.rate if isinstance(found, Operation) else found if isinstance(found, float) else 0.0)
    flows: list[tuple[int, int, float]] = []
    for place in sorted(sources):
        sending = [(r, rate[r]) for r, one in enumerate(replicas) if one.role == "prefill" and places[r] == place]
        sending = _bounded(sending, own, place, most)
        taking = [(r, rate[r]) for r, one in enumerate(replicas) if one.role == "decode" and places[r] == place]
        flows += fill_in_turn(sending, taking)
    whole = {r: rate[r] for r, replica in enumerate(replicas) if replica.role == "both"}
    total = math.fsum([*whole.values(), *(flow for _, _, flow in flows)])
    if total <= 0:
        return Routing(tuple(0.0 for _ in replicas), ())
    routes = tuple(PlacedRoute(prefill=p, decode=d, share=flow / total) for p, d, flow in flows)
    shares = [whole.get(r, 0.0) / total for r in range(len(replicas))]
    for r, replica in enumerate(replicas):
        if replica.role != "both":
            shares[r] = math.fsum(route.share for route in routes if r in (route.prefill, route.decode))
    return Routing(tuple(shares), routes)


def _bounded(
    sending: Sequence[tuple[int, float]], own: Sequence[int], place: int, most: Mapping[tuple[int, int], float]
) -> list[tuple[int, float]]:
    """Hold replicas of one class together to what may flow from it."""
    total: dict[int, float] = {}
    for r, rate in sending:
        total[own[r]] = total.get(own[r], 0.0) + rate
    factor = {c: min(1.0, most.get((c, place), math.inf) / amount) if amount else 0.0 for c, amount in total.items()}
    return [(r, rate * factor[own[r]]) for r, rate in sending]


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
