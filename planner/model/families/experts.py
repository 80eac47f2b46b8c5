"""Decoders with grouped-query attention and routed experts: Mixtral, Qwen MoE, gpt-oss, MiniMax-M2."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from planner.model.config import Config
from planner.model.families.blocks import (
    FFN,
    HIDDEN,
    Architecture,
    AttentionPart,
    FfnPart,
    decoder,
    gated_ffn,
    grouped_attention,
)
from planner.model.families.dense import qwen_windows
from planner.model.families.windows import no_windows, sliding_windows
from planner.model.quantization import Formats
from planner.model.spec import Gemm

__all__ = ["gpt_oss", "minimax_m2", "mixtral", "qwen2_moe", "qwen3_moe", "routed_experts"]


def routed_experts(
    config: Config,
    formats: Formats,
    *,
    experts: int,
    top_k: int,
    width: int,
    module: str,
    shared_width: int = 0,
    shared_module: str = "mlp.shared_experts",
    bias: bool = False,
    extra_params: int = 0,
) -> Callable[[int], FfnPart]:
    """Feed-forward half made of routed experts, each gated.

    Parameters
    ----------
    config, formats
        The model's configuration and stored formats. The router is never quantised.
    experts, top_k, width
        Experts, how many a token visits, and the width of one.
    module
        Path of the experts inside a layer, for the quantisation's exclusions.
    shared_width, shared_module
        Total width of the experts that every token visits, and their path.
    bias
        Biases on router and experts.
    extra_params
        Parameters that are no matrices (a correction of the routing).
    """
    hidden = config.integer(*HIDDEN)
    if top_k > experts:
        raise config.error("num_experts_per_tok", f"is {top_k}", f"at most the {experts} experts")

    def part(i: int) -> FfnPart:
        dtype = formats.of(f"model.layers.{i}.{module}")
        shared_dtype = formats.of(f"model.layers.{i}.{shared_module}.gate_proj")
        gemms = [
            Gemm(name="router", n=experts, k=hidden, split="replicated", dtype=formats.dtype, bias=bias),
            Gemm(
                name="expert_gate_up",
                n=2 * width,
                k=hidden,
                split="column",
                dtype=dtype,
                experts=experts,
                top_k=top_k,
                bias=bias,
            ),
            Gemm(
                name="expert_down",
                n=hidden,
                k=width,
                split="row",
                dtype=dtype,
                experts=experts,
                top_k=top_k,
                bias=bias,
            ),
        ]
        if shared_width:
            gemms += [
                Gemm(name="shared_gate_up", n=2 * shared_width, k=hidden, split="column", dtype=shared_dtype),
                Gemm(name="shared_down", n=hidden, k=shared_width, split="row", dtype=shared_dtype),
            ]
        return FfnPart(
            gemms=tuple(gemms),
            width=top_k * width + shared_width,
            experts=experts,
            top_k=top_k,
            extra_params=extra_params,
        )

    return part


def mixtral(config: Config, formats: Formats) -> Architecture:
    """Mixtral (Jiang et al. 2024)."""
    ffn = routed_experts(
        config,
        formats,
        experts=config.integer("num_local_experts", "num_experts"),
        top_k=config.integer("num_experts_per_tok"),
        width=config.integer(*FFN),
        module="block_sparse_moe.experts.0.w1",
    )
    windows = sliding_windows(config, lambda i: True)
    return decoder(config, attention=grouped_attention(config, formats, windows), ffn=ffn)


def qwen3_moe(config: Config, formats: Formats) -> Architecture:
    """Qwen 3 with experts: norms over heads, no shared expert."""
    bias = config.flag("attention_bias", default=False)
    attention = grouped_attention(config, formats, qwen_windows(config), qkv_bias=bias, out_bias=bias, qk_norm=True)
    return decoder(config, attention=attention, ffn=_qwen_ffn(config, formats))


def qwen2_moe(config: Config, formats: Formats) -> Architecture:
    """Qwen 1.5 and 2 with experts: query, key and value biases, one shared expert behind a gate."""
    shared = config.integer("shared_expert_intermediate_size", minimum=0)
    attention = grouped_attention(config, formats, qwen_windows(config), qkv_bias=True)
    return decoder(config, attention=attention, ffn=_qwen_ffn(config, formats, shared))


def _qwen_ffn(config: Config, formats: Formats, shared_width: int = 0) -> Callable[[int], FfnPart]:
    """Experts in every ``decoder_sparse_step``-th layer, apart from those named in ``mlp_only_layers``."""
    step = config.integer("decoder_sparse_step", default=1)
    dense_layers = config.items("mlp_only_layers")
    experts = config.integer("num_experts", "num_local_experts", minimum=0)

    def is_sparse(i: int) -> bool:
        return experts > 0 and i not in dense_layers and (i + 1) % step == 0

    layers = range(config.integer("num_hidden_layers"))
    # a width that no layer uses may be absent or stale
    dense = gated_ffn(config, formats) if not all(is_sparse(i) for i in layers) else None
    sparse = None
    if experts:
        sparse = routed_experts(
            config,
            formats,
            experts=experts,
            top_k=config.integer("num_experts_per_tok"),
            width=config.integer("moe_intermediate_size"),
            module="mlp.experts.0.gate_proj",
            shared_width=shared_width,
            shared_module="mlp.shared_expert",
            extra_params=config.integer(*HIDDEN) if shared_width else 0,  # the gate of the shared expert
        )

    def part(i: int) -> FfnPart:
        chosen = sparse if is_sparse(i) else dense
        assert chosen is not None
        return chosen(i)

    return part


def gpt_oss(config: Config, formats: Formats) -> Architecture:
    """OpenAI's gpt-oss (2025): biases everywhere, an attention sink per head, windows in even layers."""
    bias = config.flag("attention_bias", default=True)
    windows = sliding_windows(config, lambda i: i % 2 == 0, default=128)
    plain = grouped_attention(config, formats, windows, qkv_bias=bias, out_bias=bias, head_dim_default=64)

    def attention(i: int) -> AttentionPart:
        part = plain(i)
        return replace(part, extra_params=part.shape.heads)

    ffn = routed_experts(
        config,
        formats,
        experts=config.integer("num_local_experts", "num_experts"),
        top_k=config.integer("num_experts_per_tok", "experts_per_token"),
        width=config.integer(*FFN),
        module="mlp.experts",
        bias=True,
    )
    return decoder(config, attention=attention, ffn=ffn)


def minimax_m2(config: Config, formats: Formats) -> Architecture:
    """MiniMax-M2 (2025): norms over all queries and all keys, a routing correction per expert."""
    plain = grouped_attention(config, formats, no_windows(config))
    qk_norm = config.flag("use_qk_norm", default=True)

    def attention(i: int) -> AttentionPart:
        part = plain(i)
        width = (part.shape.heads + part.shape.kv_heads) * part.shape.head_dim
        return replace(part, extra_params=width if qk_norm else 0)

    experts = config.integer("num_local_experts")
    ffn = routed_experts(
        config,
        formats,
        experts=experts,
        top_k=config.integer("num_experts_per_tok"),
        width=config.integer(*FFN),
        module="block_sparse_moe.experts.0.w1",
        extra_params=experts if config.flag("use_routing_bias", default=True) else 0,
    )
    architecture = decoder(config, attention=attention, ffn=ffn)
    return replace(architecture, mtp_layers=config.integer("num_mtp_modules", default=0, minimum=0))
