"""Closed loops on real GPUs, engine by engine: TTFT and TPOT by concurrency (serving rows of aiconfigurator)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.bands import ServedFigure
from planner.cost.closed_loop import LoopModel
from planner.engine.fitted import load_fit
from planner.profiling.accuracy.bands import server_error
from planner.profiling.accuracy.degrees import parallelism_of, requests_of
from planner.profiling.accuracy.disaggregated import predict_disaggregated, silicon_model, step_left_out
from planner.profiling.accuracy.names import LoadRule, device_of, load_of
from planner.profiling.accuracy.records import Comparison, Layout, Outcome, Skipped, SkipRowError
from planner.profiling.accuracy.replicas import Served, ServedRows, Setting, label_of, serving_engine
from planner.profiling.accuracy.table import Row
from planner.profiling.fit.constants import host_times, loads_with

if TYPE_CHECKING:
    from planner.cost._types import Array

__all__ = ["SERVING_SILICON", "SiliconRow", "silicon_rows"]

_MS: Final = 1e-3


@dataclass(frozen=True, slots=True)
class SiliconRow:
    """One row of the serving tables.

    Parameters
    ----------
    served
        The replica and its load.
    rule
        Why the load is taken to be so.
    ttft, tpot
        Seconds, measured.
    output
        Tokens by which the row reckons its end-to-end latency.
    group
        GPU type, engine and model, as the row writes them: what is left out together in a cross-validation.
    """

    served: Served
    rule: LoadRule
    ttft: float
    tpot: float
    output: int
    group: tuple[str, str, str]


def silicon_rows(rows: Sequence[Row]) -> tuple[list[SiliconRow], list[Skipped]]:
    """Read rows of aggregated serving; those that cannot be priced come back with the reason."""
    read: list[SiliconRow] = []
    skipped: list[Skipped] = []
    for row in rows:
        try:
            read.append(_read(row))
        except SkipRowError as reason:
            skipped.append(Skipped(row.number, str(reason)))
    return read, skipped


def _read(row: Row) -> SiliconRow:
    rule: LoadRule = load_of("serving_silicon", row)
    output = row.whole("osl")
    setting = Setting(
        model=silicon_model(row),
        device=device_of(row.text("system")),
        engine=serving_engine(row.text("backend")),
        parallelism=parallelism_of(row),
        pp=row.whole("pp_size", default=1),
    )
    served = Served(
        row=row.number,
        setting=setting,
        input=row.whole("isl") * rule.length_share,
        output=output * rule.length_share,
        concurrency=requests_of(row),
        pattern=rule.pattern,
    )
    ttft, tpot = row.number_of("silicon_ttft_ms") * _MS, row.number_of("silicon_tpot_ms") * _MS
    group = (row.text("system"), row.text("backend"), row.text("model_path"))
    return SiliconRow(served, rule, ttft, tpot, output, group)


def _latencies(served: ServedRows, read: Sequence[SiliconRow], *, left_out: bool) -> tuple[Array, Array]:
    """TTFT and TPOT of rows, in seconds; with `left_out`, by the constants of the fold that has not seen each."""
    loop = served.solve()
    ttft_B, tpot_B = loop.ttft_B, loop.tpot_B
    if left_out:
        engines, rules = [engine.name for engine in served.engines], [one.rule.name for one in read]
        for fold in load_fit("serving").folds:
            mine_B = np.array([one.group == fold.group for one in read])
            if mine_B.any():
                loads = loads_with(fold.constants, served.loads, rules)
                unseen = LoopModel(served.tables, host_times(fold.constants, engines)).solve(loads)
                ttft_B, tpot_B = np.where(mine_B, unseen.ttft_B, ttft_B), np.where(mine_B, unseen.tpot_B, tpot_B)
    return ttft_B, tpot_B


def _predict(rows: Sequence[Row], *, left_out: bool = False) -> Iterator[Outcome]:
    apart = [row for row in rows if row.text("mode") == "disagg"]
    yield from predict_disaggregated(apart, step_of=step_left_out if left_out else None)
    read, skipped = silicon_rows([row for row in rows if row.text("mode") != "disagg"])
    served, too_large = ServedRows.of(one.served for one in read)
    yield from (*skipped, *too_large)
    if served is None:
        return
    by_number = {one.served.row: one for one in read}
    kept = [by_number[one.row] for one in served.rows]
    ttft_B, tpot_B = _latencies(served, kept, left_out=left_out)
    for b, one in enumerate(kept):
        setting, first, each = one.served.setting, float(ttft_B[b]), float(tpot_B[b])
        figures: tuple[tuple[ServedFigure, float, float], ...] = (
            ("ttft", one.ttft, first),
            ("tpot", one.tpot, each),
            ("e2e", one.ttft + one.output * one.tpot, first + one.output * each),
        )
        for figure, measured, predicted in figures:
            yield Comparison(
                row=one.served.row,
                model=label_of(setting.model),
                device=setting.device.name,
                engine=setting.engine.name,
                figure=figure,
                measured=measured,
                predicted=predicted,
                error=server_error(figure, served.pricer_of(b)),
            )


SERVING_SILICON: Final = Layout(
    name="serving_silicon",
    title="TTFT and TPOT of closed loops by engine, model, GPU and concurrency",
    columns=("harness", "backend", "model_path", "system", "isl", "osl", "silicon_ttft_ms", "silicon_tpot_ms"),
    predict=_predict,
    fitted="The engines' overheads and the load patterns (profiles/fits/serving.yaml) were fitted to the shipped rows "
    "of this layout: errors on these are errors of a fit. With --left-out each row is predicted without its group.",
    predict_left_out=partial(_predict, left_out=True),
)
