"""Whether predictions put configurations in the right order, which is what a search needs of them."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from planner.profiling.accuracy.degrees import gpus_of, requests_of
from planner.profiling.accuracy.report import Accuracy

__all__ = ["rank_correlations"]

Key = tuple[str, str, str, str]

_LEAST = 3  # rows that an order can be told of


def rank_correlations(accuracy: Accuracy) -> dict[Key, float]:
    """Spearman's rank correlation of requests/s per GPU, predicted and measured, under one workload.

    Parameters
    ----------
    accuracy
        Of a file in the layout ``serving_silicon``.

    Returns
    -------
    dict
        By engine, model, ISL and OSL, where at least three rows differ. Empty for other layouts.
    """
    if accuracy.layout != "serving_silicon":
        return {}
    rates: dict[Key, list[tuple[float, float]]] = defaultdict(list)
    rows = {row.number: row for row in accuracy.table.rows}
    for one in accuracy.comparisons:
        if one.figure == "e2e":
            row = rows[one.row]
            share = requests_of(row) / gpus_of(row)
            key = (one.engine, one.model, row.text("isl"), row.text("osl"))
            rates[key].append((share / one.measured, share / one.predicted))
    found = {}
    for key, pairs in sorted(rates.items()):
        measured_N, predicted_N = np.asarray(pairs).T
        if len(pairs) >= _LEAST and np.ptp(measured_N) > 0 and np.ptp(predicted_N) > 0:
            found[key] = float(np.corrcoef(_ranks(measured_N), _ranks(predicted_N))[0, 1])
    return found


def _ranks(
    values_N: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Ranks, equal values sharing their mean rank."""
    _, inverse_N, counts = np.unique(values_N, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2.0)[inverse_N], dtype=np.float64)
