"""Fit what an iteration costs beside its kernels, to MuxServe's profile of LLaMA, leaving out one model at a time.

Legend: B row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.engine.fitted import FitFile
from planner.profiling.accuracy.muxserve import MuxRows, group_of
from planner.profiling.fit.constants import Constant, priors
from planner.profiling.fit.robust import Fold, fit_robustly, leave_groups_out, weights_of_groups
from planner.profiling.fit.store import fit_file, left_out_errors

if TYPE_CHECKING:
    from planner.cost._types import Array, BoolArray, IntArray

__all__ = ["CONSTANTS", "cross_validate", "fit_of", "left_out"]

Group = tuple[str, str, str]

CONSTANTS: Final[tuple[Constant, ...]] = (
    Constant("gemm_prefill", 1.2, 0.2, "the curve of the tables is the 90th percentile over shapes"),
    Constant("gemm_decode", 1.1, 0.15, "weights are read at nearly the bandwidth, whatever the kernel"),
    Constant("prefill_attention", 1.5, 0.5, "attention kernels of 2023"),
    Constant("decode_attention", 1.4, 0.4, "paged attention of the first generation"),
    Constant(
        "elementwise", 2.0, 1.0, "norms, rotary embedding and activations as kernels of their own, partly in fp32"
    ),
    Constant("all_reduce", 1.0, 0.4, "NCCL where the tables hold a custom kernel"),
    Constant("large_message", 20e-12, 20e-12, "seconds a byte beyond the threshold, by the largest batches"),
    Constant("large_from", 320e6, 100e6, "bytes of the smallest all-reduce that takes longer than a ring would"),
    Constant("layer_prefill", 0.4e-3, 0.15e-3, "forty launches a layer by PyTorch without graphs, 10 us each"),
    Constant("layer_decode", 0.2e-3, 0.1e-3, "twenty launches a layer"),
    Constant("layer_parallel", 0.15e-3, 0.1e-3, "two all-reduces a layer, launched by PyTorch's process group"),
    Constant("iteration", 1e-3, 1e-3, "a scheduler step"),
    Constant("sequence", 20e-6, 15e-6, "sampling and bookkeeping in Python"),
    Constant("overlap", 4.0, 2.0, "launches and kernels overlap but where they are nearly even"),
)


def _log_errors(rows: MuxRows, seconds_B: Array) -> Array:
    return np.asarray(np.log(seconds_B / rows.measured_B))


def _groups(rows: MuxRows) -> tuple[tuple[Group, ...], IntArray]:
    named = tuple(sorted({group_of(model) for model in rows.models}))
    return named, np.array([named.index(group_of(model)) for model in rows.models])


def cross_validate(rows: MuxRows) -> list[Fold[Group]]:
    """Fit once for each model without it, and once to all; the last fold is the one that has seen all."""
    groups, group_B = _groups(rows)

    def fit(seen_B: BoolArray) -> dict[str, float]:
        return fit_robustly(
            CONSTANTS,
            lambda values: _log_errors(rows, rows.seconds_B(values)),
            weights_of_groups(group_B, seen_B),
            priors(CONSTANTS),
        )

    return leave_groups_out(groups, group_B, fit)


def left_out(rows: MuxRows, folds: Sequence[Fold[Group]]) -> Array:
    """What each row is predicted to take under the constants that have not seen its model, shape (B,)."""
    by_group = {fold.group: fold.values for fold in folds}
    groups, group_B = _groups(rows)
    return np.asarray(
        np.select([group_B == g for g in range(len(groups))], [rows.seconds_B(by_group[group]) for group in groups])
    )


def fit_of(rows: MuxRows, *, date: str) -> FitFile:
    """Fit, cross-validate, and gather what is stored as ``profiles/fits/muxserve.yaml``.

    Parameters
    ----------
    rows
        Measurements.
    date
        Of the fit.
    """
    folds = cross_validate(rows)
    _, group_B = _groups(rows)
    every_B = np.ones(len(group_B), dtype=bool)
    parts = (
        ("prefill", "ttft", rows.prefill_B),
        ("decode", "tpot", ~rows.prefill_B),
        ("all", "iteration", every_B),
    )
    predicted_B = left_out(rows, folds)
    return fit_file(
        name="muxserve",
        title="LLaMA on A100 under MuxServe: kernels inside that engine, and its launches",
        source="fitted to MuxServe's profile of LLaMA (Apache-2.0; profiles/truth/muxserve_latency.csv)",
        date=date,
        rows=len(predicted_B),
        folds=folds,
        left_out=[
            left_out_errors(part, figure, predicted_B, rows.measured_B, group_B, among_B)
            for part, figure, among_B in parts
        ],
    )
