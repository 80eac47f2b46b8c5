"""Decoders with layer norms and a plain feed-forward half: GPT-2, GPT-3, GPT-Neo, GPT-NeoX, GPT-J, OPT, Falcon."""

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

__all__ = ["falcon", "gpt2", "gpt_neo", "gpt_neox", "gptj", "opt"]


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


def gptj(config: Config, formats: Formats) -> Architecture:
    """GPT-J (Wang and Komatsuzaki 2021): rotary positions, both halves of a layer behind one norm."""
    modules = ("attn.q_proj", "attn.out_proj", "mlp.fc_in", "mlp.fc_out")
    return _classic(
        config,
        formats,
        "transformer.h",
        modules,
        qkv_bias=False,
        out_bias=False,
        positions=False,
        tied=False,
        norms=1,
        head_bias=True,
    )


def falcon(config: Config, formats: Formats) -> Architecture:
    """Falcon (Almazrouei et al. 2023): few key-value heads; 40B and 180B have two norms side by side, 7B one."""
    modules = (
        "self_attention.query_key_value",
        "self_attention.dense",
        "mlp.dense_h_to_4h",
        "mlp.dense_4h_to_h",
    )
    bias = config.flag("bias", default=False)
    grouped = config.flag("new_decoder_architecture", default=False)
    one = config.flag("multi_query", default=True)
    kv_heads = config.integer("num_kv_heads", default=config.integer(*HEADS)) if grouped else 1 if one else None
    return _classic(
        config,
        formats,
        "transformer.h",
        modules,
        qkv_bias=bias,
        out_bias=bias,
        ffn_bias=bias,
        positions=False,
        kv_heads=kv_heads,
        norms=2 if grouped or not config.flag("parallel_attn", default=True) else 1,
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
    kv_heads: int | None = None,
    norms: int = 2,
    head_bias: bool = False,
) -> Architecture:
    """Build what these families share; ``modules`` are the paths of the four matrices of a layer."""
    hidden, heads = config.integer(*HIDDEN), config.integer(*HEADS)
    if hidden % heads:
        raise config.error(HEADS[0], f"is {heads}", f"a divisor of hidden_size {hidden}")
    width = config.integer(*FFN, default=4 * hidden)
    layers = config.integer(*LAYERS)
    vocab, context = config.integer("vocab_size"), config.integer(*CONTEXT)
    embedded = embedding_width or hidden
    shared = kv_heads or heads
    kv_dim = 2 * shared * (hidden // heads)

    def attention(i: int) -> AttentionPart:
        into, out = (formats.of(f"{root}.{i}.{module}") for module in modules[:2])
        return AttentionPart(
            shape=Attention(
                kind="gqa",
                heads=heads,
                kv_heads=shared,
                head_dim=hidden // heads,
                value_dim=hidden // heads,
                kv_dim=kv_dim,
                window=windows[i] if windows is not None else None,
            ),
            gemms=(
                Gemm(name="qkv", n=hidden + kv_dim, k=hidden, split="column", dtype=into, bias=qkv_bias),
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
    other += vocab if head_bias else 0
    norm_params = 2 * norms * hidden  # a scale and a shift each
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
