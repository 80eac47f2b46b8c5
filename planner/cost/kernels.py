"""Measured kernels of dense layers on a GPU type: which surface holds for an engine and a format, ready for arrays.

``seconds = start + roofline / share``. An engine runs its own kernels; without an engine, or where it was not measured,
the best share that any engine reaches. The start of a kernel is the least that any engine's smallest
shapes take: what a table has above that is the time of the host, which CUDA graphs hide and `profiles/engines` holds.

Legend: B batch of loads.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cluster.surface import Surface
from planner.cost.measured import KernelSurface, kernel_surfaces

if TYPE_CHECKING:
    from collections.abc import Sequence

    from planner.cluster import DeviceProfile
    from planner.cost._types import Array
    from planner.plan.figure import Provenance

__all__ = ["AttentionKernel", "GemmKernel", "chosen_surface", "fastest"]

# Formats of a table that stand for a stored format.
_FORMATS: Final[dict[str, tuple[str, ...]]] = {"fp16": ("fp16", "bf16"), "bf16": ("bf16", "fp16")}


def chosen_surface(
    device: DeviceProfile, family: str, key: str, engine: str | None
) -> tuple[KernelSurface, float] | None:
    """Surface of a kernel, and the seconds that its start takes; None where neither device nor relative was measured.

    Parameters
    ----------
    device
        The GPU. A relative's surfaces count only where the device has no measured efficiencies of its own.
    family
        ``"gemm"`` or ``"attention"``.
    key
        Name of the surface before the engine: ``"fp8"``, ``"decode/bf16"``.
    engine
        Whose kernel; None takes the best of all.
    """
    surfaces = kernel_surfaces(device, family)
    names = [name for name in surfaces if name.rpartition("/")[0] == key]
    if not names:
        return None
    own = all(surfaces[name].provenance == "fitted" for name in names)
    if not own and device.efficiency.kind == "measured":
        return None
    alike = [surfaces[name] for name in names]
    start = min(one.floor for one in (surfaces.values() if family == "gemm" else alike))
    mine = surfaces.get(f"{key}/{engine}")
    return (fastest(alike) if mine is None else mine), start


def fastest(surfaces: Sequence[KernelSurface]) -> KernelSurface:
    """The best share at each point of some surfaces over the same axes."""
    first = surfaces[0]
    alike = [one for one in surfaces if one.surface.log_values.shape == first.surface.log_values.shape]
    best = Surface(first.surface.axes, np.max([one.surface.log_values for one in alike], axis=0))
    return replace(first, surface=best, error=max(one.error for one in alike))


class GemmKernel:
    """Matrix products in one format.

    Parameters
    ----------
    surface
        Shares by m, n, k.
    start
        Seconds of a kernel's start.
    """

    __slots__ = ("_curves", "error", "provenance", "start", "surface")

    def __init__(self, surface: KernelSurface, start: float) -> None:
        self.surface, self.start = surface.surface, start
        self.error: float = surface.error
        self.provenance: Provenance = surface.provenance
        self._curves: dict[tuple[float, float], tuple[Array, Array]] = {}

    @classmethod
    def of(cls, device: DeviceProfile, engine: str | None, dtype: str) -> GemmKernel | None:
        """Find the kernel of an engine for a format; None where there is none."""
        return _gemm_kernel(_ByName(device), engine, dtype)

    def share_B(self, m_B: Array, n: float, k: float) -> Array:
        """Share of the roofline; the surface at (n, k) is reduced once and kept."""
        if (n, k) not in self._curves:
            curve = self.surface.fixed(n=n, k=k)
            self._curves[n, k] = np.log(curve.axes[0][1]), curve.log_values
        log_m, log_share = self._curves[n, k]
        return np.asarray(np.exp(np.interp(np.log(np.maximum(m_B, 1e-9)), log_m, log_share)))


class AttentionKernel:
    """Attention of one phase over a KV cache of one format.

    Parameters
    ----------
    surface
        Shares by length or context, parallel, head dimension, and group or window.
    start
        Seconds of a kernel's start.
    """

    __slots__ = ("_planes", "error", "provenance", "start", "surface")

    def __init__(self, surface: KernelSurface, start: float) -> None:
        self.surface, self.start = surface.surface, start
        self.error: float = surface.error
        self.provenance: Provenance = surface.provenance
        self._planes: dict[tuple[float, float], _Plane] = {}

    @classmethod
    def of(cls, device: DeviceProfile, engine: str | None, phase: str, kv_dtype: str) -> AttentionKernel | None:
        """Find the kernel of an engine: ``prefill``, ``prefill_window``, ``decode``; None where there is none."""
        return _attention_kernel(_ByName(device), engine, phase, kv_dtype)

    def share_B(self, tokens_B: Array, parallel_B: Array, head_dim: float, last: float) -> Array:
        """Share of the roofline by length or context, and what runs side by side.

        Parameters
        ----------
        tokens_B, parallel_B
            The first two axes.
        head_dim, last
            The other two: the head dimension, and queries per KV head or the window.
        """
        if (head_dim, last) not in self._planes:
            sizes = {"head_dim": head_dim, self.surface.names[-1]: last}
            self._planes[head_dim, last] = _Plane(self.surface.fixed(**sizes))
        return self._planes[head_dim, last].at_B(tokens_B, parallel_B)


class _Plane:
    """A surface over two sizes, made ready: half the time of `Surface.at`, in the inner loop of a search."""

    __slots__ = ("_log_x", "_log_y", "_places_x", "_places_y", "_values", "_width")

    def __init__(self, surface: Surface) -> None:
        (_, x), (_, y) = surface.axes
        self._log_x, self._log_y = np.log(x), np.log(y)
        self._places_x, self._places_y = np.arange(len(x), dtype=float), np.arange(len(y), dtype=float)
        self._width = len(y)
        self._values = surface.log_values.ravel()

    def at_B(self, x_B: Array, y_B: Array) -> Array:
        place_B = np.interp(np.log(np.maximum(x_B, 1e-9)), self._log_x, self._places_x)
        row_B = np.minimum(place_B.astype(np.intp), len(self._places_x) - 2)
        u_B = place_B - row_B
        place_B = np.interp(np.log(np.maximum(y_B, 1e-9)), self._log_y, self._places_y)
        column_B = np.minimum(place_B.astype(np.intp), self._width - 2)
        v_B = place_B - column_B
        at_B = row_B * self._width + column_B
        values = self._values
        lower_B = values[at_B] + v_B * (values[at_B + 1] - values[at_B])
        at_B = at_B + self._width
        upper_B = values[at_B] + v_B * (values[at_B + 1] - values[at_B])
        return np.asarray(np.exp(lower_B + u_B * (upper_B - lower_B)))


class _ByName:
    """A device as the key of a cache: what its kernels follow from."""

    __slots__ = ("_key", "device")

    def __init__(self, device: DeviceProfile) -> None:
        self.device = device
        self._key = (
            device.name,
            device.vendor,
            device.compute_capability,
            device.memory_bandwidth.value,
            device.efficiency.kind,
        )

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ByName) and self._key == other._key


@lru_cache(maxsize=256)
def _gemm_kernel(key: _ByName, engine: str | None, dtype: str) -> GemmKernel | None:
    for name in _FORMATS.get(dtype, (dtype,)):
        found = chosen_surface(key.device, "gemm", name, engine)
        if found is not None:
            return GemmKernel(*found)
    return None


@lru_cache(maxsize=256)
def _attention_kernel(key: _ByName, engine: str | None, phase: str, kv_dtype: str) -> AttentionKernel | None:
    wanted = "fp8" if kv_dtype in ("fp8", "int8") else "bf16"
    for form in (wanted, "bf16"):
        found = chosen_surface(key.device, "attention", f"{phase}/{form}", engine)
        if found is not None:
            return AttentionKernel(*found)
    return None
