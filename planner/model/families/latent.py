"""Decoders with multi-head latent attention: DeepSeek-V2, DeepSeek-V3, R1, Kimi-K2.

References
----------
DeepSeek-AI 2024, DeepSeek-V2, section 2.1 (the latent) and 2.2 (shared and routed experts).
DeepSeek-AI 2024, DeepSeek-V3, sections 2.1 (routing correction) and 2.2 (multi-token prediction).
"""

from __future__ import annotations

from collections.abc import Callable

from planner.model.config import Config
from planner.model.families.blocks import (
    HEADS,
    HIDDEN,
    LAYERS,
    Architecture,
    AttentionPart,
    FfnPart,
    decoder,
    gated_ffn,
)
from planner.model.families.experts import routed_experts
from planner.model.quantization import Formats
from planner.model.spec import Attention, Gemm

__all__ = ["deepseek_v2", "deepseek_v3", "latent_attention"]


def deepseek_v2(config: Config, formats: Formats) -> Architecture:
    """DeepSeek-V2 and V2-Lite."""
    ffn = _leading_dense(config, formats, routing_correction=False)
    return decoder(config, attention=latent_attention(config, formats), ffn=ffn)


def deepseek_v3(config: Config, formats: Formats) -> Architecture:
    """DeepSeek-V3, R1 and Kimi-K2: a routing correction per expert."""
    ffn = _leading_dense(config, formats, routing_correction=True)
    return decoder(config, attention=latent_attention(config, formats), ffn=ffn)


def latent_attention(config: Config, formats: Formats) -> Callable[[int], AttentionPart]:
    """Attention over one cached latent; queries are compressed too unless ``q_lora_rank`` is null."""
    hidden, heads = config.integer(*HIDDEN), config.integer(*HEADS)
    q_rank = config.optional_integer("q_lora_rank")
    kv_rank = config.integer("kv_lora_rank")
    nope, rope = config.integer("qk_nope_head_dim"), config.integer("qk_rope_head_dim")
    value = config.integer("v_head_dim")
    bias = config.flag("attention_bias", default=False)

    def part(i: int) -> AttentionPart:
        root = f"model.layers.{i}.self_attn"
        query_width = heads * (nope + rope)
        if q_rank is None:
            dtype = formats.of(f"{root}.q_proj")
            queries = [Gemm(name="q", n=query_width, k=hidden, split="column", dtype=dtype)]
        else:
            first, second = formats.of(f"{root}.q_a_proj"), formats.of(f"{root}.q_b_proj")
            queries = [
                Gemm(name="q_a", n=q_rank, k=hidden, split="replicated", dtype=first, bias=bias),
                Gemm(name="q_b", n=query_width, k=q_rank, split="column", dtype=second),
            ]
        compress, expand = formats.of(f"{root}.kv_a_proj_with_mqa"), formats.of(f"{root}.kv_b_proj")
        out = formats.of(f"{root}.o_proj")
        return AttentionPart(
            shape=Attention(
                kind="mla",
                heads=heads,
                kv_heads=1,
                head_dim=nope + rope,
                value_dim=value,
                kv_dim=kv_rank + rope,
                window=None,
            ),
            gemms=(
                *queries,
                Gemm(name="kv_a", n=kv_rank + rope, k=hidden, split="replicated", dtype=compress, bias=bias),
                Gemm(name="kv_b", n=heads * (nope + value), k=kv_rank, split="column", dtype=expand),
                Gemm(name="attention_out", n=hidden, k=heads * value, split="row", dtype=out, bias=bias),
            ),
            extra_params=kv_rank + (q_rank or 0),  # norms over the two latents
        )

    return part


def _leading_dense(config: Config, formats: Formats, *, routing_correction: bool) -> Callable[[int], FfnPart]:
    """Dense layers first, then experts in every ``moe_layer_freq``-th layer."""
    layers = config.integer(*LAYERS)
    experts = config.optional_integer("n_routed_experts")
    first = config.integer("first_k_dense_replace", default=0, minimum=0)
    period = config.integer("moe_layer_freq", default=1)
    sparse_layers = {i for i in range(layers) if experts and i >= first and i % period == 0}
    # a width that no layer uses may be absent or stale
    dense = gated_ffn(config, formats) if len(sparse_layers) < layers else None
    sparse = None
    if experts:
        width = config.integer("moe_intermediate_size")
        sparse = routed_experts(
            config,
            formats,
            experts=experts,
            top_k=config.integer("num_experts_per_tok"),
            width=width,
            module="mlp.experts.0.gate_proj",
            shared_width=width * config.integer("n_shared_experts", default=0, minimum=0),
            extra_params=experts if routing_correction else 0,
        )

    def part(i: int) -> FfnPart:
        chosen = sparse if i in sparse_layers else dense
        assert chosen is not None
        return chosen(i)

    return part
