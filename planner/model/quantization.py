"""Stored number formats: what ``torch_dtype``, ``quantization_config`` and ``hf_quant_config.json`` say.

Checkpoints name the modules they leave unquantised by a full path, a tail (``mlp.gate``), a wildcard
(``model.layers.*.self_attn``) or, in compressed-tensors, ``re:`` and a regular expression. :class:`Formats`
answers for one module path at a time, so that a layer which is left alone becomes a layer kind of its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from planner.dtypes import DTYPES, Dtype
from planner.errors import InputError
from planner.model.config import Config

__all__ = ["Formats", "read_formats"]

_TORCH: Final[dict[str, Dtype]] = {
    "float32": "fp32",
    "float": "fp32",
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
}

_METHODS: Final[dict[str, Dtype]] = {"fp8": "fp8", "fbgemm_fp8": "fp8", "mxfp4": "mxfp4"}

_BY_BITS: Final[dict[str, dict[int, Dtype]]] = {
    "awq": {4: "int4", 8: "int8"},
    "gptq": {4: "int4", 8: "int8"},
}

# NVIDIA ModelOpt's names (TensorRT-LLM, quantization modes)
_ALGORITHMS: Final[dict[str, Dtype]] = {
    "FP8": "fp8",
    "FP8_PB_WO": "fp8",
    "FP8_PER_CHANNEL_PER_TOKEN": "fp8",
    "NVFP4": "nvfp4",
    "W4A16_AWQ": "int4",
    "W4A8_AWQ": "int4",
    "W4A16_GPTQ": "int4",
    "W8A16": "int8",
    "W8A8_SQ_PER_CHANNEL": "int8",
    "INT8": "int8",
}

_OVERRIDE = "give the stored format yourself: weight_dtype=… (--weight-dtype)"


@dataclass(frozen=True, slots=True)
class Formats:
    """Which format each weight is stored in.

    Parameters
    ----------
    dtype
        Of activations and of every weight that is not quantised.
    quantized
        Of the quantised weights, or None.
    kv
        Of the KV cache.
    names
        Modules left unquantised, by path or tail.
    patterns
        The same as regular expressions over the whole path.
    """

    dtype: Dtype
    quantized: Dtype | None
    kv: Dtype
    names: frozenset[str] = frozenset()
    patterns: tuple[re.Pattern[str], ...] = ()

    def of(self, module: str) -> Dtype:
        """Format of the weight of a module.

        Examples
        --------
        >>> formats = Formats("bf16", "fp8", "bf16", names=frozenset({"mlp.gate"}))
        >>> formats.of("model.layers.3.mlp.gate"), formats.of("model.layers.3.mlp.gate_proj")
        ('bf16', 'fp8')
        """
        if self.quantized is None or self._left_alone(module):
            return self.dtype
        return self.quantized

    def _left_alone(self, module: str) -> bool:
        parts = module.split(".")
        ends = range(1, len(parts) + 1)
        if any(".".join(parts[i:j]) in self.names for j in ends for i in range(j)):
            return True
        return any(pattern.search(module) for pattern in self.patterns)


def read_formats(
    config: Config,
    quantization: Config | None,
    *,
    weight_dtype: Dtype | None = None,
    kv_dtype: Dtype | None = None,
) -> Formats:
    """Read the stored formats of a checkpoint.

    Parameters
    ----------
    config
        The model's configuration. An absent dtype is read as bf16, an fp32 checkpoint stays fp32.
    quantization
        The ``quantization`` object of an ``hf_quant_config.json``; it wins over ``quantization_config``.
    weight_dtype
        Overrides what the checkpoint says: a 16- or 32-bit format holds for everything, a smaller one for the
        layers' matrices apart from the modules that the checkpoint leaves alone.
    kv_dtype
        Overrides the format of the KV cache.

    Raises
    ------
    InputError
        If a method is unknown, or its bits are.
    """
    for option, value in (("weight_dtype", weight_dtype), ("kv_dtype", kv_dtype)):
        if value is not None and value not in DTYPES:
            raise InputError(f"unknown format {value!r}", where=option, expected=f"one of {', '.join(DTYPES)}")
    declared = config.section("quantization_config")
    section = quantization or declared
    dtype = _activation_dtype(config)
    formats = Formats(dtype, None, dtype)
    if section is not None:
        quantized = _quantized_dtype(section) if weight_dtype is None else None
        names, patterns = _exclusions(section)
        formats = Formats(dtype, quantized, _kv_dtype(section) or dtype, names, patterns)
    if weight_dtype in ("fp32", "bf16", "fp16"):
        formats = Formats(weight_dtype, None, weight_dtype if formats.kv == dtype else formats.kv)
    elif weight_dtype is not None:
        formats = replace(formats, quantized=weight_dtype)
    return formats if kv_dtype is None else replace(formats, kv=kv_dtype)


def _activation_dtype(config: Config) -> Dtype:
    name, value = config.get("torch_dtype", "dtype")
    if value is None or value == "auto":
        return "bf16"
    dtype = _TORCH.get(str(value).removeprefix("torch."))
    if dtype is None:
        raise config.error(name, f"is {value!r}", f"one of {', '.join(_TORCH)}", _OVERRIDE)
    return dtype


def _quantized_dtype(section: Config) -> Dtype | None:
    algorithm = section.text("quant_algo")
    if algorithm is not None:
        if algorithm.upper() not in _ALGORITHMS:
            known = f"one of {', '.join(_ALGORITHMS)}"
            raise section.error("quant_algo", f"unknown algorithm {algorithm!r}", known, _OVERRIDE)
        return _ALGORITHMS[algorithm.upper()]
    method = section.text("quant_method")
    if method is None and "quant_algo" in section.values:
        return None  # null: only the KV cache is quantised
    if method in _METHODS:
        return _METHODS[method]
    if method in _BY_BITS:
        bits = section.integer("bits", "w_bit")
        if bits not in _BY_BITS[method]:
            raise section.error("bits", f"is {bits}", f"one of {', '.join(map(str, _BY_BITS[method]))}", _OVERRIDE)
        return _BY_BITS[method][bits]
    if method == "bitsandbytes":
        return "int4" if section.flag("load_in_4bit", default=False) else "int8"
    if method == "compressed-tensors":
        return _compressed_dtype(section)
    known = ", ".join(sorted({*_METHODS, *_BY_BITS, "bitsandbytes", "compressed-tensors"}))
    raise section.error("quant_method", f"unknown method {method!r}", f"one of {known}", _OVERRIDE)


def _compressed_dtype(section: Config) -> Dtype:
    groups = section.section("config_groups")
    formats: dict[tuple[int, str], Dtype] = {
        (8, "float"): "fp8",
        (8, "int"): "int8",
        (4, "int"): "int4",
        (4, "float"): "nvfp4",
    }
    for name in sorted(groups.values) if groups is not None else ():
        group = groups.section(name) if groups is not None else None
        weights = group.section("weights") if group is not None else None
        if weights is not None:
            key = weights.integer("num_bits"), weights.text("type") or "int"
            if key in formats:
                return formats[key]
            raise weights.error("num_bits", f"is {key[0]} of type {key[1]!r}", "4 or 8, int or float", _OVERRIDE)
    raise section.error("config_groups", "names no weights", "a group with weights.num_bits", _OVERRIDE)


def _kv_dtype(section: Config) -> Dtype | None:
    name, value = section.get("kv_cache_quant_algo", "kv_cache_scheme")
    if value is None:
        return None
    if isinstance(value, dict):
        value = ("fp" if value.get("type") == "float" else "int") + str(value.get("num_bits"))
    kinds: dict[str, Dtype] = {"fp8": "fp8", "int8": "int8", "nvfp4": "nvfp4"}
    if str(value).lower() not in kinds:
        raise section.error(name, f"is {value!r}", f"one of {', '.join(kinds)}", "give kv_dtype=… (--kv-dtype)")
    return kinds[str(value).lower()]


def _exclusions(section: Config) -> tuple[frozenset[str], tuple[re.Pattern[str], ...]]:
    names: set[str] = set()
    patterns: list[re.Pattern[str]] = []
    key, _ = section.get("exclude_modules", "modules_to_not_convert", "ignored_layers", "ignore")
    for entry in section.items(key):
        if not isinstance(entry, str):
            raise section.error(key, f"holds {entry!r}", "names of modules")
        if entry.startswith("re:"):
            try:
                patterns.append(re.compile(entry.removeprefix("re:")))
            except re.error as error:
                raise section.error(key, f"holds {entry!r}: {error}", "a regular expression after re:") from None
        elif "*" in entry:
            # a wildcard names a module and all that is inside it, wherever the text model is nested
            body = ".*".join(re.escape(part) for part in entry.split("*"))
            patterns.append(re.compile(rf"^(?:.*\.)?{body}(?:\.|$)"))
        else:
            names.add(entry)
    return frozenset(names), tuple(patterns)
