"""Azure LLM inference traces: ``TIMESTAMP,ContextTokens,GeneratedTokens`` with calendar timestamps.

References
----------
Azure LLM inference trace 2023 and 2024, AzurePublicDataset, Microsoft, CC-BY-4.0.
"""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np

from planner.workload.layouts.base import Layout, Rows, Table, bad_value

__all__ = ["AZURE"]

_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def _parse(text: str) -> datetime:
    # Seven fractional digits are usual here; the last one (0.1 us) is lost, which no queue notices.
    moment = datetime.fromisoformat(text.strip())
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _read(text: str, where: str) -> Rows:
    table = Table(text, where)
    moments = []
    for line, written in zip(table.lines, table.column("TIMESTAMP"), strict=True):
        try:
            moments.append(_parse(written))
        except ValueError:
            expected = "a date and time such as 2023-11-16 18:17:03.9799600"
            raise bad_value(where, line, "TIMESTAMP", written, expected) from None
    start = moments[0]
    return Rows(
        arrival_N=np.array([(moment - start).total_seconds() for moment in moments]),
        prompt_N=table.tokens("ContextTokens"),
        output_N=table.tokens("GeneratedTokens"),
    )


AZURE = Layout(
    name="azure",
    title="Azure LLM inference trace",
    columns=_COLUMNS,
    matches=lambda names: set(_COLUMNS) <= set(names),
    read=_read,
)
