"""Processed traces of Vidur: ``arrived_at,num_prefill_tokens,num_decode_tokens``, arrivals in seconds.

References
----------
Agrawal et al., "Vidur: A Large-Scale Simulation Framework for LLM Inference", MLSys 2024 (repository: MIT).
"""

from __future__ import annotations

from planner.workload.layouts.base import Layout, Rows, Table

__all__ = ["VIDUR"]

_COLUMNS = ("arrived_at", "num_prefill_tokens", "num_decode_tokens")


def _read(text: str, where: str) -> Rows:
    table = Table(text, where)
    return Rows(
        arrival_N=table.numbers("arrived_at", "seconds since the start"),
        prompt_N=table.tokens("num_prefill_tokens"),
        output_N=table.tokens("num_decode_tokens"),
    )


VIDUR = Layout(
    name="vidur",
    title="Vidur (and Splitwise) processed trace",
    columns=_COLUMNS,
    matches=lambda names: set(_COLUMNS) <= set(names),
    read=_read,
)
