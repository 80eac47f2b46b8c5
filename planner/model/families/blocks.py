"""The parts that model families are put together from: attention, feed-forward, and the frame around layers.

A family is a function from a :class:`~planner.model.config.Config` to an :class:`Architecture`. Most are one
call of :func:`decoder` with an attention part and a feed-forward part, each a function of the layer's index.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from planner.model.config import Config
from planner.model.quantization import Formats
from planner.model.spec import Attention, Gemm, LayerKind

__all__ = [
    "CONTEXT",
    "FFN",
    "HEADS",
    "HIDDEN",
    "LAYERS",
    "Architecture",
    "AttentionPart",
    "Family",
    "FfnPart",
    "decoder",
    "gated_ffn",
    "grouped_attention",
    "layer_kind",
]

# One number under the names that families give it; the first is the one that errors ask for.
LAYERS: Final = ("num_hidden_layers", "n_layer", "num_layers")
HIDDEN: Final = ("hidden_size", "n_embd")
HEADS: Final = ("num_attention_heads", "n_head", "num_heads")
FFN: Final = ("intermediate_size", "ffn_dim", "n_inner")
CONTEXT: Final = ("max_position_embeddings", "n_positions", "n_ctx")


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What a family reads from a configuration; see :class:`~planner.model.spec.ModelSpec` for the fields."""

    hidden: int
    vocab: int
    max_context: int
    layers: tuple[LayerKind, ...]
    tied_embeddings: bool
    embedding_params: int
    other_params: int
    mtp_layers: int = 0


class Family(Protocol):
    """Reads the configurations of one model type."""

    def __call__(self, config: Config, formats: Formats) -> Architecture:
        """Describe the model that a configuration stands for."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionPart:
    """Attention of one layer: its shape, its matrices, and its parameters that are no matrices."""

    shape: Attention
    gemms: tuple[Gemm, ...]
    extra_params: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FfnPart:
    """Feed-forward half of one layer; ``width`` is what one token activates in total."""

    gemms: tuple[Gemm, ...]
    width: int
    experts: int = 0
    top_k: int = 0
    extra_params: int = 0


def layer_kind(attention: AttentionPart, ffn: FfnPart, norm_params: int) -> LayerKind:
    """Put the halves of a layer together and name it after what sets it apart."""
    window = attention.shape.window
    name = "moe" if ffn.experts else "dense"
    return LayerKind(
        name=name if window is None else f"{name}/window {window}",
        attention=attention.shape,
        gemms=attention.gemms + ffn.gemms,
        norm_params=norm_params + attention.extra_params + ffn.extra_params,
        experts=ffn.experts,
        top_k=ffn.top_k,
        ffn_width=ffn.width,
    )


def decoder(
    config: Config,
    *,
    attention: Callable[[int], AttentionPart],
    ffn: Callable[[int], FfnPart],
    norms: int = 2,
    tied: bool = False,
    vocab: int | None = None,
    max_context: int | None = None,
) -> Architecture:
    """Frame of a decoder with RMS norms: layers, token table, final norm, head.

    Parameters
    ----------
    config
        The model's configuration.
    attention, ffn
        The halves of layer i.
    norms
        RMS norms over the residual stream in each layer.
    tied, vocab, max_context
        What the family means where the configuration says nothing; None: it must say.
    """
    hidden = config.integer(*HIDDEN)
    size = config.integer("vocab_size", default=vocab)
    return Architecture(
        hidden=hidden,
        vocab=size,
        max_context=config.integer(*CONTEXT, default=max_context),
        layers=tuple(layer_kind(attention(i), ffn(i), norms * hidden) for i in range(config.integer(*LAYERS))),
        tied_embeddings=config.flag("tie_word_embeddings", default=tied),
        embedding_params=size * hidden,
        other_params=hidden,
        mtp_layers=config.integer("num_nextn_predict_layers", default=0, minimum=0),
    )


def grouped_attention(
    config: Config,
    formats: Formats,
    windows: tuple[int | None, ...],
    *,
    qkv_bias: bool = False,
    out_bias: bool = False,
    qk_norm: bool = False,
    heads_default: int | None = None,
    kv_heads_default: int | None = None,
    head_dim_default: int | None = None,
) -> Callable[[int], AttentionPart]:
    """Multi-head or grouped-query attention.

    Parameters
    ----------
    config, formats
        The model's configuration and stored formats.
    windows
        Sliding window of each layer.
    qkv_bias, out_bias
        Biases of the projections.
    qk_norm
        A norm over each head of queries and keys.
    heads_default, kv_heads_default, head_dim_default
        Class defaults. Otherwise absent or null key/value heads mean as many as query heads, and an absent or
        null head width means the hidden width divided by the heads.
    """
    hidden = config.integer(*HIDDEN)
    heads = config.integer(*HEADS, default=heads_default)
    kv_heads = config.integer("num_key_value_heads", default=kv_heads_default or heads)
    if heads % kv_heads:
        raise config.error("num_key_value_heads", f"is {kv_heads}", f"a divisor of the {heads} query heads")
    head_dim = config.optional_integer("head_dim") or head_dim_default
    if head_dim is None:
        if hidden % heads:
            raise config.error(HEADS[0], f"is {heads}", f"a divisor of hidden_size {hidden}, or a head_dim")
        head_dim = hidden // heads

    def part(i: int) -> AttentionPart:
        root = f"model.layers.{i}.self_attn"
        return AttentionPart(
            shape=Attention(
                kind="gqa",
                heads=heads,
                kv_heads=kv_heads,
                head_dim=head_dim,
                value_dim=head_dim,
                kv_dim=2 * kv_heads * head_dim,
                window=windows[i],
            ),
            gemms=(
                Gemm(
                    name="qkv",
                    n=(heads + 2 * kv_heads) * head_dim,
                    k=hidden,
                    split="column",
                    dtype=formats.of(f"{root}.q_proj"),
                    bias=qkv_bias,
                ),
                Gemm(
                    name="attention_out",
                    n=hidden,
                    k=heads * head_dim,
                    split="row",
                    dtype=formats.of(f"{root}.o_proj"),
                    bias=out_bias,
                ),
            ),
            extra_params=2 * head_dim if qk_norm else 0,
        )

    return part


def gated_ffn(config: Config, formats: Formats, *, bias: bool = False) -> Callable[[int], FfnPart]:
    """Feed-forward half with a gate (Shazeer 2020, GLU variants): down(act(gate(x)) * up(x))."""
    hidden, width = config.integer(*HIDDEN), config.integer(*FFN)

    def part(i: int) -> FfnPart:
        root = f"model.layers.{i}.mlp"
        up, down = formats.of(f"{root}.gate_proj"), formats.of(f"{root}.down_proj")
        return FfnPart(
            gemms=(
                Gemm(name="gate_up", n=2 * width, k=hidden, split="column", dtype=up, bias=bias),
                Gemm(name="down", n=hidden, k=width, split="row", dtype=down, bias=bias),
            ),
            width=width,
        )

    return part
