"""Prefill and decode on separate workers: what a closed loop of clients sees.

C requests are under way. Each is computed by one of the prefill workers, its KV cache is sent over, and it decodes
among those that one of the decode workers holds. Nothing interrupts a decode step, so that TPOT is the time D(n) of a
step with n sequences; what a prompt costs shows in the wait for a prefill worker alone. In steady state, by Little's
law,

* ``rate = N / (OSL D(N / workers))`` with N sequences decoding;
* prefill is a queue of m servers that take S seconds a prompt: with ``rho = rate S / m`` an arriving prompt finds
  ``Q (C - 1) / C`` others there, Q being their mean number (mean value analysis), so that
  ``Q = max(rate S, rho / (1 - rho (C - 1) / C))``;
* ``C = Q + N + rate (outside + transfer + D)``; the sum grows with N, which is found by halving.

A prefill worker with data-parallel attention computes a prompt on each of its ranks at the same time: it counts as that
many servers. Where requests arrive in waves (synchrony s), the share s of them meets the queue of a whole burst.

Legend: B batch of concurrencies, G grid of decode batches.

References
----------
M. Reiser, S. Lavenberg, "Mean-value analysis of closed multichain queuing networks", JACM 1980; Y. Bard, "Some
extensions to multiclass queueing network analysis", 1979. Y. Zhong et al., "DistServe", OSDI 2024.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.load_pattern import LoadPattern
from planner.cost.memory import kv_bytes_per_token_L
from planner.cost.network import wire_time
from planner.cost.serving import BATCH_GRID
from planner.engine.fitted import load_fit
from planner.errors import InfeasibleError, InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from planner.cluster import Link
    from planner.cost._types import Array, BoolArray
    from planner.cost.replica import ReplicaPricer
    from planner.model import ModelSpec

__all__ = ["Disaggregated", "WorkerPool", "decode_step", "disaggregated_loop", "sent_bytes_L", "transfer_bytes"]

_HALVINGS: Final = 50  # of the interval that the number of decoding sequences lies in


@dataclass(frozen=True, slots=True)
class WorkerPool:
    """Equal workers of one role.

    Parameters
    ----------
    pricer
        One of them, with the lengths of the requests.
    workers
        How many there are.
    sequences
        Most sequences that one of them takes at a time, over all ranks; None: what its KV cache has room for.
    step_overhead
        Seconds that a decode step takes beside what it takes inside one server: taking in KV caches and handing tokens
        to the router, which nothing hides. None: as fitted (``profiles/fits/disaggregated.yaml``). Nothing to a prefill
        worker.
    """

    pricer: ReplicaPricer
    workers: int
    sequences: float | None = None
    step_overhead: float | None = None

    def __post_init__(self) -> None:
        """Check the numbers."""
        if self.workers < 1:
            raise InputError(f"{self.workers} workers", expected="1 or more")
        if self.sequences is not None and self.sequences < 1:
            raise InputError(f"{self.sequences:g} sequences", expected="1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Disaggregated:
    """What the clients of a closed loop see; arrays of shape B.

    Parameters
    ----------
    concurrency_B
        Requests under way.
    prefilling_B, decoding_B
        Of them, those at the prefill workers, waiting or computed, and those decoding, on average.
    ttft_B, tpot_B, latency_B
        Seconds; ``latency = TTFT + OSL TPOT``.
    rate_B
        Requests/s.
    prefill_load_B
        Share of the time that a prefill worker is busy: near 1 more decode workers help nothing.
    limited_B
        Whether the decode workers have no room for all that could decode.
    """

    concurrency_B: Array
    prefilling_B: Array
    decoding_B: Array
    ttft_B: Array
    tpot_B: Array
    latency_B: Array
    rate_B: Array
    prefill_load_B: Array
    limited_B: BoolArray


def transfer_bytes(pricer: ReplicaPricer, tokens: float) -> float:
    """Bytes of KV cache that a prompt's worker sends: every layer once, the same latent of several GPUs only once."""
    return float(sent_bytes_L(pricer.model, pricer.stages[0].tp).sum()) * tokens


def sent_bytes_L(model: ModelSpec, tp: int) -> Array:
    """Bytes per token of each layer that a tensor-parallel group sends, all its GPUs together."""
    heads_L = np.array([model.kinds[k].attention.kv_heads for k in model.kind_of_layer])
    copies_L = np.minimum(tp, heads_L)  # GPUs whose parts differ
    return np.asarray(kv_bytes_per_token_L(model, tp) * copies_L)


def decode_step() -> float:
    """Seconds that a decode step takes beside what it takes inside one server, as fitted to measured servers."""
    return load_fit("disaggregated").constants["step"]


def disaggregated_loop(
    prefill: WorkerPool, decode: WorkerPool, concurrency_B: ArrayLike, load: LoadPattern, link: Link | None
) -> Disaggregated:
    """Latencies and rate of prefill and decode workers with some numbers of requests under way.

    Parameters
    ----------
    prefill, decode
        The workers; both pricers are of the same model and lengths.
    concurrency_B
        Requests under way, of all workers together; at least 1.
    load
        How they come. Its waits for a slot do not apply: nobody shares an engine with prompts of others.
    link
        Between a prefill and a decode worker; None: KV caches pass at no cost.

    Raises
    ------
    InputError
        If the loop is open, or a concurrency is less than 1.
    InfeasibleError
        If a decode worker has no room for one request.
    """
    concurrency_B = np.atleast_1d(np.asarray(concurrency_B, dtype=float))
    if load.arrival == "open":
        raise InputError("an open loop has a rate, no concurrency", expected="closed or burst")
    if concurrency_B.size == 0 or not (concurrency_B >= 1).all():
        raise InputError("a concurrency below 1", expected="1 request under way, or more")
    if load.offline:
        prefill, decode = (replace(p, pricer=_without_host_time(p.pricer)) for p in (prefill, decode))
    synchrony = 1.0 if load.arrival == "burst" else load.synchrony
    demand = decode.pricer.demand
    prompt_time = prefill.pricer.prompt_time(demand.prompt)
    servers = prefill.workers * prefill.pricer.ranks
    sending = 0.0
    if link is not None:
        sending = link.latency + float(wire_time(np.array(transfer_bytes(prefill.pricer, demand.prompt)), link))
    outside = prefill.pricer.engine.overhead.first_token.value + sending
    slots = decode.workers * _room(decode)
    most_B = np.minimum(concurrency_B, slots)
    step_G = _decode_steps(decode, float(most_B.max()))

    def found(decoding_B: Array) -> tuple[Array, Array, Array, Array]:
        """Step, rate, prompts at the prefill workers, and requests under way with so many decoding."""
        step_B = np.interp(decoding_B / decode.workers, *step_G)
        rate_B = decoding_B / (demand.output * step_B)
        busy_B = rate_B * prompt_time / servers
        met_B = 1.0 - busy_B * (concurrency_B - 1.0) / concurrency_B
        queue_B = np.where(met_B > 0, busy_B / np.maximum(met_B, 1e-12), np.inf)
        queue_B = np.maximum(queue_B, rate_B * prompt_time)
        return step_B, rate_B, queue_B, queue_B + decoding_B + rate_B * (outside + step_B)

    low_B, high_B = np.zeros_like(most_B), most_B.copy()
    for _ in range(_HALVINGS):
        middle_B = (low_B + high_B) / 2.0
        fewer_B = found(middle_B)[3] < concurrency_B
        low_B, high_B = np.where(fewer_B, middle_B, low_B), np.where(fewer_B, high_B, middle_B)
    decoding_B = (low_B + high_B) / 2.0
    step_B, rate_B, queue_B, _ = found(decoding_B)
    limited_B = (decoding_B >= slots * (1 - 1e-9)) & (slots < concurrency_B)
    # what waits for room on a decode worker waits before its first token comes through
    latency_B = concurrency_B / rate_B
    after_B = demand.output * step_B
    # a burst waits for half of itself on average; others have then decoded together, later
    burst_B = np.maximum(concurrency_B / servers - 1.0, 0.0) * prompt_time / 2.0
    steady_B = latency_B - after_B
    ttft_B = steady_B + synchrony * np.maximum(burst_B + prompt_time + outside - steady_B, 0.0)
    held_B = after_B * load.stream_interval / (demand.output + load.stream_interval)
    return Disaggregated(
        concurrency_B=concurrency_B,
        prefilling_B=queue_B,
        decoding_B=decoding_B,
        ttft_B=ttft_B + held_B,
        tpot_B=(after_B - held_B) / demand.output,
        latency_B=ttft_B + after_B,
        rate_B=rate_B,
        prefill_load_B=np.minimum(rate_B * prompt_time / servers, 1.0),
        limited_B=limited_B,
    )


def _without_host_time(pricer: ReplicaPricer) -> ReplicaPricer:
    """The same replica for requests that lie ready in its process: no time per prompt, none before a first token."""
    offline = copy.copy(pricer)
    overhead = pricer.engine.overhead
    nothing = {name: getattr(overhead, name).model_copy(update={"value": 0.0}) for name in ("prompt", "first_token")}
    offline.engine = pricer.engine.model_copy(update={"overhead": overhead.model_copy(update=nothing)})
    return offline


def _room(pool: WorkerPool) -> float:
    """Sequences that one decode worker has room for, in its KV cache and its tables."""
    pricer = pool.pricer
    defaults = pricer.engine.serving_defaults()
    reserved = 1.0 if defaults.reserved_output is None else defaults.reserved_output.value
    capacity, workload = pricer.kv_capacity(), pricer.workload
    whole = workload.prompt.mean + workload.output.mean
    if capacity < whole:
        raise InfeasibleError(
            f"one request of {whole:,.0f} tokens does not fit the KV cache of {max(capacity, 0.0):,.0f} tokens",
            hint="more GPUs for a decode worker, or weights or a KV cache in fewer bits",
        )
    each = workload.prompt.mean + reserved * workload.output.mean
    asked = float(defaults.max_sequences.value) * pricer.ranks if pool.sequences is None else pool.sequences
    return max(1.0, min(capacity / each, asked))


def _decode_steps(pool: WorkerPool, most: float) -> tuple[Array, Array]:
    """Sequences on one decode worker, and seconds of a step with them; no prompts are computed there."""
    stages = len(pool.pricer.stages)
    reach = sum(1 for size in BATCH_GRID if size < most / pool.workers / stages) + 1
    grid_G = np.asarray(BATCH_GRID[:reach], dtype=float)
    alone = copy.copy(pool.pricer)
    alone.demand = pool.pricer.demand.decoding(decode_step() if pool.step_overhead is None else pool.step_overhead)
    return stages * grid_G, alone.state(grid_G).tpot_B
