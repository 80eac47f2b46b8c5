"""Sailor (SOSP 2025): training times of layers, sizes of layers, and bandwidth by message size.

Its artifact holds four JSON files, each of which may be missing: ``layer_profiles.json`` (model, GPU, microbatch, TP,
layer: forward, backward and update in seconds), ``model_layers.json`` (model, TP, layer: floats and bytes),
``network_coeffs_all_homo.json`` (within a node by GPUs, from node to node by TP) and ``multizone_bandwidths_het.json``
(from any zone, GPU and TP to any other). Bandwidth in GB/s is a polynomial in log2(bytes / 1e6).

References
----------
Strati et al., Sailor: Automating Distributed Training over Dynamic, Heterogeneous, and Geo-distributed Clusters,
SOSP 2025.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from planner.errors import InputError
from planner.profiling.importers.base import (
    ANY_DEVICE,
    Imported,
    device_named,
    mapping_at,
    number_list,
    read_json,
)
from planner.profiling.tables import Origin

__all__ = ["import_sailor"]

_LAYERS: Final = "layer_profiles.json"
_SIZES: Final = "model_layers.json"
_LINKS: Final = "network_coeffs_all_homo.json"
_ZONES: Final = "multizone_bandwidths_het.json"
_FILES: Final = (_LAYERS, _SIZES, _LINKS, _ZONES)

# Its model -> ours, and the sequence length that it was profiled at.
_MODELS: Final = {
    "OPT-350": ("opt-350m", 2048),
    "GPT-Neo-2.7": ("gpt-neo-2.7b", 2048),
    "OPT-30": ("opt-30b", 2048),
    "LLAMA-3-8": ("llama-3-8b", 8192),
}
# The artifact does not tell the Ti from the plain one; only the Ti has a profile here.
_DEVICES: Final = {"RTX-2080": "rtx_2080_ti"}
_SOURCE: Final = "Sailor artifact (SOSP 2025), MIT: {file}"
_DATE: Final = "2025-08"
_LICENCE: Final = "MIT"

Columns = dict[str, list[Any]]


def import_sailor(path: Path, *, device: str | None = None) -> Iterator[Imported]:
    """Read Sailor's measurements.

    Parameters
    ----------
    path
        The folder with its JSON files, or one of them.
    device
        The only GPU type to read; None reads all.

    Yields
    ------
    Imported
        ``training_layer``, ``link_fit`` and (for every GPU type alike) ``layer_size`` tables, numbers exactly as
        published.

    Raises
    ------
    InputError
        If there is none of its files, or one is not what it must be.
    """
    files = [path] if path.is_file() else [path / name for name in _FILES if (path / name).is_file()]
    if not files or files[0].name not in _FILES:
        raise InputError("holds no file of Sailor's", where=path, expected=f"one of {', '.join(_FILES)}")
    only = None if device is None else device_named(device, "--device")
    tables = {file.name: file for file in files}
    if _LAYERS in tables:
        yield from _layers(tables[_LAYERS], only)
    if _SIZES in tables and only is None:
        yield _sizes(tables[_SIZES])
    if _LINKS in tables or _ZONES in tables:
        yield from _links(tables.get(_LINKS), tables.get(_ZONES), only)


def _device(name: str, path: Path, field: str) -> str:
    return device_named(_DEVICES.get(name, name), path, field)


def _layers(path: Path, only: str | None) -> Iterator[Imported]:
    data = mapping_at(read_json(path, "Sailor's layer profiles"), path, "", "model -> GPU -> microbatch -> TP -> layer")
    names = ("model", "layer", "tp", "microbatch", "seq_len", "layers", "forward", "backward", "update")
    by_device: dict[str, Columns] = {}
    places: dict[str, list[str]] = {}
    for model, gpus in data.items():
        name, seq_len = _MODELS.get(model, (model.lower(), 0))
        for gpu, microbatches in mapping_at(gpus, path, model, "GPU -> microbatch").items():
            device = _device(gpu, path, f"{model}.{gpu}")
            if only not in (None, device):
                continue
            columns = by_device.setdefault(device, {column: [] for column in names})
            for microbatch, tps in mapping_at(microbatches, path, f"{model}.{gpu}", "microbatch -> TP").items():
                for tp, layers in mapping_at(tps, path, f"{model}.{gpu}.{microbatch}", "TP -> layer").items():
                    field = f"{model}.{gpu}.{microbatch}.{tp}"
                    listed = mapping_at(layers, path, field, "layer -> [forward, backward, update]")
                    for first, count, times in _alike(listed, path, field, _times):
                        row = (name, first, tp, microbatch, seq_len, count, *times)
                        for column, value in zip(names, row, strict=True):
                            columns[column].append(value)
                        places.setdefault(device, []).append(f"{field}.{first}")
    for device in sorted(by_device):
        yield _imported("sailor_layers", "training_layer", device, by_device[device], path, places[device])


def _times(value: Any, path: Path, field: str) -> tuple[float, ...]:
    return tuple(number_list(value, path, field, "[forward, backward, update] in seconds", 3))


def _bytes(value: Any, path: Path, field: str) -> tuple[float, ...]:
    names = ("params_bytes", "act_input_bytes", "act_output_bytes", "act_mem_bytes")
    entry = mapping_at(value, path, field, f"an object with {', '.join(names)}")
    missing = [name for name in names if name not in entry]
    if missing:
        raise InputError("is missing", where=path, field=f"{field}.{missing[0]}", expected="bytes")
    return tuple(number_list([entry[name] for name in names], path, field, "bytes", 4))


def _alike(layers: Any, path: Path, field: str, read: Any) -> Iterator[tuple[int, int, tuple[float, ...]]]:
    """First layer, number of layers and values of every run of layers that are alike."""
    try:
        numbers = sorted(int(layer) for layer in layers)
    except ValueError:
        raise InputError(f"found {list(layers)[:3]}", where=path, field=field, expected="layers by number") from None
    if numbers != list(range(len(numbers))):
        raise InputError(
            f"{len(numbers)} layers up to number {numbers[-1]}",
            where=path,
            field=field,
            expected="layers 0, 1, 2, … without a gap",
            hint="the file may be cut short; copy it again",
        )
    first, values = 0, read(layers["0"], path, f"{field}.0")
    for number in numbers[1:]:
        these = read(layers[str(number)], path, f"{field}.{number}")
        if these != values:
            yield first, number - first, values
            first, values = number, these
    yield first, len(numbers) - first, values


def _sizes(path: Path) -> Imported:
    data = mapping_at(read_json(path, "Sailor's layer sizes"), path, "", "model -> TP -> layer")
    names = ("model", "layer", "tp", "seq_len", "layers", "parameters", "input", "output", "activations")
    columns: Columns = {name: [] for name in names}
    places = []
    for model, tps in data.items():
        name, seq_len = _MODELS.get(model, (model.lower(), 0))
        for tp in sorted(mapping_at(tps, path, model, "TP -> layer"), key=int):
            field = f"{model}.{tp}"
            for first, count, sizes in _alike(mapping_at(tps[tp], path, field, "layers"), path, field, _bytes):
                for column, value in zip(names, (name, first, tp, seq_len, count, *sizes), strict=True):
                    columns[column].append(value)
                places.append(f"{field}.{first}")
    return _imported("sailor_layer_sizes", "layer_size", ANY_DEVICE, columns, path, places)


def _links(homogeneous: Path | None, zones: Path | None, only: str | None) -> Iterator[Imported]:
    by_device: dict[str, Columns] = {}
    places: dict[str, list[str]] = {}
    names = ("scope", "gpus", "peer", "peer_gpus", "zone", "peer_zone", "square", "linear", "constant", "peak")

    def add(device: str, file: Path, field: str, row: tuple[Any, ...]) -> None:
        if only in (None, device):
            columns = by_device.setdefault(device, {name: [] for name in names})
            for name, value in zip(names, row, strict=True):
                columns[name].append(value)
            places.setdefault(device, []).append(f"{file}: {field}")

    if homogeneous is not None:
        data = mapping_at(read_json(homogeneous, "Sailor's network fits"), homogeneous, "", "intra and inter")
        for part, scope in (("intra", "node"), ("inter", "nodes")):
            if part not in data:
                raise InputError("is missing", where=homogeneous, field=part, expected="GPU -> GPUs -> fit")
            for gpu, counts in mapping_at(data[part], homogeneous, part, "GPU -> GPUs").items():
                device = _device(gpu, homogeneous, f"{part}.{gpu}")
                for gpus, fit in mapping_at(counts, homogeneous, f"{part}.{gpu}", "GPUs -> fit").items():
                    field = f"{part}.{gpu}.{gpus}"
                    add(device, homogeneous, field, (scope, gpus, "", 0, "", "", *_fit(fit, homogeneous, field)))
    if zones is not None:
        for keys, fit in _leaves(read_json(zones, "Sailor's fits between zones"), zones, 6):
            zone, gpu, gpus, peer_zone, peer, peer_gpus = keys
            field = ".".join(keys)
            device, other = _device(gpu, zones, field), _device(peer, zones, field)
            add(device, zones, field, ("nodes", gpus, other, peer_gpus, zone, peer_zone, *_fit(fit, zones, field)))
    where = homogeneous or zones
    assert where is not None
    for device in sorted(by_device):
        yield _imported("sailor_links", "link_fit", device, by_device[device], where, places[device])


def _leaves(data: Any, path: Path, depth: int, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if len(keys) == depth:
        yield keys, data
        return
    for key, inner in mapping_at(data, path, ".".join(keys), "zone -> GPU -> TP -> zone -> GPU -> TP -> fit").items():
        yield from _leaves(inner, path, depth, (*keys, key))


def _fit(value: Any, path: Path, field: str) -> tuple[float, ...]:
    expected = "[[square, linear, constant] in GB/s, peak in bytes/s]"
    if not (isinstance(value, list) and len(value) == 2):
        raise InputError(f"found {str(value)[:60]}", where=path, field=field, expected=expected)
    coefficients = number_list(value[0], path, field, expected, 3)
    return (*coefficients, *number_list([value[1]], path, field, expected, 1))


_TITLES: Final = {
    "training_layer": "forward, backward and update of each layer of OPT, GPT-Neo and LLaMA, by microbatch and TP",
    "layer_size": "parameters and activations of each layer of OPT, GPT-Neo and LLaMA, by TP",
    "link_fit": "bandwidth by message size, within a node, between nodes and between cloud zones",
}
_NOTES: Final = {
    "training_layer": "The first layer is the embedding, the last the head; times at TP > 1 hold its communication. "
    "Where a source writes the update as 0, it was not measured.",
    "layer_size": "fp32 as published (4 bytes a number). Not measured on one GPU type.",
    "link_fit": "The fits describe messages from about 1 MB on.",
}


def _imported(name: str, kind: str, device: str, columns: Columns, path: Path, places: list[str]) -> Imported:
    note = _NOTES[kind]
    if device in _DEVICES.values():
        note += " The artifact says RTX-2080; taken for the Ti."
    origin = Origin(
        table=kind,
        device=device,
        title=_TITLES[kind],
        source=_SOURCE.format(file=path.name),
        licence=_LICENCE,
        date=_DATE,
        software="Megatron-DeepSpeed" if kind == "training_layer" else "",
        kind="fitted" if kind == "link_fit" else "measured",
        note=note,
    )
    return Imported.of(name, origin, columns, where=path, places=places, digits=None)
