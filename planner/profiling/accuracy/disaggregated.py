"""Closed loops on real GPUs with prefill and decode on separate workers (serving rows of aiconfigurator).

``decode_batch_size`` is what a rank of attention on a decode worker has under way: times ranks and workers it is the
concurrency that the id of a row states (c256), in every row that gives both. It is taken as the number of clients, not
as a limit, as the clients of a prompt that is still computed count in it. Rows that do not say how many workers there
are cannot be priced.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

from planner.cluster import DeviceProfile, Link
from planner.cost.disaggregated import WorkerPool, disaggregated_loop
from planner.cost.parallelism import ReplicaParallelism
from planner.cost.prediction import stated_errors
from planner.cost.replica import ReplicaPricer
from planner.engine import EngineProfile
from planner.errors import InfeasibleError
from planner.model import ModelSpec
from planner.profiling.accuracy.degrees import parallelism_of, requests_of
from planner.profiling.accuracy.names import device_of, load_of, model_of
from planner.profiling.accuracy.records import Comparison, FigureName, Outcome, Skipped, SkipRowError
from planner.profiling.accuracy.replicas import label_of, replica_stages, serving_engine
from planner.profiling.accuracy.table import Row
from planner.workload import fixed_workload

__all__ = ["predict_disaggregated"]

_MS: Final = 1e-3
# Between workers: one 400 Gb/s network card per GPU, and what it takes to agree on a transfer. An estimate; rows do
# not say. It counts in TTFT alone.
_LINK: Final = Link(bandwidth=50e9, latency=5e-3)
_SETTING: Final = ("harness", "backend", "model_path", "system", "precision", "gemm_quant_mode", "isl", "osl")
_POOL: Final = ("num_workers", "tp_size", "pp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")


def predict_disaggregated(rows: Sequence[Row]) -> Iterator[Outcome]:
    """Compare rows whose ``mode`` is ``disagg`` with predictions."""
    settings: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        if not all(row.text(f"{role}_num_workers") for role in ("prefill", "decode")):
            yield Skipped(row.number, "the row does not say how many prefill and decode workers there are")
            continue
        pools = (f"{role}_{name}" for role in ("prefill", "decode") for name in _POOL)
        settings[tuple(row.text(name) for name in (*_SETTING, *pools))].append(row)
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
    rule = load_of("serving_silicon", row)
    lengths = row.whole("isl") * rule.length_share, row.whole("osl") * rule.length_share
    prefill, decode = (_pool(row, role, model, device, engine, lengths) for role in ("prefill", "decode"))
    clients = [requests_of(row) for row in rows]
    try:
        loop = disaggregated_loop(prefill, decode, clients, rule.pattern, _LINK)
    except InfeasibleError as error:
        raise SkipRowError(str(error).split("\n")[0]) from None
    rate_error, first_error = stated_errors(engine, decode.pricer.at_rate(float(loop.rate_B.min()) / decode.workers))
    osl = row.whole("osl")
    for b, row in enumerate(rows):
        ttft, tpot = row.number_of("silicon_ttft_ms") * _MS, row.number_of("silicon_tpot_ms") * _MS
        first, each = float(loop.ttft_B[b]), float(loop.tpot_B[b])
        figures: tuple[tuple[FigureName, float, float, float], ...] = (
            ("ttft", ttft, first, first_error),
            ("tpot", tpot, each, rate_error),
            ("e2e", ttft + osl * tpot, first + osl * each, rate_error),
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


def _pool(
    row: Row,
    role: str,
    model: ModelSpec,
    device: DeviceProfile,
    engine: EngineProfile,
    lengths: tuple[float, float],
) -> WorkerPool:
    parallelism: ReplicaParallelism = parallelism_of(row, f"{role}_")
    stages = replica_stages(model, device, engine, parallelism, row.whole(f"{role}_pp_size", default=1))
    workload = fixed_workload(max(1, round(lengths[0])), max(1, round(lengths[1])))
    return WorkerPool(ReplicaPricer(model, engine, workload, stages), row.whole(f"{role}_num_workers"))
