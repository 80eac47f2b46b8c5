"""Figures of a priced training plan: what people compare, each with its error and what it rests on.

Legend: S stage, P part of a layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.device import compute_dtype
from planner.cost.layer import PARTS
from planner.model import layer_table
from planner.plan.figure import Figure, Provenance, weakest

if TYPE_CHECKING:
    from planner.cluster import Cluster
    from planner.cost._types import Array
    from planner.cost.training_replica import PricedStage, StageLike
    from planner.model import ModelSpec
    from planner.plan import TrainingJob

__all__ = ["model_flops", "peak_flops", "training_figures"]

# Transfers from stage to stage are priced from the link's nominal bandwidth; so far off may that be.
_TRANSFER_ERROR: Final = 0.35
# What kernels alone do not tell: launches, stragglers, clocks, overlap; for engines whose runs were not compared.
_RUN_ERROR: Final = 0.25


def model_flops(model: ModelSpec, job: TrainingJob) -> float:
    """FLOPs of one iteration that the model asks for: three times forward, causal attention, no recomputation."""
    table = layer_table(model)
    attention = 0.0
    for index, kind in enumerate(model.kinds):
        context = min(job.sequence_length / 2, kind.attention.window or job.sequence_length)
        width = kind.attention.heads * (kind.attention.head_dim + kind.attention.value_dim)
        attention += 2.0 * context * width * model.kind_of_layer.count(index)
    per_token = float(table.flops_per_token_L.sum()) + table.head_flops_per_token + attention
    return 3.0 * per_token * job.global_batch * job.sequence_length


def peak_flops(model: ModelSpec, cluster: Cluster, gpus: Sequence[str] | None = None) -> float:
    """FLOP/s on the data sheets of some GPUs together, all by default, in the format that the model is trained in."""
    used = Counter(cluster.node_of(gpu) for gpu in (cluster.gpus if gpus is None else gpus))
    total = 0.0
    for node, count in used.items():
        device = cluster.class_of_node(node).device
        total += count * device.flops[compute_dtype(device, model.dtype)].value
    return total


def training_figures(
    model: ModelSpec,
    cluster: Cluster,
    job: TrainingJob,
    stages: Sequence[StageLike],
    priced: Sequence[PricedStage],
    *,
    microbatches: int,
    hop_S: Array,
    pipeline: float,
    total: float,
    run_error: float | None = None,
) -> dict[str, Figure]:
    """Make the figures of a plan.

    Parameters
    ----------
    model, cluster, job, stages
        The plan.
    priced, hop_S
        Its stages' prices, and the seconds of the hops behind them.
    microbatches
        Per iteration.
    pipeline, total
        Seconds of all microbatches, and of the iteration.
    run_error
        Of whole runs under the engine, as found on runs that its constants had not seen; None: not known.

    Returns
    -------
    dict of Figure
        Costs are left out where a price is not known. ``bubble_fraction`` is the share of GPU time within the
        pipeline's run in which GPUs wait for work; ``memory_peak`` is of the GPU that is fullest for its size.
    """
    error, provenance = _band(priced, hop_S, microbatches, total, run_error)
    gpus = [gpu for stage in stages for gpu in stage.devices]
    gpus_S = np.array([len(stage.devices) for stage in stages])
    work_S = np.array([stage.seconds for stage in priced])
    busy = float(microbatches * (gpus_S * work_S).sum() / (gpus_S.sum() * pipeline))
    last = max(priced, key=lambda stage: stage.update)
    tokens = job.global_batch * job.sequence_length
    tightest = max(priced, key=lambda stage: stage.memory / stage.limit)
    price = cluster.price_per_hour(gpus)

    def figure(value: float, unit: str) -> Figure:
        return Figure(value=value, unit=unit, error=error, provenance=provenance)

    figures = {
        "iteration_time": figure(total, "s"),
        "tokens_per_second": figure(tokens / total, "tokens/s"),
        "mfu": figure(model_flops(model, job) / (total * peak_flops(model, cluster, gpus)), "fraction"),
        "bubble_fraction": figure(1.0 - busy, "fraction"),
        "transfer": Figure(
            value=float(hop_S.sum() + (microbatches - 1) * hop_S[int(np.argmax(work_S + hop_S))]),
            unit="s",
            error=_TRANSFER_ERROR,
            provenance="spec",
        ),
        "gradient_sync": Figure(value=last.sync, unit="s", error=last.sync_error, provenance="spec"),
        "optimizer": Figure(value=last.optimizer, unit="s", error=last.optimizer_error, provenance="spec"),
        "memory_peak": Figure(
            value=tightest.memory, unit="bytes", error=tightest.doubt / tightest.memory, provenance="spec"
        ),
        "gpus": Figure(value=float(len(gpus)), unit="GPUs", error=0.0, provenance="spec"),
    }
    if price is not None:
        figures["cost_per_hour"] = Figure(value=price, unit="USD/h", error=0.0, provenance="spec")
        figures["cost_per_iteration"] = figure(price * total / 3600.0, "USD")
        figures["cost_per_million_tokens"] = figure(price * total / 3600.0 / tokens * 1e6, "USD")
    return figures


def _band(
    priced: Sequence[PricedStage], hop_S: Array, microbatches: int, total: float, run_error: float | None
) -> tuple[float, Provenance]:
    """Error of the iteration: that of whole runs, or that of every part weighted by its time if larger.

    Where the matrix products were measured on the GPUs, what is known of whole runs under the engine is all of it.
    """
    slowest = int(np.argmax([stage.seconds for stage in priced] + hop_S))
    weighted = 0.0
    provenances: list[Provenance] = []
    for s, stage in enumerate(priced):
        times = microbatches if s == slowest else 1  # once in the sum, m - 1 times as the bottleneck
        scale = stage.seconds / float(stage.parts_P.sum())  # embedding and head err as the layers do
        for seconds, error, provenance in zip(stage.parts_P, stage.error_P, stage.provenance_P, strict=True):
            if seconds > 0:
                weighted += times * scale * float(seconds) * error
                provenances.append(provenance)
        weighted += times * float(hop_S[s]) * _TRANSFER_ERROR
    last = max(priced, key=lambda stage: stage.update)
    weighted += last.sync * last.sync_error + last.optimizer * last.optimizer_error
    if last.sync > 0 or float(hop_S.sum()) > 0:
        provenances.append("spec")
    provenance = weakest(*provenances)
    gemm = PARTS.index("gemm")
    if run_error is not None and all(stage.provenance_P[gemm] != "spec" for stage in priced):
        return run_error, provenance
    return max(weighted / total, run_error or _RUN_ERROR), provenance
