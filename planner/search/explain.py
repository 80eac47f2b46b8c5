"""Why a serving plan looks as it does: what binds each replica, what more GPUs would add, what was passed over."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.prediction import PlacedStage, pipeline
from planner.cost.replica import Operation, ReplicaPricer
from planner.cost.serving import BATCH_GRID

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.plan import ServingPlan
    from planner.search.problem import ServingProblem
    from planner.search.templates import StageKind

__all__ = ["Alternative", "Binding", "Explanation", "explain_bindings"]

_ALL_ALIKE: Final = 1e-3  # links that take less of a token's way do not count


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What keeps a replica from serving more.

    Parameters
    ----------
    replica
        Its name.
    constraint
        ``KV cache``, ``TPOT``, ``TTFT``, ``tokens of an iteration`` or ``nothing tried`` (the largest batch).
    needed, had
        With the next larger decode batch: what it would take, and what there is; in bytes or seconds.
    stage
        The stage that it is about: the fullest, or the slowest.
    link_share
        Share of a token's way that it spends on links between stages.
    """

    replica: str
    constraint: str
    needed: float
    had: float
    stage: int
    link_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """A replica that the plan does not contain.

    Parameters
    ----------
    stages
        Its stages as (stage kind, how many).
    rate
        Requests/s that it would serve at most.
    worth
        Requests/s that its GPUs are worth elsewhere, by their shadow prices.
    """

    stages: tuple[tuple[StageKind, int], ...]
    rate: float
    worth: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """Why a plan looks as it does.

    Parameters
    ----------
    bindings
        Of each replica.
    price_C
        What one more GPU of each node class would add to the objective, by the program without whole numbers.
    alone_C
        Requests/s of the best pool of each node class alone, at most.
    alternatives
        Replicas that came closest to being used.
    """

    bindings: tuple[Binding, ...]
    price_C: tuple[float, ...]
    alone_C: tuple[float, ...]
    alternatives: tuple[Alternative, ...]

    def among(self, origin: Sequence[int]) -> Explanation:
        """The same about fewer node classes: `origin` tells of which each of these is a part."""
        parts = [[i for i, c in enumerate(origin) if c == whole] for whole in sorted(set(origin))]

        def seen_from_whole(other: Alternative) -> Alternative:
            stages = tuple((replace(kind, node_class=origin[kind.node_class]), n) for kind, n in other.stages)
            return replace(other, stages=stages)

        return replace(
            self,
            price_C=tuple(max(self.price_C[i] for i in mine) for mine in parts),
            alone_C=tuple(sum(self.alone_C[i] for i in mine) for mine in parts),
            alternatives=tuple(seen_from_whole(other) for other in self.alternatives),
        )


def explain_bindings(problem: ServingProblem, plan: ServingPlan) -> tuple[Binding, ...]:
    """Find what binds each replica at its goodput."""
    found: list[Binding] = []
    known: dict[tuple[object, ...], Binding] = {}
    for replica in plan.replicas:
        stages = [PlacedStage(stage.devices, stage.layers) for stage in replica.stages]
        placed = pipeline(problem.cluster, stages)
        key = tuple((id(s.device), s.collective.facts, s.layers, s.hop) for s in placed)
        if key not in known:
            known[key] = _binding(replica.id, ReplicaPricer(problem.model, problem.engine, problem.workload, placed))
        first = known[key]
        found.append(
            Binding(
                replica=replica.id,
                constraint=first.constraint,
                needed=first.needed,
                had=first.had,
                stage=first.stage,
                link_share=first.link_share,
            )
        )
    return tuple(found)


def _binding(name: str, pricer: ReplicaPricer) -> Binding:
    capacity = pricer.goodput()
    slo = pricer.workload.slo
    batch = capacity.batch if isinstance(capacity, Operation) else BATCH_GRID[0]
    larger = [b for b in BATCH_GRID if b > batch * (1 + 1e-9)]
    following = np.array([larger[0] if larger else batch])
    state = pricer.state(following)
    memory_S, limit_S = pricer.memory_S(float(following[0])), pricer.limit_S
    fullest = int(np.argmax(memory_S / limit_S))
    links = sum(
        stage.hop.latency + float(pricer.wire_time(s, following)[0])
        for s, stage in enumerate(pricer.stages)
        if stage.hop is not None
    )
    share = links / float(state.tpot_B[0])
    slowest = _slowest(pricer, following)
    share = share if share > _ALL_ALIKE else 0.0

    def bound(constraint: str, needed: float, had: float, stage: int) -> Binding:
        return Binding(replica=name, constraint=constraint, needed=needed, had=had, stage=stage, link_share=share)

    if memory_S[fullest] > limit_S[fullest]:
        return bound("KV cache", float(memory_S[fullest]), float(limit_S[fullest]), fullest)
    if slo.tpot is not None and state.tpot_B[0] > slo.tpot:
        return bound("TPOT", float(state.tpot_B[0]), slo.tpot, slowest)
    if slo.ttft is not None and state.ttft_B[0] > slo.ttft:
        return bound("TTFT", float(state.ttft_B[0]), slo.ttft, slowest)
    if not np.isfinite(state.ttft_B[0]):
        return bound("prefill", float(state.utilisation_B[0]), 1.0, slowest)
    if not pricer.demand.runs(following).all():
        needed = float((following + pricer.demand.steady(following))[0])
        return bound("tokens of an iteration", needed, pricer.demand.budget, slowest)
    return bound("no gain from a larger batch", float(state.rate_B[0]), getattr(capacity, "rate", 0.0), slowest)


def _slowest(pricer: ReplicaPricer, batch: np.ndarray) -> int:
    from planner.cost.serving import stage_table

    last = len(pricer.stages) - 1
    times = [
        float(
            stage_table(layers, pricer.engine, pricer.demand, batch).times(
                pricer.layers_SK[s], "mean", first=s == 0, last=s == last
            )[0]
        )
        for s, layers in enumerate(pricer.layer_pricers)
    ]
    return int(np.argmax(times))
