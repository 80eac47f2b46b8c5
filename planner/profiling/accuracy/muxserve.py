"""MuxServe's profile of LLaMA on A100: whole iterations of prefill and of decode, without a server around them.

An iteration is what the kernels of its layers take, or what the host takes to launch them, whichever is longer; the two
overlap but not at the edge. Constants say how much longer kernels run inside that engine than in the tables (it is of
2023: unfused elementwise kernels, paged attention of the first generation), and what launches cost. All are fitted by
`planner.profiling.fit.muxserve`, leaving out one model at a time.

Legend: B row, P part of a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cluster import load_device, load_link
from planner.cost.layer import PARTS, LayerPricer, Load
from planner.cost.memory import tensor_parallel_fault
from planner.cost.network import collective_for
from planner.dtypes import DTYPE_BYTES
from planner.engine.fitted import load_fit
from planner.profiling.accuracy.names import model_of
from planner.profiling.accuracy.records import Comparison, FigureName, Layout, Outcome, Skipped, SkipRowError
from planner.profiling.accuracy.table import Row

if TYPE_CHECKING:
    from planner.cost._types import Array, BoolArray
    from planner.model import ModelSpec

__all__ = ["MUXSERVE", "MuxRows", "group_of"]

_DEVICE: Final = "a100_sxm_80"
_ENGINE: Final = "muxserve"
_KERNELS: Final = "vllm"  # on which it is built
_PHASES: Final = ("prefill", "decode")


@dataclass(frozen=True, slots=True)
class MuxRows:
    """Rows ready to be priced under any constants.

    Parameters
    ----------
    rows
        B of them.
    models
        Model of each.
    prefill_B
        Whether a row is prefill, else decode.
    batch_B, layers_B, tp_B
        Sequences, layers and tensor parallelism.
    kernels_PB
        Seconds of each part of all layers as the tables have them; the head counts as GEMM.
    message_B
        Bytes of an all-reduce; 0 without tensor parallelism.
    measured_B
        Seconds.
    """

    rows: tuple[Row, ...]
    models: tuple[str, ...]
    prefill_B: BoolArray
    batch_B: Array
    layers_B: Array
    tp_B: Array
    kernels_PB: Array
    message_B: Array
    measured_B: Array

    @classmethod
    def of(cls, rows: Sequence[Row]) -> tuple[MuxRows | None, list[Skipped]]:
        """Read rows; those that cannot be priced come back with the reason."""
        groups: dict[tuple[str, int], tuple[ModelSpec, list[Row]]] = {}
        skipped: list[Skipped] = []
        for row in rows:
            try:
                if row.text("phase") not in _PHASES:
                    raise SkipRowError(f"phase {row.text('phase')!r} is neither prefill nor decode")
                model, tp = model_of(row.text("model")), row.whole("tp")
                fault = tensor_parallel_fault(model, tp)
                if fault is not None:
                    raise SkipRowError(fault)
            except SkipRowError as reason:
                skipped.append(Skipped(row.number, str(reason)))
                continue
            groups.setdefault((model.name, tp), (model, []))[1].append(row)
        if not groups:
            return None, skipped
        parts = [_priced(model, tp, tuple(mine)) for (_, tp), (model, mine) in groups.items()]
        whole = cls(
            rows=tuple(row for part in parts for row in part.rows),
            models=tuple(name for part in parts for name in part.models),
            **{
                name: np.concatenate([getattr(part, name) for part in parts], axis=-1)
                for name in cls.__slots__
                if name not in ("rows", "models")
            },
        )
        return whole, skipped

    def seconds_B(self, constants: Mapping[str, float]) -> Array:
        """What each row is predicted to take, shape (B,).

        Parameters
        ----------
        constants
            Those of `planner.profiling.fit.muxserve.CONSTANTS`.
        """
        gemm = np.where(self.prefill_B, constants["gemm_prefill"], constants["gemm_decode"])
        factors_PB = np.stack(
            [gemm if part == "gemm" else np.full(len(gemm), constants[part]) for part in PARTS],
        )
        # Large all-reduces run into something that the tables do not hold: at TP 4 one of 512 MB takes 22 ms.
        excess_B = 2.0 * self.layers_B * np.maximum(self.message_B - constants["large_from"], 0.0)
        gpu_B = (factors_PB * self.kernels_PB).sum(axis=0) + constants["large_message"] * excess_B
        launch_B = np.where(self.prefill_B, constants["layer_prefill"], constants["layer_decode"])
        host_B = self.layers_B * (launch_B + np.where(self.tp_B > 1, constants["layer_parallel"], 0.0))
        overlap, longer_B = 1.0 + constants["overlap"], np.maximum(gpu_B, host_B)
        both_B = longer_B * ((gpu_B / longer_B) ** overlap + (host_B / longer_B) ** overlap) ** (1.0 / overlap)
        return np.asarray(both_B + constants["iteration"] + constants["sequence"] * self.batch_B)


def _priced(model: ModelSpec, tp: int, rows: tuple[Row, ...]) -> MuxRows:
    device = load_device(_DEVICE)
    collective = collective_for(device, tp, load_link(device.link).link(), native=True)
    pricer = LayerPricer(model, device, collective, engine=_KERNELS)
    batch_B = np.array([float(row.whole("batch")) for row in rows])
    length_B = np.array([float(row.whole("seq")) for row in rows])
    prefill_B = np.array([row.text("phase") == "prefill" for row in rows])
    nothing_B = np.zeros(len(rows))
    load = Load(
        decode=np.where(prefill_B, nothing_B, batch_B),
        decode_context=np.where(prefill_B, nothing_B, length_B),
        prefill=np.where(prefill_B, batch_B * length_B, nothing_B),
        prefill_context=np.where(prefill_B, length_B / 2.0, nothing_B),
    )
    layers_K = np.bincount(model.kind_of_layer).astype(float)
    kernels_PB = np.einsum("pkb,k->pb", pricer.parts_PKB(load), layers_K)
    tokens_B = load.decode + load.prefill
    kernels_PB[PARTS.index("gemm")] += pricer.head_time_B(batch_B)
    kernels_PB[PARTS.index("all_reduce" if tp > 1 else "elementwise")] += pricer.embedding_time_B(tokens_B)
    message_B = tokens_B * model.hidden * DTYPE_BYTES[model.dtype] if tp > 1 else nothing_B
    return MuxRows(
        rows=rows,
        models=(model.name,) * len(rows),
        prefill_B=prefill_B,
        batch_B=batch_B,
        layers_B=np.full(len(rows), float(model.num_layers)),
        tp_B=np.full(len(rows), float(tp)),
        kernels_PB=kernels_PB,
        message_B=message_B,
        measured_B=np.array([row.number_of("seconds") for row in rows]),
    )


def group_of(model: str) -> tuple[str, str, str]:
    """What is left out together: a model, on the one GPU type in the one format."""
    return model, _DEVICE, "fp16"


def _predict(rows: Sequence[Row], *, left_out: bool = False) -> Iterator[Outcome]:
    priced, skipped = MuxRows.of(rows)
    yield from skipped
    if priced is None:
        return
    fit = load_fit("muxserve")
    folds = {fold.group: priced.seconds_B(fold.constants) for fold in fit.folds if left_out}
    seconds_B = priced.seconds_B(fit.constants)
    for b, row in enumerate(priced.rows):
        phase = row.text("phase")
        figure: FigureName = "ttft" if phase == "prefill" else "tpot"
        yield Comparison(
            row=row.number,
            model=priced.models[b],
            device=_DEVICE,
            engine=_ENGINE,
            figure=figure,
            measured=float(priced.measured_B[b]),
            predicted=float(folds.get(group_of(priced.models[b]), seconds_B)[b]),
            error=fit.error(phase, figure).band,
        )


MUXSERVE: Final = Layout(
    name="muxserve",
    title="one iteration of prefill (TTFT) or decode (TPOT), without a server",
    columns=("model", "tp", "batch", "seq", "phase", "seconds"),
    predict=_predict,
    fitted="Overheads of this engine (profiles/fits/muxserve.yaml) were fitted to the shipped rows: errors on these "
    "are errors of a fit. With --left-out each row is predicted by constants that have not seen its model.",
    predict_left_out=partial(_predict, left_out=True),
)
