"""BurstGPT: ``Timestamp,…,Request tokens,Response tokens,…``, with or without the session columns.

The columns moved when ``Session ID`` and ``Elapsed time`` were added, so they are found by name. A response
of 0 tokens records a failed request; such rows are left out and counted.

References
----------
Wang et al., "BurstGPT: A Real-World Workload Dataset to Optimize LLM Serving Systems", KDD 2025, CC-BY-4.0.
"""

from __future__ import annotations

import numpy as np

from planner.errors import InputError
from planner.workload.layouts.base import Layout, Rows, Table

__all__ = ["BURSTGPT"]

_COLUMNS = ("Timestamp", "Request tokens", "Response tokens")


def _read(text: str, where: str) -> Rows:
    table = Table(text, where)
    answered_N = table.tokens("Response tokens", minimum=0) > 0
    kept = table.keep(answered_N)
    if not kept.rows:
        raise InputError("has no request with an answer", where=where, field="Response tokens")
    session_N = None
    if "Session ID" in table.names:
        numbers: dict[str, int] = {"": -1}
        written = [value.strip() for value in kept.column("Session ID")]
        session_N = np.array([numbers.setdefault(value, len(numbers) - 1) for value in written])
    return Rows(
        arrival_N=kept.numbers("Timestamp", "seconds since the start"),
        prompt_N=kept.tokens("Request tokens"),
        output_N=kept.tokens("Response tokens"),
        session_N=session_N,
        dropped=len(table.rows) - len(kept.rows),
    )


BURSTGPT = Layout(
    name="burstgpt",
    title="BurstGPT",
    columns=_COLUMNS,
    matches=lambda names: set(_COLUMNS) <= set(names),
    read=_read,
)
