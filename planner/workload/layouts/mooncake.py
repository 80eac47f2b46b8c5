"""Mooncake: one JSON object a line, ``{"timestamp": ms, "input_length", "output_length", "hash_ids": […]}``.

Each hash stands for a block of 512 prompt tokens together with all that precede it; equal hashes mean equal
prefixes. The share of blocks seen before is what a prefix cache without limit would find.

References
----------
Qin et al., "Mooncake: Trading More Storage for Less Computation - A KVCache-centric Architecture for Serving
LLM Chatbot", FAST 2025 (traces: Apache-2.0).
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from planner.errors import InputError
from planner.workload.layouts.base import Layout, Rows, bad_value, tokens_of

__all__ = ["MOONCAKE"]

_KEYS = ("timestamp", "input_length", "output_length")
_BLOCK_TOKENS = 512


def _read(text: str, where: str) -> Rows:
    arrivals: list[float] = []
    prompts: list[int] = []
    outputs: list[int] = []
    seen: set[int] = set()
    cached_tokens = 0
    for line, written in enumerate(text.splitlines(), start=1):
        if not written.strip():
            continue
        record = _record(written, where, line)
        arrivals.append(_milliseconds(record["timestamp"], where, line) / 1e3)
        prompts.append(tokens_of(record["input_length"], where, line, "input_length"))
        outputs.append(tokens_of(record["output_length"], where, line, "output_length"))
        hashes = record.get("hash_ids", [])
        if not isinstance(hashes, list) or not all(isinstance(value, int) for value in hashes):
            raise bad_value(where, line, "hash_ids", hashes, "a list of whole numbers")
        known = sum(value in seen for value in hashes)
        cached_tokens += min(known * _BLOCK_TOKENS, prompts[-1] - 1)  # one token is left to compute
        seen.update(hashes)
    if not prompts:
        raise InputError("holds no requests", where=where)
    return Rows(
        arrival_N=np.array(arrivals),
        prompt_N=np.array(prompts, dtype=np.int64),
        output_N=np.array(outputs, dtype=np.int64),
        prefix_share=cached_tokens / sum(prompts),
    )


def _record(written: str, where: str, line: int) -> dict[str, Any]:
    try:
        record = json.loads(written)
    except json.JSONDecodeError as error:
        place = f"{where}:{line}:{error.colno}"
        raise InputError(f"is not JSON: {error.msg}", where=place, expected="one JSON object a line") from None
    if not isinstance(record, dict):
        raise InputError(f"found {written[:80]!r}", where=f"{where}:{line}", expected="a JSON object")
    for key in _KEYS:
        if key not in record:
            raise InputError("is missing", where=f"{where}:{line}", field=key)
    return record


def _milliseconds(value: object, where: str, line: int) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise bad_value(where, line, "timestamp", value, "milliseconds since the start")
    return float(value)


MOONCAKE = Layout(
    name="mooncake",
    title="Mooncake (JSON lines)",
    columns=_KEYS,
    matches=lambda names: set(_KEYS) <= set(names),
    read=_read,
)
