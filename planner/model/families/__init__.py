"""Model families: one reader per ``model_type`` of a Hugging Face ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from planner.model.families.blocks import Architecture, Family
from planner.model.families.classic import falcon, gpt2, gpt_neo, gpt_neox, gptj, opt
from planner.model.families.dense import gemma, gemma2, gemma3, llama, mistral, phi3, qwen2, qwen3
from planner.model.families.experts import gpt_oss, minimax_m2, mixtral, qwen2_moe, qwen3_moe
from planner.model.families.latent import deepseek_v2, deepseek_v3

__all__ = ["ENTRY_POINTS", "FAMILIES", "Architecture", "Family", "find_family", "known_families"]

FAMILIES: Final[Mapping[str, Family]] = {
    "deepseek_v2": deepseek_v2,
    "deepseek_v3": deepseek_v3,
    "gemma": gemma,
    "falcon": falcon,
    "gemma2": gemma2,
    "gemma3": gemma3,
    "gemma3_text": gemma3,
    "gpt2": gpt2,
    "gpt_neo": gpt_neo,
    "gpt_neox": gpt_neox,
    "gpt_oss": gpt_oss,
    "gptj": gptj,
    "kimi_k2": deepseek_v3,
    "llama": llama,
    "minimax_m2": minimax_m2,
    "mistral": mistral,
    "mixtral": mixtral,
    "opt": opt,
    "phi3": phi3,
    "qwen2": qwen2,
    "qwen2_moe": qwen2_moe,
    "qwen3": qwen3,
    "qwen3_moe": qwen3_moe,
}

# Packages add families under this entry point group; names here win.
ENTRY_POINTS: Final = "hetplan.model_families"


def find_family(model_type: str) -> Family | None:
    """Reader of a model type, or None where nobody knows it."""
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    from importlib.metadata import entry_points

    for entry in entry_points(group=ENTRY_POINTS, name=model_type):
        family: Family = entry.load()
        return family
    return None


def known_families() -> tuple[str, ...]:
    """Every model type that can be read, sorted."""
    from importlib.metadata import entry_points

    return tuple(sorted({*FAMILIES, *entry_points(group=ENTRY_POINTS).names}))
