"""What truth files call models, GPUs, formats and loads, and what that is here: ``profiles/truth/*.yaml``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from planner.cluster import DeviceProfile, load_device
from planner.cost.closed_loop import LoadPattern
from planner.dtypes import DTYPE_BYTES, Dtype
from planner.engine.fitted import load_fit
from planner.errors import InputError
from planner.model import ModelSpec, list_models, load_model, model_from_config
from planner.profiling.accuracy.records import SkipRowError
from planner.profiling.accuracy.table import Row
from planner.resources import read_text, resource_dir

__all__ = ["LoadRule", "device_of", "load_of", "model_of", "truth_dir"]

_STRICT: Final = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

# Endings of checkpoints' names that leave the shape of the model as it is.
_ENDING: Final = re.compile(
    r"-(instruct|chat|hf|it|base|dynamic|static|pertensor|block|awq|gptq|w8a8|w4a16|fp8|fp4|nvfp4|mxfp4|bf16|fp16|int8"
    r"|int4|v\d+(\.\d+)?|\d{4})$"
)

FileT = TypeVar("FileT", bound=BaseModel)
Scalar = int | float | str


class _File(BaseModel):
    """What every file says of itself."""

    model_config = _STRICT

    name: str
    source: str
    kind: Literal["spec", "measured", "fitted", "estimated"]
    date: str


class _ModelAlias(BaseModel):
    model_config = _STRICT

    names: tuple[str, ...] = Field(min_length=1)
    model: str | None = None
    config: dict[str, Any] | None = None
    own_format: bool = False
    kv: Dtype | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> _ModelAlias:
        if (self.model is None) == (self.config is None):
            raise ValueError("give either model or config")
        return self


class _Format(BaseModel):
    model_config = _STRICT

    weight: Dtype | None = None
    kv: Dtype | None = None


class _Aliases(_File):
    models: tuple[_ModelAlias, ...]
    devices: dict[str, str]
    formats: dict[str, _Format]
    own_kv: tuple[str, ...] = ()


class LoadRule(BaseModel):
    """How the load of some rows was made.

    Parameters
    ----------
    name
        To call it.
    match
        Fields of a row (and ``layout``) with the value, or one of the values, that they must have.
    arrival, synchrony, requests, slot_wait, prompt_wait, stream_interval, slot_limit, prefix_share, offline
        See `planner.cost.closed_loop.LoadPattern`.
    length_share
        Mean length of prompts and answers over the length that the row states.
    why
        What this rests on.
    """

    model_config = _STRICT

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    match: dict[str, Scalar | tuple[Scalar, ...]]
    arrival: Literal["closed", "burst"] = "closed"
    synchrony: float = Field(default=0.0, ge=0, le=1)
    requests: int | None = Field(default=None, ge=1)
    slot_wait: float = Field(default=0.0, ge=0)
    prompt_wait: float = Field(default=0.0, ge=0)
    stream_interval: float = Field(default=0.0, ge=0)
    slot_limit: int | None = Field(default=None, ge=1)
    prefix_share: float = Field(default=0.0, ge=0, lt=1)
    offline: bool = False
    length_share: float = Field(default=1.0, gt=0, le=1)
    why: str

    def fits(self, layout: str, row: Row) -> bool:
        """Whether a row is of this load."""
        for name, wanted in self.match.items():
            found = layout if name == "layout" else row.text(name)
            if found not in {str(value) for value in (wanted if isinstance(wanted, tuple) else (wanted,))}:
                return False
        return True

    @property
    def pattern(self) -> LoadPattern:
        """As the cost model takes it."""
        return LoadPattern(
            arrival=self.arrival,
            synchrony=self.synchrony,
            requests=self.requests,
            slot_wait=self.slot_wait,
            prompt_wait=self.prompt_wait,
            stream_interval=self.stream_interval,
            slot_limit=self.slot_limit,
            prefix_share=self.prefix_share,
            offline=self.offline,
        )


class _Loads(_File):
    rules: tuple[LoadRule, ...]


def truth_dir() -> Path:
    """Folder of the shipped truth files."""
    return resource_dir("profiles") / "truth"


def _read(kind: type[FileT], name: str) -> FileT:
    path = truth_dir() / name
    try:
        return kind.model_validate(yaml.safe_load(read_text(path, "alias")))
    except (yaml.YAMLError, ValidationError) as error:
        raise InputError(str(error), where=path) from None


@lru_cache(maxsize=1)
def _aliases() -> _Aliases:
    return _read(_Aliases, "aliases.yaml")


@lru_cache(maxsize=1)
def _by_name() -> Mapping[str, _ModelAlias]:
    return {name.lower(): alias for alias in _aliases().models for name in alias.names}


@lru_cache(maxsize=1)
def _rules() -> tuple[LoadRule, ...]:
    return tuple(_with_fitted(rule) for rule in _read(_Loads, "loads.yaml").rules)


def _with_fitted(rule: LoadRule) -> LoadRule:
    """A rule with the constants that a fit has found for it: ``load.RULE.FIELD``."""
    constants = load_fit("serving").constants
    own = {name.split(".")[2]: value for name, value in constants.items() if name.startswith(f"load.{rule.name}.")}
    return rule.model_copy(update=own)


def load_of(layout: str, row: Row) -> LoadRule:
    """The rule of ``loads.yaml`` for a row; the last one fits any."""
    return next(rule for rule in _rules() if rule.fits(layout, row))


@lru_cache(maxsize=64)
def model_of(written: str, precision: str = "", engine: str = "") -> ModelSpec:
    """Model of a name in a truth file, in the formats that its precision stands for.

    Parameters
    ----------
    written
        The name: an alias, or one that ships.
    precision
        As the file writes it; "" for the model's own.
    engine
        Which engine runs it, where that decides the format of the KV cache.

    Raises
    ------
    SkipRowError
        If either is unknown.

    Examples
    --------
    >>> model = model_of("meta-llama/Llama-3.1-70B", "fp8")
    >>> model.name, model.weight_dtype, model.kv_dtype
    ('llama-3.1-70b', 'fp8', 'fp8')
    """
    formats = _aliases().formats.get(precision.lower())
    if formats is None:
        raise SkipRowError(f"precision {precision!r} is not known")
    alias = _alias_of(written)
    if alias is not None and alias.config is not None:
        return model_from_config(alias.config, name=alias.names[0], source="profiles/truth/aliases.yaml")
    try:
        name = _shipped_name(written) if alias is None or alias.model is None else alias.model
        return load_model(
            name,
            weight_dtype=None if alias is not None and alias.own_format and _holds(name, formats) else formats.weight,
            kv_dtype=None if engine in _aliases().own_kv else (alias and alias.kv) or formats.kv,
        )
    except InputError:
        raise SkipRowError(f"model {written!r} does not ship, and no alias names it") from None


def _plain(written: str) -> str:
    """A name without its organisation, and without endings that do not change a model's shape.

    Examples
    --------
    >>> _plain("RedHatAI/Llama-3.3-70B-Instruct-FP8-dynamic"), _plain("meta-llama/Meta-Llama-3.1-8B")
    ('llama-3.3-70b', 'llama-3.1-8b')
    """
    name = re.sub(r"[\s_]+", "-", written.rsplit("/", 1)[-1].strip().lower()).removeprefix("meta-")
    while (shorter := _ENDING.sub("", name)) != name:
        name = shorter
    return name


def _alias_of(written: str) -> _ModelAlias | None:
    """The alias of a name as written, or of one that differs in organisation and endings only."""
    found = _by_name().get(written.lower())
    if found is None and written.lower() not in list_models():
        plain = _plain(written)
        found = next((alias for name, alias in _by_name().items() if _plain(name) == plain), None)
    return found


def _shipped_name(written: str) -> str:
    """A shipped model's name for one that has no alias."""
    names = (written.lower(), re.sub(r"[\s_]+", "-", written.rsplit("/", 1)[-1].lower()), _plain(written))
    return next((name for name in names if name in list_models()), written)


def _holds(name: str, formats: _Format) -> bool:
    """Whether a checkpoint's own format can be what a precision names: one in fewer bits is another checkpoint."""
    return formats.weight is None or DTYPE_BYTES[formats.weight] >= DTYPE_BYTES[load_model(name).weight_dtype]


def device_of(written: str) -> DeviceProfile:
    """GPU type of a name in a truth file.

    Raises
    ------
    SkipRowError
        If it is unknown.
    """
    try:
        return load_device(_aliases().devices.get(written, written))
    except InputError:
        raise SkipRowError(f"GPU {written!r} has no profile") from None
