"""Stored formats: dtype fields, quantisation configs, exclusions, overrides."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.dtypes import DTYPE_BYTES
from planner.errors import InputError
from planner.model import ModelSpec, load_model

Write = Callable[..., Path]


def formats(model: ModelSpec) -> set[str]:
    return {gemm.dtype for kind in model.kinds for gemm in kind.gemms}


@pytest.mark.parametrize("field", ["torch_dtype", "dtype"])
@pytest.mark.parametrize(("value", "dtype"), [("float16", "fp16"), ("bfloat16", "bf16"), ("float32", "fp32")])
def test_dtype_fields(write: Write, small: dict[str, Any], field: str, value: str, dtype: str) -> None:
    del small["torch_dtype"]
    model = load_model(write({**small, field: value}))
    assert model.dtype == model.weight_dtype == model.kv_dtype == dtype
    assert model.weight_bytes == model.params * DTYPE_BYTES[model.dtype]


def test_absent_dtype_is_bf16(write: Write, small: dict[str, Any]) -> None:
    del small["torch_dtype"]
    assert load_model(write(small)).dtype == "bf16"


@pytest.mark.parametrize(
    ("section", "dtype"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, "int4"),
        ({"quant_method": "gptq", "bits": 8}, "int8"),
        ({"quant_method": "mxfp4"}, "mxfp4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4"),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 8, "type": "float"}}},
            },
            "fp8",
        ),
    ],
)
def test_quantisation_methods(write: Write, small: dict[str, Any], section: dict[str, Any], dtype: str) -> None:
    model = load_model(write({**small, "quantization_config": section}))
    assert model.weight_dtype == dtype
    assert formats(model) == {dtype}
    assert (model.dtype, model.kv_dtype) == ("bf16", "bf16")


def test_embeddings_stay_at_16_bit(write: Write, small: dict[str, Any]) -> None:
    plain = load_model(write(small))
    model = load_model(write({**small, "quantization_config": {"quant_method": "fp8"}}))
    weights = sum(gemm.weights for kind in plain.kinds for gemm in kind.gemms) * 2
    assert plain.weight_bytes - model.weight_bytes == weights
    assert model.bytes_by_dtype == {"fp8": weights, "bf16": 2 * (model.params - weights)}


def test_deepseek_keeps_a_16_bit_cache() -> None:
    model = load_model("deepseek-v3")
    assert (model.weight_dtype, model.dtype, model.kv_dtype) == ("fp8", "bf16", "bf16")


@pytest.mark.parametrize("name", ["qwen3-30b-a3b-fp8", "deepseek-v3", "minimax-m2.5"])
def test_a_router_is_never_quantised(name: str) -> None:
    for kind in load_model(name).kinds:
        for gemm in kind.gemms:
            assert gemm.dtype == ("bf16" if gemm.name == "router" else "fp8")


@pytest.mark.parametrize(
    "excluded",
    [
        ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.o_proj"],
        ["model.layers.0.self_attn"],
        ["model.layers.0.self_attn*"],
        ["re:.*layers\\.0\\.self_attn.*"],
    ],
)
def test_a_layer_left_alone_is_a_kind_of_its_own(write: Write, small: dict[str, Any], excluded: list[str]) -> None:
    section = {"quant_method": "fp8", "modules_to_not_convert": excluded}
    model = load_model(write({**small, "quantization_config": section}))
    assert model.kind_of_layer == (0, 1)
    assert [kind.name for kind in model.kinds] == ["dense", "dense (2)"]
    assert [gemm.dtype for gemm in model.kinds[0].gemms] == ["bf16", "bf16", "fp8", "fp8"]
    assert {gemm.dtype for gemm in model.kinds[1].gemms} == {"fp8"}


def test_hf_quant_config_beside_the_config(write: Write, small: dict[str, Any], tmp_path: Path) -> None:
    write(small)
    alone = load_model(tmp_path)
    quantization = {
        "quant_algo": "FP8",
        "kv_cache_quant_algo": "FP8",
        "exclude_modules": ["*.o_proj", "lm_head"],
    }
    write({"producer": {"name": "modelopt"}, "quantization": quantization}, "hf_quant_config.json")
    for path in (tmp_path, tmp_path / "config.json"):
        model = load_model(path)
        assert (model.weight_dtype, model.kv_dtype) == ("fp8", "fp8")
        assert [gemm.dtype for gemm in model.kinds[0].gemms] == ["fp8", "bf16", "fp8", "fp8"]
        assert model.sha256 != alone.sha256
        assert model.name == tmp_path.name


def test_only_the_cache_quantised(write: Write, small: dict[str, Any], tmp_path: Path) -> None:
    write(small)
    write({"quantization": {"quant_algo": None, "kv_cache_quant_algo": "FP8"}}, "hf_quant_config.json")
    model = load_model(tmp_path)
    assert (model.weight_dtype, model.kv_dtype) == ("bf16", "fp8")


def test_overrides(write: Write, small: dict[str, Any]) -> None:
    path = write(small)
    fp8 = load_model(path, weight_dtype="fp8", kv_dtype="int8")
    assert (fp8.dtype, fp8.weight_dtype, fp8.kv_dtype) == ("bf16", "fp8", "int8")
    fp16 = load_model(path, weight_dtype="fp16")
    assert (fp16.dtype, fp16.weight_dtype, fp16.kv_dtype) == ("fp16", "fp16", "fp16")
    assert set(fp16.bytes_by_dtype) == {"fp16"}
    unquantised = load_model("gpt-oss-120b", weight_dtype="bf16")
    assert unquantised.weight_bytes == 2 * unquantised.params
    assert load_model("llama-3.1-70b-fp8", weight_dtype="bf16").kv_dtype == "fp8"
    # what the checkpoint leaves alone stays alone
    assert formats(load_model("gpt-oss-120b", weight_dtype="nvfp4")) == {"bf16", "nvfp4"}


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"quant_method": "hqq"}, r"quantization_config.quant_method: unknown method 'hqq'"),
        ({}, r"quantization_config.quant_method: unknown method None"),
        ({"quant_method": "gptq", "bits": 3}, r"quantization_config.bits: is 3"),
        ({"quant_method": "awq"}, r"quantization_config.bits: is missing"),
        ({"quant_algo": "MIXED_PRECISION"}, r"quant_algo: unknown algorithm 'MIXED_PRECISION'"),
        ({"quant_method": "fp8", "kv_cache_quant_algo": "FP3"}, r"kv_cache_quant_algo: is 'FP3'"),
        ({"quant_method": "fp8", "ignore": ["re:("]}, r"quantization_config.ignore: holds 're:\('"),
        ({"quant_method": "fp8", "ignore": [3]}, r"quantization_config.ignore: holds 3"),
        ({"quant_method": "compressed-tensors"}, r"config_groups: names no weights"),
        ("fp8", r"quantization_config: is 'fp8'"),
    ],
)
def test_bad_quantisation(write: Write, small: dict[str, Any], section: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_model(write({**small, "quantization_config": section}))


def test_an_override_reads_past_an_unknown_method(write: Write, small: dict[str, Any]) -> None:
    path = write({**small, "quantization_config": {"quant_method": "hqq"}})
    assert load_model(path, weight_dtype="int4").weight_dtype == "int4"


def test_bad_dtypes(write: Write, small: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="torch_dtype: is 'float64'"):
        load_model(write({**small, "torch_dtype": "float64"}))
    with pytest.raises(InputError, match="weight_dtype: unknown format 'fp7'"):
        load_model(write(small), weight_dtype="fp7")  # type: ignore[arg-type]


def test_shipped_files_round_trip_through_json() -> None:
    model = load_model("qwen3-32b-fp8-static")
    assert json.loads(json.dumps(model.bytes_by_dtype)) == model.bytes_by_dtype
    assert model.kv_dtype == "fp8"
