"""Engines: what each can run, its defaults and its overheads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from planner.report.terminal import block, data_table, heading, styled_provenance
from planner.report.words import format_error, format_number
from planner.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.engine import EngineProfile
    from planner.engine import Figure as EngineFigure

__all__ = ["engine_report", "engine_table"]


def engine_table(engines: Sequence[EngineProfile]) -> Table:
    """List engines, one line each."""
    rows = [
        [
            engine.name,
            f"{engine.title} {engine.version}",
            ", ".join(engine.tasks),
            "one per instance" if engine.tensor_parallel == "uniform" else "one per stage",
            _yes(engine.uneven_layers),
            _yes(engine.mixed_gpu_types),
            _yes(engine.disaggregation),
        ]
        for engine in engines
    ]
    columns = ["name", "engine", "for", "TP", "uneven layers", "mixed GPUs", "P/D apart"]
    return data_table(columns, rows, fold=("engine", "for"))


def _training(engine: EngineProfile) -> dict[str, str]:
    zero = ", ".join(map(str, engine.zero_stages))
    pipelined = ", ".join(map(str, engine.pipelined_zero_stages))
    return {
        "interleaved stages": _yes(engine.interleaving),
        "context parallel": _yes(engine.context_parallel),
        "ZeRO": zero if zero == pipelined else f"{zero}; with pipeline stages {pipelined}",
    }


_FACTORS: Final = {
    "kernels": "time of kernels over their time alone",
    "collectives": "time of all-reduces over their time alone",
    "quantise": "quantising, on top of elementwise kernels",
}


def engine_report(engine: EngineProfile) -> RenderableType:
    """Describe one engine."""
    facts = {
        "name": engine.name,
        "for": ", ".join(engine.tasks),
        "source": f"{engine.source} ({engine.date})",
        "TP": "one per instance" if engine.tensor_parallel == "uniform" else "one per stage",
        "pipeline": _pipeline(engine),
        "uneven layers": f"{_yes(engine.uneven_layers)}; told nothing: {engine.default_split.replace('_', ' ')}",
        "mixed GPU types": _yes(engine.mixed_gpu_types),
        "data parallel": _yes(engine.data_parallel),
        "expert parallel": _yes(engine.expert_parallel),
        "P/D apart": _yes(engine.disaggregation),
        **(_training(engine) if "training" in engine.tasks else {}),
        "arguments": ", ".join(engine.arguments.values()) or "none",
    }
    overhead = engine.overhead
    rows = [
        _row(
            f"memory share of the {engine.memory_fraction_of}",
            f"{engine.memory_fraction.value:g}",
            engine.memory_fraction,
        ),
        _row("memory reserved per GPU", format_bytes(engine.reserved_memory.value), engine.reserved_memory),
    ]
    if engine.serving is not None:
        for name in ("chunk_tokens", "max_sequences", "block_tokens"):
            count = getattr(engine.serving, name)
            rows.append(_row(name.replace("_", " "), format_number(count.value), count))
    for name in ("iteration", "layer", "sequence", "prompt", "first_token"):
        figure = getattr(overhead, name)
        rows.append(_row(f"overhead per {name.replace('_', ' ')}", format_seconds(figure.value), figure))
    for name, words in _FACTORS.items():
        figure = getattr(overhead, name)
        rows.append(_row(words, f"{figure.value:.3g}", figure))
    if "training" in engine.tasks:
        for name in type(engine.training).model_fields:
            figure = getattr(engine.training, name)
            rows.append(_row(f"training: {name.replace('_', ' ')}", f"{figure.value:.3g}", figure))
    table = data_table(["number", ">value", ">error", "kind", "source"], rows, fold=("number", "source"))
    notes = [Text(note, style="dim") for note in engine.notes]
    return Group(heading(f"{engine.title} {engine.version}"), block(facts), table, *notes)


def _row(name: str, value: str, figure: EngineFigure) -> list[str | Text]:
    error = "" if figure.error is None else format_error(figure.error)
    return [name, value, error, styled_provenance(figure.kind), figure.source]


def _pipeline(engine: EngineProfile) -> str:
    if not engine.pipeline:
        return "no"
    return "yes" if engine.max_pipeline is None else f"at most {engine.max_pipeline} stages"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
