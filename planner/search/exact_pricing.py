"""Templates priced exactly: no contiguous layer split at any decode batch of the grid serves more.

What `TemplatePricer.price` finds is good and has a bound. Here every split is gone through that could beat it at a
batch, from the largest that meets the TPOT down to where no split could any more (`planner.search.split_search`). A
template with too many of them keeps its bound.

Legend: B batch of templates, N split, S stage, L layer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.search.split_search import splits_within
from planner.search.template_tables import Stack

if TYPE_CHECKING:
    from planner.cost._types import Array, IntArray
    from planner.search.template_pricer import TemplatePricer
    from planner.search.templates import Templates

__all__ = ["price_exactly"]

_MOST_SPLITS: Final = 20_000  # of one template at one decode batch
_MOST_BATCHES: Final = 40  # of one template that are gone through
_CLOSED: Final = 1e-9  # relative distance of rate and bound that nothing is looked for in


def price_exactly(pricer: TemplatePricer, templates: Templates, *, most: int = _MOST_SPLITS) -> Templates:
    """Find the best split of each template that has not reached its bound.

    Parameters
    ----------
    pricer
        Which priced them.
    templates
        As priced.
    most
        Splits at one decode batch that are gone through.

    Returns
    -------
    Templates
        With the best rates and splits; the bound is the rate wherever everything was gone through.
    """
    tables = pricer.tables
    rate_B, bounds_BS1 = templates.rate_B.copy(), templates.bounds_BS1.copy()
    bound_B = templates.bound_B.copy()
    rows = np.flatnonzero(templates.memory_B & (bound_B > rate_B * (1 + _CLOSED)))
    if not rows.size:
        return templates
    stack = Stack.of(tables, templates.kinds_BS)
    at_B = _largest(pricer, stack, rows)
    missed_B = np.zeros(len(rate_B))  # what splits that were not gone through may reach
    for _ in range(_MOST_BATCHES):
        rows = rows[at_B[rows] >= 0]
        if not rows.size:
            break
        part = stack.take(rows)
        fits_B, state = pricer.relaxed(part, at_B[rows])
        for i in np.flatnonzero(fits_B & (state.rate_B > rate_B[rows] * (1 + _CLOSED))).tolist():
            row = int(rows[i])
            found = _best_split(pricer, part.take(np.array([i])), int(at_B[row]), rate_B[row], most)
            if found is None:
                missed_B[row] = max(missed_B[row], float(state.rate_B[i]))
            elif found[0] > rate_B[row]:
                rate_B[row] = found[0]
                bounds_BS1[row] = -1
                bounds_BS1[row, : len(found[1])] = found[1]
                bounds_BS1[row, len(found[1]) :] = tables.model.num_layers
        ceiling_B = pricer.unlimited(part, at_B[rows])
        at_B[rows] -= 1
        rows = rows[ceiling_B > rate_B[rows] * (1 + _CLOSED)]
    missed_B[rows] = np.inf  # batches that were not gone through
    looked_at = templates.memory_B & (templates.bound_B > templates.rate_B * (1 + _CLOSED))
    closed_B = np.where(looked_at, np.maximum(rate_B, np.minimum(missed_B, bound_B)), bound_B)
    return replace(templates, rate_B=rate_B, bounds_BS1=bounds_BS1, bound_B=np.maximum(closed_B, rate_B))


def _largest(pricer: TemplatePricer, stack: Stack, rows: IntArray) -> IntArray:
    """Largest decode batch at which some split may fit the memory and meet the SLO; -1 for none."""
    low_B, high_B = np.full(len(stack.stages_B), -1), np.zeros(len(stack.stages_B), dtype=int)
    high_B[rows] = len(pricer.tables.grid_G)
    while True:
        some = np.flatnonzero(high_B - low_B > 1)
        if not some.size:
            return low_B
        middle = (low_B[some] + high_B[some]) // 2
        fits, state = pricer.relaxed(stack.take(some), middle)
        feasible = fits & pricer.meets(state)
        low_B[some] = np.where(feasible, middle, low_B[some])
        high_B[some] = np.where(feasible, high_B[some], middle)


def _best_split(
    pricer: TemplatePricer, stack: Stack, at: int, beaten: float, most: int
) -> tuple[float, IntArray] | None:
    """Best rate within the SLO, and its split, of one template at a decode batch; None if there are too many splits."""
    tables = pricer.tables
    stages = int(stack.stages_B[0])
    at_B = np.array([at])
    slo = tables.slo
    tpot = np.inf if slo.tpot is None else slo.tpot
    cycle = min(tpot, stages * float(tables.grid_G[at]) / (tables.demand.output * max(beaten, 1e-300)))
    time_SL = tables.layer_BSL(stack, "mean", at_B)[0, :stages]
    memory_SL = tables.memory_BSL(stack, at_B)[0, :stages]
    kinds = stack.kinds[0, :stages]
    uniform = bool((time_SL == time_SL[:, :1]).all() and (memory_SL == memory_SL[:, :1]).all())
    alike = [uniform and 1 < s < stages - 1 and bool(kinds[s] == kinds[s - 1]) for s in range(stages)]
    bounds_NS1 = splits_within(
        time_SL,
        tables.fixed_BS(stack, "mean", at_B)[0, :stages],
        cycle / stages * (1 + 1e-12),
        memory_SL,
        (tables.capacity_J[kinds] - tables.ends_memory_BS(stack)[0, :stages]),
        alike=alike,
        most=most,
    )
    if bounds_NS1 is None:
        return None
    if not len(bounds_NS1):
        return 0.0, np.zeros(0, dtype=int)
    many = stack.take(np.zeros(len(bounds_NS1), dtype=int))
    width = stack.kinds.shape[1] - stages
    wide_NS1 = np.pad(bounds_NS1, ((0, 0), (0, width)), constant_values=tables.model.num_layers)
    state = pricer.state(many, wide_NS1, np.full(len(bounds_NS1), at))
    rate_N: Array = np.where(pricer.meets(state), state.rate_B, 0.0)
    best = int(np.argmax(rate_N))
    return float(rate_N[best]), bounds_NS1[best]
