"""Closed loops on real GPUs with prefill and decode on separate workers (serving rows of aiconfigurator).

``decode_batch_size`` is what a rank of attention on a decode worker has under way: times ranks and workers it is the
concurrency that the id of a row states (c256), in every row that gives both. It is taken as the number of clients, not
as a limit, as the clients of a prompt that is still computed count in it. Rows that do not say how many workers there
are cannot be priced.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Final

from planner.cluster import Link
from planner.cost.bands import ServedFigure
from planner.cost.disaggregated import WorkerPool, disaggregated_loop
from planner.engine.fitted import load_fit
from planner.errors import InfeasibleError
from planner.model import ModelSpec
from planner.profiling.accuracy.degrees import parallelism_of, requests_of
from planner.profiling.accuracy.names import device_of, load_of, model_of
from planner.profiling.accuracy.records import Comparison, Outcome, Skipped, SkipRowError
from planner.profiling.accuracy.replicas import Setting, label_of, replica_of, serving_engine
from planner.profiling.accuracy.table import Row
from planner.workload import Workload, fixed_workload

__all__ = ["group_of", "predict_disaggregated", "silicon_model", "step_left_out"]

_MS: Final = 1e-3
# Between workers: one 400 Gb/s network card per GPU, and what it takes to agree on a transfer. An estimate; rows do
# not say. It counts in TTFT alone.
_LINK: Final = Link(bandwidth=50e9, latency=5e-3)
_SETTING: Final = ("harness", "backend", "model_path", "system", "precision", "gemm_quant_mode", "isl", "osl")
_POOL: Final = ("num_workers", "tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")


def group_of(row: Row) -> tuple[str, str, str]:
    """Engine, attention of the decode workers, prompt length: what is left out together in a cross-validation."""
    spread = row.whole("decode_attention_dp_size", default=1) > 1
    return row.text("backend"), "data-parallel" if spread else "tensor-parallel", row.text("isl")


def step_left_out(row: Row) -> float:
    """Constant of the fold that has not seen a row's group; that of all where there is none."""
    fit = load_fit("disaggregated")
    unseen = (fold.constants["step"] for fold in fit.folds if fold.group == group_of(row))
    return next(unseen, fit.constants["step"])


def predict_disaggregated(rows: Sequence[Row], *, step_of: Callable[[Row], float] | None = None) -> Iterator[Outcome]:
    """Compare rows whose ``mode`` is ``disagg`` with predictions.

    Parameters
    ----------
    rows
        The rows.
    step_of
        Seconds that a decode step takes longer than inside one server, by row; None: as fitted to all.
    """
    settings: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if not all(row.text(f"{role}_num_workers") for role in ("prefill", "decode")):
            yield Skipped(row.number, "the row does not say how many prefill and decode workers there are")
            continue
        pools = (f"{role}_{name}" for role in ("prefill", "decode") for name in _POOL)
        settings[tuple(row.text(name) for name in (*_SETTING, *pools))].append(row)
    for alike in settings.values():
        try:
            yield from _setting(alike, None if step_of is None else step_of(alike[0]))
        except SkipRowError as reason:
            yield from (Skipped(row.number, str(reason)) for row in alike)


def silicon_model(row: Row) -> ModelSpec:
    """Model of a row in the formats that it was served in.

    Raises
    ------
    SkipRowError
        If model or format is unknown.
    """
    precision = row.text("gemm_quant_mode") or row.text("precision")
    return model_of(row.text("model_path"), precision, row.text("backend"))


def _setting(rows: Sequence[Row], step: float | None) -> Iterator[Comparison]:
    row = rows[0]
    model, device, engine = silicon_model(row), device_of(row.text("system")), serving_engine(row.text("backend"))
    rule = load_of("serving_silicon", row)
    lengths = row.whole("isl") * rule.length_share, row.whole("osl") * rule.length_share
    workload = fixed_workload(max(1, round(lengths[0])), max(1, round(lengths[1])))
    prefill, decode = (_pool(row, role, workload) for role in ("prefill", "decode"))
    if step is not None:
        decode = replace(decode, step_overhead=step)
    clients = [requests_of(row) for row in rows]
    try:
        loop = disaggregated_loop(prefill, decode, clients, rule.pattern, _LINK)
    except InfeasibleError as error:
        raise SkipRowError(str(error).split("\n")[0]) from None
    osl = row.whole("osl")
    for b, row in enumerate(rows):
        ttft, tpot = row.number_of("silicon_ttft_ms") * _MS, row.number_of("silicon_tpot_ms") * _MS
        first, each = float(loop.ttft_B[b]), float(loop.tpot_B[b])
        figures: tuple[tuple[ServedFigure, float, float], ...] = (
            ("ttft", ttft, first),
            ("tpot", tpot, each),
            ("e2e", ttft + osl * tpot, first + osl * each),
        )
        for figure, measured, predicted in figures:
            yield Comparison(
                row=row.number,
                model=label_of(model),
                device=device.name,
                engine=engine.name,
                figure=figure,
                measured=measured,
                predicted=predicted,
                error=load_fit("disaggregated").error("all", figure).band,
            )


def _pool(row: Row, role: str, workload: Workload) -> WorkerPool:
    setting = Setting(
        model=silicon_model(row),
        device=device_of(row.text("system")),
        engine=serving_engine(row.text("backend")),
        parallelism=parallelism_of(row, f"{role}_"),
        pp=row.whole(f"{role}_pp_size", default=1),
    )
    return WorkerPool(replica_of(setting, workload), row.whole(f"{role}_num_workers"))
