"""Engine profiles by name or file."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import yaml
from pydantic import ValidationError

from planner.engine.fitted import figure_of, overheads_of, training_times_of
from planner.engine.spec import EngineProfile
from planner.errors import InputError, unknown_name
from planner.resources import read_text, resource_dir

__all__ = ["list_engines", "load_engine"]


def list_engines() -> tuple[str, ...]:
    """Names of the shipped engines.

    Examples
    --------
    >>> list_engines()
    ('generic', 'megatron', 'sglang', 'torchtitan', 'trtllm', 'vllm')
    """
    return tuple(sorted(path.stem for path in (resource_dir("profiles") / "engines").glob("*.yaml")))


def load_engine(name_or_path: str | Path) -> EngineProfile:
    """Load an engine's profile.

    Parameters
    ----------
    name_or_path
        A shipped name (``"vllm"``) or a YAML file.

    Raises
    ------
    InputError
        If there is no such engine or file, or a field is not what it must be.

    Examples
    --------
    >>> load_engine("vllm").uneven_layers
    True
    """
    names = list_engines()
    if isinstance(name_or_path, str) and name_or_path in names:
        return _read(resource_dir("profiles") / "engines" / f"{name_or_path}.yaml")
    path = Path(name_or_path)
    if path.suffix or path.exists() or len(path.parts) > 1:
        return _read(path)
    raise unknown_name("engine", str(name_or_path), names)


def _read(path: Path) -> EngineProfile:
    return _parse(read_text(path, "engine profile"), path)


@lru_cache(maxsize=32)
def _parse(text: str, path: Path) -> EngineProfile:
    try:
        data = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = path if mark is None else f"{path}:{mark.line + 1}:{mark.column + 1}"
        raise InputError(f"is not YAML: {error.problem}", where=where, expected="an engine profile") from None
    except yaml.YAMLError as error:
        raise InputError(f"is not YAML: {error}", where=path, expected="an engine profile") from None
    if not isinstance(data, dict):
        raise InputError("holds no fields", where=path, expected="an engine profile, as name: value lines")
    for field in ("overhead", "offline_overhead"):
        if isinstance(data.get(field), str):  # the name of a fit
            data[field] = overheads_of(data[field], str(data.get("name")))
    if isinstance(data.get("training"), str):
        data["training"] = training_times_of(data["training"])
    if isinstance(data.get("reserved_memory"), str):
        data["reserved_memory"] = figure_of(data["reserved_memory"], "reserved_memory")
    try:
        profile = EngineProfile.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        found = "" if first["type"] == "missing" else f" (found {first['input']!r})"
        raise InputError(
            first["msg"] + found,
            where=path,
            field=".".join(str(part) for part in first["loc"]),
            hint=f"compare with the shipped profiles: {', '.join(list_engines())}",
        ) from None
    shipped = path.parent == resource_dir("profiles") / "engines"
    return profile if shipped else profile.model_copy(update={"loaded_from": str(path)})
