"""Dense decoders with RMS norms and gated feed-forward: Llama, Mistral, Qwen, Phi-3, Gemma."""

from __future__ import annotations

from planner.model.config import Config
from planner.model.families.blocks import Architecture, decoder, gated_ffn, grouped_attention
from planner.model.families.windows import no_windows, sliding_windows
from planner.model.quantization import Formats

__all__ = ["gemma", "gemma2", "gemma3", "llama", "mistral", "phi3", "qwen2", "qwen3", "qwen_windows"]


def llama(config: Config, formats: Formats) -> Architecture:
    """Llama 1, 2 and 3 (Touvron et al. 2023; Llama Team 2024)."""
    bias = config.flag("attention_bias", default=False)
    return decoder(
        config,
        attention=grouped_attention(config, formats, no_windows(config), qkv_bias=bias, out_bias=bias),
        ffn=gated_ffn(config, formats, bias=config.flag("mlp_bias", default=False)),
    )


def mistral(config: Config, formats: Formats) -> Architecture:
    """Mistral (Jiang et al. 2023): the window holds in every layer; absent means 4096, null means none."""
    windows = sliding_windows(config, lambda i: True, default=4096)
    return decoder(
        config,
        attention=grouped_attention(config, formats, windows),
        ffn=gated_ffn(config, formats),
    )


def phi3(config: Config, formats: Formats) -> Architecture:
    """Phi-3 (Abdin et al. 2024)."""
    windows = sliding_windows(config, lambda i: True)
    return decoder(
        config,
        attention=grouped_attention(config, formats, windows),
        ffn=gated_ffn(config, formats),
    )


def qwen2(config: Config, formats: Formats) -> Architecture:
    """Qwen 2 and 2.5: biases on queries, keys and values, and a window only where it is switched on."""
    return decoder(
        config,
        attention=grouped_attention(config, formats, qwen_windows(config), qkv_bias=True),
        ffn=gated_ffn(config, formats),
    )


def qwen3(config: Config, formats: Formats) -> Architecture:
    """Qwen 3: norms over the heads of queries and keys instead of biases."""
    bias = config.flag("attention_bias", default=False)
    attention = grouped_attention(
        config,
        formats,
        qwen_windows(config),
        qkv_bias=bias,
        out_bias=bias,
        qk_norm=True,
        head_dim_default=128,
    )
    return decoder(config, attention=attention, ffn=gated_ffn(config, formats))


def qwen_windows(config: Config) -> tuple[int | None, ...]:
    """Windows of the Qwen families: off unless switched on, then from layer ``max_window_layers`` up."""
    if not config.flag("use_sliding_window", default=False):
        return no_windows(config)
    first = config.integer("max_window_layers", default=28, minimum=0)
    return sliding_windows(config, lambda i: i >= first, default=4096)


def gemma(config: Config, formats: Formats) -> Architecture:
    """Gemma 1 (Gemma Team 2024)."""
    attention = grouped_attention(config, formats, no_windows(config), head_dim_default=256)
    return decoder(config, attention=attention, ffn=gated_ffn(config, formats), tied=True)


def gemma2(config: Config, formats: Formats) -> Architecture:
    """Gemma 2 (Gemma Team 2024): four norms a layer, a window in every other layer, the first included."""
    windows = sliding_windows(config, lambda i: i % 2 == 0, default=4096)
    return decoder(
        config,
        attention=grouped_attention(config, formats, windows, head_dim_default=256),
        ffn=gated_ffn(config, formats),
        norms=4,
        tied=True,
        max_context=8192,
    )


def gemma3(config: Config, formats: Formats) -> Architecture:
    """Gemma 3 (Gemma Team 2025): as Gemma 2 with norms over heads and five windows for one full layer."""
    period = config.integer("sliding_window_pattern", "_sliding_window_pattern", default=6)
    windows = sliding_windows(config, lambda i: (i + 1) % period != 0, default=4096)
    attention = grouped_attention(
        config,
        formats,
        windows,
        qk_norm=True,
        heads_default=8,
        kv_heads_default=4,
        head_dim_default=256,
    )
    return decoder(
        config,
        attention=attention,
        ffn=gated_ffn(config, formats),
        norms=4,
        tied=True,
        vocab=262_208,
        max_context=131_072,
    )
