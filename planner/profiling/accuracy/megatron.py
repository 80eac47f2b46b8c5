"""Training runs that Megatron-LM, its papers and Megatron-Bridge publish."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from planner.cost.training_options import MatrixFormat, RunOptions
from planner.engine.fitted import load_fit
from planner.model import ModelSpec
from planner.profiling.accuracy.names import device_of, model_of
from planner.profiling.accuracy.records import Comparison, FigureName, Layout, Outcome, Skipped, SkipRowError
from planner.profiling.accuracy.table import Row
from planner.profiling.accuracy.training import (
    Recompute,
    Run,
    Setting,
    engine_with,
    even_layers,
    fastest_that_fits,
    gpt_of,
    price,
    reported_flops,
    untold,
)

if TYPE_CHECKING:
    from planner.engine import EngineProfile

__all__ = [
    "BRIDGE",
    "FIT",
    "H100",
    "MLSYS23_MEMORY",
    "MLSYS23_SHARES",
    "MLSYS23_TIME",
    "SC21",
    "TABLES",
    "Measured",
]

_ENGINE: Final = "megatron"
_GIB: Final = 2.0**30
_TERA: Final = 1e12
# Bytes/s that a GPU has of the network: cards of 200 Gb/s (Selene: SC 2021, section 5), 400 Gb/s (Eos; ConnectX-7) and
# 800 Gb/s (ConnectX-8); GPUs of a node, or of a rack that NVLink joins.
_SELENE: Final = 8, 8 * 25e9
_SYSTEMS: Final = {
    "h100_sxm": (8, 8 * 50e9),
    "b200": (8, 8 * 50e9),
    "b300": (8, 8 * 100e9),
    "gb200": (64, 64 * 50e9),
    "gb300": (64, 64 * 100e9),
}
_FORMATS: Final[dict[str, MatrixFormat]] = {
    "": "fp8",  # the release's notes state no format; its H100 rows repeat in the next release as FP8
    "bf16": "16bit",
    "fp16": "16bit",
    "fp8": "fp8",
    "fp8-cs": "fp8",
    "mxfp8": "mxfp8",
    "fp8-mx": "mxfp8",
    "nvfp4": "nvfp4",
}
_OVERLAPPED: Final = RunOptions(overlap=True, stragglers=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A row, understood.

    Parameters
    ----------
    row
        Its number.
    settings
        How the run was made; where the row does not tell, all usual ways, of which the fastest that fits counts.
    seconds, per_second
        Of an iteration, as measured; and what else was measured, over iterations per second.
    group
        What is left out together when constants are fitted.
    """

    row: int
    settings: tuple[Setting, ...]
    seconds: float
    per_second: tuple[FigureName, float] | None
    group: tuple[str, ...]

    def run(self, engine: EngineProfile | None) -> Run:
        """Price it."""
        return price(self.settings[0], engine) if len(self.settings) == 1 else self.fastest(engine)[1]

    def fastest(self, engine: EngineProfile | None) -> tuple[Setting, Run]:
        """The way to run it that would be taken if it is not told, priced."""
        return fastest_that_fits(self.settings, engine)

    def compared(self, run: Run) -> Iterator[Comparison]:
        """Set the measurement beside a prediction."""
        setting = self.settings[0]
        figures: dict[FigureName, tuple[float, float]] = {"iteration_time": (self.seconds, run.seconds)}
        if self.per_second is not None:
            name, work = self.per_second
            figures[name] = work / self.seconds, work / run.seconds
        for figure, (measured, predicted) in figures.items():
            yield Comparison(
                row=self.row,
                model=setting.model.name,
                device=setting.device.name,
                engine=_ENGINE,
                figure=figure,
                measured=measured,
                predicted=predicted,
                error=run.seconds_error,
            )


def _gpt(row: Row, dtype: str) -> ModelSpec:
    return gpt_of(
        row.whole("hidden"), row.whole("layers"), row.whole("heads"), row.whole("vocab"), row.whole("seq_len"), dtype
    )


def _sc21(row: Row) -> Measured:
    model, (per_node, nic) = _gpt(row, "float16"), _SELENE
    batch, length = row.whole("global_batch"), row.whole("seq_len")
    setting = Setting(
        model=model,
        device=device_of("a100_sxm_80"),
        gpus_per_node=per_node,
        nic=nic,
        tp=row.whole("tp"),
        dp=row.whole("dp"),
        layers=even_layers(row, model.num_layers, row.whole("pp")),
        global_batch=batch,
        sequence_length=length,
        microbatch=1,
        recompute="full",
        options=RunOptions(flash_attention=False, stragglers=True),
    )
    work = reported_flops(model, batch, length, recompute=True) / row.whole("gpus") / _TERA
    return Measured(
        row=row.number,
        settings=untold(setting),
        seconds=row.number_of("derived_iter_time_s"),
        per_second=("tflops", work),
        group=("sc21",),
    )


def _h100(row: Row) -> Measured:
    model, device = _gpt(row, "bfloat16"), device_of("h100_sxm")
    per_node, nic = _SYSTEMS[device.name]
    batch, length = row.whole("global_batch"), row.whole("seq_len")
    setting = Setting(
        model=model,
        device=device,
        gpus_per_node=per_node,
        nic=nic,
        tp=row.whole("tp"),
        dp=row.whole("dp"),
        layers=even_layers(row, model.num_layers, row.whole("pp")),
        global_batch=batch,
        sequence_length=length,
        microbatch=1,
        zero_stage=1,
        sequence_parallel=True,
        options=_OVERLAPPED,
    )
    work = reported_flops(model, batch, length, recompute=False) / row.whole("gpus") / _TERA
    return Measured(
        row=row.number,
        settings=untold(setting),
        seconds=work / row.number_of("tflops_per_gpu"),
        per_second=("tflops", work),
        group=("h100",),
    )


def _first(row: Row, name: str, default: float) -> float:
    """A number; of ``4 (2)`` the first: the run in the row's first format, what is in parentheses being another run."""
    text = row.text(name).partition("(")[0].strip()
    return float(text) if text else default


def _bridge(row: Row) -> Measured:
    device, model = device_of(row.text("system")), model_of(row.text("model"))
    if device.name not in _SYSTEMS:
        raise SkipRowError(f"the network of {row.text('system')} is not known")
    spelt = row.text("precision").partition("(")[0].strip().lower()
    if spelt not in _FORMATS:
        raise SkipRowError(f"training in {row.text('precision')} is not priced")
    tp, pp, cp, vp, ep = (int(_first(row, name, 1)) for name in ("tp", "pp", "cp", "vp", "ep"))
    if ep > 1 or any(kind.experts for kind in model.kinds):
        raise SkipRowError("expert parallelism is not priced in training")
    gpus, length, batch = row.whole("gpus"), row.whole("seq_len"), row.whole("gbs")
    per_node, nic = _SYSTEMS[device.name]
    if gpus % (tp * pp * cp):
        raise SkipRowError(f"{gpus} GPUs do not divide by TP {tp}, PP {pp} and CP {cp}")
    options = RunOptions(
        overlap=True,
        stragglers=True,
        matrix_format=_FORMATS[spelt],
        frozen_weights="LoRA" in row.text("task"),
        gradient_bytes=2.0,  # the recipes behind the summaries set grad_reduce_in_fp32 to false
    )
    setting = Setting(
        model=model,
        device=device,
        gpus_per_node=per_node,
        nic=nic,
        tp=tp,
        dp=gpus // (tp * pp * cp),
        layers=even_layers(row, model.num_layers, pp),
        global_batch=batch,
        sequence_length=length,
        microbatch=row.whole("mbs"),
        zero_stage=3 if _first(row, "fsdp", 0) > 1 else 1,
        sequence_parallel=tp > 1,
        virtual_stages=vp,
        context_parallel=cp,
        options=options,
    )
    tokens = batch * length / gpus
    return Measured(
        row=row.number,
        settings=(setting,) if pp == 1 or row.text("vp") else untold(setting, (setting.microbatch,)),
        seconds=tokens / _first(row, "tokens_per_s_per_gpu", 0.0),
        per_second=("throughput", tokens),
        group=("bridge", device.name),
    )


_MODES: Final[dict[str, tuple[Recompute, bool]]] = {
    "full_recompute_no_seqpar": ("full", False),
    "selective_recompute_plus_seqpar": ("selective", True),
    "seqpar+selective": ("selective", True),
    "no_recompute": ("none", False),
}


def _mlsys23(row: Row, *, batch: int) -> Setting:
    mode = row.text("mode")
    if mode not in _MODES:
        raise SkipRowError(f"mode {mode!r} is not known")
    recompute, parallel = _MODES[mode]
    model, (per_node, nic) = model_of(row.text("model")), _SELENE
    return Setting(
        model=model,
        device=device_of("a100_sxm_80"),
        gpus_per_node=per_node,
        nic=nic,
        tp=row.whole("tp"),
        dp=row.whole("dp", default=1),
        layers=even_layers(row, model.num_layers, row.whole("pp")),
        global_batch=batch,
        sequence_length=2048,
        microbatch=row.whole("mbs"),
        recompute=recompute,
        sequence_parallel=parallel,
        virtual_stages=row.whole("interleave", default=1),
        options=RunOptions(flash_attention=False, stragglers=True),
    )


def _itertime(row: Row) -> Measured:
    return Measured(
        row=row.number,
        settings=(_mlsys23(row, batch=row.whole("gbs")),),
        seconds=row.number_of("iter_time_s"),
        per_second=None,
        group=("mlsys23",),
    )


def _memory(row: Row) -> Iterator[Comparison]:
    # as many microbatches as fill the pipeline: more of them need no more memory
    setting = _mlsys23(row, batch=row.whole("mbs") * row.whole("pp") * row.whole("interleave", default=1) * 2)
    run = price(setting)
    yield Comparison(
        row=row.number,
        model=setting.model.name,
        device=setting.device.name,
        engine=_ENGINE,
        figure="peak_memory",
        measured=(row.number_of("param_opt_gib_per_gpu") + row.number_of("activation_gib_per_gpu")) * _GIB,
        predicted=run.memory_S[0],
        error=run.memory_error,
    )


def _shares(row: Row) -> Iterator[Comparison]:
    raise SkipRowError("shares of a whole that the table does not state")


def _each(compare: Callable[[Row], Iterable[Comparison]]) -> Callable[[Sequence[Row]], Iterable[Outcome]]:
    def outcomes(rows: Sequence[Row]) -> Iterator[Outcome]:
        for row in rows:
            try:
                yield from compare(row)
            except SkipRowError as reason:
                yield Skipped(row.number, str(reason))

    return outcomes


def _times(read: Callable[[Row], Measured]) -> Callable[[Sequence[Row]], Iterable[Outcome]]:
    def compare(row: Row) -> Iterator[Comparison]:
        one = read(row)
        yield from one.compared(one.run(None))

    return _each(compare)


def _left_out(read: Callable[[Row], Measured]) -> Callable[[Sequence[Row]], Iterable[Outcome]]:
    def compare(row: Row) -> Iterator[Comparison]:
        one = read(row)
        folds = {fold.group: fold.constants for fold in load_fit(FIT).folds}
        yield from one.compared(one.run(engine_with(folds.get(one.group))))

    return _each(compare)


FIT: Final = "training"
TABLES: Final[dict[str, Callable[[Row], Measured]]] = {
    "training_megatron_sc21": _sc21,
    "training_megatron_h100": _h100,
    "training_megatron_bridge": _bridge,
    "training_mlsys23_table5_itertime": _itertime,
}
"""Tables that the constants of training runs are fitted to, and how their rows are read."""

_FITTED: Final = (
    "Constants of Megatron-Core's training runs (profiles/fits/training.yaml) were fitted to these rows among others; "
    "--left-out predicts each table and GPU type by constants that have not seen it."
)
_UNTOLD: Final = " Microbatch and interleaving are not told: the fastest usual ones that fit are taken. "

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
    predict=_times(_sc21),
    predict_left_out=_left_out(_sc21),
    fitted=_FITTED + _UNTOLD,
)
H100: Final = Layout(
    name="training_megatron_h100",
    title="weak scaling of GPT on H100 (Megatron-LM)",
    columns=("heads", "hidden", "layers", "tp", "pp", "dp", "tflops_per_gpu", "mfu_pct"),
    predict=_times(_h100),
    predict_left_out=_left_out(_h100),
    fitted=_FITTED + _UNTOLD + "Nor is recomputation: none. Seconds follow from FLOP/s by the table's formula.",
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
    predict=_times(_bridge),
    predict_left_out=_left_out(_bridge),
    fitted=_FITTED + " Of a row with two formats the first is predicted.",
)
MLSYS23_TIME: Final = Layout(
    name="training_mlsys23_itertime",
    title="iteration time by recomputation (MLSys 2023, table 5)",
    columns=("model", "tp", "pp", "interleave", "mbs", "mode", "gbs", "iter_time_s"),
    predict=_times(_itertime),
    predict_left_out=_left_out(_itertime),
    fitted=_FITTED,
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
