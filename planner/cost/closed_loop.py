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

Any number of loads of any mix of replicas is solved in one call, by a fixed number of rounds of that loop.

Legend: B batch of loads, R replica, S stage, G tokens.

References
----------
J. D. C. Little, "A proof for the queuing formula L = λW", Operations Research 9(3), 1961.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.host_times import HostTimes
from planner.cost.iteration_tables import CONTEXT_Y, SEQUENCES_X, TOKENS_G, IterationTables, Spot, spot
from planner.cost.load_pattern import LoadPattern
from planner.cost.loads import Loads
from planner.errors import InfeasibleError

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from planner.cost._types import Array, BoolArray, IntArray
    from planner.cost.replica import ReplicaPricer

__all__ = ["ClosedLoop", "LoadPattern", "LoopModel", "closed_loop"]

# The loop contracts by a factor of 3 to 30 a round: 16 leave an error below 1e-9, the last digits of a double mostly.
_ROUNDS: Final = 16
_LEAST: Final = 1e-9  # requests that run or decode: none at all would divide by zero


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
    fits_B
        Whether the KV cache has room for one request; where it has not, the other figures mean nothing.
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
    fits_B: BoolArray


class LoopModel:
    """Prices closed loops on some replicas.

    Parameters
    ----------
    tables
        Kernels and memory of the replicas.
    host
        What their engines add.
    """

    def __init__(self, tables: IterationTables, host: HostTimes) -> None:
        self.tables, self.host = tables, host
        one_R = host.kernels_R[:, None, None]
        elementwise_R = 1.0 + host.quantise_R * tables.quantised_R
        self._tokens_RSG = (
            one_R * tables.gemm_RSG
            + elementwise_R[:, None, None] * tables.elementwise_RSG
            + host.collectives_R[:, None, None] * tables.reduce_RSG
        )
        self._decode_RSXY = one_R[..., None] * tables.decode_RSXY
        self._prefill_RSG = one_R * tables.prefill_RSG
        self._head_RG = host.kernels_R[:, None] * tables.head_RG
        empty_RS = tables.layers_RS == 0
        self._eager_RS = host.eager_R[:, None] * tables.layers_RS
        self._constant_RS = np.where(
            empty_RS, 0.0, host.iteration_R[:, None] + host.layer_R[:, None] * tables.layers_RS
        )

    def solve(self, loads: Loads) -> ClosedLoop:
        """Latencies and rates under some loads."""
        return _Loop(self, loads).solve()


class _Loop:
    """The loop for one set of loads."""

    def __init__(self, model: LoopModel, loads: Loads) -> None:
        tables, host, r_B = model.tables, model.host, loads.replica_B
        self.model, self.loads, self.r_B = model, loads, r_B
        self.stages_B = tables.stages_R[r_B]
        self.last_B = self.stages_B.astype(np.intp) - 1
        self.rows_B = np.arange(len(r_B))
        self.computed_B = loads.input_B * (1.0 - loads.prefix_share_B)
        hosted_B = np.where(loads.offline_B, 0.0, 1.0)
        self.first_token_B = host.first_token_R[r_B] * hosted_B
        # ranks of data-parallel attention look after their own prompts and sequences at the same time
        self.admission_B = host.prompt_R[r_B] * hosted_B / tables.ranks_R[r_B]
        self.bookkeeping_B = host.sequence_R[r_B] / tables.ranks_R[r_B]
        self.context = spot(loads.input_B + loads.output_B / 2.0, CONTEXT_Y)
        prefix_B = loads.input_B - self.computed_B
        self.attention_BS = (
            _look(model._prefill_RSG, r_B, spot(loads.input_B, TOKENS_G))
            - np.where(prefix_B > 0, _look(model._prefill_RSG, r_B, spot(prefix_B, TOKENS_G)).T, 0.0).T
        )
        self.fits_B, self.slots_B = self._slots()

    def _slots(self) -> tuple[BoolArray, Array]:
        """Whether one request fits, and how many have room in the KV cache and in the engine's tables."""
        tables, loads, r_B = self.model.tables, self.loads, self.r_B
        free_BS = tables.free_RS[r_B]

        def requests(tokens_B: Array) -> Array:
            each_BS = _look(tables.kv_RSY, r_B, spot(tokens_B, CONTEXT_Y))
            room_BS = np.where(each_BS > 0, free_BS / np.maximum(each_BS, 1.0), np.where(free_BS >= 0, np.inf, -1.0))
            return np.asarray(tables.ranks_R[r_B] * room_BS.min(axis=1))

        fits_B = requests(loads.input_B + loads.output_B) >= tables.ranks_R[r_B]
        slots_B = requests(loads.input_B + tables.reserved_R[r_B] * loads.output_B)
        told_B = np.isfinite(loads.slot_limit_B)
        slots_B = np.minimum(slots_B, np.where(told_B, loads.slot_limit_B, tables.sequences_R[r_B]))
        return np.asarray(fits_B), np.maximum(slots_B, 1.0)

    def _cycles(self, decoding_B: Array) -> tuple[Array, Array, Array]:
        """Seconds of a cycle without prompts, of what one prompt costs the others, and of its own way."""
        model, tables, loads, r_B = self.model, self.model.tables, self.loads, self.r_B
        batch_B = decoding_B / self.stages_B
        whole_B = np.maximum(batch_B, 1.0)  # an iteration that decodes at all has a sequence in it
        tokens = spot(whole_B, TOKENS_G)
        alone_BS = _look(model._tokens_RSG, r_B, tokens)
        decode_BS = alone_BS + _look2(model._decode_RSXY, r_B, spot(whole_B, SEQUENCES_X), self.context)
        decode_BS += model._constant_RS[r_B]
        decode_BS[self.rows_B, self.last_B] += _look(model._head_RG, r_B, tokens) + self.bookkeeping_B * whole_B
        # a prompt's chunks: of its own, or with other prompts in an iteration where more are due
        due_B = batch_B * self.computed_B / loads.output_B
        room_B = np.maximum(tables.budget_R[r_B] - batch_B, 1.0)
        carried_B = np.minimum(np.maximum(self.computed_B, due_B), room_B)
        chunks_B = np.where(
            self.computed_B > room_B, np.ceil(self.computed_B / room_B - 1e-9), self.computed_B / carried_B
        )
        chunk_B = self.computed_B / chunks_B
        with_BS = _look(model._tokens_RSG, r_B, spot(whole_B + chunk_B, TOKENS_G))
        prompt_BS = chunks_B[:, None] * (with_BS - alone_BS + model._eager_RS[r_B]) + self.attention_BS
        prompt_BS[:, 0] += self.admission_B
        # the pipeline's cycle without prompts, and on average
        per_slot_B = batch_B / loads.output_B
        wire_RS = tables.wire_RS[r_B]
        latency_B, stages_B = tables.latency_R[r_B], self.stages_B
        cycle_B = _cycle(decode_BS, wire_RS * batch_B[:, None], latency_B, stages_B)
        mean_BS = decode_BS + per_slot_B[:, None] * prompt_BS
        mean_B = _cycle(mean_BS, wire_RS * (batch_B + due_B)[:, None], latency_B, stages_B)
        prompt_B = (mean_B - cycle_B) * loads.output_B / decoding_B
        more_B = np.maximum(chunks_B, 1.0) - 1.0
        own_B = cycle_B * (1.0 + more_B / stages_B) + prompt_B * (stages_B + more_B) / (1.0 + more_B)
        return cycle_B, prompt_B, own_B

    def solve(self) -> ClosedLoop:
        loads, slots_B = self.loads, self.slots_B
        output_B, concurrency_B, waves_B = loads.output_B, loads.concurrency_B, loads.waves_B
        # nobody waits for a slot who is the only one to use them
        waiting_B = np.minimum(loads.slot_wait_B, concurrency_B - 1.0)
        running_B = np.minimum(concurrency_B, slots_B)
        decoding_B = 0.9 * running_B
        for _ in range(_ROUNDS):
            cycle_B, prompt_B, own_B = self._cycles(decoding_B)
            others_B = np.maximum(running_B - 1.0, 0.0) * prompt_B
            # E = a - b / E; a^2 >= 4 b because a is more than the sum of two numbers whose product is at least b
            a_B, b_B = own_B + output_B * cycle_B + others_B, others_B * own_B * (1.0 - waves_B)
            inside_B = (a_B + np.sqrt(np.maximum(a_B**2 - 4.0 * b_B, 0.0))) / 2.0
            share_B = 1.0 - (1.0 - waves_B) * own_B / inside_B
            decoding_B = np.maximum(running_B * share_B, _LEAST)
            outside_B = self.first_token_B + loads.prompt_wait_B * prompt_B * (1.0 - waves_B)
            asked_B = (concurrency_B - waiting_B) / (1.0 + outside_B / inside_B)
            running_B = np.maximum(np.minimum(asked_B, slots_B), _LEAST)
        limited_B = asked_B >= slots_B
        rate_B = running_B / inside_B
        latency_B = concurrency_B / rate_B
        # what is neither in the engine nor held up outside it waits for room
        before_B = np.minimum(waves_B / 2.0 * others_B, others_B * share_B)
        after_B = inside_B - own_B - before_B
        held_B = after_B * loads.stream_interval_B / (output_B + loads.stream_interval_B)
        after_B = after_B - held_B
        return ClosedLoop(
            concurrency_B=concurrency_B,
            running_B=running_B,
            decoding_B=np.minimum(decoding_B, running_B),
            ttft_B=latency_B - after_B,
            tpot_B=after_B / output_B,
            latency_B=latency_B,
            rate_B=rate_B,
            mean_rate_B=rate_B / (1.0 + running_B / (2.0 * loads.requests_B)),
            limited_B=np.asarray(limited_B),
            fits_B=self.fits_B,
        )


def _look(table: Array, r_B: IntArray, place: Spot) -> Array:
    """Read a table over its last axis."""
    low, high = table[r_B, ..., place.at_B], table[r_B, ..., place.at_B + 1]
    share = place.share_B if low.ndim == 1 else place.share_B[:, None]
    return np.asarray(low + share * (high - low))


def _look2(table: Array, r_B: IntArray, first: Spot, second: Spot) -> Array:
    """Read a table over its last two axes."""
    x_B, y_B = first.at_B, second.at_B
    u_B, v_B = first.share_B[:, None], second.share_B[:, None]
    lower = table[r_B, :, x_B, y_B] * (1 - v_B) + table[r_B, :, x_B, y_B + 1] * v_B
    upper = table[r_B, :, x_B + 1, y_B] * (1 - v_B) + table[r_B, :, x_B + 1, y_B + 1] * v_B
    return np.asarray(lower + u_B * (upper - lower))


def _cycle(time_BS: Array, wire_BS: Array, latency_B: Array, stages_B: Array) -> Array:
    """A pipeline's cycle: S times its slowest stage or link, or once around, whichever is longer."""
    slowest_B = np.maximum(time_BS.max(axis=1), wire_BS.max(axis=1))
    return np.asarray(np.maximum(stages_B * slowest_B, time_BS.sum(axis=1) + wire_BS.sum(axis=1) + latency_B))


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
    prompt, output = pricer.workload.prompt.mean, pricer.workload.output.mean
    loads = Loads.of(0, prompt, output, concurrency_B, load)
    tables = IterationTables.of([pricer])
    loop = LoopModel(tables, HostTimes.of([pricer.engine])).solve(loads)
    if not loop.fits_B.all():
        capacity = pricer.kv_capacity()
        raise InfeasibleError(
            f"one request of {prompt + output:,.0f} tokens does not fit the KV cache of {max(capacity, 0.0):,.0f}"
            " tokens",
            hint="more GPUs, or weights or a KV cache in fewer bits",
        )
    return loop
