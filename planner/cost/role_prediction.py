"""What a placed plan with prefill and decode replicas is predicted to do.

Every replica has a capacity within its part of the SLO (`planner.cost.roles`); the model is served at the rate at which
the first of them is full, given their shares of the requests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.cost.bands import served_error, widened
from planner.cost.prediction import (
    ReplicaPrediction,
    ServingPrediction,
    cost_figures,
    memory_figure,
    pipeline,
    replica_prediction,
)
from planner.cost.replica import Operation, ReplicaPricer, Shortfall
from planner.cost.roles import DecodeReplica, KvPath, PlacedReplica, PlacedRoute, PrefillReplica, kv_path
from planner.engine.fitted import load_fit
from planner.plan.figure import Figure, weakest

if TYPE_CHECKING:
    from planner.cluster import Cluster
    from planner.cost.bands import ServedFigure
    from planner.engine import EngineProfile
    from planner.model import ModelSpec
    from planner.workload import Workload

__all__ = ["RoleCapacities", "predict_roles"]

_Priced = ReplicaPricer | PrefillReplica | DecodeReplica


class RoleCapacities:
    """What each of some placed replicas serves at most; equal ones are computed once.

    Parameters
    ----------
    model, cluster, engine, workload
        What, where, under which engine, for whom.
    """

    def __init__(self, model: ModelSpec, cluster: Cluster, engine: EngineProfile, workload: Workload) -> None:
        self.model, self.cluster, self.engine, self.workload = model, cluster, engine, workload
        self._known: dict[tuple[object, ...], tuple[_Priced, Operation | Shortfall | float]] = {}

    def of(self, replica: PlacedReplica, others: Sequence[int] = ()) -> tuple[_Priced, Operation | Shortfall | float]:
        """Price a replica, and find its capacity: prompts/s of one that prefills, an operation of others.

        Parameters
        ----------
        replica
            Placed.
        others
            Node classes that it sends KV caches to, or has them from.
        """
        placed = pipeline(self.cluster, replica.stages)
        own = self.node_class(replica)
        paths = tuple(sorted(set(others)))
        key = (
            replica.role,
            own,
            paths,
            *((id(s.device), s.collective.facts, s.layers, s.hop and (s.hop.bandwidth, s.hop.latency)) for s in placed),
        )
        if key not in self._known:
            common = (self.model, self.engine, self.workload, placed)
            priced: _Priced
            if replica.role == "both":
                priced = ReplicaPricer(*common)
            elif replica.role == "prefill":
                priced = PrefillReplica(*common, _slowest([kv_path(self.cluster, own, w) for w in paths]))
            else:
                priced = DecodeReplica(*common, _slowest([kv_path(self.cluster, z, own) for z in paths]))
            self._known[key] = priced, priced.goodput()
        return self._known[key]

    def node_class(self, replica: PlacedReplica) -> int:
        """Position of the node class that a replica's first stage lies in."""
        of_node = self.cluster.class_of_node(self.cluster.node_of(replica.stages[0].devices[0]))
        return [c.name for c in self.cluster.classes].index(of_node.name)


def _slowest(paths: Sequence[KvPath]) -> KvPath:
    """Make one path that is no better than any of several."""
    return KvPath(
        latency=max(p.latency for p in paths),
        out=min(p.out for p in paths),
        into=min(p.into for p in paths),
        link=min(p.link for p in paths),
    )


@dataclass(frozen=True, slots=True)
class _Working:
    """A replica at its share of the requests: seconds until a KV cache has arrived, and those of a decode step."""

    first: float = 0.0
    first_mean: float = 0.0
    step: float = 0.0


def predict_roles(
    model: ModelSpec,
    cluster: Cluster,
    engine: EngineProfile,
    workload: Workload,
    replicas: Sequence[PlacedReplica],
    *,
    shares: Sequence[float],
    routes: Sequence[PlacedRoute],
) -> ServingPrediction:
    """Predict every figure of a plan with prefill and decode replicas, beside which others may do both.

    Parameters
    ----------
    model, cluster, engine, workload
        What, where, under which engine, for whom.
    replicas, shares
        Placed, and the share of the requests that each takes part in.
    routes
        Who decodes what whom prefills.
    """
    capacities = RoleCapacities(model, cluster, engine, workload)
    classes = [capacities.node_class(replica) for replica in replicas]
    partners: list[list[int]] = [[] for _ in replicas]
    for route in routes:
        partners[route.prefill].append(route.decode)
        partners[route.decode].append(route.prefill)
    priced = [
        capacities.of(replica, [classes[p] for p in partners[r]] or [classes[r]]) for r, replica in enumerate(replicas)
    ]
    most = [_rate(capacity) for _, capacity in priced]
    goodput = min((m / s for m, s in zip(most, shares, strict=True) if s > 0), default=0.0)
    served = goodput if workload.rate is None else min(workload.rate, goodput)
    working = [_work(one, capacity, served * share) for (one, capacity), share in zip(priced, shares, strict=True)]
    predictions = []
    for r, ((one, capacity), share) in enumerate(zip(priced, shares, strict=True)):
        rate = served * share
        if isinstance(one, PrefillReplica):
            steps = [working[p].step for p in partners[r]]
            predictions.append(_prefill(one, engine, float(_rate(capacity)), rate, max(steps, default=0.0)))
        elif isinstance(one, DecodeReplica):
            predictions.append(_decode(one, engine, capacity, rate))  # type: ignore[arg-type]
        else:
            now = one.at_rate(rate) if isinstance(capacity, Operation) else None
            predictions.append(
                replica_prediction(one, engine, capacity, now, overloaded=False)  # type: ignore[arg-type]
            )
    figures = _whole(cluster, workload, replicas, predictions, goodput, served)
    return ServingPrediction(replicas=tuple(predictions), shares=tuple(shares), figures=figures)


def _rate(capacity: Operation | Shortfall | float) -> float:
    if isinstance(capacity, Operation):
        return capacity.rate
    return 0.0 if isinstance(capacity, Shortfall) else capacity


def _work(one: _Priced, capacity: Operation | Shortfall | float, rate: float) -> _Working:
    if isinstance(one, PrefillReplica):
        first, mean = one.ttft(rate)
        return _Working(first=first, first_mean=mean)
    if isinstance(one, DecodeReplica) and isinstance(capacity, Operation):
        return _Working(step=one.pricer.at_rate(rate).tpot)
    return _Working()


def _error(pricer: ReplicaPricer, engine: EngineProfile, figure: ServedFigure) -> float:
    """Band of a server's figure, or that of measured disaggregated ones where it is wider."""
    apart = widened(load_fit("disaggregated").error("all", figure).band, pricer.layer_pricers)
    return max(served_error(pricer.layer_pricers, engine, figure), apart)


def _prefill(one: PrefillReplica, engine: EngineProfile, most: float, rate: float, step: float) -> ReplicaPrediction:
    pricer = one.pricer
    limit_S, memory_S = tuple(float(x) for x in pricer.limit_S), one.memory_S()
    memory = tuple(memory_figure(float(x), engine) for x in memory_S)
    if most <= 0:
        short = Shortfall("ttft", pricer.workload.slo.ttft or math.inf, one.ttft(0.0)[0], 0)
        if not one.fits():
            worst = int((memory_S - pricer.limit_S).argmax())
            short = Shortfall("memory", float(memory_S[worst]), limit_S[worst], worst)
        return ReplicaPrediction(capacity=short, figures={}, memory_S=memory, limit_S=limit_S, concurrency=1)
    provenance = pricer.prompt_provenance()
    first, mean = one.ttft(rate)
    rate_error, first_error = _error(pricer, engine, "e2e"), _error(pricer, engine, "ttft")

    def figure(value: float, unit: str, error: float) -> Figure:
        return Figure(value=value, unit=unit, error=error, provenance=provenance)

    at_most = one.ttft(most)[1]
    capacity = Operation(
        batch=0.0, rate=most, tpot=0.0, ttft=one.ttft(most)[0], ttft_mean=at_most, in_flight=most * at_most,
        error=rate_error, prefill_error=first_error, provenance=provenance,
    )  # fmt: skip
    return ReplicaPrediction(
        capacity=capacity,
        figures={
            "goodput": figure(most, "requests/s", rate_error),
            "rate": figure(rate, "requests/s", 0.0),
            "ttft": figure(first + step, "s", first_error),
            "ttft_mean": figure(mean + step, "s", first_error),
            "kv_transfer": figure(one.mean_sending, "s", rate_error),
            "in_flight": figure(rate * mean, "requests", first_error),
            "prefill_load": figure(rate * one.interval, "fraction", rate_error),
        },
        memory_S=memory,
        limit_S=limit_S,
        concurrency=max(1, math.ceil(most * at_most - 1e-9)),
    )


def _decode(
    one: DecodeReplica, engine: EngineProfile, capacity: Operation | Shortfall, rate: float
) -> ReplicaPrediction:
    pricer = one.pricer
    limit_S = tuple(float(x) for x in pricer.limit_S)
    if isinstance(capacity, Shortfall):
        memory = tuple(memory_figure(float(x), engine) for x in pricer.memory_S(0.0))
        return ReplicaPrediction(capacity=capacity, figures={}, memory_S=memory, limit_S=limit_S, concurrency=1)
    now = pricer.at_rate(rate)
    stages = len(pricer.stages)
    rate_error, token_error = _error(pricer, engine, "e2e"), _error(pricer, engine, "tpot")

    def figure(value: float, unit: str, error: float) -> Figure:
        return Figure(value=value, unit=unit, error=error, provenance=capacity.provenance)

    return ReplicaPrediction(
        capacity=capacity,
        figures={
            "goodput": figure(capacity.rate, "requests/s", rate_error),
            "rate": figure(rate, "requests/s", 0.0),
            "tpot": figure(now.tpot, "s", token_error),
            "in_flight": figure(stages * now.batch, "requests", rate_error),
            "decode_batch": figure(now.batch, "sequences", rate_error),
            "kv_capacity": Figure(value=pricer.kv_capacity(), unit="tokens", error=0.1, provenance="spec"),
        },
        memory_S=tuple(memory_figure(float(x), engine) for x in pricer.memory_S(capacity.batch)),
        limit_S=limit_S,
        concurrency=max(1, math.ceil(stages * capacity.batch - 1e-9)),
    )


def _whole(
    cluster: Cluster,
    workload: Workload,
    replicas: Sequence[PlacedReplica],
    predictions: Sequence[ReplicaPrediction],
    goodput: float,
    served: float,
) -> dict[str, Figure]:
    """Figures of all replicas together; latencies are those of the worst."""
    gpus = [gpu for replica in replicas for stage in replica.stages for gpu in stage.devices]
    used = Figure(value=float(len(gpus)), unit="GPUs", error=0.0, provenance="spec")
    working = [p for p in predictions if p.figures]
    if not working or served <= 0:
        return {"gpus": used}
    provenance = weakest(*(p.figures["goodput"].provenance for p in working))
    error = max(p.figures["goodput"].error for p in working)
    worst = {
        name: max((p.figures[name] for p in working if name in p.figures), key=lambda figure: figure.value)
        for name in ("ttft", "tpot")
    }
    output = Figure(value=served * workload.output.mean, unit="tokens/s", error=error, provenance=provenance)
    return {
        "goodput": Figure(value=goodput, unit="requests/s", error=error, provenance=provenance),
        "rate": Figure(
            value=served, unit="requests/s", error=0.0 if served < goodput else error, provenance=provenance
        ),
        **worst,
        "output_throughput": output,
        "gpus": used,
        "memory_peak": max((m for p in predictions for m in p.memory_S), key=lambda figure: figure.value),
        **cost_figures(cluster, gpus, output),
    }
