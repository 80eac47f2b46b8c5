"""Models: what a ``config.json`` says about parameters, weight bytes, FLOPs and KV cache, layer by layer."""

from __future__ import annotations

from planner.model.huggingface import list_models, load_model, model_from_config
from planner.model.layers import LayerTable, layer_table
from planner.model.spec import Attention, Gemm, LayerKind, ModelSpec

__all__ = [
    "Attention",
    "Gemm",
    "LayerKind",
    "LayerTable",
    "ModelSpec",
    "layer_table",
    "list_models",
    "load_model",
    "model_from_config",
]
