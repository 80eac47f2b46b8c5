"""Which layers look back only a window of tokens."""

from __future__ import annotations

from collections.abc import Callable

from planner.model.config import Config
from planner.model.families.blocks import CONTEXT, LAYERS

__all__ = ["no_windows", "sliding_windows"]


def no_windows(config: Config) -> tuple[int | None, ...]:
    """Every layer sees all tokens."""
    return (None,) * config.integer(*LAYERS)


def sliding_windows(
    config: Config, slides: Callable[[int], bool], *, default: int | None = None
) -> tuple[int | None, ...]:
    """Window of each layer.

    Parameters
    ----------
    config
        The model's configuration; its ``layer_types`` win over the family's rule, and ``use_sliding_window:
        false`` over both.
    slides
        The family's rule: whether layer i has a window.
    default
        Window where ``sliding_window`` is absent; an explicit null means none.

    Returns
    -------
    tuple
        Tokens, or None where the layer sees everything; a window as long as the longest context is none.

    Raises
    ------
    InputError
        If ``layer_types`` has another length than the model, or a kind of attention that is not known here.
    """
    layers = config.integer(*LAYERS)
    window = config.optional_integer("sliding_window")
    if window is None and "sliding_window" not in config.values:
        window = default
    if not config.flag("use_sliding_window", default=True):
        window = None
    types = config.items("layer_types")
    if types and len(types) != layers:
        raise config.error("layer_types", f"has {len(types)} entries", f"one for each of {layers} layers")
    for i, kind in enumerate(types):
        if kind not in ("full_attention", "sliding_attention"):
            raise config.error(f"layer_types.{i}", f"is {kind!r}", "full_attention or sliding_attention")
    if window is None or window >= (config.optional_integer(*CONTEXT) or window + 1):
        return (None,) * layers
    sliding = [kind == "sliding_attention" for kind in types] or [slides(i) for i in range(layers)]
    return tuple(window if here else None for here in sliding)
