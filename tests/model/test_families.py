"""What sets families apart: aliases, defaults, biases, windows, experts, latents."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.errors import InputError
from planner.model import ModelSpec, load_model
from planner.model.families import FAMILIES, find_family, known_families
from planner.resources import resource_dir

Write = Callable[..., Path]


def gemm_names(model: ModelSpec, kind: int = 0) -> list[str]:
    return [gemm.name for gemm in model.kinds[kind].gemms]


def windows(model: ModelSpec) -> list[int | None]:
    return [model.kinds[kind].attention.window for kind in model.kind_of_layer]


def test_small_llama_by_hand(write: Write, small: dict[str, Any]) -> None:
    model = load_model(write(small))
    layer = 64 * (64 + 2 * 32) + 64 * 64 + 3 * 64 * 128 + 2 * 64
    assert model.params == 2 * layer + 2 * 100 * 64 + 64
    assert model.weight_bytes == 2 * model.params
    assert model.kv_bytes_per_token == 2 * 2 * 2 * 16 * 2
    assert len(model.kinds) == 1 and model.num_layers == 2


@pytest.mark.parametrize("head_dim", [None, 16])
def test_null_head_dim_is_hidden_over_heads(write: Write, small: dict[str, Any], head_dim: int | None) -> None:
    assert load_model(write({**small, "head_dim": head_dim})).kinds[0].attention.head_dim == 16


def test_head_dim_of_its_own(write: Write, small: dict[str, Any]) -> None:
    attention = load_model(write({**small, "head_dim": 128})).kinds[0].attention
    assert (attention.head_dim, attention.kv_dim) == (128, 2 * 2 * 128)


def test_absent_kv_heads_mean_multi_head(write: Write, small: dict[str, Any]) -> None:
    del small["num_key_value_heads"]
    assert load_model(write(small)).kinds[0].attention.kv_heads == 4


@pytest.mark.parametrize("model_type", ["gemma", "gemma2", "gemma3_text"])
def test_gemma_ties_by_default(write: Write, small: dict[str, Any], model_type: str) -> None:
    path = write({**small, "model_type": model_type})
    assert load_model(path).tied_embeddings
    assert load_model(path).head_params == 0
    assert load_model(path).kinds[0].attention.head_dim == 256
    assert not load_model(write({**small, "model_type": model_type, "tie_word_embeddings": False})).tied_embeddings


@pytest.mark.parametrize(("model_type", "tied"), [("llama", False), ("qwen2", False), ("mistral", False)])
def test_others_do_not(write: Write, small: dict[str, Any], model_type: str, tied: bool) -> None:
    assert load_model(write({**small, "model_type": model_type})).tied_embeddings is tied


def test_biases(write: Write, small: dict[str, Any]) -> None:
    plain = load_model(write(small)).params
    qwen2 = load_model(write({**small, "model_type": "qwen2"})).params
    qwen3 = load_model(write({**small, "model_type": "qwen3", "head_dim": 16})).params
    llama = load_model(write({**small, "attention_bias": True, "mlp_bias": True})).params
    assert qwen2 - plain == 2 * (64 + 2 * 32)  # queries, keys, values
    assert qwen3 - plain == 2 * 2 * 16  # a norm over each head
    assert llama - plain == 2 * (64 + 2 * 32 + 64 + 2 * 128 + 64)


def test_windows_by_layer_types(write: Write, small: dict[str, Any]) -> None:
    types = ["full_attention", "sliding_attention"]
    model = load_model(write({**small, "model_type": "gemma2", "sliding_window": 32, "layer_types": types}))
    assert windows(model) == [None, 32]
    assert [kind.name for kind in model.kinds] == ["dense", "dense/window 32"]


def test_windows_by_pattern(write: Write, small: dict[str, Any]) -> None:
    config = {**small, "model_type": "gemma3_text", "num_hidden_layers": 7, "sliding_window": 32}
    assert windows(load_model(write(config))) == [32] * 5 + [None, 32]
    assert windows(load_model(write({**config, "sliding_window_pattern": 2}))) == [32, None] * 3 + [32]


def test_gemma2_alternates_from_the_first(write: Write, small: dict[str, Any]) -> None:
    config = {**small, "model_type": "gemma2", "sliding_window": 32}
    assert windows(load_model(write(config))) == [32, None]


def test_qwen_windows_are_off_unless_switched_on(write: Write, small: dict[str, Any]) -> None:
    config = {**small, "model_type": "qwen2", "sliding_window": 32, "max_window_layers": 1}
    assert windows(load_model(write(config))) == [None, None]
    assert windows(load_model(write({**config, "use_sliding_window": False}))) == [None, None]
    assert windows(load_model(write({**config, "use_sliding_window": True}))) == [None, 32]


def test_mistral_window_absent_is_not_null(write: Write, small: dict[str, Any]) -> None:
    config = {**small, "model_type": "mistral", "max_position_embeddings": 32768}
    assert windows(load_model(write(config))) == [4096, 4096]
    assert windows(load_model(write({**config, "sliding_window": None}))) == [None, None]


def test_a_window_as_long_as_the_context_is_none(write: Write, small: dict[str, Any]) -> None:
    config = {**small, "model_type": "phi3", "sliding_window": 256}
    assert windows(load_model(write(config))) == [None, None]


def test_gpt_oss_layers() -> None:
    model = load_model("gpt-oss-120b")
    assert windows(model)[:3] == [128, None, 128]
    kind = model.kinds[0]
    assert all(gemm.bias for gemm in kind.gemms)
    assert kind.norm_params == 2 * 2880 + 64  # norms and a sink a head
    assert {gemm.name: gemm.dtype for gemm in kind.gemms} == {
        "qkv": "bf16",
        "attention_out": "bf16",
        "router": "bf16",
        "expert_gate_up": "mxfp4",
        "expert_down": "mxfp4",
    }
    assert (kind.experts, kind.top_k, kind.ffn_width) == (128, 4, 4 * 2880)


def test_deepseek_layers() -> None:
    model = load_model("deepseek-v3")
    assert model.kind_of_layer == (0,) * 3 + (1,) * 58
    assert model.mtp_layers == 1
    dense, moe = model.kinds
    assert (dense.experts, dense.ffn_width) == (0, 18432)
    assert (moe.experts, moe.top_k, moe.ffn_width) == (256, 8, 9 * 2048)
    assert (moe.attention.kind, moe.attention.kv_heads, moe.attention.kv_dim) == ("mla", 1, 576)
    assert (moe.attention.head_dim, moe.attention.value_dim) == (192, 128)
    assert gemm_names(model)[:5] == ["q_a", "q_b", "kv_a", "kv_b", "attention_out"]
    assert moe.norm_params == 2 * 7168 + 1536 + 512 + 256


def test_null_q_lora_rank_means_plain_queries() -> None:
    model = load_model("deepseek-v2-lite")
    assert gemm_names(model)[:2] == ["q", "kv_a"]
    assert model.kinds[0].gemms[0].n == 16 * 192
    assert model.kind_of_layer[:2] == (0, 1)


def test_moe_layer_freq(write: Write) -> None:
    shipped = resource_dir("profiles") / "models" / "deepseek-v2-lite.json"
    config = json.loads(shipped.read_text(encoding="utf-8"))["config"]
    model = load_model(write({**config, "num_hidden_layers": 6, "moe_layer_freq": 2}))
    names = [model.kinds[kind].name for kind in model.kind_of_layer]
    assert names == ["dense", "dense", "moe", "dense", "moe", "dense"]


@pytest.fixture
def sparse(small: dict[str, Any]) -> dict[str, Any]:
    return {
        **small,
        "model_type": "qwen3_moe",
        "num_hidden_layers": 4,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
    }


def test_qwen_sparse_step_and_dense_layers(write: Write, sparse: dict[str, Any]) -> None:
    def names(**more: Any) -> list[str]:
        model = load_model(write({**sparse, **more}))
        return [model.kinds[kind].name for kind in model.kind_of_layer]

    assert names() == ["moe"] * 4
    assert names(decoder_sparse_step=2) == ["dense", "moe"] * 2
    assert names(mlp_only_layers=[0, 3]) == ["dense", "moe", "moe", "dense"]
    assert names(num_experts=0) == ["dense"] * 4


def test_an_unused_dense_width_may_be_absent(write: Write, sparse: dict[str, Any]) -> None:
    del sparse["intermediate_size"]
    assert load_model(write(sparse)).kinds[0].ffn_width == 2 * 32
    with pytest.raises(InputError, match="intermediate_size: is missing"):
        load_model(write({**sparse, "mlp_only_layers": [0]}))


def test_qwen2_moe_shares_an_expert(write: Write, sparse: dict[str, Any]) -> None:
    without = load_model(write({**sparse, "model_type": "qwen2_moe", "shared_expert_intermediate_size": 0}))
    model = load_model(write({**sparse, "model_type": "qwen2_moe", "shared_expert_intermediate_size": 48}))
    assert model.params - without.params == 4 * (3 * 64 * 48 + 64)
    assert model.active_params - without.active_params == 4 * (3 * 64 * 48 + 64)
    assert model.kinds[0].ffn_width == 2 * 32 + 48


def test_more_visits_than_experts(write: Write, sparse: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="num_experts_per_tok"):
        load_model(write({**sparse, "num_experts_per_tok": 9}))


def test_gpt2_by_hand(write: Write) -> None:
    config = {
        "model_type": "gpt2",
        "n_layer": 1,
        "n_embd": 8,
        "n_head": 2,
        "n_positions": 16,
        "vocab_size": 10,
    }
    model = load_model(write({**config, "n_inner": None}))
    assert model.params == (12 * 64 + 13 * 8) + 10 * 8 + 16 * 8 + 2 * 8
    assert model.tied_embeddings and model.kinds[0].gated is False
    assert load_model(write({**config, "n_inner": 24})).kinds[0].ffn_width == 24


def test_opt_embeds_in_another_width() -> None:
    model = load_model("opt-350m")
    assert model.embedding_params == 50272 * 512
    assert model.other_params == 2050 * 1024 + 2 * 512 * 1024  # no final norm: this one norms after


def test_gpt_neo_windows(write: Write) -> None:
    model = load_model("gpt-neo-2.7b")
    assert windows(model)[:4] == [None, 256, None, 256]
    config = {
        "model_type": "gpt_neo",
        "num_layers": 3,
        "hidden_size": 8,
        "num_heads": 2,
        "vocab_size": 10,
        "max_position_embeddings": 512,
    }
    assert windows(load_model(write(config))) == [None, 256, None]
    with pytest.raises(InputError, match=r"attention_types: covers 2 layers"):
        load_model(write({**config, "attention_types": [[["global", "local"], 1]]}))
    with pytest.raises(InputError, match=r"attention_types.0"):
        load_model(write({**config, "attention_types": ["global"]}))


def test_text_config_holds_the_numbers() -> None:
    model = load_model("gemma-3-27b")
    assert (model.model_type, model.vocab, model.max_context) == ("gemma3", 262_208, 131_072)
    assert model.tied_embeddings
    assert windows(model)[:6] == [1024] * 5 + [None]


def test_a_multimodal_wrapper_is_read_by_its_language_model(write: Write, small: dict[str, Any]) -> None:
    del small["torch_dtype"]
    model = load_model(write({"model_type": "llava", "torch_dtype": "float16", "text_config": small}))
    assert (model.model_type, model.dtype) == ("llama", "fp16")
    del small["vocab_size"]
    with pytest.raises(InputError, match=r"text_config\.vocab_size: is missing"):
        load_model(write({"model_type": "llava", "text_config": small}))


def test_every_family_has_a_type_of_its_own_in_the_table() -> None:
    wanted = "llama mistral qwen2 qwen3 qwen2_moe qwen3_moe mixtral deepseek_v2 deepseek_v3 kimi_k2 gpt_oss"
    wanted += " gemma2 gemma3 gemma3_text opt gpt2 gpt_neo gpt_neox phi3"
    assert set(wanted.split()) <= FAMILIES.keys()
    assert set(known_families()) >= FAMILIES.keys()


def test_a_package_adds_a_family(write: Write, small: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    entry = importlib.metadata.EntryPoint("other", "planner.model.families.dense:llama", "hetplan.model_families")
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **_: importlib.metadata.EntryPoints([entry]))
    assert find_family("other") is FAMILIES["llama"]
    assert "other" in known_families()
    assert load_model(write({**small, "model_type": "other"})).model_type == "other"
