"""A quantity over several sizes at once: a grid of values, read in log space.

Surfaces hold what kernels were measured to reach, as a share of the roofline or in seconds, over the sizes that decide
it. They are data: `planner.profiling.fit` makes them from measured tables, the cost model reads them.

Legend: B batch of points, C corner of a grid cell.
"""

from __future__ import annotations

import itertools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from planner.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import ArrayLike, NDArray

__all__ = ["Surface", "read_surfaces", "write_surfaces"]


@dataclass(frozen=True, slots=True)
class Surface:
    """Values on a grid, interpolated linearly in the logarithm of everything.

    Parameters
    ----------
    axes
        Name and increasing positive points of each axis, in the order of the grid's dimensions.
    log_values
        Natural logarithm of the values, one dimension an axis.
    """

    axes: tuple[tuple[str, NDArray[Any]], ...]
    log_values: NDArray[Any]

    def __post_init__(self) -> None:
        """Check that axes and values belong together."""
        shape = tuple(len(points) for _, points in self.axes)
        if shape != self.log_values.shape:
            raise InputError(f"axes of {shape} points for values of shape {self.log_values.shape}")
        for name, points in self.axes:
            if not (np.isfinite(points).all() and (points > 0).all() and (np.diff(points) > 0).all()):
                raise InputError("does not increase from a positive number", field=name, expected="increasing sizes")
        if not np.isfinite(self.log_values).all():
            raise InputError("holds a value that is not finite", expected="positive values")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the axes."""
        return tuple(name for name, _ in self.axes)

    def at(self, *points: ArrayLike) -> NDArray[np.float64]:
        """Values at some points; beyond the end of an axis that end counts.

        Parameters
        ----------
        points
            One array for each axis, of any common shape B.

        Returns
        -------
        array, shape (B,)

        Examples
        --------
        >>> axes = ("m", np.array([1.0, 4.0])), ("n", np.array([1.0, 2.0]))
        >>> Surface(axes, np.log([[1.0, 2.0], [4.0, 8.0]])).at([1, 2, 9], [1, 2, 2]).round(6).tolist()
        [1.0, 4.0, 8.0]
        """
        sizes_B = np.broadcast_arrays(*(np.asarray(one, dtype=float) for one in points))
        lower_B, weight_B = [], []
        for (_, axis), size_B in zip(self.axes, sizes_B, strict=True):
            log_axis = np.log(axis)
            place_B = np.interp(np.log(np.maximum(size_B, 1e-300)), log_axis, np.arange(len(axis)))
            at_B = np.minimum(place_B.astype(np.intp), max(len(axis) - 2, 0))
            lower_B.append(at_B)
            weight_B.append(place_B - at_B)
        total_B = np.zeros(np.shape(sizes_B[0]))
        for corner_C in itertools.product((0, 1), repeat=len(self.axes)):
            share_B = np.ones_like(total_B)
            index = []
            for step, at_B, part_B, (_, axis) in zip(corner_C, lower_B, weight_B, self.axes, strict=True):
                share_B = share_B * (part_B if step else 1.0 - part_B)
                index.append(np.minimum(at_B + step, len(axis) - 1))
            total_B = total_B + share_B * self.log_values[tuple(index)]
        return np.asarray(np.exp(total_B))

    def fixed(self, **sizes: float) -> Surface:
        """Return the same at fixed sizes along some axes, over the others.

        Parameters
        ----------
        sizes
            By name of the axis; beyond its end that end counts.

        Examples
        --------
        >>> axes = ("m", np.array([1.0, 4.0])), ("n", np.array([1.0, 2.0]))
        >>> one = Surface(axes, np.log([[1.0, 2.0], [4.0, 8.0]])).fixed(n=2)
        >>> one.names, one.at([1, 2]).round(6).tolist()
        (('m',), [2.0, 4.0])
        """
        axes, values = [], self.log_values
        for name, points in self.axes:
            if name not in sizes:
                axes.append((name, points))
                continue
            at, place = len(axes), float(np.interp(np.log(sizes[name]), np.log(points), np.arange(len(points))))
            low = min(int(place), max(len(points) - 2, 0))
            high = min(low + 1, len(points) - 1)
            values = values.take(low, at) * (1.0 - (place - low)) + values.take(high, at) * (place - low)
        return Surface(tuple(axes), values)


def write_surfaces(surfaces: Mapping[str, Surface], path: Path) -> None:
    """Write named surfaces to one compressed ``.npz``; values keep half precision, which is 0.1 %."""
    arrays: dict[str, Any] = {}
    for name, surface in surfaces.items():
        for place, (axis, points) in enumerate(surface.axes):
            arrays[f"{name}|{place}|{axis}"] = np.asarray(points, dtype=np.float32)
        arrays[f"{name}|values"] = np.asarray(surface.log_values, dtype=np.float16)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_surfaces(path: Path) -> dict[str, Surface]:
    """Read the surfaces of one file.

    Raises
    ------
    InputError
        If it is missing, cut short, or no file of surfaces.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise InputError("no such file", where=path, expected="surfaces in .npz") from None
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot be read: {error}", where=path, expected="surfaces in .npz, complete") from None
    axes: dict[str, dict[int, tuple[str, NDArray[Any]]]] = {}
    values: dict[str, NDArray[Any]] = {}
    for key, array in arrays.items():
        match key.split("|"):
            case [name, "values"]:
                values[name] = array.astype(float)
            case [name, place, axis] if place.isdigit():
                axes.setdefault(name, {})[int(place)] = (axis, array.astype(float))
            case _:
                raise InputError(f"holds {key!r}", where=path, expected="surfaces as `write_surfaces` writes them")
    return {
        name: Surface(tuple(axes[name][place] for place in sorted(axes[name])), array) for name, array in values.items()
    }
