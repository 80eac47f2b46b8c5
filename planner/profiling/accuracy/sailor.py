"""Sailor's measured training runs, by its own measured layers: GH200 nodes, and three types of consumer GPU."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from planner.cost.sailor_tables import SailorTables, load_sailor_tables
from planner.cost.training_measured import (
    FIT,
    MeasuredConstants,
    MeasuredStage,
    measured_peak_memory,
    measured_seconds,
)
from planner.engine.fitted import load_fit
from planner.errors import InputError
from planner.profiling.accuracy.names import device_of, model_of
from planner.profiling.accuracy.records import Comparison, FigureName, Layout, Outcome, Skipped, SkipRowError
from planner.profiling.accuracy.table import Row

__all__ = ["FIT", "SAILOR", "MeasuredRun", "read_run"]

_ENGINE: Final = "megatron"
_GROUP: Final = re.compile(r"(?P<gpu>[A-Za-z0-9-]+)x(?P<count>\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRun:
    """A row, understood.

    Parameters
    ----------
    row, model, device
        Its number, and what it was.
    tables, stages, microbatch, microbatches
        As `planner.cost.training_measured` takes them.
    seconds, memory
        Measured: of an iteration, and bytes on the fullest GPU.
    group
        What is left out together: the cluster, and on GH200 the depth of the pipeline.
    """

    row: int
    model: str
    device: str
    tables: SailorTables
    stages: tuple[MeasuredStage, ...]
    microbatch: int
    microbatches: int
    seconds: float
    memory: float
    group: tuple[str, ...]

    def predict(self, constants: MeasuredConstants) -> tuple[float, float]:
        """Seconds of an iteration and bytes on the fullest GPU."""
        work = {"microbatch": self.microbatch, "microbatches": self.microbatches}
        return (
            measured_seconds(self.tables, self.stages, constants=constants, **work),
            measured_peak_memory(self.tables, self.stages, constants=constants, **work),
        )


def _stages(row: Row) -> tuple[MeasuredStage, ...]:
    """Stages with their layers (the artifact counts embedding and head as layers) and GPU types."""
    counts = [int(part) for part in row.text("layers_per_stage").split("/") if part.isdigit()]
    held = row.text("stage_gpus").split("|")
    if sum(counts) != row.whole("layers") + 2 or len(counts) != row.whole("pp") or len(held) != len(counts):
        raise SkipRowError(f"layers per stage {row.text('layers_per_stage')!r} do not add up to the model")
    stages, first = [], 0
    tp, dp = row.whole("tp"), row.whole("dp")
    for count, text in zip(counts, held, strict=True):
        gpus = [device_of(gpu).name for gpu, number in _GROUP.findall(text) for _ in range(int(number))]
        if len(gpus) != tp * dp:
            raise SkipRowError(f"a stage has {len(gpus)} GPUs, TP {tp} and DP {dp} make {tp * dp}")
        stages.append(MeasuredStage((first, first + count), tuple(gpus[::tp]), tp))
        first += count
    return tuple(stages)


def read_run(row: Row) -> MeasuredRun:
    """Understand a row.

    Raises
    ------
    SkipRowError
        If its columns contradict each other, or its model was not measured by layers.
    """
    stages, model = _stages(row), model_of(row.text("model"))
    try:
        tables = load_sailor_tables(model.name)
        for stage in stages:
            for device in set(stage.devices):
                tables.layer_times(device, stage.tp, row.whole("mbs"))
    except InputError as error:
        raise SkipRowError(str(error)) from None
    types = sorted({device for stage in stages for device in stage.devices})
    uniform = len(types) == 1
    return MeasuredRun(
        row=row.number,
        model=model.name,
        device=types[0] if uniform else "mixed",
        tables=tables,
        stages=stages,
        microbatch=row.whole("mbs"),
        microbatches=round(row.number_of("num_microbatches")),
        seconds=row.number_of("iter_time_s"),
        memory=row.number_of("max_mem_bytes"),
        group=(types[0], f"pp{len(stages)}") if uniform else ("mixed",),
    )


def _compare(folds: Callable[[MeasuredRun], Mapping[str, float]]) -> Callable[[Sequence[Row]], Iterator[Outcome]]:
    def outcomes(rows: Sequence[Row]) -> Iterator[Outcome]:
        for row in rows:
            try:
                run = read_run(row)
            except SkipRowError as reason:
                yield Skipped(row.number, str(reason))
                continue
            yield from _figures(run, folds(run))

    return outcomes


def _figures(run: MeasuredRun, values: Mapping[str, float]) -> Iterator[Comparison]:
    fit = load_fit(FIT)
    part = "mixed" if run.device == "mixed" else "alike"  # only runs on one type bear on memory
    bands = {
        "iteration_time": fit.error("all", "iteration_time").band,
        "peak_memory": fit.error(part, "peak_memory").band,
    }
    seconds, memory = run.predict(MeasuredConstants.of(values))
    figures: tuple[tuple[FigureName, float, float], ...] = (
        ("iteration_time", run.seconds, seconds),
        ("peak_memory", run.memory, memory),
    )
    for figure, measured, predicted in figures:
        yield Comparison(
            row=run.row,
            model=run.model,
            device=run.device,
            engine=_ENGINE,
            figure=figure,
            measured=measured,
            predicted=predicted,
            error=bands[figure],
        )


def _own(run: MeasuredRun) -> Mapping[str, float]:
    return load_fit(FIT).constants


def _unseen(run: MeasuredRun) -> Mapping[str, float]:
    fit = load_fit(FIT)
    return next((fold.constants for fold in fit.folds if fold.group == run.group), fit.constants)


SAILOR: Final = Layout(
    name="training_sailor",
    title="Sailor's measured training runs",
    columns=("model", "gpus_by_type", "layers_per_stage", "stage_gpus", "tp", "dp", "mbs", "gbs", "iter_time_s"),
    predict=_compare(_own),
    fitted="Layer times, sizes and network fits are Sailor's own measurements. Four constants (profiles/fits/"
    "training_measured.yaml) were fitted to these rows; --left-out predicts each pipeline depth and cluster by "
    "constants that have not seen it.",
    predict_left_out=_compare(_unseen),
)
