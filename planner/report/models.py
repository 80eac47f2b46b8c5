"""Models: sizes, layers, and what the cache of a token takes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table

from planner.report.terminal import block, data_table, heading
from planner.report.words import billions
from planner.units import format_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.model import ModelSpec

__all__ = ["model_report", "model_table"]


def model_table(models: Sequence[ModelSpec]) -> Table:
    """List models, one line each."""
    columns = ["name", "type", ">layers", ">params", ">active", "weights", ">size", ">KV/token", ">context"]
    rows = [
        [
            model.name,
            model.model_type,
            str(model.num_layers),
            billions(model.params),
            billions(model.active_params) if _is_sparse(model) else "",
            model.weight_dtype,
            format_bytes(model.weight_bytes),
            format_bytes(model.kv_bytes_per_token),
            f"{model.max_context:,}",
        ]
        for model in models
    ]
    return data_table(columns, rows, fold=("name",))


def model_report(model: ModelSpec) -> RenderableType:
    """Describe one model."""
    facts = {
        "type": model.model_type,
        "source": model.source,
        "parameters": f"{model.params:,}",
        "active": f"{model.active_params:,} for one token",
        "layers": f"{model.num_layers}" + (f", and {model.mtp_layers} MTP not counted" if model.mtp_layers else ""),
        "hidden": f"{model.hidden:,}",
        "vocabulary": f"{model.vocab:,}" + (", head tied to the embedding" if model.tied_embeddings else ""),
        "context": f"{model.max_context:,} tokens",
        "weights": f"{format_bytes(model.weight_bytes)}: {_formats(model)}",
        "KV cache": f"{model.kv_bytes_per_token:,.0f} bytes per token in {model.kv_dtype}",
    }
    counts = Counter(model.kind_of_layer)
    rows = []
    for index, kind in enumerate(model.kinds):
        shape = kind.attention
        rows.append(
            [
                kind.name,
                str(counts[index]),
                f"{shape.kind}, {shape.heads} heads, {shape.kv_heads} KV",
                "" if shape.window is None else f"{shape.window:,}",
                f"{kind.top_k} of {kind.experts}" if kind.experts else "",
                billions(kind.params),
                format_bytes(kind.weight_bytes),
            ]
        )
    columns = ["kind of layer", ">layers", "attention", ">window", ">experts", ">parameters", ">weights"]
    return Group(heading(model.name), block(facts), data_table(columns, rows, fold=("kind of layer",)))


def _formats(model: ModelSpec) -> str:
    sizes = sorted(model.bytes_by_dtype.items(), key=lambda item: -item[1])
    return ", ".join(f"{format_bytes(size)} in {dtype}" for dtype, size in sizes)


def _is_sparse(model: ModelSpec) -> bool:
    return any(kind.experts for kind in model.kinds)
