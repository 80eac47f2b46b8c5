"""Steady state of continuous batching on a replica: TPOT, TTFT and rate from the times of its stages.

A replica is a pipeline of S stages with S microbatches in flight, b sequences decoding in each. Every request brings
ISL prompt tokens for OSL decode steps, so p = b ISL / OSL prompt tokens are computed per iteration on average. They
come in chunks of c tokens: a share f = p / c of the iterations carries one, and prefill is part of every TPOT. With d_s
the time of stage s without a chunk, x_s with one, and h_s the transfer behind it:

* ``t_s = (1 - f) d_s + f x_s``, ``T = max(max_s t_s, max_s h_s)``, ``TPOT = cycle = max(S T, sum_s (t_s + h_s))``;
* ``rate = S b / (OSL cycle)`` (Little's law over the decoding sequences);
* a prompt waits while others are computed (Kingman's formula with the trace's own variation of lengths and of
  arrivals) and then passes chunk after chunk: ``TTFT = T/2 + wait + sum_s (x_s + h_s) + (chunks - 1) max_s x_s``;
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

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.layer import LayerPricer, Load
from planner.dtypes import DTYPE_BYTES

if TYPE_CHECKING:
    from planner.cost._types import Array, IntArray
    from planner.engine import EngineProfile
    from planner.model import ModelSpec
    from planner.workload import Workload

__all__ = ["BATCH_GRID", "Demand", "StageTable", "SteadyState", "hop_bytes", "stage_table", "steady_state"]


def _batch_grid() -> tuple[int, ...]:
    grid = list(range(1, 33))
    while grid[-1] < 2048:
        grid.append(max(grid[-1] + 1, round(grid[-1] * 1.06)))
    return tuple(grid)


# Decode batches that a search considers: every size to 32, then steps of 6 %.
BATCH_GRID: Final[tuple[int, ...]] = _batch_grid()


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
    tail_prompt
        Prompt length at the SLO's percentile.
    chunks, chunk
        Iterations that this prompt takes, and its tokens in each.
    mean_chunk, budget
        Prompt tokens of an iteration that carries any, as long as prompts are few; and the most that one takes.
    percentile, burstiness
        Of the SLO, and of the arrivals.
    """

    output: float
    decode_context: float
    prefill_per_decode: float
    prefill_context: float
    prompt: float
    prompt_second_moment: float
    longest: float
    tail_prompt: float
    chunks: int
    chunk: float
    mean_chunk: float
    budget: float
    percentile: float
    burstiness: float

    @classmethod
    def of(cls, workload: Workload, engine: EngineProfile) -> Demand:
        """Derive the demand of a workload on an engine."""
        computed = 1.0 - workload.prefix_share
        tail = workload.prompt.quantile(workload.slo.percentile) * computed
        budget = engine.serving_defaults().chunk_tokens.value
        chunks = max(1, math.ceil(tail / budget))
        return cls(
            output=workload.output.mean,
            decode_context=workload.mean_decode_context,
            prefill_per_decode=workload.prompt.mean * computed / workload.output.mean,
            # a token of a prompt of length n sees n/2 others; long prompts have more tokens
            prefill_context=workload.prompt.second_moment / workload.prompt.mean / 2 * (1 + workload.prefix_share),
            prompt=workload.prompt.mean * computed,
            prompt_second_moment=workload.prompt.second_moment * computed**2,
            longest=workload.total.max,
            tail_prompt=tail,
            chunks=chunks,
            chunk=tail / chunks,
            mean_chunk=min(workload.prompt.mean * computed, budget),
            budget=float(budget),
            percentile=workload.slo.percentile,
            burstiness=workload.burstiness,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTable:
    """Times of one kind of stage over a grid of decode batches: of a mean iteration, and of one with a whole chunk.

    Parameters
    ----------
    mean_KG, chunk_KG
        Seconds per layer, the engine's overhead per layer included.
    mean_first_G, chunk_first_G
        Seconds that the first stage adds: the embedding and the engine's work per prompt.
    mean_last_G, chunk_last_G
        Seconds that the last stage adds: head, sampling.
    iteration
        Seconds that every stage adds.
    mean_parts_PKG, chunk_parts_PKG
        The layers' kernels apart, for the error band.
    """

    mean_KG: Array
    chunk_KG: Array
    mean_first_G: Array
    chunk_first_G: Array
    mean_last_G: Array
    chunk_last_G: Array
    iteration: float
    mean_parts_PKG: Array
    chunk_parts_PKG: Array

    def times(self, layers_K: IntArray, *, first: bool, last: bool, chunk: bool = False) -> Array:
        """Seconds of a stage that holds so many layers of each kind, shape (G,)."""
        per_layer = self.chunk_KG if chunk else self.mean_KG
        time = self.iteration + layers_K @ per_layer
        if first:
            time = time + (self.chunk_first_G if chunk else self.mean_first_G)
        if last:
            time = time + (self.chunk_last_G if chunk else self.mean_last_G)
        return np.asarray(time)


def stage_table(pricer: LayerPricer, engine: EngineProfile, demand: Demand, batch_G: Array) -> StageTable:
    """Price one kind of stage for decode batches `batch_G` (sequences per microbatch; need not be whole)."""
    overhead = engine.overhead
    batch = np.asarray(batch_G, dtype=float)
    steady = batch * demand.prefill_per_decode
    # where more prompt tokens are due than one prompt has, prompts share an iteration
    carried = np.maximum(demand.mean_chunk, steady)
    share = steady / carried

    def parts(prefill: Array, context: float) -> Array:
        return pricer.parts_PKB(
            Load(
                decode=batch,
                decode_context=np.full_like(batch, demand.decode_context),
                prefill=prefill,
                prefill_context=np.full_like(batch, context),
            )
        )

    alone = parts(np.zeros_like(batch), demand.prefill_context)
    mean_parts = alone + share * (parts(carried, demand.prefill_context) - alone)
    chunk_parts = parts(np.full_like(batch, demand.chunk), demand.tail_prompt / 2)
    sampling = overhead.sequence.value * batch
    return StageTable(
        mean_KG=mean_parts.sum(axis=0) + overhead.layer.value,
        chunk_KG=chunk_parts.sum(axis=0) + overhead.layer.value,
        mean_first_G=pricer.embedding_time_B(batch + steady) + overhead.prompt.value * batch / demand.output,
        chunk_first_G=pricer.embedding_time_B(batch + demand.chunk) + overhead.prompt.value,
        mean_last_G=pricer.head_time_B(batch * (1 + 1 / demand.output)) + sampling,
        chunk_last_G=pricer.head_time_B(batch + 1) + sampling,
        iteration=overhead.iteration.value,
        mean_parts_PKG=mean_parts,
        chunk_parts_PKG=chunk_parts,
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
    demand: Demand,
    first_token: float,
    batch_B: Array,
    mean_BS: Array,
    chunk_BS: Array,
    hop_BS: Array,
    chunk_hop_BS: Array,
    stages_B: IntArray,
) -> SteadyState:
    """Latencies and rate of replicas in steady state.

    Parameters
    ----------
    demand
        What the workload asks of an iteration.
    first_token
        Seconds that the engine delays a first token by, without keeping anybody waiting.
    batch_B
        Sequences decoding per microbatch.
    mean_BS, chunk_BS
        Stage times of the mean iteration and of one with a whole chunk; 0 where a candidate has fewer stages.
    hop_BS, chunk_hop_BS
        Seconds of the transfer behind each stage; 0 behind the last.
    stages_B
        Number of stages.

    Returns
    -------
    SteadyState
        A queue that cannot keep up has an infinite TTFT.
    """
    slowest = np.maximum(mean_BS.max(axis=-1), hop_BS.max(axis=-1))
    cycle = np.maximum(stages_B * slowest, (mean_BS + hop_BS).sum(axis=-1))
    rate = stages_B * batch_B / (demand.output * cycle)
    chunk_slowest = np.maximum(chunk_BS.max(axis=-1), chunk_hop_BS.max(axis=-1))
    # the prefill queue: a prompt of n tokens holds the slowest stage for n / chunk iterations
    per_token = chunk_slowest / demand.chunk
    service = demand.prompt * per_token
    utilisation = rate * service
    variation = demand.prompt_second_moment / demand.prompt**2 - 1.0
    with np.errstate(divide="ignore", invalid="ignore"):
        wait = utilisation / (1.0 - utilisation) * (demand.burstiness**2 + variation) / 2 * service
        wait = np.where(utilisation < 1.0, wait, np.inf)
        # P(wait > w) = u exp(-w u / mean wait)
        tail = np.where(
            utilisation > 1.0 - demand.percentile,
            wait / utilisation * np.log(utilisation / (1.0 - demand.percentile)),
            0.0,
        )
    tail = np.where(utilisation < 1.0, tail, np.inf)
    passage = first_token + slowest / 2 + (chunk_BS + chunk_hop_BS).sum(axis=-1)
    mean_chunks = max(demand.prompt / demand.chunk, 1.0)
    return SteadyState(
        tpot_B=cycle,
        ttft_mean_B=passage + wait + (mean_chunks - 1) * chunk_slowest,
        ttft_B=passage + tail + (demand.chunks - 1) * chunk_slowest,
        rate_B=rate,
        utilisation_B=utilisation,
    )
