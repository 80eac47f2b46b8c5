"""What is measured, and in which columns it is written: names, meaning, plausible range. All units are SI.

A new kind of measurement is one more entry of `KINDS`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from planner.errors import unknown_name

__all__ = ["KINDS", "Column", "TableKind", "kind_named"]

Type = Literal["text", "whole", "number"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Parameters
    ----------
    name
        As in the header.
    type
        Of its values.
    meaning
        With its unit, for messages and documentation.
    low, high
        Plausible range; a value outside is most likely a wrong unit.
    optional
        Whether the column may be left out, which means ``default`` for every row.
    default
        What an optional column is where it is left out.
    """

    name: str
    type: Type
    meaning: str
    low: float = 0.0
    high: float = 1e12
    optional: bool = False
    default: str | float = ""


@dataclass(frozen=True, slots=True)
class TableKind:
    """One kind of measurement.

    Parameters
    ----------
    name, title
        Registry name, and what it holds.
    settings
        Columns that say what was run.
    results
        Columns that say what came out.
    """

    name: str
    title: str
    settings: tuple[Column, ...]
    results: tuple[Column, ...]

    @property
    def columns(self) -> tuple[Column, ...]:
        """All of them in the order in which they are written."""
        return self.settings + self.results

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(column.name for column in self.columns)


def _whole(name: str, meaning: str, *, low: float = 1, high: float = 1e9) -> Column:
    return Column(name, "whole", meaning, low, high)


def _maybe(name: str, meaning: str, default: float, *, low: float = 0) -> Column:
    return Column(name, "whole", meaning, low, 1e9, optional=True, default=default)


def _text(name: str, meaning: str, *, default: str | None = None) -> Column:
    return Column(name, "text", meaning, optional=default is not None, default=default or "")


# A kernel below 100 ns, or above 1000 s, is a wrong unit; so is a time of 0.
_SECONDS: Final = Column("seconds", "number", "median seconds", 1e-7, 1e3)
_SPREAD: Final = Column(
    "spread", "number", "half the interquartile range over the median", 0.0, 100.0, optional=True, default=0.0
)
_ALIKE: Final = _maybe("layers", "consecutive layers that are alike, this one the first", 1, low=1)
_HEADS: Final = (
    _whole("heads", "query heads on this GPU"),
    _whole("kv_heads", "key-value heads on this GPU"),
    _whole("head_dim", "dimension of a head"),
    _maybe("window", "tokens of the sliding window, 0 without", 0),
)
_DTYPES: Final = (
    _text("dtype", "format that is multiplied in"),
    _text("kv_dtype", "format of the KV cache", default="bf16"),
)
_LATENT: Final = (
    _whole("heads", "query heads on this GPU"),
    _whole("kv_rank", "width of the latent that is cached"),
    _whole("rope_dim", "rotary dimensions beside it"),
)

KINDS: Final[dict[str, TableKind]] = {
    kind.name: kind
    for kind in (
        TableKind(
            "gemm",
            "matrix products (m, k) x (k, n)",
            (_text("dtype", "format"), *(_whole(name, f"size {name}") for name in "mnk")),
            (_SECONDS, _SPREAD),
        ),
        TableKind(
            "prefill_attention",
            "causal attention of prompts",
            (
                *_DTYPES,
                _whole("batch", "prompts"),
                _whole("tokens", "new tokens of each"),
                _maybe("context", "tokens cached before", 0),
                *_HEADS,
            ),
            (_SECONDS, _SPREAD),
        ),
        TableKind(
            "decode_attention",
            "attention of one new token per sequence",
            (*_DTYPES, _whole("batch", "sequences"), _whole("context", "tokens each of them holds"), *_HEADS),
            (_SECONDS, _SPREAD),
        ),
        TableKind(
            "mla_prefill",
            "multi-head latent attention of prompts",
            (
                *_DTYPES,
                _whole("batch", "prompts"),
                _whole("tokens", "new tokens of each"),
                _maybe("context", "tokens cached before", 0),
                *_LATENT,
            ),
            (_SECONDS, _SPREAD),
        ),
        TableKind(
            "mla_decode",
            "multi-head latent attention of one new token per sequence",
            (*_DTYPES, _whole("batch", "sequences"), _whole("context", "tokens each of them holds"), *_LATENT),
            (_SECONDS, _SPREAD),
        ),
        TableKind(
            "moe",
            "routed experts: both matrix products and what lies between",
            (
                _text("dtype", "format of the experts"),
                _whole("tokens", "tokens before routing, over all GPUs of the expert group"),
                _whole("hidden", "width of the model"),
                _whole("intermediate", "width of an expert before TP"),
                _whole("top_k", "experts each token visits"),
                _whole("experts", "routed experts in all"),
                _whole("tp", "tensor parallelism of each expert"),
                _whole("ep", "expert parallelism"),
                _text("distribution", "load of the experts: balanced, or power_law_A", default="balanced"),
            ),
            (_SECONDS, _SPREAD),
        ),
        TableKind(
            "collective",
            "collective communication",
            (
                _text("operation", "all_reduce, all_gather, reduce_scatter, all_to_all, send_recv"),
                _text("dtype", "format of the elements", default="bf16"),
                _whole("gpus", "GPUs in the group"),
                _maybe("nodes", "nodes that they lie in", 1, low=1),
                _whole("bytes", "message: bytes per GPU before an all-reduce, after an all-gather", high=1e13),
                _text("library", "nccl, custom, gloo", default="nccl"),
            ),
            (_SECONDS, _SPREAD),
        ),
        TableKind(
            "copy",
            "memory copies",
            (
                _text("direction", "device, host_to_device, device_to_host, host"),
                _whole("bytes", "bytes", high=1e13),
                _maybe("threads", "threads of the host that copy; 0 where the device does", 0),
            ),
            (_SECONDS, _SPREAD),
        ),
        TableKind(
            "elementwise",
            "operators that only move memory",
            (
                _text("operation", "rms_norm, silu_mul, add"),
                _text("dtype", "format"),
                _whole("tokens", "tokens"),
                _whole("width", "values of a token"),
            ),
            (_SECONDS, _SPREAD),
        ),
        TableKind(
            "launch",
            "start of a kernel",
            (_text("mode", "eager: from the host; graph: inside a CUDA graph"),),
            (_SECONDS, _SPREAD),
        ),
        TableKind(
            "cipher",
            "AES-GCM on the host, by threads",
            (
                _text("operation", "encrypt or decrypt"),
                _whole("threads", "threads at work"),
                _whole("bytes", "bytes of a message", high=1e13),
            ),
            (Column("bandwidth", "number", "bytes/s of all threads together", 1e6, 1e13), _SPREAD),
        ),
        TableKind(
            "training_layer",
            "forward, backward and optimizer of one layer",
            (
                _text("model", "name of the model"),
                _whole("layer", "place of the layer, from 0", low=0),
                _whole("tp", "tensor parallelism"),
                _whole("microbatch", "sequences in a microbatch"),
                _maybe("seq_len", "tokens of a sequence; 0 where the source does not say", 0),
                _ALIKE,
                _text(
                    "split", "measured; or assumed, where only forward and backward together were", default="measured"
                ),
            ),
            (
                Column("forward", "number", "seconds", 0.0, 1e3),
                Column("backward", "number", "seconds", 0.0, 1e3),
                Column("update", "number", "seconds of the optimizer", 0.0, 1e3, optional=True, default=0.0),
                Column("memory", "number", "bytes of this layer; 0 if unknown", 0.0, 1e13, optional=True, default=0.0),
            ),
        ),
        TableKind(
            "training_step",
            "what a training step takes beside its layers",
            (
                _text("model", "name of the model"),
                _whole("tp", "tensor parallelism"),
                _whole("microbatch", "sequences in a microbatch"),
            ),
            (
                Column(
                    "forward_backward", "number", "seconds of one microbatch, all layers and what is between", 0.0, 1e3
                ),
                Column("optimizer", "number", "seconds of the optimizer, all layers", 0.0, 1e3),
                Column("batch_generation", "number", "seconds to prepare a microbatch", 0.0, 1e3),
            ),
        ),
        TableKind(
            "layer_size",
            "bytes of a layer in training",
            (
                _text("model", "name of the model"),
                _whole("layer", "place of the layer, from 0", low=0),
                _whole("tp", "tensor parallelism"),
                _maybe("seq_len", "tokens of a sequence; 0 where the source does not say", 0),
                _ALIKE,
            ),
            (
                Column("parameters", "number", "bytes of the parameters on one GPU", 0.0, 1e13),
                Column("input", "number", "bytes of the input of one sequence", 0.0, 1e13, optional=True, default=0.0),
                Column(
                    "output", "number", "bytes of the output of one sequence", 0.0, 1e13, optional=True, default=0.0
                ),
                Column(
                    "activations",
                    "number",
                    "bytes of activations kept for the backward pass of one sequence",
                    0.0,
                    1e13,
                    optional=True,
                    default=0.0,
                ),
            ),
        ),
        TableKind(
            "latency_fit",
            "seconds of an iteration, fitted: prefill constant + per_token sum(len) + per_square sum(len^2); decode "
            "constant + per_token sum(context) + per_sequence batch",
            (
                _text("model", "name of the model"),
                _text("engine", "what ran it"),
                _text("phase", "prefill or decode"),
                _whole("tp", "tensor parallelism"),
                _maybe("from_batch", "smallest batch that the fit holds for", 1, low=1),
                _maybe("below_batch", "the fit holds below this batch; 0 for any", 0),
            ),
            (
                Column("constant", "number", "seconds", -1e3, 1e3),
                Column("per_token", "number", "seconds for a token", -1.0, 1.0),
                Column("per_square", "number", "seconds for a squared length", -1.0, 1.0, optional=True, default=0.0),
                Column("per_sequence", "number", "seconds for a sequence", -10.0, 10.0, optional=True, default=0.0),
            ),
        ),
        TableKind(
            "kv_capacity",
            "tokens that the KV cache of a replica holds",
            (
                _text("model", "name of the model"),
                _whole("tp", "tensor parallelism"),
                _whole("pp", "pipeline stages"),
            ),
            (Column("capacity", "number", "tokens", 1.0, 1e12),),
        ),
        TableKind(
            "link_fit",
            "bandwidth by message size: (square x^2 + linear x + constant) GB/s, x = log2(bytes / 1 MB)",
            (
                _text("scope", "node: among the GPUs of one; nodes: from node to node"),
                _whole("gpus", "scope node: GPUs of the group; nodes: tensor parallelism at this end"),
                _text("peer", "GPU type at the other end; empty for the same", default=""),
                _maybe("peer_gpus", "tensor parallelism at the other end; 0 for the same", 0),
                _text("zone", "cloud zone of this end", default=""),
                _text("peer_zone", "cloud zone of the other end", default=""),
            ),
            (
                Column("square", "number", "coefficient, GB/s as published", -1e4, 1e4),
                Column("linear", "number", "coefficient, GB/s as published", -1e4, 1e4),
                Column("constant", "number", "coefficient, GB/s as published", -1e4, 1e4),
                Column("peak", "number", "highest bandwidth, bytes/s", 1e5, 1e13),
            ),
        ),
        TableKind(
            "serving_layer",
            "one transformer layer in serving, all of its kernels",
            (
                _text("model", "name of the model"),
                _text("phase", "prefill or decode"),
                _whole("tp", "tensor parallelism"),
                _whole("batch", "sequences in the batch; in prefill 1 where only tokens were noted"),
                _whole("tokens", "prefill: new tokens of each sequence; decode: tokens each holds"),
            ),
            (_SECONDS, _SPREAD),
        ),
        TableKind(
            "serving_iteration",
            "one whole iteration of a served model, host time included",
            (
                _text("model", "name of the model"),
                _text("phase", "prefill or decode"),
                _whole("tp", "tensor parallelism"),
                _maybe("sm_percent", "share of the GPU's multiprocessors", 100, low=1),
                _whole("batch", "sequences"),
                _whole("tokens", "prefill: prompt tokens of each; decode: tokens each holds"),
            ),
            (_SECONDS, _SPREAD),
        ),
    )
}


def kind_named(name: str) -> TableKind:
    """Look up a kind of table.

    Raises
    ------
    InputError
        If there is none; names the known ones.
    """
    if name not in KINDS:
        raise unknown_name("kind of measurement", name, KINDS)
    return KINDS[name]
