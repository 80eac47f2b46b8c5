"""TensorRT-LLM's published tables: saturated throughput, static batches, first tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

from planner.profiling.accuracy.names import device_of, load_of, model_of
from planner.profiling.accuracy.records import Comparison, FigureName, Layout, Outcome, Skipped, SkipRowError
from planner.profiling.accuracy.replicas import Loaded, label_of, serve, serving_engine
from planner.profiling.accuracy.table import Row

__all__ = ["FIRST_TOKEN", "MAX_LOAD", "STATIC_BATCH"]

_ENGINE: Final = "trtllm"
# Requests that are handed over where a row does not say: more than ever run at once.
_MANY: Final = 1_000_000.0

Predicted = tuple[FigureName, float, float, float]


def _loaded(layout: str, row: Row, concurrency: float, *, osl: int) -> Loaded:
    return serve(
        model_of(row.text("model"), row.text("precision")),
        device_of(row.text("gpu")),
        serving_engine(_ENGINE),
        tp=row.whole("tp"),
        pp=row.whole("pp", default=1),
        isl=row.whole("isl"),
        osl=osl,
        concurrency=[concurrency],
        load=load_of(layout, row).pattern,
    )


def _max_load(row: Row) -> Predicted:
    measured, osl = row.number_of("total_output_tokens_per_s"), row.whole("osl")
    requests = load_of("trtllm_max_load", row).requests
    loaded = _loaded("trtllm_max_load", row, _MANY if requests is None else float(requests), osl=osl)
    return "throughput", measured, osl * float(loaded.loop.mean_rate_B[0]), loaded.rate_error


def _static_batch(row: Row) -> Predicted:
    measured, osl, batch = row.number_of("out_tok_per_s_per_gpu"), row.whole("osl"), row.whole("batch_size")
    loaded = _loaded("trtllm_static_batch", row, float(batch), osl=osl)
    if loaded.loop.running_B[0] < batch * (1 - 1e-9):
        raise SkipRowError(
            f"a batch of {batch} does not fit: the KV cache has room for {loaded.loop.running_B[0]:.0f} of it"
        )
    gpus = row.whole("tp") * row.whole("pp", default=1)
    return "throughput", measured, osl * float(loaded.loop.rate_B[0]) / gpus, loaded.rate_error


def _first_token(row: Row) -> Predicted:
    measured = row.number_of("first_token_latency_ms") * 1e-3
    loaded = _loaded("trtllm_first_token", row, float(row.whole("batch_size")), osl=1)
    return "ttft", measured, float(loaded.loop.ttft_B[0]), loaded.first_error


def _each(predict: Callable[[Row], Predicted]) -> Callable[[Sequence[Row]], Iterable[Outcome]]:
    def compare(rows: Sequence[Row]) -> Iterator[Outcome]:
        for row in rows:
            try:
                figure, measured, predicted, error = predict(row)
                model, device = model_of(row.text("model"), row.text("precision")), device_of(row.text("gpu"))
            except SkipRowError as reason:
                yield Skipped(row.number, str(reason))
                continue
            yield Comparison(
                row=row.number,
                model=label_of(model),
                device=device.name,
                engine=_ENGINE,
                figure=figure,
                measured=measured,
                predicted=predicted,
                error=error,
            )

    return compare


_NOT_FITTED: Final = (
    "Nothing was fitted to rows of this layout. Overheads come from interactive serving with TensorRT-LLM 1; the time "
    "of the host per prompt and before a first token is left out, as requests lie ready in the engine's process."
)

MAX_LOAD: Final = Layout(
    name="trtllm_max_load",
    title="output tokens per second at saturation",
    columns=("model", "gpu", "precision", "tp", "isl", "osl", "total_output_tokens_per_s"),
    predict=_each(_max_load),
    fitted=_NOT_FITTED,
)
STATIC_BATCH: Final = Layout(
    name="trtllm_static_batch",
    title="output tokens per second and GPU of a static batch",
    columns=("model", "gpu", "precision", "batch_size", "tp", "isl", "osl", "out_tok_per_s_per_gpu"),
    predict=_each(_static_batch),
    fitted=_NOT_FITTED,
)
FIRST_TOKEN: Final = Layout(
    name="trtllm_first_token",
    title="latency of the first token at batch 1",
    columns=("model", "gpu", "precision", "batch_size", "tp", "isl", "first_token_latency_ms"),
    predict=_each(_first_token),
    fitted=_NOT_FITTED,
)
