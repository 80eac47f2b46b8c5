"""Reads models: a Hugging Face ``config.json``, a folder that holds one, or the name of a shipped model.

Nothing is ever downloaded and no framework is needed: a configuration is a few dozen numbers under names and
defaults that differ by family (:mod:`planner.model.families`). Shipped models lie in ``profiles/models`` with
their source beside the configuration (:class:`ShippedModel`).
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from planner.dtypes import Dtype
from planner.errors import InputError, unknown_name
from planner.model.config import Config, parse_json
from planner.model.families import Architecture, Family, find_family, known_families
from planner.model.quantization import Formats, read_formats
from planner.model.spec import LayerKind, ModelSpec
from planner.resources import read_text, resource_dir, sha256_of

__all__ = ["ShippedModel", "list_models", "load_model", "model_from_config"]

_WHAT = "model configuration"


class ShippedModel(BaseModel):
    """File of a shipped model: the facts of a ``config.json`` and where they come from."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    """The public thing itself: which configuration, which paper."""
    licence: str
    """Under which these facts were published."""
    date: str
    """When they were taken, YYYY-MM."""
    kind: Literal["spec"]
    """Told by the model's makers, not measured."""
    config: dict[str, Any]
    """The fields of ``config.json`` that shape the computation."""
    quantization: dict[str, Any] | None = None
    """The contents of ``hf_quant_config.json``, where the checkpoint has one."""


def list_models() -> tuple[str, ...]:
    """Names of the shipped models, sorted.

    Examples
    --------
    >>> "llama-3.1-70b" in list_models()
    True
    """
    return tuple(sorted(path.stem for path in _shipped_dir().glob("*.json")))


def load_model(
    name_or_path: str | Path,
    *,
    weight_dtype: Dtype | None = None,
    kv_dtype: Dtype | None = None,
    assume: str | None = None,
) -> ModelSpec:
    """Read a model.

    Parameters
    ----------
    name_or_path
        A ``config.json``, a folder with one (and perhaps an ``hf_quant_config.json``), or a shipped name. A
        shipped name wins over a folder of the same name; write ``./name`` for the folder.
    weight_dtype
        Stored format of the layers' weights instead of the checkpoint's own; embeddings and head stay at 16
        bit. A 16- or 32-bit format holds for activations too.
    kv_dtype
        Format of the KV cache; by default that of the activations, or what the quantisation config says.
    assume
        Read it as this ``model_type``, whatever the configuration says.

    Returns
    -------
    ModelSpec
        The model; a vision tower around it is left out.

    Raises
    ------
    InputError
        If it cannot be found or read, its ``model_type`` is not known, or a field is missing or wrong.

    Examples
    --------
    >>> model = load_model("llama-3.1-70b")
    >>> f"{model.params / 1e9:.2f}", model.kv_bytes_per_token
    ('70.55', 327680.0)
    """
    name, source, config, quantization, digest = _read(name_or_path)
    return _build(
        config,
        quantization,
        name=name,
        source=source,
        digest=digest,
        weight_dtype=weight_dtype,
        kv_dtype=kv_dtype,
        assume=assume,
    )


def model_from_config(values: Mapping[str, Any], *, name: str, source: str) -> ModelSpec:
    """Build a model from the fields of a ``config.json`` that is no file.

    Parameters
    ----------
    values
        The fields; ``model_type`` among them.
    name
        What to call the model.
    source
        Where the fields come from, for messages.

    Raises
    ------
    InputError
        As `load_model`.

    Examples
    --------
    >>> fields = {"model_type": "gpt2", "n_embd": 2048, "n_layer": 24, "n_head": 16, "vocab_size": 51200}
    >>> model_from_config(fields | {"n_positions": 2048}, name="gpt-1.3b", source="an example").num_layers
    24
    """
    text = json.dumps(dict(values), sort_keys=True)
    config = Config(dict(values), source)
    return _build(config, None, name=name, source=source, digest=sha256_of(text))


def _build(
    config: Config,
    quantization: Config | None,
    *,
    name: str,
    source: str,
    digest: str,
    weight_dtype: Dtype | None = None,
    kv_dtype: Dtype | None = None,
    assume: str | None = None,
) -> ModelSpec:
    outer, config = config, _text_part(config)
    model_type, family = _family_of(outer, config, assume)
    formats = read_formats(config, quantization, weight_dtype=weight_dtype, kv_dtype=kv_dtype)
    architecture = family(config, formats)
    kinds, kind_of_layer = _distinct(architecture.layers)
    return ModelSpec(
        name=name,
        model_type=model_type,
        hidden=architecture.hidden,
        vocab=architecture.vocab,
        max_context=architecture.max_context,
        kinds=kinds,
        kind_of_layer=kind_of_layer,
        tied_embeddings=architecture.tied_embeddings,
        embedding_params=architecture.embedding_params,
        head_params=0 if architecture.tied_embeddings else architecture.embedding_params,
        other_params=architecture.other_params,
        dtype=formats.dtype,
        weight_dtype=_dominant(architecture, formats),
        kv_dtype=formats.kv,
        mtp_layers=architecture.mtp_layers,
        source=source,
        sha256=digest,
    )


def _shipped_dir() -> Path:
    return resource_dir("profiles") / "models"


def _read(name_or_path: str | Path) -> tuple[str, str, Config, Config | None, str]:
    """Find the text; return name, source, configuration, quantisation and hash."""
    shipped = list_models()
    if isinstance(name_or_path, str) and name_or_path.lower() in shipped:
        name = name_or_path.lower()
        text = read_text(_shipped_dir() / f"{name}.json", _WHAT)
        where = f"profiles/models/{name}.json"
        return name, name, *_open_envelope(parse_json(text, where), where), sha256_of(text)
    path = Path(name_or_path)
    if not path.exists():
        raise _not_found(name_or_path, shipped)
    if path.is_dir():
        path /= "config.json"
    text = read_text(path, _WHAT)
    values = parse_json(text, str(path))
    name = path.absolute().parent.name if path.name == "config.json" else path.stem
    if {"kind", "source", "config"} <= values.keys():
        return name, str(path), *_open_envelope(values, str(path)), sha256_of(text)
    quantization = None
    beside = path.with_name(path.name.removesuffix("config.json") + "hf_quant_config.json")
    if path.name.endswith("config.json") and beside.is_file():
        beside_text = read_text(beside, _WHAT)
        quantization = _quantization(parse_json(beside_text, str(beside)), str(beside))
        text += beside_text
    return name, str(path), Config(values, str(path)), quantization, sha256_of(text)


def _not_found(name_or_path: str | Path, shipped: tuple[str, ...]) -> InputError:
    """Say what was looked for: a file where it looks like a path, a shipped name otherwise."""
    text = str(name_or_path)
    if not isinstance(name_or_path, Path) and os.sep not in text and not text.endswith(".json"):
        return unknown_name("model", text, shipped)
    tail = Path(text).name.lower()
    hint = f"the shipped {tail}" if tail in shipped else "a path to config.json, or `planner models` for names"
    return InputError("no such file or folder", where=text, expected=f"a {_WHAT}", hint=hint)


def _open_envelope(values: dict[str, Any], where: str) -> tuple[Config, Config | None]:
    try:
        shipped = ShippedModel.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InputError(first["msg"], where=where, field=field, expected="a shipped model file") from None
    quantization = None
    if shipped.quantization is not None:
        quantization = _quantization(shipped.quantization, where, "quantization.")
    return Config(shipped.config, where, "config."), quantization


def _quantization(values: dict[str, Any], where: str, prefix: str = "") -> Config:
    section = Config(values, where, prefix).section("quantization")
    if section is None:
        raise InputError("is missing", where=where, field=f"{prefix}quantization", expected="an object")
    return section


def _text_part(config: Config) -> Config:
    """Language model inside a multimodal configuration; what it leaves out, the outer object says."""
    inner = config.section("text_config")
    if inner is None:
        return config
    shared = ("tie_word_embeddings", "torch_dtype", "dtype", "quantization_config")
    values = {name: config.values[name] for name in shared if name in config.values}
    values |= {name: value for name, value in inner.values.items() if value is not None or name not in values}
    return replace(inner, values=values)


def _family_of(outer: Config, config: Config, assume: str | None) -> tuple[str, Family]:
    """Pick the family: the one assumed, else the whole model's, else that of its language model."""
    if assume is not None:
        family = find_family(assume)
        if family is None:
            raise unknown_name("model type", assume, known_families())
        return assume, family
    named = [name for name in (outer.text("model_type"), config.text("model_type")) if name is not None]
    for name in named:
        family = find_family(name)
        if family is not None:
            return name, family
    raise outer.error(
        "model_type",
        f"unknown model type {named[0]!r}" if named else "is missing",
        f"one of {', '.join(known_families())}",
        'assume="llama" (--assume llama) if its layers are shaped like one of these',
    )


def _distinct(layers: tuple[LayerKind, ...]) -> tuple[tuple[LayerKind, ...], tuple[int, ...]]:
    """Distinct layers in order of appearance, each with a name of its own, and the kind of every layer."""
    index: dict[LayerKind, int] = {}
    kind_of_layer = tuple(index.setdefault(layer, len(index)) for layer in layers)
    seen: Counter[str] = Counter()
    kinds = []
    for kind in index:
        seen[kind.name] += 1
        count = seen[kind.name]
        kinds.append(kind if count == 1 else replace(kind, name=f"{kind.name} ({count})"))
    return tuple(kinds), kind_of_layer


def _dominant(architecture: Architecture, formats: Formats) -> Dtype:
    """Format that holds most of the layers' weights."""
    total: Counter[Dtype] = Counter({formats.dtype: 0})
    for layer in architecture.layers:
        for gemm in layer.gemms:
            total[gemm.dtype] += gemm.weights
    return max(total, key=lambda dtype: total[dtype])
