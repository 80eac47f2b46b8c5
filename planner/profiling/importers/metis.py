"""Profiles in the format of Metis (USENIX ATC 2024): JSON files of layer times, a hostfile and a clusterfile.

``DeviceType.<GPU>_tp<TP>_bs<microbatch>.json`` holds ``model.parameters.parameters_per_layer_bytes`` and, under
``execution_time`` and ``execution_memory``, milliseconds and MB. The hostfile says ``<address> slots=<GPUs>`` a line,
the clusterfile ``{"<address>": {"instance_type", "inter_bandwidth", "intra_bandwidth", "memory"}}`` with memory in GB
and bandwidths in GB/s; the format's own description writes bytes/s, which is told apart by size. This reads the format;
nothing in it comes from that project.

References
----------
Um et al., Metis: Fast Automatic Distributed Training on Heterogeneous GPUs, USENIX ATC 2024.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from planner.cluster import load_device
from planner.cluster.loading import validated
from planner.cluster.spec import ClusterSpec
from planner.errors import InputError
from planner.profiling.importers.base import Imported, device_named, mapping_at, number_list, read_json
from planner.profiling.tables import Origin
from planner.resources import read_text

__all__ = ["import_metis", "read_metis_cluster"]

_NAME: Final = re.compile(r"(?:DeviceType\.)?(?P<gpu>.+)_tp(?P<tp>\d+)_bs(?P<microbatch>\d+)\.json")
_HOST: Final = re.compile(r"(?P<address>\S+)\s+slots\s*=\s*(?P<slots>\d+)\s*")
_MB: Final = 1e6
_FORWARD_SHARE: Final = 1.0 / 3.0  # a backward pass multiplies twice as much
_BYTES_PER_SECOND_FROM: Final = 1e5  # no link carries 100 TB/s: a larger number is in bytes/s


def import_metis(path: Path, *, device: str | None = None) -> Iterator[Imported]:
    """Read profiles in Metis' format.

    Parameters
    ----------
    path
        Folder of ``DeviceType.<GPU>_tp<TP>_bs<microbatch>.json`` files.
    device
        The only GPU type to read; None reads all.

    Yields
    ------
    Imported
        ``training_layer``, ``training_step`` and ``layer_size`` tables for each GPU type.

    Raises
    ------
    InputError
        If there is no such file, or one lacks a field: names it.
    """
    files = [(file, match) for file in sorted(path.glob("*.json")) if (match := _NAME.fullmatch(file.name))]
    if not files:
        raise InputError(
            "holds no profile in Metis' format",
            where=path,
            expected="files called DeviceType.<GPU>_tp<TP>_bs<size>.json",
        )
    only = None if device is None else device_named(device, "--device")
    by_device: dict[str, list[tuple[Path, int, int]]] = {}
    for file, match in files:
        gpu = device_named(match["gpu"], file, "the GPU in its name")
        if only in (None, gpu):
            by_device.setdefault(gpu, []).append((file, int(match["tp"]), int(match["microbatch"])))
    for gpu in sorted(by_device):
        yield from _tables(gpu, sorted(by_device[gpu], key=lambda entry: entry[1:]))


class _Profile:
    """One file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.data = mapping_at(read_json(file, "a profile in Metis' format"), file, "", "model, execution_time, …")

    def at(self, *keys: str, instead: str | None = None) -> Any:
        value: Any = self.data
        for depth, key in enumerate(keys):
            inside = mapping_at(value, self.file, ".".join(keys[:depth]), f"an object with {key}")
            if key not in inside and depth == len(keys) - 1 and instead in inside:
                key = str(instead)
            if key not in inside:
                raise InputError(
                    "is missing", where=self.file, field=".".join(keys[: depth + 1]), expected="as Metis' format has it"
                )
            value = inside[key]
        return value

    def number(self, *keys: str) -> float:
        return number_list([self.at(*keys)], self.file, ".".join(keys), "a number", 1)[0]

    def numbers(self, *keys: str, instead: str | None = None) -> list[float]:
        return number_list(self.at(*keys, instead=instead), self.file, ".".join(keys), "one number for each layer")


def _tables(device: str, entries: list[tuple[Path, int, int]]) -> Iterator[Imported]:
    layers: dict[str, list[Any]] = {
        name: [] for name in ("model", "layer", "tp", "microbatch", "split", "forward", "backward", "memory")
    }
    steps: dict[str, list[Any]] = {
        name: [] for name in ("model", "tp", "microbatch", "forward_backward", "optimizer", "batch_generation")
    }
    sizes: dict[str, list[Any]] = {name: [] for name in ("model", "layer", "tp", "parameters")}
    places: dict[str, list[str]] = {"layers": [], "steps": [], "sizes": []}
    folder = entries[0][0].parent
    seen: set[tuple[str, int]] = set()
    for file, tp, microbatch in entries:
        profile = _Profile(file)
        model = str(profile.at("model", "model_name"))
        times = profile.numbers("execution_time", "layer_compute_total_ms")
        memory = profile.numbers("execution_memory", "layer_memory_total_mb")
        parameters = profile.numbers("model", "parameters", "parameters_per_layer_bytes")
        for name, values in (("layer_memory_total_mb", memory), ("parameters_per_layer_bytes", parameters)):
            if len(values) != len(times):
                raise InputError(
                    f"{len(values)} layers where layer_compute_total_ms has {len(times)}", where=file, field=name
                )
        for layer, (time, size) in enumerate(zip(times, memory, strict=True)):
            seconds = time * 1e-3
            forward = seconds * _FORWARD_SHARE
            _add(layers, (model, layer, tp, microbatch, "assumed", forward, seconds - forward, size * _MB))
            places["layers"].append(f"{file}: layer {layer}")
        step = [
            profile.number("execution_time", f"{name}_time_ms") * 1e-3
            for name in ("forward_backward", "optimizer", "batch_generator")
        ]
        _add(steps, (model, tp, microbatch, *step))
        places["steps"].append(str(file))
        if (model, tp) not in seen:
            seen.add((model, tp))
            for layer, size in enumerate(parameters):
                _add(sizes, (model, layer, tp, size))
                places["sizes"].append(f"{file}: layer {layer}")
    for name, kind, columns in (
        ("layers", "training_layer", layers),
        ("steps", "training_step", steps),
        ("sizes", "layer_size", sizes),
    ):
        origin = _origin(kind, device, folder)
        yield Imported.of(f"metis_{name}", origin, columns, where=folder, places=places[name], digits=None)


def _add(columns: dict[str, list[Any]], row: tuple[Any, ...]) -> None:
    for values, value in zip(columns.values(), row, strict=True):
        values.append(value)


def _origin(kind: str, device: str, folder: Path) -> Origin:
    return Origin(
        table=kind,
        device=device,
        title=f"{kind.replace('_', ' ')}s of a profile in Metis' format",
        source=f"profile in Metis' format: {folder.name}",
        licence="as its owner says",
        date="2024",
        note="Forward and backward were measured together; a third is written as forward. MB are 1e6 bytes. Memory of "
        "a layer holds weights, gradients, optimizer state and activations.",
    )


def read_metis_cluster(hostfile: Path, clusterfile: Path, *, latency: float = 10e-6) -> ClusterSpec:
    """Read a hostfile and a clusterfile as a cluster.

    Parameters
    ----------
    hostfile
        ``<address> slots=<GPUs>`` a line.
    clusterfile
        JSON object by address: ``instance_type``, ``inter_bandwidth``, ``intra_bandwidth``, ``memory``.
    latency
        Seconds that a message takes at least; the format has none.

    Returns
    -------
    ClusterSpec
        One group for each node, in the order of the hostfile; the GPU types are those of the registry.

    Raises
    ------
    InputError
        If a line or a field is wrong or missing: names it.
    """
    nodes = mapping_at(read_json(clusterfile, "a clusterfile"), clusterfile, "", "an object by address")
    groups: list[dict[str, Any]] = []
    for number, line in enumerate(read_text(hostfile, "hostfile").splitlines(), start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        match = _HOST.fullmatch(text)
        if match is None:
            raise InputError(
                f"found {text!r}", where=f"{hostfile}:{number}", expected="<address> slots=<GPUs>: 10.0.0.1 slots=4"
            )
        address = match["address"]
        if address not in nodes:
            raise InputError(
                f"names {address}, which is not in the clusterfile",
                where=f"{hostfile}:{number}",
                expected=f"one of {', '.join(list(nodes)[:8])}",
            )
        groups.append(_node(address, int(match["slots"]), len(groups), nodes[address], clusterfile, latency))
    if not groups:
        raise InputError("names no node", where=hostfile, expected="<address> slots=<GPUs> a line")
    data = {
        "name": "metis-cluster",
        "kind": "spec",
        "source": f"{hostfile.name} and {clusterfile.name}",
        "date": "2024",
        "nodes": groups,
    }
    return validated(ClusterSpec, data, clusterfile)


def _node(address: str, slots: int, number: int, entry: Any, file: Path, latency: float) -> dict[str, Any]:
    fields: Mapping[str, Any] = mapping_at(
        entry, file, address, "instance_type, inter_bandwidth, intra_bandwidth, memory"
    )
    for name in ("instance_type", "inter_bandwidth", "intra_bandwidth", "memory"):
        if name not in fields:
            raise InputError("is missing", where=file, field=f"{address}.{name}", expected="as the format has it")
    memory = number_list([fields["memory"]], file, f"{address}.memory", "GB", 1)[0]
    gpu = _gpu(str(fields["instance_type"]), memory, file, f"{address}.instance_type")
    inter, intra = (
        _bandwidth(fields[name], file, f"{address}.{name}") for name in ("inter_bandwidth", "intra_bandwidth")
    )
    return {
        "name": f"node{number}",
        "gpu": gpu,
        "gpus_per_node": slots,
        "intra_link": {"bandwidth": intra, "latency": latency},
        "nic": {"bandwidth": inter, "latency": latency},
    }


def _gpu(name: str, memory: float, file: Path, field: str) -> str:
    """GPU type by name and memory: ``V100`` with 32 GB is another than with 16."""
    for spelling in (f"{name}-{memory:g}", name):
        try:
            gpu = load_device(spelling)
        except InputError:
            continue
        if abs(gpu.memory.value / (memory * 1e9) - 1.0) < 0.25:
            return gpu.name
    return device_named(name, file, field)


def _bandwidth(value: Any, file: Path, field: str) -> float:
    number = number_list([value], file, field, "GB/s", 1)[0]
    if number <= 0:
        raise InputError(f"found {number:g}", where=file, field=field, expected="more than 0 GB/s")
    return number if number >= _BYTES_PER_SECOND_FROM else number * 1e9
