"""What a placed serving plan is predicted to do: the one computation behind search, estimate and check.

Given which GPUs hold which layers, with the cluster's real links between them, it derives every predicted figure.

Legend: S stage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from planner.cost.bands import served_error
from planner.cost.network import group_collective
from planner.cost.replica import Operation, PipelineStage, ReplicaPricer, Shortfall
from planner.plan.figure import Figure, weakest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.cluster import Cluster, Link
    from planner.engine import EngineProfile
    from planner.model import ModelSpec
    from planner.workload import Workload

__all__ = [
    "PlacedStage",
    "ReplicaPrediction",
    "ServingPrediction",
    "cost_figures",
    "memory_figure",
    "pipeline",
    "predict_serving",
    "replica_prediction",
]


@dataclass(frozen=True, slots=True)
class PlacedStage:
    """Layers ``[first, end)`` on a tensor-parallel group of named GPUs."""

    devices: tuple[str, ...]
    layers: tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaPrediction:
    """One replica: at its goodput, and at its share of the traffic.

    Parameters
    ----------
    capacity
        At the highest rate within the SLO, or why there is none.
    figures
        By name: goodput, rate, ttft, ttft_mean, tpot, in_flight.
    memory_S, limit_S
        Bytes per GPU of each stage at the goodput, and what the engine may use.
    concurrency
        Requests in flight at the goodput, rounded up: the engine's sequence limit.
    overloaded
        Whether its share of the demand is more than its goodput.
    """

    capacity: Operation | Shortfall
    figures: dict[str, Figure]
    memory_S: tuple[Figure, ...]
    limit_S: tuple[float, ...]
    concurrency: int
    overloaded: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingPrediction:
    """All replicas, their shares of the traffic, and the figures of the whole."""

    replicas: tuple[ReplicaPrediction, ...]
    shares: tuple[float, ...]
    figures: dict[str, Figure]


def pipeline(cluster: Cluster, stages: Sequence[PlacedStage]) -> list[PipelineStage]:
    """Stages with the collectives and links that their GPUs really have.

    A stage sends rank by rank to the next one, and the last stage back to the first; the slowest of those links counts.
    """
    placed = []
    for s, stage in enumerate(stages):
        following = stages[(s + 1) % len(stages)].devices if len(stages) > 1 else None
        placed.append(
            PipelineStage(
                device=cluster.device_of(stage.devices[0]),
                collective=group_collective(cluster, stage.devices),
                layers=stage.layers,
                hop=None if following is None else _slowest_link(cluster, stage.devices, following),
            )
        )
    return placed


def _slowest_link(cluster: Cluster, here: Sequence[str], there: Sequence[str]) -> Link:
    ranks = max(len(here), len(there))
    links = [cluster.link(here[i % len(here)], there[i % len(there)]) for i in range(ranks)]
    return type(links[0])(bandwidth=min(x.bandwidth for x in links), latency=max(x.latency for x in links))


def predict_serving(
    model: ModelSpec,
    cluster: Cluster,
    engine: EngineProfile,
    workload: Workload,
    replicas: Sequence[Sequence[PlacedStage]],
    shares: Sequence[float] | None = None,
) -> ServingPrediction:
    """Predict every figure of a serving plan.

    Parameters
    ----------
    model, cluster, engine, workload
        What, where, under which engine, for whom.
    replicas
        Stages of each replica in order.
    shares
        Share of the traffic of each replica; None divides it by goodput.

    Returns
    -------
    ServingPrediction
        Replicas that cannot serve within the SLO have a `Shortfall` as capacity and get no traffic.
    """
    pricers: list[ReplicaPricer] = []
    capacities: list[Operation | Shortfall] = []
    known: dict[tuple[object, ...], tuple[ReplicaPricer, Operation | Shortfall]] = {}
    for stages in replicas:
        placed = pipeline(cluster, stages)
        key = tuple(
            (id(s.device), s.collective.facts, s.layers, s.hop and (s.hop.bandwidth, s.hop.latency)) for s in placed
        )
        if key not in known:  # equal replicas on other nodes
            pricer = ReplicaPricer(model, engine, workload, placed)
            known[key] = pricer, pricer.goodput()
        pricers.append(known[key][0])
        capacities.append(known[key][1])
    goodputs = [c.rate if isinstance(c, Operation) else 0.0 for c in capacities]
    total = math.fsum(goodputs)
    if shares is None:
        shares = [g / total if total else 0.0 for g in goodputs]
    # what is routed beyond a replica's goodput is not served within the SLO
    carried = min((g / s for g, s in zip(goodputs, shares, strict=True) if s > 0), default=0.0)
    served = carried if workload.rate is None else min(workload.rate, carried)
    operated: dict[tuple[int, float], Operation] = {}
    predictions = []
    for pricer, capacity, share, goodput in zip(pricers, capacities, shares, goodputs, strict=True):
        now: Operation | None = None
        if isinstance(capacity, Operation):
            rate = min(served * share, goodput)
            key2 = (id(pricer), rate)
            if key2 not in operated:
                operated[key2] = capacity if math.isclose(rate, goodput, rel_tol=1e-12) else pricer.at_rate(rate)
            now = operated[key2]
        asked = share * (total if workload.rate is None else min(workload.rate, total))
        predictions.append(replica_prediction(pricer, engine, capacity, now, overloaded=asked > goodput * (1 + 1e-9)))
    figures = _whole(cluster, engine, workload, replicas, predictions, list(shares), served)
    return ServingPrediction(replicas=tuple(predictions), shares=tuple(shares), figures=figures)


def replica_prediction(
    pricer: ReplicaPricer,
    engine: EngineProfile,
    capacity: Operation | Shortfall,
    now: Operation | None,
    *,
    overloaded: bool,
) -> ReplicaPrediction:
    """Predict one replica that prefills and decodes.

    Parameters
    ----------
    pricer, engine
        The replica.
    capacity, now
        At its goodput, and at its share of the requests.
    overloaded
        Whether that is more than its goodput.
    """
    limit_S = tuple(float(x) for x in pricer.limit_S)
    if isinstance(capacity, Shortfall) or now is None:
        memory = pricer.memory_S(0.0)
        return ReplicaPrediction(
            capacity=capacity,
            figures={},
            memory_S=tuple(memory_figure(float(x), engine) for x in memory),
            limit_S=limit_S,
            concurrency=1,
        )
    layers = pricer.layer_pricers
    rate_error = served_error(layers, engine, "e2e")  # by Little's law the rate is off as far as the latency
    first_error, token_error = served_error(layers, engine, "ttft"), served_error(layers, engine, "tpot")
    figures = {
        "goodput": _figure(capacity.rate, "requests/s", rate_error, capacity),
        "rate": Figure(value=now.rate, unit="requests/s", error=0.0, provenance=capacity.provenance),
        "ttft": _figure(now.ttft, "s", first_error, now),
        "ttft_mean": _figure(now.ttft_mean, "s", first_error, now),
        "tpot": _figure(now.tpot, "s", token_error, now),
        "in_flight": _figure(now.in_flight, "requests", rate_error, now),
        "decode_batch": _figure(now.batch, "sequences", rate_error, now),
        "kv_capacity": Figure(value=pricer.kv_capacity(), unit="tokens", error=0.1, provenance="spec"),
    }
    return ReplicaPrediction(
        capacity=capacity,
        figures=figures,
        memory_S=tuple(memory_figure(float(x), engine) for x in pricer.memory_S(capacity.batch)),
        limit_S=limit_S,
        concurrency=max(1, math.ceil(capacity.in_flight - 1e-9)),
        overloaded=overloaded,
    )


def memory_figure(value: float, engine: EngineProfile) -> Figure:
    """Bytes on a GPU: weights and KV cache are exact; what the engine sets aside is not."""
    doubt = engine.reserved_memory.value * (engine.reserved_memory.error or 0.0)
    return Figure(value=value, unit="bytes", error=doubt / value, provenance="spec")


def _figure(value: float, unit: str, error: float, operation: Operation) -> Figure:
    return Figure(value=value, unit=unit, error=error, provenance=operation.provenance)


def _whole(
    cluster: Cluster,
    engine: EngineProfile,
    workload: Workload,
    replicas: Sequence[Sequence[PlacedStage]],
    predictions: Sequence[ReplicaPrediction],
    shares: Sequence[float],
    served: float,
) -> dict[str, Figure]:
    """Figures of all replicas together; latencies are those of the worst replica that has traffic."""
    working = [p for p, share in zip(predictions, shares, strict=True) if p.figures and share > 0]
    gpus = [gpu for stages in replicas for stage in stages for gpu in stage.devices]
    used = Figure(value=float(len(gpus)), unit="GPUs", error=0.0, provenance="spec")
    if not working or served <= 0:
        return {"gpus": used}
    provenance = weakest(*(p.figures["goodput"].provenance for p in working))
    worst = {name: max((p.figures[name] for p in working), key=lambda f: f.value) for name in ("ttft", "tpot")}
    goodput = math.fsum(p.figures["goodput"].value for p in working)
    # all replicas are taken to err the same way
    rate_error = math.fsum(p.figures["goodput"].value * p.figures["goodput"].error for p in working) / goodput
    tokens = served * workload.output.mean
    figures = {
        "goodput": Figure(value=goodput, unit="requests/s", error=rate_error, provenance=provenance),
        "rate": Figure(
            value=served,
            unit="requests/s",
            error=0.0 if served < goodput else rate_error,
            provenance=provenance,
        ),
        "ttft": worst["ttft"],
        "tpot": worst["tpot"],
        "output_throughput": Figure(value=tokens, unit="tokens/s", error=rate_error, provenance=provenance),
        "gpus": used,
        "memory_peak": max((m for p in predictions for m in p.memory_S), key=lambda f: f.value),
    }
    return figures | cost_figures(cluster, gpus, figures["output_throughput"])


def cost_figures(cluster: Cluster, gpus: Sequence[str], output: Figure) -> dict[str, Figure]:
    """What GPUs cost by the hour, and by what they put out in tokens/s; empty where a price is not known."""
    price = cluster.price_per_hour(gpus)
    if price is None:
        return {}
    return {
        "cost_per_hour": Figure(value=price, unit="USD/h", error=0.0, provenance="spec"),
        "cost_per_million_output_tokens": Figure(
            value=price / (output.value * 3600.0) * 1e6, unit="USD", error=output.error, provenance=output.provenance
        ),
    }
