"""Which sizes are measured: those of a named model at each TP, or those of common models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from planner.model import load_model

if TYPE_CHECKING:
    from planner.model import LayerKind, ModelSpec

__all__ = ["LayerShape", "Shapes", "shapes_of"]

# Between them: small and large, many and few KV heads, gated and not, vocabularies of 50 to 150 thousand.
_COMMON: Final = ("llama-3.1-8b", "llama-3.1-70b", "qwen2.5-7b", "mistral-7b", "gpt3-175b")
_COMMON_LAYERS: Final = ("llama-3.1-8b", "gpt2-xl")
_QUICK_LAYERS: Final = (("llama-3.1-8b", 32), ("opt-350m", 2))  # a few million weights each
_TP: Final = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerShape:
    """One dense layer on one GPU of a tensor-parallel group.

    Parameters
    ----------
    model
        Name of the model.
    tp
        Size of the group.
    hidden
        Width of the model.
    heads, kv_heads, head_dim
        Attention on this GPU.
    ffn
        Width of the feed-forward part on this GPU.
    gated
        RMSNorm, rotary positions, SwiGLU; otherwise LayerNorm and GELU with biases, as in GPT.
    """

    model: str
    tp: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    gated: bool


@dataclass(frozen=True, slots=True)
class Shapes:
    """All sizes of a run.

    Parameters
    ----------
    gemms
        (n, k), ascending.
    heads
        (heads, KV heads, head dimension).
    layers
        Layers to measure as a whole.
    left_out
        What is not measured of a named model, and why.
    """

    gemms: tuple[tuple[int, int], ...]
    heads: tuple[tuple[int, int, int], ...]
    layers: tuple[LayerShape, ...]
    left_out: tuple[str, ...] = ()


def shapes_of(model: str | None, *, quick: bool) -> Shapes:
    """Sizes of a model's layers and head at TP 1, 2, 4 and 8; without one, of common models.

    Parameters
    ----------
    model
        A shipped model, a ``config.json``, or None.
    quick
        A few small sizes.

    Examples
    --------
    >>> shapes = shapes_of("llama-3.1-8b", quick=False)
    >>> (6144, 4096) in shapes.gemms, (32, 8, 128) in shapes.heads
    (True, True)
    """
    if model is None and quick:
        few = (_layer(load_model(name), tp) for name, tp in _QUICK_LAYERS)
        return Shapes(
            gemms=((1024, 1024), (1024, 4096), (4096, 1024)),
            heads=((8, 2, 128),),
            layers=tuple(layer for layer in few if layer is not None),
        )
    names: Sequence[str] = _COMMON if model is None else (model,)
    tps = (8, 4) if quick else _TP
    gemms: set[tuple[int, int]] = set()
    heads: set[tuple[int, int, int]] = set()
    left_out: list[str] = []
    for spec in map(load_model, names):
        for tp in tps:
            gemms.add((-(-spec.vocab // tp), spec.hidden))
            for kind in spec.kinds:
                if not _divides(kind, tp):
                    continue
                attention = kind.attention
                gemms |= {
                    (
                        gemm.n // tp if gemm.split == "column" else gemm.n,
                        gemm.k // tp if gemm.split == "row" else gemm.k,
                    )
                    for gemm in kind.gemms
                    if gemm.experts == 1
                }
                if attention.kind == "gqa":
                    heads.add((attention.heads // tp, max(1, attention.kv_heads // tp), attention.head_dim))
        for kind in spec.kinds:
            if kind.experts:
                left_out.append(f"{spec.name}: its routed experts ({kind.name} layers)")
            if kind.attention.kind != "gqa":
                left_out.append(f"{spec.name}: its latent attention ({kind.name} layers)")
    layer_names = _COMMON_LAYERS if model is None else (model,)
    layers = tuple(
        layer for spec in map(load_model, layer_names) for tp in tps if (layer := _layer(spec, tp)) is not None
    )
    return Shapes(tuple(sorted(gemms)), tuple(sorted(heads)), layers, tuple(left_out))


def _divides(kind: LayerKind, tp: int) -> bool:
    attention = kind.attention
    whole = attention.heads % tp == 0 and (attention.kv_heads % tp == 0 or tp % attention.kv_heads == 0)
    split = (gemm.n if gemm.split == "column" else gemm.k for gemm in kind.gemms if gemm.split != "replicated")
    return whole and all(size % tp == 0 for size in split)


def _layer(model: ModelSpec, tp: int) -> LayerShape | None:
    """First dense layer of a model on one of `tp` GPUs; None where there is none, or it cannot be divided so."""
    for kind in model.kinds:
        attention = kind.attention
        if kind.experts == 0 and attention.kind == "gqa" and _divides(kind, tp):
            return LayerShape(
                model=model.name,
                tp=tp,
                hidden=model.hidden,
                heads=attention.heads // tp,
                kv_heads=max(1, attention.kv_heads // tp),
                head_dim=attention.head_dim,
                ffn=kind.ffn_width // tp,
                gated=kind.gated,
            )
    return None
