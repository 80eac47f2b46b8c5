"""The vectorised view, and properties that hold for any model."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.dtypes import DTYPE_BYTES
from planner.errors import InputError
from planner.model import ModelSpec, layer_table, list_models, load_model


def load_text(config: dict[str, Any]) -> ModelSpec:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config), encoding="utf-8")
        return load_model(path)


@st.composite
def configs(draw: st.DrawFn) -> dict[str, Any]:
    kv_heads = draw(st.sampled_from([1, 2, 4, 8]))
    heads = kv_heads * draw(st.sampled_from([1, 2, 8]))
    return {
        "model_type": draw(st.sampled_from(["llama", "qwen2", "qwen3", "mistral", "gemma2", "phi3"])),
        "num_hidden_layers": draw(st.integers(1, 12)),
        "hidden_size": heads * draw(st.sampled_from([16, 64, 128])),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": draw(st.sampled_from([None, 64, 128])),
        "intermediate_size": draw(st.integers(1, 4096)),
        "vocab_size": draw(st.integers(1, 200_000)),
        "max_position_embeddings": draw(st.sampled_from([512, 8192])),
        "sliding_window": draw(st.sampled_from([None, 128, 4096])),
        "tie_word_embeddings": draw(st.booleans()),
        "torch_dtype": draw(st.sampled_from(["bfloat16", "float16", "float32"])),
        "quantization_config": draw(st.sampled_from([None, {"quant_method": "fp8"}])),
    }


def check_sums(model: ModelSpec) -> None:
    table = layer_table(model)
    outside = model.embedding_params + model.head_params + model.other_params
    assert table.params_L.sum() + outside == model.params
    table_of_tokens = 0 if model.tied_embeddings else model.embedding_params
    assert table.active_params_L.sum() + outside - table_of_tokens == model.active_params
    assert table.weight_bytes_L.sum() + table.ends_bytes(first=True, last=True) == pytest.approx(
        model.weight_bytes, rel=1e-12
    )
    assert table.kv_bytes_L.sum() == pytest.approx(model.kv_bytes_per_token, rel=1e-12)
    assert sum(model.bytes_by_dtype.values()) == model.weight_bytes
    assert model.active_params <= model.params
    assert (table.flops_per_token_L <= 2 * table.active_params_L).all()


@settings(max_examples=150, deadline=None)
@given(configs())
def test_any_llama_like_model(config: dict[str, Any]) -> None:
    model = load_text(config)
    check_sums(model)
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    assert (model.hidden, model.num_layers, model.vocab) == (hidden, layers, config["vocab_size"])
    attention = model.kinds[0].attention
    assert (attention.heads, attention.kv_heads) == (
        config["num_attention_heads"],
        config["num_key_value_heads"],
    )
    matrices = 2 * hidden * attention.head_dim * (attention.heads + attention.kv_heads)
    matrices += 3 * hidden * config["intermediate_size"]
    assert sum(gemm.weights for gemm in model.kinds[0].gemms) == matrices
    assert model.tied_embeddings is config["tie_word_embeddings"]
    assert load_text(config).kinds == model.kinds


@pytest.mark.parametrize("name", list_models())
def test_sums_of_shipped_models(name: str) -> None:
    check_sums(load_model(name))


@settings(max_examples=150, deadline=None)
@given(configs(), st.integers(1, 64))
def test_cache_per_gpu(config: dict[str, Any], tp: int) -> None:
    model = load_text(config)
    table = layer_table(model)
    attention = model.kinds[0].attention
    one_head = 2 * attention.head_dim * DTYPE_BYTES[model.kv_dtype]
    per_gpu_L = table.kv_bytes_per_gpu_L(tp)
    assert (per_gpu_L * tp >= table.kv_bytes_L).all()  # nothing is lost
    assert (per_gpu_L >= one_head).all()  # a head is never cut
    if attention.kv_heads % tp == 0:
        np.testing.assert_allclose(per_gpu_L * tp, table.kv_bytes_L)
    if tp >= attention.kv_heads:
        np.testing.assert_allclose(per_gpu_L, one_head)


def test_a_latent_is_repeated() -> None:
    table = layer_table(load_model("deepseek-v3"))
    assert (table.kv_bytes_per_gpu_L(8) == table.kv_bytes_L).all()
    assert (table.kv_bytes_L == 576 * 2).all()


def test_tp_is_a_count() -> None:
    table = layer_table(load_model("llama-2-7b"))
    for function in (table.kv_bytes_per_gpu_L, table.activation_bytes_per_gpu_L):
        with pytest.raises(InputError, match="tp: is 0"):
            function(0)


def test_activations_are_the_papers_34_h() -> None:
    model = load_model("gpt3-175b")
    table = layer_table(model)
    np.testing.assert_allclose(table.activation_bytes_L, 34 * model.hidden)
    # equations 2 and 4: 10 h stays whole, or everything is divided
    np.testing.assert_allclose(table.activation_bytes_per_gpu_L(8), (10 + 24 / 8) * model.hidden)
    np.testing.assert_allclose(table.activation_bytes_per_gpu_L(8, sequence_parallel=True), 34 / 8 * model.hidden)


def test_activations_of_llama_by_hand() -> None:
    table = layer_table(load_model("llama-3.1-8b"))
    numbers = 2 * 4096 + 4096 + (4096 + 2 * 1024 + 4096) + 4096 + 3 * 14336
    np.testing.assert_allclose(table.activation_bytes_L, 2 * numbers)


def test_flops_are_twice_the_active_weights() -> None:
    model = load_model("mixtral-8x7b")
    table = layer_table(model)
    layer = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 8 * 4096 + 2 * 3 * 4096 * 14336
    np.testing.assert_allclose(table.flops_per_token_L, 2 * layer)
    assert table.head_flops_per_token == 2 * 32000 * 4096


def test_ends_of_a_tied_model() -> None:
    model = load_model("gemma-2-27b")
    table = layer_table(model)
    matrix = 2 * 256000 * 4608
    assert table.ends_bytes(first=True, last=False) == matrix
    assert table.ends_bytes(first=False, last=True) == matrix + 2 * 4608
    assert table.ends_bytes(first=True, last=True) == matrix + 2 * 4608  # one copy serves both
    assert table.ends_bytes(first=False, last=False) == 0


def test_windows_and_kinds() -> None:
    table = layer_table(load_model("gpt-oss-20b"))
    assert table.window_L.tolist() == [128, 0] * 12
    assert table.kind_L.tolist() == [0, 1] * 12


def test_the_table_is_shared_and_cannot_be_changed() -> None:
    table = layer_table(load_model("llama-2-7b"))
    assert layer_table(load_model("llama-2-7b")) is table
    with pytest.raises(ValueError, match="read-only"):
        table.params_L[0] = 0
