"""Sailor's measurements as arrays: layer times, layer sizes and network fits of ``profiles/measured/*/sailor_*.csv``.

Its software trains in fp32 under Megatron-DeepSpeed: sizes are bytes of 4-byte numbers, the first layer is the
embedding and the last the head, and times at TP > 1 hold the collectives of tensor parallelism.

Legend: L layer, embedding and head included, M microbatch size.

References
----------
F. Strati et al., "Sailor: automating distributed training over dynamic, heterogeneous, and geo-distributed clusters",
SOSP 2025, and its artifact (MIT).
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.measured_layers import MeasuredLayers
from planner.errors import InputError
from planner.resources import read_text, resource_dir

if TYPE_CHECKING:
    from planner.cost._types import Array

__all__ = ["SIMULATED_MEMORY", "LayerSizes", "LinkFit", "SailorTables", "load_sailor_tables"]

SIMULATED_MEMORY: Final = {"a100_sxm_40": 42_338_615_296.0}
"""Bytes of a GPU where Sailor's simulator counts others than the data sheet."""

_GIGA, _MEGA = 1e9, 1e6


@dataclass(frozen=True, slots=True)
class LinkFit:
    """Bandwidth by message size: a quadratic in the logarithm of the size, and the highest that was measured."""

    square: float
    linear: float
    constant: float
    peak: float

    def seconds(self, message: float) -> float:
        """Seconds of a message of so many bytes, by the polynomial alone as the fit states it."""
        x = np.log2(message / _MEGA)
        return float(message / _GIGA / np.polyval([self.square, self.linear, self.constant], x))

    def bandwidth(self, message: float) -> float:
        """Bytes/s for a message, never above the peak; the peak where the fit leaves its range."""
        value = message / self.seconds(message)
        return min(value, self.peak) if value > 0 else self.peak

    def bandwidths(self, messages: Array) -> Array:
        """Bytes/s for messages of any shape, as `bandwidth`; the peak for none."""
        x = np.log2(np.maximum(messages, 1e-3) / _MEGA)
        value = _GIGA * np.polyval([self.square, self.linear, self.constant], x)
        return np.asarray(np.where(value > 0, np.minimum(value, self.peak), self.peak))


@dataclass(frozen=True, slots=True, eq=False)
class LayerSizes:
    """Bytes of each layer on one GPU: parameters, output of a sequence, activations of a sequence."""

    parameters_L: Array
    output_L: Array
    activations_L: Array


@dataclass(frozen=True, eq=False)
class SailorTables:
    """Everything measured for one model.

    Parameters
    ----------
    model
        Its name.
    times
        Forward, backward and update seconds of each layer, shape (layers, 3), by (device, TP, microbatch).
    sizes
        By TP.
    node_links
        Fits between nodes by (device, TP), both ends alike.
    zone_links
        Fits inside a cloud zone by (device, TP, device, TP, zone).
    sequence_length
        Tokens of a sequence when it was measured; 0: not known.
    """

    model: str
    times: Mapping[tuple[str, int, int], Array]
    sizes: Mapping[int, LayerSizes]
    node_links: Mapping[tuple[str, int], LinkFit]
    zone_links: Mapping[tuple[str, int, str, int, str], LinkFit]
    sequence_length: int = 0

    @property
    def num_layers(self) -> int:
        """Layers, embedding and head included."""
        return len(next(iter(self.sizes.values())).parameters_L)

    @cached_property
    def _layers(self) -> dict[str, MeasuredLayers]:
        return {}

    def measured_layers(self, device: str) -> MeasuredLayers:
        """Everything measured on a GPU type, to be looked up at sizes that were measured or not.

        Raises
        ------
        InputError
            If nothing was.
        """
        if device not in self._layers:
            points = {(tp, m): times for (name, tp, m), times in self.times.items() if name == device}
            if not points:
                known = ", ".join(sorted({name for name, _, _ in self.times}))
                raise InputError(f"{self.model} was not measured on {device}", expected=f"one of {known}")
            self._layers[device] = MeasuredLayers.of_points(self.model, points, ("forward", "backward", "update"))
        return self._layers[device]

    def layer_times(self, device: str, tp: int, microbatch: int) -> Array:
        """Forward, backward and update seconds of each layer, as measured; shape (layers, 3).

        Raises
        ------
        InputError
            If that was not measured; names what was.
        """
        found = self.times.get((device, tp, microbatch))
        if found is None:
            known = sorted({f"TP {t} microbatch {m}" for d, t, m in self.times if d == device})
            raise InputError(
                f"{self.model} was not measured on {device} with TP {tp} and a microbatch of {microbatch}",
                expected=", ".join(known) or "another GPU type",
            )
        return found

    def microbatches(self, device: str, tp: int) -> tuple[int, ...]:
        """Microbatches that were measured, sorted."""
        return tuple(sorted(m for d, t, m in self.times if (d, t) == (device, tp)))


def _rows(path: Path) -> Iterable[dict[str, str]]:
    return csv.DictReader(read_text(path, "measured table").splitlines())


def _fit(row: Mapping[str, str]) -> LinkFit:
    return LinkFit(float(row["square"]), float(row["linear"]), float(row["constant"]), float(row["peak"]))


@lru_cache(maxsize=8)
def load_sailor_tables(model: str, folder: Path | None = None) -> SailorTables:
    """Read what was measured for a model.

    Parameters
    ----------
    model
        Its name.
    folder
        Where ``planner profile import sailor`` has written tables; None: those that ship.

    Raises
    ------
    InputError
        If the model was not measured.

    Examples
    --------
    >>> load_sailor_tables("opt-350m").num_layers
    26
    """
    root = resource_dir("profiles") / "measured" if folder is None else folder
    table = root / "any" / "sailor_layer_sizes.csv"
    if folder is not None and not table.is_file():
        raw = (folder / "layer_profiles.json").is_file()
        raise InputError(
            "holds Sailor's own files, not tables" if raw else "holds no tables of Sailor's",
            where=folder,
            expected="any/sailor_layer_sizes.csv, and sailor_layers.csv and sailor_links.csv in a folder for each GPU",
            hint=f"planner profile import sailor {folder if raw else '<its folder>'} -o <another folder>",
        )
    length = 0
    known: list[str] = []
    sizes: dict[int, LayerSizes] = {}
    parts: dict[int, list[tuple[float, float, float]]] = {}
    for row in _rows(table):
        known.append(row["model"])
        if row["model"] == model:
            length = int(row["seq_len"])
            one = float(row["parameters"]), float(row["output"]), float(row["activations"])
            parts.setdefault(int(row["tp"]), []).extend([one] * int(row.get("layers") or 1))
    if not parts:
        raise InputError(
            f"has no measured layers of {model}", where=table, expected=f"one of {', '.join(sorted(set(known)))}"
        )
    for tp, values in parts.items():
        sizes[tp] = LayerSizes(*np.array(values).T)
    times: dict[tuple[str, int, int], list[tuple[float, float, float]]] = {}
    node_links: dict[tuple[str, int], LinkFit] = {}
    zone_links: dict[tuple[str, int, str, int, str], LinkFit] = {}
    for path in sorted(root.glob("*/sailor_layers.csv")):
        for row in _rows(path):
            if row["model"] == model:
                key = path.parent.name, int(row["tp"]), int(row["microbatch"])
                seconds = float(row["forward"]), float(row["backward"]), float(row["update"])
                times.setdefault(key, []).extend([seconds] * int(row.get("layers") or 1))
    for path in sorted(root.glob("*/sailor_links.csv")):
        for row in _rows(path):
            here = path.parent.name, int(row["gpus"])
            if row["scope"] == "nodes" and not row.get("peer"):
                node_links[here] = _fit(row)
            elif row["scope"] == "nodes" and row["zone"] == row["peer_zone"]:  # pairs in one zone
                zone_links[(*here, row["peer"], int(row["peer_gpus"]), row["zone"])] = _fit(row)
    arrays = {key: np.array(values) for key, values in times.items()}
    return SailorTables(model, arrays, sizes, node_links, zone_links, length)
