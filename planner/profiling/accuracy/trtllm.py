"""TensorRT-LLM's published tables: saturated throughput, static batches, first tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np

from planner.cost.closed_loop import ClosedLoop, LoopModel
from planner.cost.host_times import HostTimes
from planner.cost.parallelism import ReplicaParallelism
from planner.engine.fitted import load_fit
from planner.model import ModelSpec
from planner.profiling.accuracy.bands import offline_error
from planner.profiling.accuracy.names import device_of, load_of, model_of
from planner.profiling.accuracy.records import Comparison, FigureName, Layout, Outcome, Skipped, SkipRowError
from planner.profiling.accuracy.replicas import Served, ServedRows, Setting, label_of, serving_engine
from planner.profiling.accuracy.table import Row

__all__ = [
    "FIRST",
    "FIRST_TOKEN",
    "MAX_LOAD",
    "SATURATED",
    "STATIC",
    "STATIC_BATCH",
    "OfflineLayout",
    "OfflineRow",
    "group_of",
    "offline_loop",
]

_ENGINE: Final = "trtllm"
# Requests that are handed over where a row does not say: more than ever run at once.
_MANY: Final = 1_000_000.0


@dataclass(frozen=True, slots=True)
class OfflineRow:
    """One row: the replica under its load, and what was measured."""

    served: Served
    measured: float


@dataclass(frozen=True, slots=True)
class OfflineLayout:
    """How the rows of one of these tables are read.

    Parameters
    ----------
    name, part
        Of the layout, and what the fit of batch runs calls its rows.
    figure
        What its rows measure.
    read
        A row, or a `SkipRowError` why not.
    predicted
        That figure of row b of a solved loop.
    """

    name: str
    part: str
    figure: FigureName
    read: Callable[[Row], OfflineRow]
    predicted: Callable[[Served, ClosedLoop, int], float]

    def rows(self, rows: Sequence[Row]) -> tuple[list[OfflineRow], list[Skipped]]:
        """Read rows; those that cannot be priced come back with the reason."""
        read: list[OfflineRow] = []
        skipped: list[Skipped] = []
        for row in rows:
            try:
                read.append(self.read(row))
            except SkipRowError as reason:
                skipped.append(Skipped(row.number, str(reason)))
        return read, skipped

    def predict(self, rows: Sequence[Row], *, left_out: bool = False) -> Iterator[Outcome]:
        """Compare rows with predictions; with `left_out`, of the fold that has not seen each."""
        read, skipped = self.rows(rows)
        served, too_large = ServedRows.of(one.served for one in read)
        yield from (*skipped, *too_large)
        if served is None:
            return
        measured = {one.served.row: one.measured for one in read}
        for b, priced, loop in _loops(served, left_out=left_out):
            setting = priced.setting
            if self is STATIC and loop.running_B[b] < priced.concurrency * (1 - 1e-9):
                room = f"the KV cache has room for {loop.running_B[b]:.0f} of it"
                yield Skipped(priced.row, f"a batch of {priced.concurrency:.0f} does not fit: {room}")
                continue
            yield Comparison(
                row=priced.row,
                model=label_of(setting.model),
                device=setting.device.name,
                engine=setting.engine.name,
                figure=self.figure,
                measured=measured[priced.row],
                predicted=self.predicted(priced, loop, b),
                error=offline_error(self.part, self.figure, served.pricer_of(b)),
            )


def _loops(served: ServedRows, *, left_out: bool) -> Iterator[tuple[int, Served, ClosedLoop]]:
    """Rows with their place and the loop that holds their prediction."""
    loop = served.solve()
    loops = {fold.group: offline_loop(served, fold.constants) for fold in load_fit("offline").folds if left_out}
    for b, one in enumerate(served.rows):
        yield b, one, loops.get(group_of(one.setting), loop)


def offline_loop(served: ServedRows, constants: Mapping[str, float]) -> ClosedLoop:
    """Price batch runs under some constants, by name."""
    count = len(served.pricers)
    times = {f"{name}_R": np.full(count, value) for name, value in constants.items() if name != "reserved_memory"}
    assumed = np.array([[engine.reserved_memory.value] for engine in served.engines])
    free_RS = served.tables.free_RS - (constants["reserved_memory"] - assumed)
    return LoopModel(replace(served.tables, free_RS=free_RS), HostTimes(**times)).solve(served.loads)


def group_of(setting: Setting) -> tuple[str, str, str]:
    """Model, GPU type and number format: what is left out together in a cross-validation."""
    return setting.model.name, setting.device.name, setting.model.weight_dtype


def _served(layout: str, row: Row, concurrency: float, *, osl: int) -> Served:
    model = model_of(row.text("model"), row.text("precision"))
    setting = Setting(
        model=model,
        device=device_of(row.text("gpu")),
        engine=serving_engine(_ENGINE, offline=True),
        parallelism=_parallelism(row, model),
        pp=row.whole("pp", default=1),
    )
    return Served(
        row=row.number,
        setting=setting,
        input=row.whole("isl"),
        output=osl,
        concurrency=concurrency,
        pattern=load_of(layout, row).pattern,
    )


def _parallelism(row: Row, model: ModelSpec) -> ReplicaParallelism:
    """How the GPUs of a stage share a layer.

    Since its release 1.0 the engine's tables run models with routed experts with data-parallel attention and whole
    experts on each GPU. They do not say so; but as tensor parallelism their rates would move 54 GB/s of all-reduces
    through every one of eight GPUs on PCIe, twice what these were measured to pass.
    """
    tp = row.whole("tp")
    if row.text("trtllm_version").startswith("1.") and any(kind.experts for kind in model.kinds):
        return ReplicaParallelism(attention_dp=tp, moe_ep=tp)
    return ReplicaParallelism(tp=tp)


def _max_load(row: Row) -> OfflineRow:
    requests = load_of("trtllm_max_load", row).requests
    served = _served("trtllm_max_load", row, _MANY if requests is None else float(requests), osl=row.whole("osl"))
    return OfflineRow(served, row.number_of("total_output_tokens_per_s"))


def _static_batch(row: Row) -> OfflineRow:
    served = _served("trtllm_static_batch", row, float(row.whole("batch_size")), osl=row.whole("osl"))
    return OfflineRow(served, row.number_of("out_tok_per_s_per_gpu"))


def _first_token(row: Row) -> OfflineRow:
    served = _served("trtllm_first_token", row, float(row.whole("batch_size")), osl=1)
    return OfflineRow(served, row.number_of("first_token_latency_ms") * 1e-3)


SATURATED: Final = OfflineLayout(
    "trtllm_max_load",
    "saturated",
    "throughput",
    _max_load,
    lambda one, loop, b: one.output * float(loop.mean_rate_B[b]),
)
STATIC: Final = OfflineLayout(
    "trtllm_static_batch",
    "static",
    "throughput",
    _static_batch,
    lambda one, loop, b: one.output * float(loop.rate_B[b]) / one.setting.gpus,
)
FIRST: Final = OfflineLayout(
    "trtllm_first_token", "first", "ttft", _first_token, lambda _, loop, b: float(loop.ttft_B[b])
)

_FITTED: Final = (
    "The engine's overheads in batch runs (profiles/fits/offline.yaml) were fitted to the shipped rows of this layout: "
    "errors on these are errors of a fit. With --left-out each row is predicted without its group."
)

MAX_LOAD: Final = Layout(
    name=SATURATED.name,
    title="output tokens per second at saturation",
    columns=("model", "gpu", "precision", "tp", "isl", "osl", "total_output_tokens_per_s"),
    predict=SATURATED.predict,
    fitted=_FITTED,
    predict_left_out=partial(SATURATED.predict, left_out=True),
)
STATIC_BATCH: Final = Layout(
    name=STATIC.name,
    title="output tokens per second and GPU of a static batch",
    columns=("model", "gpu", "precision", "batch_size", "tp", "isl", "osl", "out_tok_per_s_per_gpu"),
    predict=STATIC.predict,
    fitted=_FITTED,
    predict_left_out=partial(STATIC.predict, left_out=True),
)
FIRST_TOKEN: Final = Layout(
    name=FIRST.name,
    title="latency of the first token at batch 1",
    columns=("model", "gpu", "precision", "batch_size", "tp", "isl", "first_token_latency_ms"),
    predict=FIRST.predict,
    fitted=_FITTED,
    predict_left_out=partial(FIRST.predict, left_out=True),
)
