"""Closed loops on real GPUs, engine by engine: TTFT and TPOT by concurrency (serving rows of aiconfigurator)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from planner.profiling.accuracy.degrees import parallelism_of, requests_of
from planner.profiling.accuracy.disaggregated import predict_disaggregated
from planner.profiling.accuracy.names import LoadRule, device_of, load_of, model_of
from planner.profiling.accuracy.records import Comparison, FigureName, Layout, Outcome, Skipped, SkipRowError
from planner.profiling.accuracy.replicas import label_of, serve, serving_engine
from planner.profiling.accuracy.table import Row

__all__ = ["SERVING_SILICON"]

_MS: Final = 1e-3
# Everything that rows may differ in and still be one replica under several loads.
_SETTING: Final = (
    "harness",
    "backend",
    "model_path",
    "system",
    "precision",
    "gemm_quant_mode",
    "isl",
    "osl",
    "tp_size",
)
_SETTING_REST: Final = ("pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")


def _predict(rows: Sequence[Row]) -> Iterator[Outcome]:
    apart = [row for row in rows if row.text("mode") == "disagg"]
    yield from predict_disaggregated(apart)
    settings: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if row.text("mode") == "disagg":
            continue
        settings[tuple(row.text(name) for name in (*_SETTING, *_SETTING_REST))].append(row)
    for alike in settings.values():
        try:
            yield from _setting(alike)
        except SkipRowError as reason:
            yield from (Skipped(row.number, str(reason)) for row in alike)


def _setting(rows: Sequence[Row]) -> Iterator[Comparison]:
    row = rows[0]
    precision = row.text("gemm_quant_mode") or row.text("precision")
    model = model_of(row.text("model_path"), precision, row.text("backend"))
    device, engine = device_of(row.text("system")), serving_engine(row.text("backend"))
    rule: LoadRule = load_of("serving_silicon", row)
    osl = row.whole("osl")
    loaded = serve(
        model,
        device,
        engine,
        tp=row.whole("tp_size"),
        pp=row.whole("pp_size", default=1),
        isl=row.whole("isl") * rule.length_share,
        osl=osl * rule.length_share,
        concurrency=[requests_of(row) for row in rows],
        load=rule.pattern,
        parallelism=parallelism_of(row),
    )
    for b, row in enumerate(rows):
        ttft, tpot = row.number_of("silicon_ttft_ms") * _MS, row.number_of("silicon_tpot_ms") * _MS
        first, each = float(loaded.loop.ttft_B[b]), float(loaded.loop.tpot_B[b])
        figures: tuple[tuple[FigureName, float, float, float], ...] = (
            ("ttft", ttft, first, loaded.first_error),
            ("tpot", tpot, each, loaded.rate_error),
            ("e2e", ttft + osl * tpot, first + osl * each, loaded.rate_error),
        )
        for figure, measured, predicted, error in figures:
            yield Comparison(
                row=row.number,
                model=label_of(model),
                device=device.name,
                engine=engine.name,
                figure=figure,
                measured=measured,
                predicted=predicted,
                error=error,
            )


SERVING_SILICON: Final = Layout(
    name="serving_silicon",
    title="TTFT and TPOT of closed loops by engine, model, GPU and concurrency",
    columns=("harness", "backend", "model_path", "system", "isl", "osl", "silicon_ttft_ms", "silicon_tpot_ms"),
    predict=_predict,
    fitted="The engines' overheads (profiles/engines) and the load patterns (profiles/truth/loads.yaml: synchrony, "
    "slot_wait, prompt_wait, stream_interval) were fitted to the dense rows of this table: errors of dense models are "
    "errors of a fit. Mixture-of-experts rows were not fitted on.",
)
