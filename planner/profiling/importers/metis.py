"""Profiles in the format of Metis (USENIX ATC 2024), as measured tables and as a cluster.

What the files look like is in `planner.cost.metis_format`, which reads them.

References
----------
Um et al., Metis: Fast Automatic Distributed Training on Heterogeneous GPUs, USENIX ATC 2024.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from planner.cluster import load_device
from planner.cluster.loading import validated
from planner.cluster.spec import ClusterSpec
from planner.cost.metis_format import MetisNode, metis_profile_files, read_metis_nodes, read_metis_profile
from planner.errors import InputError
from planner.profiling.importers.base import Imported, device_named
from planner.profiling.tables import Origin

__all__ = ["import_metis", "read_metis_cluster"]

_FORWARD_SHARE: Final = 1.0 / 3.0  # a backward pass multiplies twice as much


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
    only = None if device is None else device_named(device, "--device")
    by_device: dict[str, list[tuple[Path, str, int, int]]] = {}
    for entry in metis_profile_files(path):
        gpu = device_named(entry[1], entry[0], "the GPU in its name")
        if only in (None, gpu):
            by_device.setdefault(gpu, []).append(entry)
    for gpu in sorted(by_device):
        yield from _tables(gpu, sorted(by_device[gpu], key=lambda entry: (*entry[2:], entry[0])))


def _tables(device: str, entries: list[tuple[Path, str, int, int]]) -> Iterator[Imported]:
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
    for entry in entries:
        profile = read_metis_profile(*entry)
        file, model, tp, microbatch = profile.file, profile.model, profile.tp, profile.microbatch
        for layer, (seconds, size) in enumerate(zip(profile.time_L, profile.memory_L, strict=True)):
            forward = seconds * _FORWARD_SHARE
            _add(layers, (model, layer, tp, microbatch, "assumed", forward, seconds - forward, size))
            places["layers"].append(f"{file}: layer {layer}")
        _add(steps, (model, tp, microbatch, profile.forward_backward, profile.optimizer, profile.generation))
        places["steps"].append(str(file))
        if (model, tp) not in seen:
            seen.add((model, tp))
            for layer, size in enumerate(profile.parameters_L):
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
    groups = [_node(node, n, clusterfile, latency) for n, node in enumerate(read_metis_nodes(hostfile, clusterfile))]
    data = {
        "name": "metis-cluster",
        "kind": "spec",
        "source": f"{hostfile.name} and {clusterfile.name}",
        "date": "2024",
        "nodes": groups,
    }
    return validated(ClusterSpec, data, clusterfile)


def _node(node: MetisNode, number: int, file: Path, latency: float) -> dict[str, Any]:
    return {
        "name": f"node{number}",
        "gpu": _gpu(node.gpu, node.memory, file, f"{node.address}.instance_type"),
        "gpus_per_node": node.slots,
        "intra_link": {"bandwidth": node.intra, "latency": latency},
        "nic": {"bandwidth": node.inter, "latency": latency},
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
