"""Surfaces fitted to measured kernels, as they ship: ``profiles/measured/<device>/<family>.npz``, ``.yaml`` beside it.

The ``.npz`` holds the grids (`planner.cluster.surface`), the ``.yaml`` where they come from and how far they miss
measurements that they were not fitted to. `planner.profiling.fit` writes them, the cost model reads them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field

from planner.cluster.loading import read_yaml, validated
from planner.cluster.quantity import DateText, Kind
from planner.cluster.surface import Surface, read_surfaces, write_surfaces
from planner.errors import InputError
from planner.resources import resource_dir

__all__ = [
    "FittedSurface",
    "SurfaceFacts",
    "SurfaceFile",
    "load_fitted",
    "measured_path",
    "read_fitted",
    "write_fitted",
]


class SurfaceFacts(BaseModel):
    """What is known about one surface beside its values.

    Parameters
    ----------
    rows
        Measurements it was fitted to.
    floor
        Seconds that were subtracted from each of them: the launch of the smallest shapes.
    error
        Mean relative error of the time, floor included, of whole shapes that were left out of the fit.
    error_median
        The median of the same.
    error_basis
        What was left out, and how often.
    software
        Library or engine with its version.
    note
        What a reader must know.
    named
        Where the first axis counts things instead of measuring a size: their names in order, numbered from 1, with the
        error of each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: int = Field(ge=1)
    floor: float = Field(default=0.0, ge=0, le=1)
    error: float = Field(ge=0, allow_inf_nan=False)
    error_median: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    error_basis: str = Field(min_length=1)
    software: str = ""
    note: str = ""
    named: dict[str, float] = Field(default_factory=dict)


class SurfaceFile(BaseModel):
    """The ``.yaml`` beside the grids.

    Parameters
    ----------
    device
        GPU type they were measured on.
    title
        What they hold, for people.
    source, licence, date
        Who measured it, under which terms, when published.
    kind
        What the values rest on.
    note
        What a reader must know.
    surfaces
        Facts of each by its name in the ``.npz``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    device: str
    title: str = Field(min_length=1)
    kind: Kind = "fitted"
    source: str = Field(min_length=1)
    licence: str = Field(min_length=1)
    date: DateText
    note: str = ""
    surfaces: dict[str, SurfaceFacts] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class FittedSurface:
    """A surface with what is known about it."""

    surface: Surface
    facts: SurfaceFacts


def read_fitted(path: Path) -> tuple[SurfaceFile, dict[str, FittedSurface]]:
    """Read the surfaces of one family.

    Parameters
    ----------
    path
        The ``.npz``; the ``.yaml`` of the same name lies beside it.

    Raises
    ------
    InputError
        If either is missing or wrong, or one names a surface that the other does not have.
    """
    sidecar = path.with_suffix(".yaml")
    file = validated(SurfaceFile, read_yaml(sidecar, "facts of surfaces")[0], sidecar)
    surfaces = read_surfaces(path)
    if set(surfaces) != set(file.surfaces):
        odd = sorted(set(surfaces) ^ set(file.surfaces))[0]
        raise InputError(f"{odd!r} is in one of the two files only", where=sidecar, expected=f"the surfaces of {path}")
    return file, {name: FittedSurface(surfaces[name], facts) for name, facts in file.surfaces.items()}


def write_fitted(file: SurfaceFile, surfaces: Mapping[str, Surface], path: Path) -> None:
    """Write the surfaces of one family and the facts beside them."""
    write_surfaces(surfaces, path)
    data = {"kind": file.kind, **file.model_dump(exclude_defaults=True)}
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=110)
    path.with_suffix(".yaml").write_text(text, encoding="utf-8")


@lru_cache(maxsize=256)
def load_fitted(device: str, family: str) -> Mapping[str, FittedSurface]:
    """Surfaces that ship for a GPU type; empty where nothing was measured.

    Parameters
    ----------
    device
        Name of its profile.
    family
        ``gemm``, ``attention``, ``collectives`` …

    Examples
    --------
    >>> load_fitted("h200", "gemm")["bf16/vllm"].surface.names
    ('m', 'n', 'k')
    """
    path = measured_path(device, family)
    return read_fitted(path)[1] if path.exists() else {}


def measured_path(device: str, family: str) -> Path:
    """File of the surfaces of a GPU type, where there is one."""
    return resource_dir("profiles") / "measured" / device / f"{family}.npz"
