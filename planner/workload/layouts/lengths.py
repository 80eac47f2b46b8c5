"""Token counts without arrivals: ``prompt_tokens,output_tokens``, or Vidur's names without ``arrived_at``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.workload.layouts.base import Layout, Rows, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["LENGTHS"]

_COLUMNS = ("prompt_tokens", "output_tokens")
_VIDUR_COLUMNS = ("num_prefill_tokens", "num_decode_tokens")


def _matches(names: Sequence[str]) -> bool:
    return set(_COLUMNS) <= set(names) or ("arrived_at" not in names and set(_VIDUR_COLUMNS) <= set(names))


def _read(text: str, where: str) -> Rows:
    table = Table(text, where)
    prompt, output = _COLUMNS if set(_COLUMNS) <= set(table.names) else _VIDUR_COLUMNS
    return Rows(prompt_N=table.tokens(prompt), output_N=table.tokens(output))


LENGTHS = Layout(
    name="lengths",
    title="lengths only, no arrivals",
    columns=_COLUMNS,
    matches=_matches,
    read=_read,
)
