"""Iteration time and peak memory of a training run from measured layers: Megatron-DeepSpeed in fp32, plain 1F1B.

``T = (m - 1) max_s z_s + sum_s t_s + 2 sum_s h_s + max_s (g_s + u_s)``. A stage exchanges with both of its neighbours,
forward and backward, and computes nothing meanwhile: ``z_s = t_s + 2 h_before + 2 h_after``. Every rank of a
tensor-parallel group sends its own copy over its own share of the node's network; gradient rings of all ranks leave
through the same cards, so that the aggregate bandwidth counts. The update is the sum over a stage's layers.

A measured layer is one sample of a curve that is nearly a line in the microbatch, from which small, launch-bound
sizes deviate either way when a layer is timed alone. The time that counts is a mean of both in the logarithm. A (TP,
microbatch) that was not measured is interpolated between those that were (`planner.cost.measured_layers`), and the
price says so.

GPU types of a stage may have different TP: the ring between them carries the larger share over the slower card.

Memory is a line in what a stage holds: states by parameters, activations by microbatches in flight, and what the
software takes whatever it runs (CUDA context, NCCL, buckets, workspace).

Legend: S stage, L layer, T forward, backward and update, M microbatch sizes that were measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.sailor_tables import LinkFit, SailorTables
from planner.engine.fitted import load_fit
from planner.plan.figure import weakest

if TYPE_CHECKING:
    from planner.cost._types import Array
    from planner.plan.figure import Provenance

__all__ = [
    "FIT",
    "MeasuredConstants",
    "MeasuredPrice",
    "MeasuredStage",
    "measured_layer_seconds",
    "measured_node_link",
    "measured_peak_memory",
    "measured_price",
    "measured_seconds",
    "measured_stage_memory",
    "measured_update",
]

FIT: Final = "training_measured"
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

    @classmethod
    def of(cls, values: Mapping[str, float]) -> MeasuredConstants:
        """Constants by name, as a fit stores them."""
        names = ("parameter_bytes", "activations", "context")
        return cls(curve=min(values["curve"], 1.0), **{name: values[name] for name in names})

    @classmethod
    def fitted(cls) -> MeasuredConstants:
        """Those that ship."""
        return cls.of(load_fit(FIT).constants)


@dataclass(frozen=True, slots=True)
class MeasuredStage:
    """``[first, end)`` of the layers, embedding and head counted; GPU types of its data-parallel groups; TP.

    `tps` holds the TP of each group where they differ.
    """

    layers: tuple[int, int]
    devices: tuple[str, ...]
    tp: int
    tps: tuple[int, ...] = ()

    @property
    def kinds(self) -> list[tuple[str, int]]:
        """GPU type and TP of its groups, each once."""
        return sorted(set(zip(self.devices, self.tps or (self.tp,) * len(self.devices), strict=True)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MeasuredPrice:
    """Price of a plan.

    Parameters
    ----------
    seconds
        Of an iteration.
    work_S, hop_S, sync_S, update_S
        Seconds of each stage: a microbatch; activations to the next stage, one way; gradients; the update.
    provenance
        ``measured``, or ``fitted`` where layers were interpolated, ``spec`` where beyond what was measured.
    """

    seconds: float
    work_S: Array
    hop_S: Array
    sync_S: Array
    update_S: Array
    provenance: Provenance


@lru_cache(maxsize=512)
def _layer_LT(tables: SailorTables, device: str, tp: int, microbatch: int) -> tuple[Array, Provenance]:
    """Forward, backward and update of each layer: measured, or interpolated."""
    found = tables.times.get((device, tp, microbatch))
    if found is not None:
        return found, "measured"
    layers = tables.measured_layers(device)
    answer = layers.at([tp], [microbatch])
    return answer.values_BT.reshape(layers.layers, len(layers.columns)), answer.provenance


@lru_cache(maxsize=512)
def _line_L(tables: SailorTables, device: str, tp: int, microbatch: int) -> Array:
    """Forward and backward of each layer by the line through all microbatches, relative least squares."""
    sizes_M = tables.microbatches(device, tp)
    if len(sizes_M) < 3:
        return np.asarray(_layer_LT(tables, device, tp, microbatch)[0][:, :2].sum(axis=1))
    measured_ML = np.stack([tables.layer_times(device, tp, m)[:, :2].sum(axis=1) for m in sizes_M])
    terms = np.stack([np.ones(len(sizes_M)), np.array(sizes_M, dtype=float)], axis=1)
    lines = []
    for measured_M in measured_ML.T:
        line, *_ = np.linalg.lstsq(terms / measured_M[:, None], np.ones(len(sizes_M)), rcond=None)
        lines.append(line[0] + line[1] * microbatch)
    return np.asarray(np.maximum(np.array(lines), 0.0))


def measured_layer_seconds(tables: SailorTables, device: str, tp: int, microbatch: int, curve: float) -> Array:
    """Seconds of each layer, forward and backward, as `MeasuredConstants.curve` weighs point and line."""
    measured_L = _layer_LT(tables, device, tp, microbatch)[0][:, :2].sum(axis=1)
    line_L = _line_L(tables, device, tp, microbatch)
    usable = (measured_L > 0) & (line_L > 0)
    ratio_L = np.divide(line_L, measured_L, out=np.ones_like(measured_L), where=usable)
    return np.asarray(measured_L * ratio_L**curve)


def measured_update(tables: SailorTables, device: str, tp: int, microbatch: int) -> Array:
    """Seconds of each layer's update."""
    return np.asarray(_layer_LT(tables, device, tp, microbatch)[0][:, 2])


def measured_node_link(tables: SailorTables, device: str, gpus: int) -> LinkFit:
    """Fit of the most GPUs that were measured, up to those asked for."""
    known = [n for name, n in tables.node_links if name == device and n <= gpus]
    return tables.node_links[device, max(known)]


def _sync(tables: SailorTables, stage: MeasuredStage) -> float:
    degree = len(stage.devices)
    if degree == 1:
        return 0.0
    part = slice(*stage.layers)
    shares = {kind: float(tables.sizes[kind[1]].parameters_L[part].sum()) / degree for kind in stage.kinds}
    slowest = min(measured_node_link(tables, *kind).bandwidth(share) for kind, share in shares.items())
    return 2.0 * (degree - 1) * max(share * tp for (_, tp), share in shares.items()) / slowest


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
    return measured_price(tables, stages, microbatch=microbatch, microbatches=microbatches, constants=constants).seconds


def measured_price(
    tables: SailorTables,
    stages: Sequence[MeasuredStage],
    *,
    microbatch: int,
    microbatches: int,
    constants: MeasuredConstants,
) -> MeasuredPrice:
    """Price a plan term by term; parameters as in `measured_seconds`."""
    work, sync, updates, hops = [], [], [], []
    provenances: list[Provenance] = []
    for s, stage in enumerate(stages):
        part = slice(*stage.layers)
        seconds = [
            float(measured_layer_seconds(tables, device, tp, microbatch, constants.curve)[part].sum())
            for device, tp in stage.kinds
        ]
        update = [float(measured_update(tables, device, tp, microbatch)[part].sum()) for device, tp in stage.kinds]
        provenances += [_layer_LT(tables, device, tp, microbatch)[1] for device, tp in stage.kinds]
        work.append(max(seconds))
        sync.append(_sync(tables, stage))
        updates.append(max(update))
        if s + 1 < len(stages):
            message = float(tables.sizes[stage.kinds[0][1]].output_L[stage.layers[1] - 1]) * microbatch
            ends = {device for device, _ in (*stage.kinds, *stages[s + 1].kinds)}
            hops.append(max(message / tables.node_links[device, 1].bandwidth(message) for device in ends))
    work_S, hop_S = np.array(work), np.array([0.0, *hops, 0.0])
    sync_S, update_S = np.array(sync), np.array(updates)
    cycle = float((work_S + 2.0 * hop_S[:-1] + 2.0 * hop_S[1:]).max())
    total = (microbatches - 1) * cycle + float(work_S.sum()) + 2.0 * sum(hops) + float((sync_S + update_S).max())
    return MeasuredPrice(
        seconds=total,
        work_S=work_S,
        hop_S=hop_S[1:],
        sync_S=sync_S,
        update_S=update_S,
        provenance=weakest(*provenances),
    )


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
        in_flight = min(microbatches, len(stages) - s)
        for _, tp in stage.kinds:
            held = measured_stage_memory(tables, stage.layers, tp, microbatch * in_flight, constants)
            fullest = max(fullest, held)
    return fullest


def measured_stage_memory(
    tables: SailorTables, layers: tuple[int, int], tp: int, sequences: int, constants: MeasuredConstants
) -> float:
    """Bytes on a GPU that holds some layers and the activations of so many sequences."""
    size, part = tables.sizes[tp], slice(*layers)
    states = constants.parameter_bytes / _NUMBER_BYTES * float(size.parameters_L[part].sum())
    activations = constants.activations * float(size.activations_L[part].sum()) * sequences
    return states + activations + constants.context
