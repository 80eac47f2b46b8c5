"""Attention of prompts, and of one new token per sequence over a KV cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from planner.profiling.measure.backend import Work
from planner.profiling.measure.points import Point, Results
from planner.profiling.measure.setup import Setup

__all__ = ["measure_attention", "points"]

_QUICK_PREFILL: Final = ((1, 64), (1, 256), (1, 1024))  # prompts, tokens
_QUICK_DECODE: Final = ((1, 256), (4, 512), (8, 1024))  # sequences, tokens each holds
_TOKENS: Final = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_PROMPTS: Final = (1, 4)
_SEQUENCES: Final = (1, 4, 16, 64, 256)
_CONTEXTS: Final = (128, 512, 2048, 8192, 32768)


def points(setup: Setup) -> Iterator[Point]:
    """All of them, as far as the device has FLOP/s and memory."""
    dtype = setup.half
    prefill = _QUICK_PREFILL if setup.quick else tuple((batch, s) for s in _TOKENS for batch in _PROMPTS)
    decode = _QUICK_DECODE if setup.quick else tuple((batch, s) for s in _CONTEXTS for batch in _SEQUENCES)
    for heads, kv_heads, head_dim in setup.shapes.heads:
        shape = {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim}
        common = {"dtype": dtype, "kv_dtype": dtype}
        for batch, tokens in prefill:
            if 2.0 * batch * tokens**2 * heads * head_dim <= setup.backend.flop_limit:
                yield Point.of("attention", "prefill_attention", **common, batch=batch, tokens=tokens, **shape)
        for batch, context in decode:
            if 4.0 * batch * context * kv_heads * head_dim <= setup.backend.facts.memory / 8:
                yield Point.of("attention", "decode_attention", **common, batch=batch, context=context, **shape)


def measure_attention(point: Point, setup: Setup) -> Results:
    """Time scaled dot-product attention; the caches of sequences are taken in turns."""
    dtype = point.text("dtype")
    decode = point.table == "decode_attention"
    batch, heads, kv_heads, head_dim = point.wholes("batch", "heads", "kv_heads", "head_dim")
    length = point.whole("context" if decode else "tokens")
    queries = 1 if decode else length
    sets = setup.sets_for(2 * batch * head_dim * (2 * kv_heads * length + 2 * heads * queries))
    query = [setup.random(batch, heads, queries, head_dim, dtype=dtype) for _ in range(sets)]
    key = [setup.random(batch, kv_heads, length, head_dim, dtype=dtype) for _ in range(sets)]
    value = [setup.random(batch, kv_heads, length, head_dim, dtype=dtype) for _ in range(sets)]
    attend = setup.backend.torch.nn.functional.scaled_dot_product_attention
    grouped = heads != kv_heads

    def run(at: int) -> object:
        return attend(query[at], key[at], value[at], is_causal=not decode, enable_gqa=grouped)

    with setup.backend.torch.no_grad():
        sample = setup.backend.time(Work(run, sets), setup.budget)
    return {"seconds": sample.seconds, "spread": sample.spread}
