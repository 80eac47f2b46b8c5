"""Finding, opening and refusing models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from planner.errors import InputError
from planner.model import layer_table, list_models, load_model
from planner.model.huggingface import ShippedModel
from planner.resources import resource_dir

Write = Callable[..., Path]


def test_enough_models_ship() -> None:
    assert len(list_models()) >= 24
    assert list(list_models()) == sorted(list_models())
    assert all(name == name.lower() for name in list_models())


@pytest.mark.parametrize("name", list_models())
def test_every_shipped_model_loads(name: str) -> None:
    model = load_model(name)
    assert (model.name, model.source) == (name, name)
    assert len(model.sha256) == 64
    table = layer_table(model)
    assert table.params_L.shape == (model.num_layers,)
    assert model.params > 0 and (table.kv_bytes_L > 0).all()


@pytest.mark.parametrize("name", list_models())
def test_every_shipped_file_tells_where_it_comes_from(name: str) -> None:
    text = (resource_dir("profiles") / "models" / f"{name}.json").read_text(encoding="utf-8")
    shipped = ShippedModel.model_validate_json(text)
    assert shipped.kind == "spec" and len(shipped.source) > 20 and len(shipped.date) == 7
    assert not {"auto_map", "_name_or_path", "bos_token_id", "transformers_version"} & shipped.config.keys()


def test_file_folder_and_name_agree(write: Write, tmp_path: Path) -> None:
    shipped = resource_dir("profiles") / "models" / "llama-3.1-8b.json"
    path = write(json.loads(shipped.read_text(encoding="utf-8"))["config"])
    by_name = load_model("llama-3.1-8b")
    for source in (path, str(path), tmp_path, shipped):
        model = load_model(source)
        assert (model.kinds, model.params) == (by_name.kinds, by_name.params)
        assert model.source == str(path if source != shipped else shipped)
    assert load_model("Llama-3.1-8B") == by_name


def test_reading_twice_gives_the_same(write: Write, small: dict[str, Any]) -> None:
    path = write(small)
    assert load_model(path) == load_model(path)
    assert hash(load_model(path)) == hash(load_model(path))


def test_unknown_name_lists_the_close_ones() -> None:
    with pytest.raises(InputError, match=r"unknown model 'llama-3.1-7b'(.|\n)*try: .*llama-3.1-70b"):
        load_model("llama-3.1-7b")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere/config.json: no such file or folder"):
        load_model(tmp_path / "nowhere" / "config.json")
    with pytest.raises(InputError, match=r"try: the shipped llama-3.1-70b"):
        load_model("meta-llama/Llama-3.1-70B")
    with pytest.raises(InputError, match=r"config.json: no such file"):
        load_model(tmp_path)


def test_malformed_json_names_line_and_column(write: Write) -> None:
    path = write('{\n  "model_type": "llama",\n  "hidden_size": 12,,\n}')
    with pytest.raises(InputError) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}:3:21: is not JSON")
    assert "line 3, column 21" in str(caught.value)


@pytest.mark.parametrize("text", ["[1, 2]", "3", '"llama"', "null"])
def test_json_that_is_no_object(write: Write, text: str) -> None:
    with pytest.raises(InputError, match="not an object"):
        load_model(write(text))


@pytest.mark.parametrize(
    "field", ["num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size", "vocab_size"]
)
def test_missing_field(write: Write, small: dict[str, Any], field: str) -> None:
    del small[field]
    path = write(small)
    with pytest.raises(InputError) as caught:
        load_model(path)
    assert (caught.value.where, caught.value.field) == (str(path), field)
    assert caught.value.expected is not None and caught.value.expected.startswith("a whole number >= 1")
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("value", [0, -3, 2.5, "80", True, [80], {}])
def test_wrong_field(write: Write, small: dict[str, Any], value: Any) -> None:
    with pytest.raises(InputError, match=r"num_hidden_layers: is "):
        load_model(write({**small, "num_hidden_layers": value}))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"num_attention_heads": 5}, "num_key_value_heads"),
        ({"num_attention_heads": 6}, "num_attention_heads"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings"),
        ({"model_type": "gemma2", "layer_types": ["full_attention"]}, "layer_types"),
        ({"model_type": "gemma2", "layer_types": ["full_attention", "linear_attention"]}, "layer_types.1"),
        ({"model_type": "gemma2", "layer_types": "full_attention"}, "layer_types"),
        ({"model_type": 3}, "model_type"),
        ({"text_config": 3}, "text_config"),
    ],
)
def test_contradictions(write: Write, small: dict[str, Any], change: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        load_model(write(small | change))
    assert caught.value.field == field


def test_unknown_model_type_and_assume(write: Write, small: dict[str, Any]) -> None:
    path = write({**small, "model_type": "newest"})
    with pytest.raises(InputError) as caught:
        load_model(path)
    message = str(caught.value)
    assert f"{path}: model_type: unknown model type 'newest'" in message
    assert "deepseek_v3" in message and 'assume="llama"' in message and "--assume llama" in message
    assert load_model(path, assume="llama").kinds == load_model(write(small)).kinds
    with pytest.raises(InputError, match=r"unknown model type 'lama'(.|\n)*try: .*llama"):
        load_model(path, assume="lama")


def test_absent_model_type(write: Write, small: dict[str, Any]) -> None:
    del small["model_type"]
    with pytest.raises(InputError, match="model_type: is missing"):
        load_model(write(small))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"kind": "guess"}, "kind"),
        ({"licence": None}, "licence"),
        ({"more": 1}, "more"),
        ({"config": 1}, "config"),
    ],
)
def test_bad_envelope(write: Write, small: dict[str, Any], change: dict[str, Any], field: str) -> None:
    envelope = {"source": "here", "licence": "none", "date": "2026-11", "kind": "spec", "config": small}
    assert load_model(write(envelope, "mine.json")).name == "mine"
    with pytest.raises(InputError) as caught:
        load_model(write(envelope | change, "mine.json"))
    assert caught.value.field == field


def test_quantisation_file_without_quantisation(write: Write, small: dict[str, Any], tmp_path: Path) -> None:
    write(small)
    write({"producer": {}}, "hf_quant_config.json")
    with pytest.raises(InputError, match=r"hf_quant_config.json: quantization: is missing"):
        load_model(tmp_path)
