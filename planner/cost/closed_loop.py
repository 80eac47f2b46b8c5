"""What a fixed number of clients see, each sending its next request when the last answer is complete.

The open loop of `planner.cost.serving` is told how many sequences decode; a closed loop is told how many requests are
under way, C, and finds that number by Little's law. Both share every kernel and the pipeline's cycle: with D the cycle
of an iteration that carries no prompt, T the mean cycle with n sequences decoding, and S stages,

* ``P = (T - D) OSL / n`` is what one prompt costs all others, on top of decoding;
* ``serv = D (1 + (chunks - 1) / S) + P (S + chunks - 1) / chunks``: its own way through chunks and stages;
* a request that decodes is held up by the prompts of the m - 1 others, for the share ``x = 1 - (1 - s) serv / E`` of
  its time: ``E = serv + OSL D + (m - 1) P x``, a quadratic in E, and ``n = m x`` sequences decode;
* m requests run at ``m / E`` per second. Time that a request spends outside the engine (HTTP, the harness) is time in
  which it does not run: ``C = m (1 + outside / E)``, and m is at most what the KV cache has room for. The rest waits.

The end-to-end latency E comes first and is then split: of the time that the prompts of others cost, the part ``s / 2``
falls before the first token. The synchrony s is 1 where requests move in waves (all arrive at once and are equally
long, so that they also end at once) and 0 where their phases are spread evenly; it moves time between TTFT and TPOT and
leaves E nearly unchanged.

Legend: B batch of loads, G grid of decode batches.

References
----------
J. D. C. Little, "A proof for the queuing formula L = λW", Operations Research 9(3), 1961.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

from planner.cost.serving import BATCH_GRID
from planner.errors import InfeasibleError, InputError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from planner.cost._types import Array, BoolArray
    from planner.cost.replica import ReplicaPricer

__all__ = ["ClosedLoop", "LoadPattern", "closed_loop", "without_host_time"]

_HALVINGS: Final = 40  # of the interval that the number of decoding sequences lies in
# Numbers of running requests that are tabulated: from the least mean (others are outside the engine), log-spaced.
_LEAST: Final = 1e-3
_POINTS: Final = 192


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadPattern:
    """How requests come, which is part of what a measured TTFT means.

    Parameters
    ----------
    arrival
        ``"closed"``: a fixed number of clients. ``"burst"``: all at once, and nothing after them; a closed loop in
        step. ``"open"``: at a rate, whatever the server does; `planner.cost.replica.ReplicaPricer.at_rate` prices it.
    synchrony
        0 where the phases of the requests are spread evenly, 1 where they move in waves.
    requests
        Requests in all, where the run fills and drains within what is measured; None where it is long.
    slot_wait
        Wait before a request is taken up, in units of the mean time between two requests that end: so many of the
        clients are waiting for a slot at any time.
    prompt_wait
        The same in units of the time that one prompt costs the engine; shared out by waves, which leave ``1 - s``.
    stream_interval
        Tokens after the first that are held back and streamed together with it.
    offline
        Requests lie ready as tokens in the engine's own process: no HTTP, no tokenising, no admission one by one.
    """

    arrival: Literal["closed", "burst", "open"] = "closed"
    synchrony: float = 0.0
    requests: int | None = None
    slot_wait: float = 0.0
    prompt_wait: float = 0.0
    stream_interval: float = 0.0
    offline: bool = False

    def __post_init__(self) -> None:
        """Check what would give numbers without meaning."""
        if not 0.0 <= self.synchrony <= 1.0:
            raise InputError(f"synchrony {self.synchrony:g}", expected="between 0 (spread) and 1 (in waves)")
        for name in ("slot_wait", "prompt_wait", "stream_interval"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"{name} {value:g}", expected="0 or more")
        if self.requests is not None and self.requests < 1:
            raise InputError(f"{self.requests} requests", expected="1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedLoop:
    """What the clients of a closed loop see; arrays of shape B.

    Parameters
    ----------
    concurrency_B
        Requests under way, as asked.
    running_B
        Of them, those in the engine; the others wait for room, or are outside.
    decoding_B
        Of them, those past their first token, on average.
    ttft_B, tpot_B, latency_B
        Seconds; ``latency = TTFT + OSL TPOT``.
    rate_B
        Requests/s while all clients are at work: ``concurrency / latency``.
    mean_rate_B
        Requests/s over the whole run, which also fills and drains; the same where its length is not told.
    limited_B
        Whether the KV cache or the engine's sequence limit keeps some waiting.
    """

    concurrency_B: Array
    running_B: Array
    decoding_B: Array
    ttft_B: Array
    tpot_B: Array
    latency_B: Array
    rate_B: Array
    mean_rate_B: Array
    limited_B: BoolArray


@dataclass(frozen=True, slots=True)
class _Iterations:
    """Cycles over a grid of decode batches: of an iteration without prompts, and what one prompt adds."""

    decoding_G: Array
    cycle_G: Array
    prompt_G: Array
    chunks_G: Array
    stages: int
    output: float

    def at(self, decoding_B: Array) -> tuple[Array, Array, Array]:
        """Seconds of a cycle, of a prompt's cost to the others, and of its own way, at some decode batches."""
        cycle_B, prompt_B, chunks_B = (
            np.interp(decoding_B, self.decoding_G, values_G)
            for values_G in (self.cycle_G, self.prompt_G, self.chunks_G)
        )
        more_B = chunks_B - 1.0
        own_B = cycle_B * (1 + more_B / self.stages) + prompt_B * (self.stages + more_B) / chunks_B
        return cycle_B, prompt_B, own_B

    def latency(self, running_B: Array, decoding_B: Array, synchrony: float) -> tuple[Array, Array, Array, Array]:
        """End-to-end seconds inside the engine; the share x; the prompt's cost; its own way."""
        cycle_B, prompt_B, own_B = self.at(decoding_B)
        others_B = np.maximum(running_B - 1.0, 0.0) * prompt_B
        # E = a - b / E; a^2 >= 4 b because a is more than the sum of two numbers whose product is at least b
        a_B, b_B = own_B + self.output * cycle_B + others_B, others_B * own_B * (1.0 - synchrony)
        latency_B = (a_B + np.sqrt(np.maximum(a_B**2 - 4.0 * b_B, 0.0))) / 2.0
        return latency_B, 1.0 - (1.0 - synchrony) * own_B / latency_B, prompt_B, own_B


def without_host_time(pricer: ReplicaPricer) -> ReplicaPricer:
    """The same replica for requests that lie ready in its process: no time per prompt, none before a first token."""
    offline = copy.copy(pricer)
    overhead = pricer.engine.overhead
    nothing = {name: getattr(overhead, name).model_copy(update={"value": 0.0}) for name in ("prompt", "first_token")}
    offline.engine = pricer.engine.model_copy(update={"overhead": overhead.model_copy(update=nothing)})
    return offline


def closed_loop(pricer: ReplicaPricer, concurrency_B: ArrayLike, load: LoadPattern) -> ClosedLoop:
    """Latencies and rate of a replica with some numbers of requests under way.

    Parameters
    ----------
    pricer
        The replica, its engine and the lengths of the requests.
    concurrency_B
        Requests under way; at least 1, need not be whole.
    load
        How they come.

    Raises
    ------
    InputError
        If the loop is open, or a concurrency is less than 1.
    InfeasibleError
        If not even one request fits the KV cache.

    Examples
    --------
    >>> from planner.cluster import load_device, load_link
    >>> from planner.cost.network import collective_for
    >>> from planner.cost.replica import PipelineStage, ReplicaPricer
    >>> from planner.engine import load_engine
    >>> from planner.model import load_model
    >>> from planner.workload import fixed_workload
    >>> gpu, model = load_device("h100_sxm"), load_model("llama-3.1-8b")
    >>> alone = collective_for(gpu, 1, load_link(gpu.link).link(), native=True)
    >>> stage = PipelineStage(device=gpu, collective=alone, layers=(0, model.num_layers), hop=None)
    >>> pricer = ReplicaPricer(model, load_engine("vllm"), fixed_workload(1024, 128), [stage])
    >>> loop = closed_loop(pricer, [1, 16], LoadPattern())
    >>> bool(loop.rate_B[1] > 8 * loop.rate_B[0]), bool(np.allclose(loop.rate_B * loop.latency_B, [1, 16]))
    (True, True)
    """
    concurrency_B = np.atleast_1d(np.asarray(concurrency_B, dtype=float))
    if load.arrival == "open":
        raise InputError("an open loop has a rate, no concurrency", expected="closed or burst")
    if concurrency_B.size == 0 or not (concurrency_B >= 1).all():
        raise InputError("a concurrency below 1", expected="1 request under way, or more")
    if load.offline:
        pricer = without_host_time(pricer)
    synchrony = 1.0 if load.arrival == "burst" else load.synchrony
    output = pricer.demand.output
    slots = _slots(pricer)
    iterations = _iterations(pricer, min(float(concurrency_B.max()), slots))
    first_token = pricer.engine.overhead.first_token.value

    running_B = _running(iterations, concurrency_B, slots, load, synchrony, first_token)
    decoding_B = _decoding(iterations, running_B, synchrony)
    inside_B, share_B, prompt_B, own_B = iterations.latency(running_B, decoding_B, synchrony)
    limited_B = running_B >= slots * (1 - 1e-12)
    rate_B = running_B / inside_B
    latency_B = concurrency_B / rate_B
    # what is neither in the engine nor held up outside it waits for room
    others_B = np.maximum(running_B - 1.0, 0.0) * prompt_B
    before_B = np.minimum(synchrony / 2.0 * others_B, others_B * share_B)
    after_B = inside_B - own_B - before_B
    held_B = after_B * load.stream_interval / (output + load.stream_interval)
    after_B = after_B - held_B
    ends = 0.0 if load.requests is None else running_B / (2.0 * load.requests)
    return ClosedLoop(
        concurrency_B=concurrency_B,
        running_B=running_B,
        decoding_B=decoding_B,
        ttft_B=latency_B - after_B,
        tpot_B=after_B / output,
        latency_B=latency_B,
        rate_B=rate_B,
        mean_rate_B=rate_B / (1.0 + ends),
        limited_B=limited_B,
    )


def _slots(pricer: ReplicaPricer) -> float:
    """Requests that have room in the KV cache and in the engine's tables."""
    workload, defaults = pricer.workload, pricer.engine.serving_defaults()
    reserved = 1.0 if defaults.reserved_output is None else defaults.reserved_output.value
    capacity = pricer.kv_capacity()
    whole = workload.prompt.mean + workload.output.mean
    if capacity < whole:
        raise InfeasibleError(
            f"one request of {whole:,.0f} tokens does not fit the KV cache of {max(capacity, 0.0):,.0f} tokens",
            hint="more GPUs, or weights or a KV cache in fewer bits",
        )
    each = workload.prompt.mean + reserved * workload.output.mean
    return max(1.0, min(capacity / each, float(defaults.max_sequences.value)))


def _iterations(pricer: ReplicaPricer, most: float) -> _Iterations:
    """Price a grid of decode batches with prompts and without."""
    stages = len(pricer.stages)
    reach = sum(1 for size in BATCH_GRID if size < most / stages) + 1
    grid_G = np.asarray(BATCH_GRID[:reach], dtype=float)
    # answers that never end bring no prompts
    decoding_only = copy.copy(pricer)
    decoding_only.demand = replace(pricer.demand, prefill_per_decode=0.0, output=math.inf)
    cycle_G = decoding_only.state(grid_G).tpot_B
    added_G = pricer.state(grid_G).tpot_B - cycle_G
    output = pricer.demand.output
    return _Iterations(
        decoding_G=stages * grid_G,
        cycle_G=cycle_G,
        prompt_G=added_G * output / (stages * grid_G),
        chunks_G=pricer.demand.chunks(grid_G),
        stages=stages,
        output=output,
    )


def _running(
    iterations: _Iterations, concurrency_B: Array, slots: float, load: LoadPattern, synchrony: float, first_token: float
) -> Array:
    """Requests in the engine, of those under way: the others are outside, or find no room.

    How many are under way follows from how many run, so that is tabulated and read backwards.
    """
    most = min(float(concurrency_B.max()), slots)
    running_G = np.geomspace(min(_LEAST, most), most, _POINTS)
    inside_G, _, prompt_G, _ = iterations.latency(running_G, _decoding(iterations, running_G, synchrony), synchrony)
    outside_G = first_token + load.prompt_wait * prompt_G * (1.0 - synchrony)
    # nobody waits for a slot who is the only one to use them
    waiting_B = np.minimum(load.slot_wait, concurrency_B - 1.0)
    return np.interp(concurrency_B - waiting_B, running_G * (1.0 + outside_G / inside_G), running_G)


def _decoding(iterations: _Iterations, running_B: Array, synchrony: float) -> Array:
    """Sequences past their first token: ``n = m x(n)``, found by halving."""
    low_B, high_B = np.zeros_like(running_B), running_B.copy()
    for _ in range(_HALVINGS):
        middle_B = (low_B + high_B) / 2.0
        share_B = iterations.latency(running_B, middle_B, synchrony)[1]
        more_B = running_B * share_B > middle_B
        low_B, high_B = np.where(more_B, middle_B, low_B), np.where(more_B, high_B, middle_B)
    return (low_B + high_B) / 2.0
