"""Kernel surfaces for a GPU type: its own, or a relative's where it has none.

A relative's share of the roofline is an estimate for another GPU, with a wider error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from planner.cluster import load_device
from planner.cluster.measured import load_fitted
from planner.resources import resource_dir

if TYPE_CHECKING:
    from planner.cluster import DeviceProfile
    from planner.cluster.surface import Surface
    from planner.plan.figure import Provenance

__all__ = [
    "TRANSFER_ERROR",
    "TRANSFER_ERRORS",
    "KernelSurface",
    "kernel_surfaces",
    "lender_of",
    "measured_devices",
    "relative_of",
]

# Relative error of a share of the roofline on another GPU type; an estimate.
TRANSFER_ERROR: Final = 0.35
# The same where it was found out, as the largest error of predicting a measured GPU type from its relative: of the same
# compute capability, and of the same generation only. `planner.profiling.fit.transfer` finds them again.
TRANSFER_ERRORS: Final[Mapping[str, tuple[float, float]]] = {"gemm": (0.14, 0.30), "attention": (0.22, 0.56)}


@dataclass(frozen=True, slots=True)
class KernelSurface:
    """A surface as the cost model uses it.

    Parameters
    ----------
    surface
        Shares of the roofline.
    error, provenance
        Relative error, and what the values rest on.
    corrections, named
        Factors on it for things measured one by one, numbered from 1 in the order of `named`, with the error of each.
    floor
        Seconds that were subtracted from each measurement.
    """

    surface: Surface
    error: float
    provenance: Provenance
    corrections: Surface | None
    named: Mapping[str, float]
    floor: float = 0.0


def kernel_surfaces(device: DeviceProfile, family: str) -> Mapping[str, KernelSurface]:
    """Surfaces of a family for a GPU type; empty where neither it nor a relative was measured.

    A relative has the same compute capability, or at least the same generation (its first digits).

    Parameters
    ----------
    device
        The GPU.
    family
        ``"gemm"``, ``"attention"``, ``"collectives"``, ``"moe"`` or ``"mla"``.

    Examples
    --------
    >>> from planner.cluster import load_device
    >>> surface = kernel_surfaces(load_device("h200"), "moe")["fp8_block/trtllm"]
    >>> surface.provenance, surface.surface.names
    ('fitted', ('tokens_per_expert', 'width', 'work', 'groups'))
    """
    lender = lender_of(device, family)
    return {} if lender is None else _surfaces(device.name, device.compute_capability, lender, family)


def lender_of(device: DeviceProfile, family: str) -> str | None:
    """GPU type whose surfaces count for one: itself, or the relative that stands in; None where there is none."""
    measured = measured_devices(family)
    return device.name if device.name in measured else _stand_in(device, measured)


@lru_cache(maxsize=64)
def _surfaces(name: str, capability: str | None, lender: str, family: str) -> Mapping[str, KernelSurface]:
    fitted = load_fitted(lender, family)
    own = lender == name
    alike = not own and load_device(lender).compute_capability == capability
    least = 0.0 if own else TRANSFER_ERRORS.get(family, (TRANSFER_ERROR, TRANSFER_ERROR))[0 if alike else 1]
    surfaces = {}
    for key, one in fitted.items():
        if key.endswith("/shapes"):
            continue
        shapes = fitted.get(f"{key}/shapes")
        named = {} if shapes is None else {shape: max(e, least) for shape, e in shapes.facts.named.items()}
        surfaces[key] = KernelSurface(
            surface=one.surface,
            error=max(one.facts.error, least),
            provenance="fitted" if own else "spec",
            corrections=None if shapes is None else shapes.surface,
            named=named,
            floor=one.facts.floor,
        )
    return surfaces


def relative_of(name: str, measured: tuple[str, ...]) -> str | None:
    """GPU type among some measured ones that stands in for another; None where there is no relative."""
    return _stand_in(load_device(name), measured)


def _stand_in(device: DeviceProfile, measured: tuple[str, ...]) -> str | None:
    capability = device.compute_capability if device.vendor == "NVIDIA" else None
    return _relative(capability, device.memory_bandwidth.value, measured)


@lru_cache(maxsize=8)
def measured_devices(family: str) -> tuple[str, ...]:
    """GPU types that have surfaces of a family, sorted."""
    folder = resource_dir("profiles") / "measured"
    return tuple(path.parent.name for path in sorted(folder.glob(f"*/{family}.npz")))


@lru_cache(maxsize=256)
def _relative(capability: str | None, bandwidth: float, measured: tuple[str, ...]) -> str | None:
    if capability is None:
        return None
    known = {name: load_device(name) for name in measured}
    same = [name for name, device in known.items() if device.compute_capability == capability]
    generation = capability.split(".")[0]
    kin = [n for n, device in known.items() if (device.compute_capability or "").split(".")[0] == generation]
    return min(
        same or kin, key=lambda name: (abs(known[name].memory_bandwidth.value / bandwidth - 1.0), name), default=None
    )
