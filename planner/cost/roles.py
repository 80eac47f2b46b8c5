"""Replicas that only prefill or only decode: what each serves within its part of the SLO, and the KV caches between.

The pieces are those of `planner.cost.disaggregated`, which was compared with measured servers: the time of a prompt
where nothing else runs, the transfer of its KV cache, and a decode step that no prompt interrupts and that takes a
little longer than inside one server. There clients wait for their answers (a closed loop); here requests arrive at a
rate:

* a prefill replica is a queue. A prompt waits (Kingman's formula with the workload's own variation, an exponential tail
  at the SLO's percentile), passes all stages, and its KV cache is sent;
* the first token comes after one decode step, so that TTFT is divided: a step may take as long as TPOT allows (a tenth
  of TTFT where no TPOT is promised), what is left is the prefill replica's;
* every GPU of a node has its part of the node's network card. A prefill replica sends no more than that takes, layers
  of a stage from that stage's GPUs, and a decode replica receives no more. Between nodes of different zones all that is
  sent shares one link. Within a class of a single node KV caches pass over the node's own links.

Legend: S stage, L layer.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cluster import Link
from planner.cost.disaggregated import decode_step, sent_bytes_L
from planner.cost.memory import cached_tokens_L, kv_bytes_per_token_L
from planner.cost.network import wire_time
from planner.cost.replica import Operation, ReplicaPricer, Shortfall
from planner.workload import Slo

if TYPE_CHECKING:
    from planner.cluster import Cluster
    from planner.cost._types import Array
    from planner.cost.prediction import PlacedStage
    from planner.cost.replica import PipelineStage
    from planner.engine import EngineProfile
    from planner.model import ModelSpec
    from planner.plan.spec import Role
    from planner.workload import Workload

__all__ = [
    "DecodeReplica",
    "KvPath",
    "PlacedReplica",
    "PlacedRoute",
    "PrefillReplica",
    "decode_pricer",
    "kv_path",
    "link_capacity",
    "prefill_share",
    "receiving_time",
    "sending_time",
    "step_share",
]

_STEP_SHARE: Final = 0.1  # of TTFT, for the first decode step where no TPOT is promised
_FULLEST: Final = 0.95  # share of the time that a prefill replica may be busy, however long a prompt may wait
_HALVINGS: Final = 60  # of the interval that the load of a prefill replica lies in


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedReplica:
    """Stages of a replica on named GPUs, and what it does of a request."""

    stages: Sequence[PlacedStage]
    role: Role = "both"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedRoute:
    """Requests that one replica prefills and another decodes: positions, and share of the model's requests."""

    prefill: int
    decode: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class KvPath:
    """Between the nodes that prefill and those that decode.

    Parameters
    ----------
    latency
        Seconds until the first byte arrives.
    out, into
        Bytes/s that each GPU may send, and receive.
    link
        Bytes/s of the link between two nodes.
    """

    latency: float
    out: float
    into: float
    link: float


def kv_path(cluster: Cluster, source: int, target: int) -> KvPath:
    """Find the path between two node classes, by their positions: the slowest that two of their nodes have.

    Several nodes of one class are told apart by nobody, so that KV caches between them count as sent from node to node.
    """
    first, second = cluster.classes[source], cluster.classes[target]
    between = cluster.class_link(first, second)
    if source == target and len(first.nodes) == 1:
        return KvPath(latency=between.latency, out=between.bandwidth, into=between.bandwidth, link=math.inf)
    return KvPath(
        latency=between.latency,
        out=min(first.nic.bandwidth, between.bandwidth) / first.gpus_per_node,
        into=second.nic.bandwidth / second.gpus_per_node,
        link=between.bandwidth,
    )


def step_share(slo: Slo) -> float:
    """Seconds that a decode step may take; infinite where nothing is promised."""
    if slo.tpot is not None:
        return slo.tpot
    return math.inf if slo.ttft is None else _STEP_SHARE * slo.ttft


def prefill_share(slo: Slo) -> float:
    """Seconds of TTFT that are left to the prefill replica and the transfer; infinite where nothing is promised."""
    return math.inf if slo.ttft is None else slo.ttft - step_share(slo)


class PrefillReplica:
    """A replica that computes prompts and sends their KV caches on.

    Parameters
    ----------
    model, engine, workload
        What it runs, under what, for whom.
    stages
        Its stages in order.
    path
        To those who decode.
    """

    def __init__(
        self,
        model: ModelSpec,
        engine: EngineProfile,
        workload: Workload,
        stages: Sequence[PipelineStage],
        path: KvPath,
    ) -> None:
        self.pricer = ReplicaPricer(model, engine, workload, stages)
        demand = self.pricer.demand
        self.interval = self.pricer.prompt_interval(demand.prompt)
        first_token = engine.overhead.first_token.value
        self.tail_passage = first_token + self.pricer.prompt_time(demand.tail_prompt, demand.tail_context)
        self.mean_passage = first_token + self.pricer.prompt_time(demand.prompt)
        self._share: float | None = None
        self._send_over(path)

    def _send_over(self, path: KvPath) -> None:
        self.path = path
        self.tail_sending = self.sending(self.pricer.demand.tail_prompt)
        self.mean_sending = self.sending(self.pricer.demand.prompt)

    def towards(self, path: KvPath, share: float | None = None) -> PrefillReplica:
        """Return the same replica for others who decode.

        Parameters
        ----------
        path
            To them.
        share
            For a bound: the share of a KV cache that the stage with most of it is taken to send.
        """
        other = copy.copy(self)
        other._share = share
        other._send_over(path)
        return other

    def sending(self, tokens: float) -> float:
        """Seconds until the KV cache of so many tokens has arrived."""
        return self.path.latency + self._busy(tokens)

    def _busy(self, tokens: float) -> float:
        """Seconds that the transfer of so many tokens keeps the GPU or the link busy that it takes longest."""
        return sending_time(self.pricer.model, self.pricer.stages, self.path, tokens, self._share)

    def ttft(self, rate: float) -> tuple[float, float]:
        """Seconds until the KV cache has arrived, at the SLO's percentile and on average; infinite beyond its speed."""
        load = rate * self.interval
        if load >= 1.0:
            return math.inf, math.inf
        mean, tail = self.pricer.demand.waiting(np.array(load), np.array(self.interval))
        return (
            self.tail_passage + float(tail) + self.tail_sending,
            self.mean_passage + float(mean) + self.mean_sending,
        )

    def goodput(self) -> float:
        """Prompts/s within its part of the SLO and of the network; 0 where there are none."""
        limit = prefill_share(self.pricer.workload.slo)
        if not self.fits() or self.ttft(0.0)[0] > limit:
            return 0.0
        low, high = 0.0, _FULLEST / self.interval
        if self.ttft(high)[0] > limit:
            for _ in range(_HALVINGS):
                middle = (low + high) / 2.0
                low, high = (middle, high) if self.ttft(middle)[0] <= limit else (low, middle)
        else:
            low = high
        busy = self._busy(self.pricer.demand.prompt)
        return min(low, 1.0 / busy) if busy > 0 else low

    def memory_S(self) -> Array:
        """Bytes on each GPU of each stage: weights, and the KV caches of a prompt in every stage."""
        pricer, lengths = self.pricer, self.pricer.workload.prompt
        tokens_L = cached_tokens_L(pricer.model, np.array(float(len(pricer.stages))), lengths.mean, lengths.max)
        return np.asarray(pricer.memory_of_S(tokens_L))

    def fits(self) -> bool:
        """Whether that is no more than the engine may use."""
        return bool((self.memory_S() <= self.pricer.limit_S).all())


def sending_time(
    model: ModelSpec, stages: Sequence[PipelineStage], path: KvPath, tokens: float, share: float | None = None
) -> float:
    """Seconds that sending a prompt's KV cache keeps the GPU or the link busy that it takes longest, latency apart.

    `share` says, for a bound, how much of it the stage that has most is taken to send.
    """
    sent = [float(sent_bytes_L(model, stage.tp)[slice(*stage.layers)].sum()) * tokens for stage in stages]
    total = math.fsum(sent)
    if share is not None:
        slowest = share * total / max(stage.tp for stage in stages) / path.out
    else:
        slowest = max(bytes_ / stage.tp / path.out for bytes_, stage in zip(sent, stages, strict=True))
    return _over_wire(max(slowest, total / path.link))


def receiving_time(model: ModelSpec, stages: Sequence[PipelineStage], path: KvPath, tokens: float) -> float:
    """Seconds that receiving a prompt's KV cache keeps the GPU busy that it takes longest; every GPU needs its own."""
    most = max(float(kv_bytes_per_token_L(model, s.tp)[slice(*s.layers)].sum()) for s in stages)
    return _over_wire(most * tokens / path.into)


def link_capacity(bandwidth: float) -> float:
    """Bytes/s that a link really carries."""
    return bandwidth / _over_wire(1.0)


def _over_wire(nominal: float) -> float:
    """Seconds at what a link really gives, from seconds at its nominal bandwidth."""
    return float(wire_time(np.array(nominal), Link.model_construct(bandwidth=1.0, latency=0.0)))


class DecodeReplica:
    """A replica that takes over KV caches and decodes.

    Parameters
    ----------
    model, engine, workload, stages
        As of `PrefillReplica`.
    path
        From those who prefill; of several the one on which a GPU receives least.
    """

    def __init__(
        self,
        model: ModelSpec,
        engine: EngineProfile,
        workload: Workload,
        stages: Sequence[PipelineStage],
        path: KvPath,
    ) -> None:
        self.pricer = decode_pricer(model, engine, workload, stages)
        busy = receiving_time(model, stages, path, self.pricer.demand.prompt)
        self.most = math.inf if busy <= 0 else 1.0 / busy

    def goodput(self) -> Operation | Shortfall:
        """Operate at the highest rate within its part of the SLO and of the network, or say what stands in the way."""
        found = self.pricer.goodput()
        if isinstance(found, Operation) and found.rate > self.most:
            return replace(self.pricer.at_rate(self.most), rate=self.most)
        return found


def decode_pricer(
    model: ModelSpec, engine: EngineProfile, workload: Workload, stages: Sequence[PipelineStage]
) -> ReplicaPricer:
    """Price a replica that computes no prompts: its steps are held to the first token's part of TTFT too."""
    limit = step_share(workload.slo)
    slo = Slo(tpot=None if math.isinf(limit) else limit, percentile=workload.slo.percentile)
    pricer = copy.copy(ReplicaPricer(model, engine, workload.with_slo(slo), stages))
    pricer.demand = pricer.demand.decoding(decode_step())
    return pricer
