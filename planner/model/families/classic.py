"""Decoders with layer norms, biases and a plain feed-forward half: GPT-2, GPT-3, GPT-Neo, GPT-NeoX, OPT."""

from __future__ import annotations

from planner.model.config import Config
from planner.model.families.blocks import (
    CONTEXT,
    FFN,
    HEADS,
    HIDDEN,
    LAYERS,
    Architecture,
    AttentionPart,
    FfnPart,
    layer_kind,
)
from planner.model.quantization import Formats
from planner.model.spec import Attention, Gemm

__all__ = ["gpt2", "gpt_neo", "gpt_neox", "opt"]


def gpt2(config: Config, formats: Formats) -> Architecture:
    """GPT-2 (Radford et al. 2019) and GPT-3 (Brown et al. 2020) shapes."""
    return _classic(config, formats, "transformer.h", ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"))


def gpt_neo(config: Config, formats: Formats) -> Architecture:
    """GPT-Neo (Black et al. 2021): no biases on queries, keys and values; local attention in some layers."""
    modules = ("attn.attention.q_proj", "attn.attention.out_proj", "mlp.c_fc", "mlp.c_proj")
    windows = _neo_windows(config)
    return _classic(config, formats, "transformer.h", modules, qkv_bias=False, windows=windows)


def gpt_neox(config: Config, formats: Formats) -> Architecture:
    """GPT-NeoX and Pythia (Black et al. 2022): rotary positions, a head of its own."""
    modules = ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")
    bias = config.flag("attention_bias", default=True)
    return _classic(
        config,
        formats,
        "gpt_neox.layers",
        modules,
        qkv_bias=bias,
        out_bias=bias,
        positions=False,
        tied=False,
    )


def opt(config: Config, formats: Formats) -> Architecture:
    """OPT (Zhang et al. 2022): two spare positions; the 350M model embeds in half the width, norms after."""
    modules = ("self_attn.q_proj", "self_attn.out_proj", "fc1", "fc2")
    bias = config.flag("enable_bias", default=True)
    norm_last = config.flag("do_layer_norm_before", default=True)
    removed = config.flag("_remove_final_layer_norm", default=False)
    return _classic(
        config,
        formats,
        "model.decoder.layers",
        modules,
        qkv_bias=bias,
        out_bias=bias,
        ffn_bias=bias,
        spare_positions=2,
        embedding_width=config.optional_integer("word_embed_proj_dim"),
        final_norm=norm_last and not removed,
    )


def _classic(
    config: Config,
    formats: Formats,
    root: str,
    modules: tuple[str, str, str, str],
    *,
    qkv_bias: bool = True,
    out_bias: bool = True,
    ffn_bias: bool = True,
    windows: tuple[int | None, ...] | None = None,
    positions: bool = True,
    spare_positions: int = 0,
    embedding_width: int | None = None,
    final_norm: bool = True,
    tied: bool = True,
) -> Architecture:
    """Build what these families share; ``modules`` are the paths of the four matrices of a layer."""
    hidden, heads = config.integer(*HIDDEN), config.integer(*HEADS)
    if hidden % heads:
        raise config.error(HEADS[0], f"is {heads}", f"a divisor of hidden_size {hidden}")
    width = config.integer(*FFN, default=4 * hidden)
    layers = config.integer(*LAYERS)
    vocab, context = config.integer("vocab_size"), config.integer(*CONTEXT)
    embedded = embedding_width or hidden

    def attention(i: int) -> AttentionPart:
        into, out = (formats.of(f"{root}.{i}.{module}") for module in modules[:2])
        return AttentionPart(
            shape=Attention(
                kind="gqa",
                heads=heads,
                kv_heads=heads,
                head_dim=hidden // heads,
                value_dim=hidden // heads,
                kv_dim=2 * hidden,
                window=windows[i] if windows is not None else None,
            ),
            gemms=(
                Gemm(name="qkv", n=3 * hidden, k=hidden, split="column", dtype=into, bias=qkv_bias),
                Gemm(name="attention_out", n=hidden, k=hidden, split="row", dtype=out, bias=out_bias),
            ),
        )

    def ffn(i: int) -> FfnPart:
        up, down = (formats.of(f"{root}.{i}.{module}") for module in modules[2:])
        return FfnPart(
            gemms=(
                Gemm(name="up", n=width, k=hidden, split="column", dtype=up, bias=ffn_bias),
                Gemm(name="down", n=hidden, k=width, split="row", dtype=down, bias=ffn_bias),
            ),
            width=width,
        )

    other = 2 * hidden if final_norm else 0
    other += (context + spare_positions) * hidden if positions else 0
    other += 2 * embedded * hidden if embedded != hidden else 0  # projections into and out of the layers
    norm_params = 4 * hidden  # two layer norms, each a scale and a shift
    return Architecture(
        hidden=hidden,
        vocab=vocab,
        max_context=context,
        layers=tuple(layer_kind(attention(i), ffn(i), norm_params) for i in range(layers)),
        tied_embeddings=config.flag("tie_word_embeddings", default=tied),
        embedding_params=vocab * embedded,
        other_params=other,
    )


def _neo_windows(config: Config) -> tuple[int | None, ...]:
    """Expand ``attention_types``, a list of [pattern, repeats], into a window for each layer."""
    layers = config.integer(*LAYERS)
    names = config.items("attention_layers")
    if not names:
        expected = 'a list of [["global", "local"], repeats]'
        for i, entry in enumerate(config.items("attention_types")):
            match entry:
                case [[*pattern], int(repeats)]:
                    names += pattern * repeats
                case _:
                    raise config.error(f"attention_types.{i}", f"is {entry!r}", expected)
    names = names or ["global", "local"] * ((layers + 1) // 2)
    names = names if len(names) != layers + layers % 2 else names[:layers]
    unknown = [name for name in names if name not in ("global", "local")]
    if unknown or len(names) != layers:
        found = f"names {unknown[0]!r}" if unknown else f"covers {len(names)} layers"
        raise config.error("attention_types", found, f"global or local for each of {layers} layers")
    window = config.integer("window_size", default=256)
    return tuple(window if name == "local" else None for name in names)
