"""Figures that the makers of the models publish."""

from __future__ import annotations

import pytest

from planner.model import load_model

TOTAL = {
    "deepseek-r1": 671.0e9,
    "deepseek-v2-lite": 15.7e9,
    "deepseek-v3": 671.0e9,
    "falcon-180b": 179.52e9,
    "gemma-2-27b": 27.23e9,
    "gemma-3-27b": 27.01e9,
    "gpt-j-6b": 6.051e9,
    "gpt-neo-2.7b": 2.651e9,
    "gpt-neox-20b": 20.55e9,
    "gpt-oss-120b": 116.8e9,
    "gpt-oss-20b": 20.9e9,
    "gpt2-xl": 1.5576e9,
    "gpt3-175b": 174.6e9,
    "kimi-k2": 1.026e12,
    "llama-13b": 13.016e9,
    "llama-2-13b": 13.016e9,
    "llama-2-70b": 68.98e9,
    "llama-2-7b": 6.738e9,
    "llama-3-8b": 8.03e9,
    "llama-3.1-405b": 405.85e9,
    "llama-3.1-70b": 70.55e9,
    "llama-3.1-70b-fp8": 70.55e9,
    "llama-3.1-8b": 8.03e9,
    "llama-30b": 32.53e9,
    "llama-65b": 65.29e9,
    "llama-7b": 6.738e9,
    "minimax-m2.5": 228.7e9,
    "mistral-7b": 7.242e9,
    "mistral-7b-v0.3": 7.248e9,
    "mixtral-8x22b": 140.6e9,
    "mixtral-8x7b": 46.70e9,
    "opt-13b": 12.853e9,
    "opt-30b": 29.975e9,
    "opt-350m": 331.196e6,
    "opt-66b": 65.72e9,
    "opt-175b": 174.6e9,
    "qwen2.5-72b": 72.71e9,
    "qwen2.5-7b": 7.616e9,
    "qwen3-235b-a22b": 235.1e9,
    "qwen3-235b-a22b-fp8": 235.1e9,
    "qwen3-30b-a3b": 30.53e9,
    "qwen3-30b-a3b-fp8": 30.53e9,
    "qwen3-32b": 32.76e9,
    "qwen3-32b-fp8": 32.76e9,
    "qwen3-32b-fp8-static": 32.76e9,
    "qwen3-8b": 8.19e9,
}


@pytest.mark.parametrize(("name", "published"), TOTAL.items())
def test_total_parameters(name: str, published: float) -> None:
    assert load_model(name).params == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("gpt-oss-120b", 5.13e9),  # gpt-oss model card, table 1
        ("gpt-oss-20b", 3.61e9),
        ("deepseek-v3", 36.7e9),  # README_WEIGHTS of DeepSeek-V3, rounded to 37 in its paper
    ],
)
def test_active_parameters(name: str, published: float) -> None:
    assert load_model(name).active_params == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize(
    ("name", "published"), [("qwen3-235b-a22b", 22.2e9), ("qwen3-30b-a3b", 3.35e9), ("mixtral-8x7b", 12.9e9)]
)
def test_active_parameters_where_the_token_table_counts(name: str, published: float) -> None:
    model = load_model(name)
    assert model.active_params_with_embedding == pytest.approx(published, rel=0.005)
    assert model.active_params_with_embedding == model.active_params + model.embedding_params


def test_the_two_active_counts_are_one_where_the_head_is_the_token_table() -> None:
    model = load_model("gemma-2-27b")
    assert model.active_params == model.active_params_with_embedding == model.params


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("llama-3.1-70b", 327_680),
        ("deepseek-v3", 61 * 576 * 2),
        ("llama-3.1-70b-fp8", 163_840),
        ("gpt-oss-120b", 36 * 2 * 8 * 64 * 2),
    ],
)
def test_kv_bytes_per_token(name: str, published: int) -> None:
    assert load_model(name).kv_bytes_per_token == published


def test_a_million_tokens_of_llama_2() -> None:
    gib = load_model("llama-2-7b").kv_bytes_per_token * 1e6 / 2**30
    assert round(gib, 2) == 488.28


def test_weight_bytes() -> None:
    # sizes of the published checkpoints: 141.1 GB, 65.2 GB (gpt-oss model card: 60.8 GiB)
    assert load_model("llama-3.1-70b").weight_bytes == pytest.approx(141.1e9, rel=0.005)
    assert load_model("gpt-oss-120b").weight_bytes == pytest.approx(60.8 * 2**30, rel=0.005)
    assert load_model("gpt-oss-20b").weight_bytes == pytest.approx(12.8 * 2**30, rel=0.005)
