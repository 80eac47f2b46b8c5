"""Layers of placed replicas, split anew for the links that their stages really got."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.cost.prediction import PlacedStage
from planner.search.chains import ChainPricer, ChainStage, PricedChain

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.search.problem import ServingProblem

__all__ = ["Settler"]


class Settler:
    """Splits layers of placed replicas for one problem.

    Parameters
    ----------
    problem
        What is to be served.
    """

    def __init__(self, problem: ServingProblem) -> None:
        self._pricer = ChainPricer(problem)
        self._position = {node: n for n, node in enumerate(self._pricer.nodes)}

    def settle(self, replicas: Sequence[Sequence[PlacedStage]]) -> list[list[PlacedStage]]:
        """Give each replica the layers that serve most with its links, or leave those that it has."""
        pricer, cluster = self._pricer, self._pricer.cluster
        chains = [
            tuple(ChainStage(self._position[cluster.node_of(one.devices[0])], len(one.devices)) for one in stages)
            for stages in replicas
        ]
        held = [tuple(one.layers[1] - one.layers[0] for one in stages) for stages in replicas]
        rates = pricer.goodputs(list(zip(chains, held, strict=True))).tolist()
        now = [PricedChain(*each) for each in zip(chains, held, rates, strict=True)]
        found = [max(pair, key=lambda one: one.rate) for pair in zip(now, pricer.best(chains), strict=True)]
        settled = []
        for stages, best in zip(replicas, pricer.all_polished(found), strict=True):
            first, moved = 0, []
            for one, count in zip(stages, best.layers, strict=True):
                moved.append(PlacedStage(one.devices, (first, first + count)))
                first += count
            settled.append(moved)
        return settled
