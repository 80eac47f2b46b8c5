"""Training runs that Megatron-LM, its papers and Megatron-Bridge publish."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, Literal

from planner.model import ModelSpec
from planner.profiling.accuracy.names import device_of, model_of
from planner.profiling.accuracy.records import Comparison, FigureName, Layout, Outcome, Skipped, SkipRowError
from planner.profiling.accuracy.table import Row
from planner.profiling.accuracy.training import Setting, even_layers, fastest_that_fits, gpt_of, price, reported_flops

__all__ = ["BRIDGE", "H100", "MLSYS23_MEMORY", "MLSYS23_SHARES", "MLSYS23_TIME", "SC21"]

_ENGINE: Final = "megatron"
_GIB: Final = 2.0**30
_TERA: Final = 1e12
# Eight cards of 200 Gb/s per node (Selene: SC 2021, section 5), and of 400 Gb/s (Eos).
_SELENE: Final = 200e9
_EOS: Final = 400e9

# Label of the model, name of the GPU, and for each figure: measured, predicted, stated error.
Priced = tuple[str, str, dict[FigureName, tuple[float, float, float]]]


def _gpt(row: Row, dtype: str) -> ModelSpec:
    return gpt_of(
        row.whole("hidden"), row.whole("layers"), row.whole("heads"), row.whole("vocab"), row.whole("seq_len"), dtype
    )


def _sc21(row: Row) -> Priced:
    model, device = _gpt(row, "float16"), device_of("a100_sxm_80")
    batch, length = row.whole("global_batch"), row.whole("seq_len")
    run = fastest_that_fits(
        Setting(
            model=model,
            device=device,
            gpus_per_node=8,
            nic=_SELENE,
            tp=row.whole("tp"),
            dp=row.whole("dp"),
            layers=even_layers(row, model.num_layers, row.whole("pp")),
            global_batch=batch,
            sequence_length=length,
            microbatch=1,
            recompute="full",
        )
    )
    achieved = reported_flops(model, batch, length, recompute=True) / (run.seconds * row.whole("gpus")) / _TERA
    return (
        model.name,
        device.name,
        {
            "iteration_time": (row.number_of("derived_iter_time_s"), run.seconds, run.seconds_error),
            "tflops": (row.number_of("tflops_per_gpu"), achieved, run.seconds_error),
        },
    )


def _h100(row: Row) -> Priced:
    model, device = _gpt(row, "bfloat16"), device_of("h100_sxm")
    batch, length = row.whole("global_batch"), row.whole("seq_len")
    run = fastest_that_fits(
        Setting(
            model=model,
            device=device,
            gpus_per_node=8,
            nic=_EOS,
            tp=row.whole("tp"),
            dp=row.whole("dp"),
            layers=even_layers(row, model.num_layers, row.whole("pp")),
            global_batch=batch,
            sequence_length=length,
            microbatch=1,
            zero_stage=1,
            recompute="selective",
            sequence_parallel=True,
        )
    )
    flops, measured = reported_flops(model, batch, length, recompute=False), row.number_of("tflops_per_gpu")
    per_gpu = flops / row.whole("gpus") / _TERA
    return (
        model.name,
        device.name,
        {
            "iteration_time": (per_gpu / measured, run.seconds, run.seconds_error),
            "tflops": (measured, per_gpu / run.seconds, run.seconds_error),
        },
    )


def _bridge(row: Row) -> Priced:
    device = device_of(row.text("system"))
    model = model_of(row.text("model"))
    for name, what in (("vp", "an interleaved schedule"), ("cp", "context parallelism"), ("ep", "expert parallelism")):
        if "(" not in row.text(name) and row.whole(name, default=1) > 1:
            raise SkipRowError(f"{what} is not priced yet")
    if any("(" in row.text(name) for name in ("precision", "tokens_per_s_per_gpu", "tp", "cp")):
        raise SkipRowError("two precisions in one row")
    if row.text("fsdp") not in ("", "0"):
        raise SkipRowError("fully sharded data parallelism is not priced yet")
    if row.text("precision").lower() not in ("bf16", "fp16"):
        raise SkipRowError(
            f"training in {row.text('precision') or 'an unstated precision'} is not priced yet: 16 bit only"
        )
    if "Pre-Training" not in row.text("task"):
        raise SkipRowError("fine-tuning is not priced yet")
    tp, pp, gpus, length = row.whole("tp"), row.whole("pp"), row.whole("gpus"), row.whole("seq_len")
    batch = row.whole("gbs")
    run = price(
        Setting(
            model=model,
            device=device,
            gpus_per_node=8,
            nic=_EOS,
            tp=tp,
            dp=gpus // (tp * pp),
            layers=even_layers(row, model.num_layers, pp),
            global_batch=batch,
            sequence_length=length,
            microbatch=row.whole("mbs"),
            zero_stage=1,
            sequence_parallel=True,
        )
    )
    tokens = batch * length / gpus
    measured = row.number_of("tokens_per_s_per_gpu")
    return (
        model.name,
        device.name,
        {
            "iteration_time": (tokens / measured, run.seconds, run.seconds_error),
            "throughput": (measured, tokens / run.seconds, run.seconds_error),
        },
    )


_SELECTIVE: Final = ("selective_recompute_plus_seqpar", "seqpar+selective")


def _mlsys23(row: Row, *, batch: int) -> Setting:
    mode = row.text("mode")
    if row.whole("interleave", default=1) > 1:
        raise SkipRowError("an interleaved schedule is not priced yet")
    if mode == "no_recompute":
        raise SkipRowError(
            "attention kept its scores in this run; the cost model takes flash attention, which does not"
        )
    recompute: Literal["full", "selective"]
    if mode == "full_recompute_no_seqpar":
        recompute = "full"
    elif mode in _SELECTIVE:
        recompute = "selective"
    else:
        raise SkipRowError(f"mode {mode!r} is not known")
    model = model_of(row.text("model"))
    return Setting(
        model=model,
        device=device_of("a100_sxm_80"),
        gpus_per_node=8,
        nic=_SELENE,
        tp=row.whole("tp"),
        dp=row.whole("dp", default=1),
        layers=even_layers(row, model.num_layers, row.whole("pp")),
        global_batch=batch,
        sequence_length=2048,
        microbatch=row.whole("mbs"),
        recompute=recompute,
        sequence_parallel=recompute == "selective",
    )


def _itertime(row: Row) -> Priced:
    setting = _mlsys23(row, batch=row.whole("gbs"))
    run = price(setting)
    figures: dict[FigureName, tuple[float, float, float]] = {
        "iteration_time": (row.number_of("iter_time_s"), run.seconds, run.seconds_error)
    }
    return setting.model.name, setting.device.name, figures


def _memory(row: Row) -> Priced:
    # as many microbatches as fill the pipeline: more of them need no more memory
    setting = _mlsys23(row, batch=row.whole("mbs") * row.whole("pp"))
    run = price(setting)
    measured = (row.number_of("param_opt_gib_per_gpu") + row.number_of("activation_gib_per_gpu")) * _GIB
    return setting.model.name, setting.device.name, {"peak_memory": (measured, run.memory_S[0], run.memory_error)}


def _shares(row: Row) -> Priced:
    raise SkipRowError("activations relative to a run that keeps attention scores, which flash attention does not")


def _each(predict: Callable[[Row], Priced]) -> Callable[[Sequence[Row]], Iterable[Outcome]]:
    def compare(rows: Sequence[Row]) -> Iterator[Outcome]:
        for row in rows:
            try:
                model, device, figures = predict(row)
            except SkipRowError as reason:
                yield Skipped(row.number, str(reason))
                continue
            for figure, (measured, predicted, error) in figures.items():
                yield Comparison(
                    row=row.number,
                    model=model,
                    device=device,
                    engine=_ENGINE,
                    figure=figure,
                    measured=measured,
                    predicted=predicted,
                    error=error,
                )

    return compare


_NOT_FITTED: Final = (
    "No constant was fitted to these rows; the least band of an iteration (25 %) was chosen after looking at them."
)
_UNTOLD: Final = " The microbatch is not told: the fastest of 1, 2, 4, 8 that fits is taken. "

SC21: Final = Layout(
    name="training_megatron_sc21",
    title="weak scaling of GPT on A100 (SC 2021, table 1)",
    columns=(
        "hidden",
        "layers",
        "heads",
        "vocab",
        "seq_len",
        "tp",
        "pp",
        "dp",
        "tflops_per_gpu",
        "derived_iter_time_s",
    ),
    predict=_each(_sc21),
    fitted=_NOT_FITTED + _UNTOLD + "Priced as plain 1F1B.",
)
H100: Final = Layout(
    name="training_megatron_h100",
    title="weak scaling of GPT on H100 (Megatron-LM)",
    columns=("heads", "hidden", "layers", "tp", "pp", "dp", "tflops_per_gpu", "mfu_pct"),
    predict=_each(_h100),
    fitted=_NOT_FITTED
    + _UNTOLD
    + "Nor are recomputation and schedule: selective, plain 1F1B. Seconds follow from FLOP/s by the table's formula.",
)
BRIDGE: Final = Layout(
    name="training_megatron_bridge",
    title="Megatron-Bridge's performance summaries",
    columns=(
        "model",
        "system",
        "gpus",
        "precision",
        "gbs",
        "mbs",
        "seq_len",
        "tp",
        "pp",
        "cp",
        "vp",
        "tokens_per_s_per_gpu",
    ),
    predict=_each(_bridge),
    fitted="Nothing was fitted to these rows.",
)
MLSYS23_TIME: Final = Layout(
    name="training_mlsys23_itertime",
    title="iteration time by recomputation (MLSys 2023, table 5)",
    columns=("model", "tp", "pp", "interleave", "mbs", "mode", "gbs", "iter_time_s"),
    predict=_each(_itertime),
    fitted=_NOT_FITTED,
)
MLSYS23_MEMORY: Final = Layout(
    name="training_mlsys23_memory",
    title="memory by recomputation (MLSys 2023, figure 1)",
    columns=("model", "tp", "pp", "interleave", "mbs", "mode", "param_opt_gib_per_gpu", "activation_gib_per_gpu"),
    predict=_each(_memory),
    fitted="Nothing was fitted to these rows.",
)
MLSYS23_SHARES: Final = Layout(
    name="training_mlsys23_activations",
    title="activations by recomputation (MLSys 2023, figure 7)",
    columns=("model", "none_pct", "seqpar_pct", "selective_pct", "seqpar_selective_pct", "full_pct"),
    predict=_each(_shares),
    fitted="Nothing was fitted to these rows.",
)
