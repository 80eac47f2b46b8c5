"""Steady state of continuous batching on a replica: TPOT, TTFT and rate from the times of its stages.

A replica is a pipeline of S stages with S microbatches in flight, b sequences decoding in each. Every request brings
ISL prompt tokens for OSL decode steps, so p = b ISL / OSL prompt tokens are computed per iteration on average. They
come in chunks of c tokens: a share f = p / c of the iterations carries one, and prefill is part of every TPOT. Be d_s
the time of stage s without a chunk, x_s with one, w_s the bytes behind it over the link's bandwidth, and l_s the link's
latency (the last link leads back to the first stage, where the next token starts):

* ``t_s = (1 - f) d_s + f x_s``, ``T = max_s max(t_s, w_s)``, ``TPOT = cycle = max(S T, sum_s (t_s + w_s + l_s))``;
* ``rate = S b / (OSL cycle)`` (Little's law over the decoding sequences);
* a prompt waits while others are computed, in iterations that are filled to the engine's budget as long as there is a
  queue (Kingman's formula with the trace's own variation of lengths and arrivals), and then passes chunk after chunk:
  ``TTFT = T/2 + wait + sum_s (x_s + w_s + l_s) + (chunks - 1) max_s x_s``;
* the KV cache of the tightest stage bounds S b.

TTFT at a percentile takes the prompt length and the wait at that percentile, the wait from an exponential tail: both at
once, so it errs on the safe side. TPOT is a request's mean over its output; its percentile is taken as the mean.

Legend: B batch of candidates or of loads, S stage, G decode batch of a grid, K layer kind.

References
----------
A. Agrawal et al., "Taming throughput-latency tradeoff in LLM inference with Sarathi-Serve", OSDI 2024.
J. F. C. Kingman, "The single server queue in heavy traffic", 1961.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from planner.cost.host_times import part_factors
from planner.cost.layer import LayerPricer, Load
from planner.dtypes import DTYPE_BYTES

if TYPE_CHECKING:
    from planner.cost._types import Array, BoolArray, IntArray
    from planner.engine import EngineProfile
    from planner.model import ModelSpec
    from planner.workload import Workload

__all__ = [
    "BATCH_GRID",
    "Demand",
    "Iteration",
    "PipelineTimes",
    "StageTable",
    "SteadyState",
    "hop_bytes",
    "most_within_ttft",
    "stage_table",
    "steady_state",
]


# An iteration as the load makes it on average; one with a chunk of the tail's prompt; one filled to the budget.
Iteration = Literal["mean", "chunk", "full"]

_HALVINGS: Final = 30  # of the load of a queue that a TTFT allows
_SATURATED: Final = 1e-6  # a prefill queue this close to its capacity counts as one that never empties


def _batch_grid() -> tuple[float, ...]:
    grid = [2.0**-k for k in range(10, 0, -1)] + [float(b) for b in range(1, 33)]
    while grid[-1] < 2048:
        grid.append(float(max(grid[-1] + 1, round(grid[-1] * 1.06))))
    return tuple(grid)


# Decode batches that a search considers: fractions (a mean may lie below one), every size to 32, then steps of 6 %.
BATCH_GRID: Final[tuple[float, ...]] = _batch_grid()


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a workload and an engine's chunking ask of one iteration.

    Parameters
    ----------
    output
        Mean output tokens per request.
    decode_context
        Mean tokens that a decoding sequence holds.
    prefill_per_decode
        Prompt tokens computed per decoded token in steady state.
    prefill_context
        Tokens that a prompt token sees on average.
    prompt, prompt_second_moment
        Tokens of a prompt to be computed, mean and mean square.
    longest
        Tokens of the longest request, prompt and output: the engine's context limit.
    tail_prompt, tail_context
        Tokens to be computed of the prompt at the SLO's percentile, and tokens that each of them sees on average.
    budget
        Most tokens of one iteration, prefill and decode together.
    percentile, burstiness
        Of the SLO, and of the arrivals.
    step
        Seconds that a decode step takes beside what it takes inside one server.
    """

    output: float
    decode_context: float
    prefill_per_decode: float
    prefill_context: float
    prompt: float
    prompt_second_moment: float
    longest: float
    tail_prompt: float
    tail_context: float
    budget: float
    percentile: float
    burstiness: float
    step: float = 0.0

    @classmethod
    def of(cls, workload: Workload, engine: EngineProfile) -> Demand:
        """Derive the demand of a workload on an engine; a cached prefix is seen, but not computed."""
        cached = workload.prefix_share
        computed = 1.0 - cached
        tail = workload.prompt.quantile(workload.slo.percentile)
        return cls(
            output=workload.output.mean,
            decode_context=workload.mean_decode_context,
            prefill_per_decode=workload.prompt.mean * computed / workload.output.mean,
            # a token of a prompt of length n sees n/2 others; long prompts have more tokens
            prefill_context=workload.prompt.second_moment / workload.prompt.mean / 2 * (1 + cached),
            prompt=workload.prompt.mean * computed,
            prompt_second_moment=workload.prompt.second_moment * computed**2,
            longest=workload.total.max,
            tail_prompt=tail * computed,
            tail_context=tail / 2 * (1 + cached),
            budget=float(engine.serving_defaults().chunk_tokens.value),
            percentile=workload.slo.percentile,
            burstiness=workload.burstiness,
        )

    def decoding(self, step: float) -> Demand:
        """Return the same where prompts are computed elsewhere, and every step takes so many seconds longer."""
        return replace(self, prefill_per_decode=0.0, step=step)

    def begun(self, batch: Array) -> Array:
        """Prompts begun per iteration with so many sequences decoding; none where they are computed elsewhere."""
        return batch / self.output if self.prefill_per_decode else np.zeros_like(batch)

    def waiting(self, load: Array, service: Array) -> tuple[Array, Array]:
        """Seconds that prompts wait for a prefill queue with a load below 1: mean, and at the SLO's percentile.

        Kingman's formula for the mean; beyond it, ``P(wait > w) = load exp(-w load / mean)``.

        Parameters
        ----------
        load
            Share of the time that the queue is served.
        service
            Seconds of a prompt of mean length.
        """
        variation = max(self.prompt_second_moment / self.prompt**2 - 1.0, 0.0)
        mean = load / (1.0 - load) * (self.burstiness**2 + variation) / 2 * service
        beyond = load / (1.0 - self.percentile)
        tail = np.where(beyond > 1.0, mean / np.maximum(load, 1e-300) * np.log(np.maximum(beyond, 1.0)), 0.0)
        return mean, tail

    def steady(self, batch: Array) -> Array:
        """Prompt tokens due per iteration with so many sequences decoding."""
        return batch * self.prefill_per_decode

    def room(self, batch: Array) -> Array:
        """Prompt tokens that fit an iteration beside so many decoding sequences."""
        return np.maximum(self.budget - batch, 1.0)

    def chunks(self, batch: Array) -> Array:
        """Iterations that the tail's prompt takes."""
        return np.ceil(self.tail_prompt / self.room(batch) - 1e-9)

    def chunk(self, batch: Array) -> Array:
        """Tokens of the tail's prompt in each of them."""
        return self.tail_prompt / self.chunks(batch)

    def runs(self, batch: Array) -> BoolArray:
        """Whether an iteration has room for what is due on average."""
        return np.asarray(batch + self.steady(batch) <= self.budget)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTable:
    """Times of one kind of stage over a grid of decode batches, for each kind of iteration.

    Parameters
    ----------
    layer_KG
        Seconds per layer, the engine's overhead per layer included.
    first_G, last_G
        Seconds that the first stage adds (embedding, the engine's work per prompt) and the last (head, sampling).
    iteration
        Seconds that every stage adds.
    parts_PKG
        The layers' kernels apart, for the error band.
    """

    layer_KG: dict[Iteration, Array]
    first_G: dict[Iteration, Array]
    last_G: dict[Iteration, Array]
    iteration: float
    parts_PKG: dict[Iteration, Array]

    def times(self, layers_K: IntArray, which: Iteration, *, first: bool, last: bool) -> Array:
        """Seconds of a stage that holds so many layers of each kind, shape (G,)."""
        time = self.iteration + layers_K @ self.layer_KG[which]
        if first:
            time = time + self.first_G[which]
        if last:
            time = time + self.last_G[which]
        return np.asarray(time)


def stage_table(pricer: LayerPricer, engine: EngineProfile, demand: Demand, batch_G: Array) -> StageTable:
    """Price one kind of stage for decode batches `batch_G` (sequences per microbatch; need not be whole)."""
    overhead = engine.overhead
    factor_P11 = part_factors(engine, pricer.model)[:, None, None]
    batch = np.asarray(batch_G, dtype=float)
    decoding = np.maximum(batch, 1.0)  # an iteration that decodes at all has a sequence in it
    steady, room, chunk = demand.steady(batch), demand.room(batch), demand.chunk(batch)
    # where more prompt tokens are due than one prompt has, prompts share an iteration
    carried = np.minimum(np.maximum(demand.prompt, steady), np.maximum(room, steady))

    def parts(prefill: Array, context: float) -> Array:
        return factor_P11 * pricer.parts_PKB(
            Load(
                decode=decoding,
                decode_context=np.full_like(batch, demand.decode_context),
                prefill=prefill,
                prefill_context=np.full_like(batch, context),
            )
        )

    alone = parts(np.zeros_like(batch), demand.prefill_context)
    share = steady / carried
    kernels: dict[Iteration, Array] = {
        "mean": alone + share * (parts(carried, demand.prefill_context) - alone),
        "chunk": parts(chunk, demand.tail_context),
        "full": parts(room, demand.prefill_context),
    }
    # prompt tokens and prompts begun in each kind of iteration; ranks of attention look after their own together
    tokens: dict[Iteration, Array] = {"mean": steady, "chunk": chunk, "full": room}
    prompts: dict[Iteration, Array] = {
        "mean": demand.begun(batch),
        "chunk": np.ones_like(batch),
        "full": room / demand.prompt,
    }
    return StageTable(
        layer_KG={which: time.sum(axis=0) + overhead.layer.value for which, time in kernels.items()},
        first_G={
            which: pricer.embedding_time_B(decoding + tokens[which])
            + overhead.prompt.value * prompts[which] / pricer.ranks
            for which in kernels
        },
        last_G={
            which: overhead.kernels.value * pricer.head_time_B(decoding + prompts[which])
            + overhead.sequence.value * decoding / pricer.ranks
            for which in kernels
        },
        iteration=overhead.iteration.value,
        parts_PKG=kernels,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineTimes:
    """What the latencies of a replica follow from: the slowest stage and one way through, by kind of iteration.

    Every field may be replaced by a lower bound of it; the steady state is then at least as good as the true one.
    """

    slowest_B: Array
    around_B: Array
    chunk_slowest_B: Array
    chunk_through_B: Array
    full_slowest_B: Array

    @classmethod
    def of(
        cls,
        time_BS: dict[Iteration, Array],
        wire_BS: dict[Iteration, Array],
        latency_BS: Array,
        return_B: Array,
    ) -> PipelineTimes:
        """Gather them from stages.

        Parameters
        ----------
        time_BS
            Stage times by kind of iteration; 0 where a candidate has fewer stages.
        wire_BS
            Bytes over bandwidth of the transfer behind each stage; it keeps the link busy. 0 behind the last.
        latency_BS
            Latency of that link; nothing waits for it but the token itself.
        return_B
            Latency of the way back to the first stage, for the next token.
        """
        slowest = {k: np.maximum(time_BS[k].max(axis=-1), wire_BS[k].max(axis=-1)) for k in time_BS}
        through = {k: (time_BS[k] + wire_BS[k] + latency_BS).sum(axis=-1) for k in time_BS}
        return cls(
            slowest_B=slowest["mean"],
            around_B=through["mean"] + return_B,
            chunk_slowest_B=slowest["chunk"],
            chunk_through_B=through["chunk"],
            full_slowest_B=slowest["full"],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SteadyState:
    """What a replica does at a load; arrays of shape B."""

    tpot_B: Array
    ttft_mean_B: Array
    ttft_B: Array
    rate_B: Array
    utilisation_B: Array

    def in_flight_B(self, output: float) -> Array:
        """Requests in the replica, by Little's law: ``rate (TTFT + OSL TPOT)``."""
        return self.rate_B * (self.ttft_mean_B + output * self.tpot_B)


def hop_bytes(model: ModelSpec, tokens: Array) -> Array:
    """Bytes of activations that pass from one stage to the next: hidden state and residual of every token."""
    return 2.0 * np.asarray(tokens, dtype=float) * model.hidden * DTYPE_BYTES[model.dtype]


def steady_state(
    demand: Demand, first_token: float, batch_B: Array, stages_B: IntArray, times: PipelineTimes
) -> SteadyState:
    """Latencies and rate of replicas in steady state.

    Parameters
    ----------
    demand
        What the workload asks of an iteration.
    first_token
        Seconds that the engine delays a first token by, without keeping anybody waiting.
    batch_B, stages_B
        Sequences decoding per microbatch, and number of stages.
    times
        Of the stages and links.

    Returns
    -------
    SteadyState
        A queue that cannot keep up has an infinite TTFT.
    """
    cycle = np.maximum(stages_B * times.slowest_B, times.around_B) + demand.step
    rate = stages_B * batch_B / (demand.output * cycle)
    # the prefill queue: while it lasts, iterations are filled to the budget
    service = demand.prompt * times.full_slowest_B / demand.room(batch_B)
    if not demand.prefill_per_decode:  # who computes no prompts keeps none waiting
        service = np.zeros_like(service)
    load = rate * service
    stable = load < 1.0 - _SATURATED
    load = np.where(stable, load, 0.5)
    wait, tail = demand.waiting(load, service)
    passage = first_token + times.slowest_B / 2 + times.chunk_through_B
    mean_chunks = np.maximum(demand.prompt / demand.room(batch_B), 1.0)
    mean = passage + wait + (mean_chunks - 1) * times.chunk_slowest_B
    worst = passage + tail + (demand.chunks(batch_B) - 1) * times.chunk_slowest_B
    return SteadyState(
        tpot_B=cycle,
        ttft_mean_B=np.where(stable, mean, np.inf),
        ttft_B=np.where(stable, worst, np.inf),
        rate_B=rate,
        utilisation_B=np.where(stable, load, 1.0),
    )


def most_within_ttft(demand: Demand, first_token: float, batch_B: Array, times: PipelineTimes, ttft: float) -> Array:
    """Greatest rate at which the prefill queue leaves the TTFT within its target, from above; 0 for none.

    A pipeline with a longer cycle has a lower rate and a shorter queue, so that one may meet a TTFT which a faster one
    misses at the same decode batch. Whatever its cycle, no pipeline with these times or longer ones serves more.

    Parameters
    ----------
    demand, first_token, batch_B, times
        As for `steady_state`.
    ttft
        The target.
    """
    service = demand.prompt * times.full_slowest_B / demand.room(batch_B)
    if not demand.prefill_per_decode:
        service = np.zeros_like(service)
    passage = first_token + times.slowest_B / 2 + times.chunk_through_B
    left = ttft - passage - (demand.chunks(batch_B) - 1) * times.chunk_slowest_B
    low, high = np.zeros_like(service), np.full_like(service, 1.0 - _SATURATED)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        within = demand.waiting(middle, service)[1] <= left
        low, high = np.where(within, middle, low), np.where(within, high, middle)
    return np.asarray(np.where(left >= 0.0, high / np.maximum(service, 1e-300), 0.0))  # no layers, no queue
