"""What a stage holds on each of its GPUs: weights, KV cache, activations, and what is set aside.

Legend: L layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from planner.dtypes import DTYPE_BYTES
from planner.model import layer_table

if TYPE_CHECKING:
    from planner.cost._types import Array
    from planner.cost.parallelism import ReplicaParallelism
    from planner.engine import EngineProfile
    from planner.model import ModelSpec

__all__ = [
    "KV_HEADROOM",
    "cached_tokens_L",
    "embedding_bytes",
    "head_bytes",
    "kv_bytes_per_token_L",
    "serving_activation_bytes",
    "tensor_parallel_fault",
    "weight_bytes_L",
]

# Sequences grow and pages are filled in part: the planned mean occupancy of the KV cache stays this factor below it.
KV_HEADROOM: Final = 1.05


def tensor_parallel_fault(model: ModelSpec, tp: int, parallelism: ReplicaParallelism | None = None) -> str | None:
    """Why a tensor-parallel degree is not legal for a model, or None.

    Heads and the vocabulary (which engines pad to 64 rows) must divide; KV heads must divide, or be replicated a
    whole number of times.

    Examples
    --------
    >>> from planner.model import load_model
    >>> tensor_parallel_fault(load_model("llama-3.1-70b"), 16) is None   # 8 KV heads, each twice
    True
    >>> tensor_parallel_fault(load_model("llama-3.1-70b"), 3)
    'TP 3 does not divide the 64 attention heads'
    """
    for kind in model.kinds:
        attention = kind.attention
        if attention.heads % tp:
            return f"TP {tp} does not divide the {attention.heads} attention heads"
        if attention.kind == "gqa" and attention.kv_heads % tp and tp % attention.kv_heads:
            return f"TP {tp} neither divides the {attention.kv_heads} KV heads nor is a multiple of them"
        for gemm in kind.gemms:
            width = gemm.n if gemm.split == "column" else gemm.k
            if gemm.experts > 1 and parallelism is not None:
                continue  # experts lie as `ReplicaParallelism.fault` checks
            if gemm.split != "replicated" and gemm.name not in ("qkv",) and width % tp:
                return f"TP {tp} does not divide {gemm.name} of width {width}"
    if (-(-model.vocab // 64) * 64) % tp:
        return f"TP {tp} does not divide the vocabulary of {model.vocab} padded to 64"
    return None


def weight_bytes_L(model: ModelSpec, tp: int, parallelism: ReplicaParallelism | None = None) -> Array:
    """Bytes of weights of each layer on each GPU of a tensor-parallel group.

    Parameters
    ----------
    model
        The model.
    tp
        Tensor-parallel degree of all that is not a routed expert.
    parallelism
        How the routed experts lie, where not like the rest: over all GPUs of the stage, whole or cut.
    """
    per_kind = np.zeros(len(model.kinds))
    for index, kind in enumerate(model.kinds):
        whole = on_gpu = 0.0
        for gemm in kind.gemms:
            size = gemm.n * gemm.k * gemm.experts * DTYPE_BYTES[gemm.dtype]
            if gemm.split == "replicated":
                continue
            whole += size
            on_gpu += size / (tp if parallelism is None else parallelism.share_of(gemm))
        replicated_kv = 0.0
        attention = kind.attention
        if attention.kind == "gqa" and tp > attention.kv_heads:
            # each KV head is held by tp / kv_heads GPUs instead of one
            kv_columns = attention.kv_heads * (attention.head_dim + attention.value_dim)
            qkv = next((g for g in kind.gemms if g.name == "qkv"), None)
            if qkv is not None:
                copies = tp / attention.kv_heads - 1.0
                replicated_kv = copies * kv_columns * qkv.k * DTYPE_BYTES[qkv.dtype]
        per_kind[index] = on_gpu + replicated_kv / tp + (kind.weight_bytes - whole)
    return np.asarray(per_kind[np.asarray(model.kind_of_layer)])


def kv_bytes_per_token_L(model: ModelSpec, tp: int) -> Array:
    """Bytes of KV cache per token of each layer on each GPU; KV heads are replicated beyond their number."""
    return np.asarray(layer_table(model).kv_bytes_per_gpu_L(tp), dtype=float)


def cached_tokens_L(model: ModelSpec, sequences: Array, context: float, longest: float) -> Array:
    """Tokens to plan for in the KV cache of each layer: running sequences with headroom, one longest request at least.

    A layer with a sliding window keeps no more of a sequence than the window.

    Parameters
    ----------
    model
        The model.
    sequences
        Running sequences; any shape.
    context, longest
        Tokens that a sequence holds on average, and that the longest request holds in the end.

    Returns
    -------
    array, shape (*sequences.shape, layers)
    """
    window_L = np.asarray(layer_table(model).window_L, dtype=float)
    window_L = np.where(window_L > 0, window_L, np.inf)
    held = KV_HEADROOM * np.asarray(sequences, dtype=float)[..., None] * np.minimum(context, window_L)
    return np.asarray(np.maximum(held, np.minimum(longest, window_L)))


def embedding_bytes(model: ModelSpec, tp: int) -> float:
    """Bytes of the embedding (and learned positions) on each GPU of the first stage."""
    return float(layer_table(model).embedding_bytes) / tp


def head_bytes(model: ModelSpec, tp: int) -> float:
    """Bytes of the head on each GPU of the last stage; a tied head is a second copy of the embedding there."""
    return float(layer_table(model).head_bytes) / tp


def serving_activation_bytes(model: ModelSpec, engine: EngineProfile, tp: int) -> float:
    """Bytes of activations of the largest iteration that an engine runs.

    Hidden states twice (input and residual) in and out and the widest layer's intermediates, which an engine frees
    layer by layer; and the logits of as many rows as it runs sequences by default, in fp32. They are counted on every
    stage, although only the last one has them.
    """
    defaults = engine.serving_defaults()
    widest = max(2 * kind.ffn_width + 3 * kind.attention.heads * kind.attention.head_dim for kind in model.kinds)
    hidden = defaults.chunk_tokens.value * DTYPE_BYTES[model.dtype] * (4 * model.hidden + widest / tp)
    return hidden + min(defaults.max_sequences.value, 256) * model.vocab / tp * DTYPE_BYTES["fp32"]
