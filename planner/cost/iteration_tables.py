"""Iterations of many replicas as tables over their sizes, so that any number of loads is priced by looking up.

Nearly all of an iteration depends on one or two sizes: matrix products, elementwise kernels and all-reduces on the
tokens it carries, decode attention on the sequences and what each holds, prefill attention on the prompt. Those are
priced once per replica on a grid with steps of 6 % and read linearly between its points, which is exact for what is
proportional to a size; beyond the last point they go on as they end.

Legend: R replica, S stage (padded with empty ones), G tokens, X sequences, Y context, B load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.host_times import quantises
from planner.cost.layer import PARTS, Load
from planner.cost.memory import KV_HEADROOM, cached_tokens_L

if TYPE_CHECKING:
    from planner.cost._types import Array, IntArray
    from planner.cost.replica import ReplicaPricer

__all__ = ["CONTEXT_Y", "SEQUENCES_X", "TOKENS_G", "IterationTables", "Spot", "spot"]

_STEP: Final = 1.06
_MOST_TOKENS: Final = 2.0**18
TOKENS_G: Final[Array] = _STEP ** np.arange(np.ceil(np.log(_MOST_TOKENS) / np.log(_STEP)) + 1)
SEQUENCES_X: Final[Array] = np.power(1.25, np.arange(40))
CONTEXT_Y: Final[Array] = 16.0 * np.power(1.25, np.arange(48))


@dataclass(frozen=True, slots=True)
class Spot:
    """Where sizes lie on a geometric grid: the point below, and how far beyond it towards the next, linearly."""

    at_B: IntArray
    share_B: Array


def spot(size_B: Array, grid: Array) -> Spot:
    """Place sizes on a geometric grid; beyond its ends the first or last interval goes on."""
    step = np.log(grid[1] / grid[0])
    at_B = (np.log(np.maximum(size_B, grid[0]) / grid[0]) / step).astype(np.intp)
    at_B = np.minimum(at_B, len(grid) - 2)
    low_B = grid[at_B]
    return Spot(at_B, np.maximum(size_B - low_B, 0.0) / (grid[at_B + 1] - low_B))


@dataclass(frozen=True, slots=True, kw_only=True)
class IterationTables:
    """Kernels and memory of some replicas.

    Parameters
    ----------
    gemm_RSG, elementwise_RSG, reduce_RSG
        Seconds of all layers of a stage, by tokens of the iteration; the embedding is among the elementwise kernels
        and all-reduces of the first stage.
    decode_RSXY
        Seconds of decode attention by sequences and context.
    prefill_RSG
        Seconds of the attention of one whole prompt, by its tokens.
    head_RG
        Seconds of the language-model head by rows.
    wire_RS
        Seconds per token that the link behind a stage is busy; 0 behind the last.
    latency_R
        Seconds of latency of all links, the way back included.
    free_RS, kv_RSY
        Bytes for the KV cache on the fullest GPU of a stage, negative where weights do not fit; bytes that one
        sequence takes there, by its tokens.
    stages_R, layers_RS
        Numbers of them.
    quantised_R
        1 where activations are quantised.
    budget_R, sequences_R, reserved_R
        The engine's tokens per iteration, its limit of sequences, and the share of an answer that is reserved; the
        first two of all ranks of data-parallel attention together.
    ranks_R
        Those ranks: a sequence takes room on one of them.
    """

    gemm_RSG: Array
    elementwise_RSG: Array
    reduce_RSG: Array
    decode_RSXY: Array
    prefill_RSG: Array
    head_RG: Array
    wire_RS: Array
    latency_R: Array
    free_RS: Array
    kv_RSY: Array
    stages_R: Array
    layers_RS: Array
    quantised_R: Array
    budget_R: Array
    sequences_R: Array
    reserved_R: Array
    ranks_R: Array

    @classmethod
    def of(cls, pricers: Sequence[ReplicaPricer]) -> IterationTables:
        """Tabulate some replicas; their workloads do not count."""
        one = [_replica(pricer) for pricer in pricers]
        most = max(len(pricer.stages) for pricer in pricers)
        stacked = {}
        for name in one[0]:
            values = [table[name] for table in one]
            if "S" in name.rpartition("_")[2]:
                pads = [[(0, most - len(value))] + [(0, 0)] * (value.ndim - 1) for value in values]
                fill = np.inf if name == "free_RS" else 0.0
                values = [np.pad(value, pad, constant_values=fill) for value, pad in zip(values, pads, strict=True)]
            stacked[name] = np.stack(values)
        return cls(**stacked)


def _replica(pricer: ReplicaPricer) -> dict[str, Array]:
    """Tables of one replica, without the axis R."""
    model, defaults, last = pricer.model, pricer.engine.serving_defaults(), len(pricer.stages) - 1
    nothing_G = np.zeros_like(TOKENS_G)
    grid_X, grid_Y = (grid.ravel() for grid in np.meshgrid(SEQUENCES_X, CONTEXT_Y, indexing="ij"))
    nothing_Z = np.zeros_like(grid_X)
    linear = Load(decode=nothing_G, decode_context=nothing_G, prefill=TOKENS_G, prefill_context=nothing_G)
    decode = Load(decode=grid_X, decode_context=grid_Y, prefill=nothing_Z, prefill_context=nothing_Z)
    prompt = Load(decode=nothing_G, decode_context=nothing_G, prefill=TOKENS_G, prefill_context=TOKENS_G / 2)
    found: dict[str, list[Array]] = {name: [] for name in ("gemm", "elementwise", "reduce", "decode", "prefill")}
    priced: dict[object, tuple[Array, Array, Array]] = {}
    for s, layer in enumerate(pricer.layer_pricers):
        alike = id(layer.device), layer.collective.facts
        if alike not in priced:
            priced[alike] = layer.parts_PKB(linear), layer.parts_PKB(decode), layer.parts_PKB(prompt)
        layers_K = pricer.layers_SK[s].astype(float)
        tokens_PG, decode_PZ, prompt_PG = (np.einsum("pkb,k->pb", parts, layers_K) for parts in priced[alike])
        found["gemm"].append(tokens_PG[PARTS.index("gemm")])
        found["elementwise"].append(tokens_PG[PARTS.index("elementwise")])
        found["reduce"].append(tokens_PG[PARTS.index("all_reduce")])
        found["decode"].append(decode_PZ[PARTS.index("decode_attention")].reshape(len(SEQUENCES_X), len(CONTEXT_Y)))
        found["prefill"].append(prompt_PG[PARTS.index("prefill_attention")])
    found["elementwise"][0] = found["elementwise"][0] + pricer.layer_pricers[0].embedding_time_B(TOKENS_G)
    hops = [stage.hop for stage in pricer.stages]
    one_Y = np.stack([cached_tokens_L(model, np.array(1.0), float(context), 0.0) for context in CONTEXT_Y])
    return {
        "gemm_RSG": np.stack(found["gemm"]),
        "elementwise_RSG": np.stack(found["elementwise"]),
        "reduce_RSG": np.stack(found["reduce"]),
        "decode_RSXY": np.stack(found["decode"]),
        "prefill_RSG": np.stack(found["prefill"]),
        "head_RG": pricer.layer_pricers[last].head_time_B(TOKENS_G),
        "wire_RS": np.array([pricer.wire_time(s, np.ones(1))[0] for s in range(last + 1)]),
        "latency_R": np.array(sum(hop.latency for hop in hops if hop is not None)),
        "free_RS": pricer.cache_bytes_S(),
        "kv_RSY": pricer.kv_bytes_SL @ (one_Y / KV_HEADROOM).T,
        "stages_R": np.array(float(last + 1)),
        "layers_RS": pricer.layers_SK.sum(axis=1).astype(float),
        "quantised_R": np.array(float(quantises(model))),
        "budget_R": np.array(pricer.demand.budget),
        "sequences_R": np.array(float(defaults.max_sequences.value) * pricer.ranks),
        "ranks_R": np.array(float(pricer.ranks)),
        "reserved_R": np.array(1.0 if defaults.reserved_output is None else defaults.reserved_output.value),
    }
