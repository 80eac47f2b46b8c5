"""Fitted kernel surfaces that ship by GPU type: ``profiles/measured/<device>/<family>.npz`` and its sidecar.

A GPU type without measurements of its own takes those of the nearest relative, as a share of its own roofline; that
is an estimate, and its error is wider.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from planner.cluster.surface import Surface, read_surfaces
from planner.errors import InputError
from planner.resources import read_text, resource_dir

if TYPE_CHECKING:
    from planner.cluster import DeviceProfile
    from planner.plan.figure import Provenance

__all__ = ["FittedSurface", "SurfaceOrigin", "TRANSFER_ERROR", "fitted_surfaces", "surface_folder"]

# Relative error of a kernel's share of the roofline on another GPU type: between H100 and H200, and H200 and B200, the
# measured shares differ by that much at the median.
TRANSFER_ERROR: Final = 0.35


class SurfaceOrigin(BaseModel):
    """The ``.yaml`` beside a file of surfaces.

    Parameters
    ----------
    family
        ``moe`` or ``mla``.
    device, compute_capability
        What was measured.
    title, source, licence, date
        Provenance.
    flops, memory_bandwidth
        Roofline that the shares refer to, where the device has no profile of its own to look it up in.
    errors
        By surface: median relative error on what the fit had not seen.
    shapes
        By surface of corrections: the shapes along its first axis, numbered from 1, with the median relative error of
        each.
    basis
        How these errors were found.
    note
        What a reader must know.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    device: str
    compute_capability: str
    title: str
    source: str
    licence: str
    date: str
    memory_bandwidth: float
    flops: dict[str, float]
    errors: dict[str, float] = Field(min_length=1)
    shapes: dict[str, dict[str, float]] = Field(default_factory=dict)
    basis: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class FittedSurface:
    """A surface with its error and what it rests on.

    Parameters
    ----------
    surface, error, provenance
        Values, their relative error, and where they come from.
    corrections, shape_errors
        Factors by shape (numbered from 1 in the order of `shape_errors`) and the surface's own other axes, with the
        error that is left, where shapes were measured one by one.
    """

    surface: Surface
    error: float
    provenance: Provenance
    corrections: Surface | None = None
    shape_errors: Mapping[str, float] = field(default_factory=dict)


def surface_folder() -> Path:
    """Folder of the shipped surfaces, one folder a device."""
    return resource_dir("profiles") / "measured"


@lru_cache(maxsize=64)
def _origin(path: Path) -> SurfaceOrigin:
    try:
        return SurfaceOrigin.model_validate(yaml.safe_load(read_text(path, "provenance")))
    except (yaml.YAMLError, ValidationError) as error:
        raise InputError(str(error), where=path) from None


@lru_cache(maxsize=8)
def _shipped(family: str) -> Mapping[str, SurfaceOrigin]:
    return {
        path.parent.name: _origin(path.with_suffix(".yaml")) for path in sorted(surface_folder().glob(f"*/{family}.npz"))
    }


@lru_cache(maxsize=64)
def _read(device: str, family: str) -> Mapping[str, Surface]:
    return read_surfaces(surface_folder() / device / f"{family}.npz")


def fitted_surfaces(device: DeviceProfile, family: str) -> Mapping[str, FittedSurface]:
    """Surfaces of a family for a GPU type: its own, or a relative's; empty where there is none.

    A relative has the same compute capability, or at least the same generation (its first digits).

    Examples
    --------
    >>> from planner.cluster import load_device
    >>> surface = fitted_surfaces(load_device("h200"), "moe")["trtllm.fp8_block"]
    >>> surface.provenance, surface.surface.names
    ('fitted', ('tokens_per_expert', 'width', 'work'))
    """
    nvidia = device.vendor == "NVIDIA"
    return _surfaces(device.name, device.compute_capability if nvidia else None, device.memory_bandwidth.value, family)


@lru_cache(maxsize=64)
def _surfaces(name: str, capability: str | None, bandwidth: float, family: str) -> Mapping[str, FittedSurface]:
    shipped = _shipped(family)
    lender = name if name in shipped else _relative(capability, bandwidth, shipped)
    if lender is None:
        return {}
    own, origin, surfaces = lender == name, shipped[lender], _read(lender, family)
    least = 0.0 if own else TRANSFER_ERROR
    return {
        key: FittedSurface(
            surfaces[key],
            max(error, least),
            "fitted" if own else "spec",
            surfaces.get(f"{key}.shapes"),
            {shape: max(e, least) for shape, e in origin.shapes.get(f"{key}.shapes", {}).items()},
        )
        for key, error in origin.errors.items()
    }


def _relative(capability: str | None, bandwidth: float, shipped: Mapping[str, SurfaceOrigin]) -> str | None:
    if capability is None:
        return None
    same = [name for name, origin in shipped.items() if origin.compute_capability == capability]
    generation = capability.split(".")[0]
    kin = [name for name, origin in shipped.items() if origin.compute_capability.split(".")[0] == generation]
    return min(
        same or kin, key=lambda name: (abs(shipped[name].memory_bandwidth / bandwidth - 1.0), name), default=None
    )
