"""Iteration time and peak memory of a training run from measured layers: Megatron-DeepSpeed in fp32, plain 1F1B.

``T = (m - 1) max_s z_s + sum_s t_s + 2 sum_s h_s + max_s (g_s + u_s)``. A stage exchanges with both of its neighbours,
forward and backward, and computes nothing meanwhile: ``z_s = t_s + 2 h_before + 2 h_after``. Every rank of a
tensor-parallel group sends its own copy over its own share of the node's network; gradient rings of all ranks leave
through the same cards, so that the aggregate bandwidth counts. The update is the sum over a stage's layers.

A measured layer is one sample of a curve that is nearly a line in the microbatch, from which small, launch-bound
sizes deviate either way when a layer is timed alone. The time that counts is a mean of both in the logarithm.

Memory is a line in what a stage holds: states by parameters, activations by microbatches in flight, and what the
software takes whatever it runs (CUDA context, NCCL, buckets, workspace).

Legend: S stage, L layer, M microbatch sizes that were measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.sailor_tables import LinkFit, SailorTables

if TYPE_CHECKING:
    from planner.cost._types import Array

__all__ = ["MeasuredConstants", "MeasuredStage", "measured_peak_memory", "measured_seconds"]

_NUMBER_BYTES: Final = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredConstants:
    """What measurements of whole runs decide.

    Parameters
    ----------
    curve
        Weight of the line through all microbatches against the measured point, 0 to 1.
    parameter_bytes
        Bytes of states per parameter.
    activations
        Activations held over those that the sizes count.
    context
        Bytes that the software takes.
    """

    curve: float
    parameter_bytes: float
    activations: float
    context: float


@dataclass(frozen=True, slots=True)
class MeasuredStage:
    """``[first, end)`` of the layers, embedding and head counted; GPU types of its data-parallel groups; TP."""

    layers: tuple[int, int]
    devices: tuple[str, ...]
    tp: int


@lru_cache(maxsize=512)
def _line_L(tables: SailorTables, device: str, tp: int, microbatch: int) -> Array:
    """Forward and backward of each layer by the line through all microbatches, relative least squares."""
    sizes_M = tables.microbatches(device, tp)
    if len(sizes_M) < 3:
        return np.asarray(tables.layer_times(device, tp, microbatch)[:, :2].sum(axis=1))
    measured_ML = np.stack([tables.layer_times(device, tp, m)[:, :2].sum(axis=1) for m in sizes_M])
    terms = np.stack([np.ones(len(sizes_M)), np.array(sizes_M, dtype=float)], axis=1)
    lines = []
    for measured_M in measured_ML.T:
        line, *_ = np.linalg.lstsq(terms / measured_M[:, None], np.ones(len(sizes_M)), rcond=None)
        lines.append(line[0] + line[1] * microbatch)
    return np.asarray(np.maximum(np.array(lines), 0.0))


def _layer_seconds_L(tables: SailorTables, device: str, tp: int, microbatch: int, curve: float) -> Array:
    measured_L = tables.layer_times(device, tp, microbatch)[:, :2].sum(axis=1)
    line_L = _line_L(tables, device, tp, microbatch)
    usable = (measured_L > 0) & (line_L > 0)
    ratio_L = np.divide(line_L, measured_L, out=np.ones_like(measured_L), where=usable)
    return np.asarray(measured_L * ratio_L**curve)


def _node_link(tables: SailorTables, device: str, gpus: int) -> LinkFit:
    """Fit of the most GPUs that were measured, up to those asked for."""
    known = [n for name, n in tables.node_links if name == device and n <= gpus]
    return tables.node_links[device, max(known)]


def _sync(tables: SailorTables, stage: MeasuredStage) -> float:
    degree = len(stage.devices)
    if degree == 1:
        return 0.0
    part = float(tables.sizes[stage.tp].parameters_L[slice(*stage.layers)].sum()) / degree
    slowest = min(_node_link(tables, device, stage.tp).bandwidth(part) for device in set(stage.devices))
    return 2.0 * (degree - 1) * part * stage.tp / slowest


def measured_seconds(
    tables: SailorTables,
    stages: Sequence[MeasuredStage],
    *,
    microbatch: int,
    microbatches: int,
    constants: MeasuredConstants,
) -> float:
    """Seconds of an iteration.

    Parameters
    ----------
    tables
        Of the model.
    stages
        In order.
    microbatch, microbatches
        Sequences of a microbatch, and microbatches per iteration.
    constants
        See `MeasuredConstants`.

    Raises
    ------
    InputError
        If something was not measured.
    """
    work, finish, hops = [], [], []
    for s, stage in enumerate(stages):
        part = slice(*stage.layers)
        types = set(stage.devices)
        seconds = [
            float(_layer_seconds_L(tables, device, stage.tp, microbatch, constants.curve)[part].sum())
            for device in types
        ]
        updates = [float(tables.layer_times(device, stage.tp, microbatch)[part, 2].sum()) for device in types]
        work.append(max(seconds))
        finish.append(_sync(tables, stage) + max(updates))
        if s + 1 < len(stages):
            message = float(tables.sizes[stage.tp].output_L[stage.layers[1] - 1]) * microbatch
            ends = types | set(stages[s + 1].devices)
            hops.append(max(message / tables.node_links[device, 1].bandwidth(message) for device in ends))
    work_S, hop_S = np.array(work), np.array([0.0, *hops, 0.0])
    cycle = float((work_S + 2.0 * hop_S[:-1] + 2.0 * hop_S[1:]).max())
    return (microbatches - 1) * cycle + float(work_S.sum()) + 2.0 * sum(hops) + max(finish)


def measured_peak_memory(
    tables: SailorTables,
    stages: Sequence[MeasuredStage],
    *,
    microbatch: int,
    microbatches: int,
    constants: MeasuredConstants,
) -> float:
    """Bytes on the fullest GPU; parameters as in `measured_seconds`."""
    fullest = 0.0
    for s, stage in enumerate(stages):
        size, part = tables.sizes[stage.tp], slice(*stage.layers)
        in_flight = min(microbatches, len(stages) - s)
        states = constants.parameter_bytes / _NUMBER_BYTES * float(size.parameters_L[part].sum())
        activations = constants.activations * float(size.activations_L[part].sum()) * microbatch * in_flight
        fullest = max(fullest, states + activations + constants.context)
    return fullest
