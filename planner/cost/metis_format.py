"""Files in the format of Metis (USENIX ATC 2024): profiles of layers, a hostfile and a clusterfile.

``DeviceType.<GPU>_tp<TP>_bs<microbatch>.json`` holds ``model.parameters.parameters_per_layer_bytes`` and, under
``execution_time`` and ``execution_memory``, milliseconds and MB. The hostfile says ``<address> slots=<GPUs>`` a line,
the clusterfile ``{"<address>": {"instance_type", "inter_bandwidth", "intra_bandwidth", "memory"}}`` with memory in GB
and bandwidths in GB/s; the format's own description writes bytes/s, which is told apart by size. This reads the format;
nothing in it comes from that project.

References
----------
T. Um et al., "Metis: fast automatic distributed training on heterogeneous GPUs", USENIX ATC 2024.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from planner.errors import InputError
from planner.resources import mapping_at, number_list, read_json, read_text

__all__ = ["MetisNode", "MetisProfileFile", "metis_profile_files", "read_metis_nodes", "read_metis_profile"]

_NAME: Final = re.compile(r"(?:DeviceType\.)?(?P<gpu>.+)_tp(?P<tp>\d+)_bs(?P<microbatch>\d+)\.json")
_HOST: Final = re.compile(r"(?P<address>\S+)\s+slots\s*=\s*(?P<slots>\d+)\s*")
_MB: Final = 1e6
_MS: Final = 1e-3
_BYTES_PER_SECOND_FROM: Final = 1e5  # no link carries 100 TB/s: a larger number is in bytes/s
_NODE_FIELDS: Final = ("instance_type", "inter_bandwidth", "intra_bandwidth", "memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetisProfileFile:
    """One profile, in seconds and bytes.

    Parameters
    ----------
    file
        Where it was read.
    gpu, tp, microbatch
        What its name says.
    model
        The model's name.
    time_L, memory_L, parameters_L
        Of each layer: forward and backward, everything that it holds on a GPU, its parameters whole.
    forward_backward, optimizer, generation
        Seconds of the model: forward and backward, an update, making a microbatch.
    """

    file: Path
    gpu: str
    tp: int
    microbatch: int
    model: str
    time_L: tuple[float, ...]
    memory_L: tuple[float, ...]
    parameters_L: tuple[float, ...]
    forward_backward: float
    optimizer: float
    generation: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MetisNode:
    """One line of a hostfile with its entry in the clusterfile.

    Parameters
    ----------
    address, where
        The node, and the file and line that name it.
    gpu, slots
        Its GPU type as written, and how many it has.
    memory
        GB of a GPU.
    intra, inter
        Bytes/s inside the node and to others.
    """

    address: str
    where: str
    gpu: str
    slots: int
    memory: float
    intra: float
    inter: float


def metis_profile_files(folder: Path) -> list[tuple[Path, str, int, int]]:
    """List the profiles of a folder: file, GPU, TP and microbatch, by name.

    Raises
    ------
    InputError
        If there is none.
    """
    found = [(file, match) for file in sorted(folder.glob("*.json")) if (match := _NAME.fullmatch(file.name))]
    if not found:
        raise InputError(
            "holds no profile in Metis' format",
            where=folder,
            expected="files called DeviceType.<GPU>_tp<TP>_bs<size>.json",
        )
    return [(file, match["gpu"], int(match["tp"]), int(match["microbatch"])) for file, match in found]


class _Reader:
    """Fields of one JSON file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.data = mapping_at(read_json(file, "a profile in Metis' format"), file, "", "model, execution_time, …")

    def at(self, *keys: str) -> Any:
        value: Any = self.data
        for depth, key in enumerate(keys):
            inside = mapping_at(value, self.file, ".".join(keys[:depth]), f"an object with {key}")
            if key not in inside:
                raise InputError(
                    "is missing", where=self.file, field=".".join(keys[: depth + 1]), expected="as Metis' format has it"
                )
            value = inside[key]
        return value

    def numbers(self, *keys: str, scale: float = 1.0) -> tuple[float, ...]:
        field = ".".join(keys)
        found = number_list(self.at(*keys), self.file, field, "one number for each layer")
        return self._positive(found, field, scale)

    def number(self, *keys: str, scale: float = 1.0) -> float:
        field = ".".join(keys)
        return self._positive(number_list([self.at(*keys)], self.file, field, "a number", 1), field, scale)[0]

    def _positive(self, found: list[float], field: str, scale: float) -> tuple[float, ...]:
        if not found:
            raise InputError("is empty", where=self.file, field=field, expected="one number for each layer")
        if min(found) < 0:
            raise InputError(f"found {min(found):g}", where=self.file, field=field, expected="numbers >= 0")
        return tuple(value * scale for value in found)


def read_metis_profile(file: Path, gpu: str, tp: int, microbatch: int) -> MetisProfileFile:
    """Read one profile.

    Parameters
    ----------
    file, gpu, tp, microbatch
        As `metis_profile_files` lists it.

    Raises
    ------
    InputError
        If a field is wrong or missing, or layers are not as many everywhere: names it.
    """
    reader = _Reader(file)
    model = str(reader.at("model", "model_name"))
    time_L = reader.numbers("execution_time", "layer_compute_total_ms", scale=_MS)
    memory_L = reader.numbers("execution_memory", "layer_memory_total_mb", scale=_MB)
    parameters_L = reader.numbers("model", "parameters", "parameters_per_layer_bytes")
    for name, values in (("layer_memory_total_mb", memory_L), ("parameters_per_layer_bytes", parameters_L)):
        if len(values) != len(time_L):
            raise InputError(
                f"{len(values)} layers where layer_compute_total_ms has {len(time_L)}", where=file, field=name
            )
    return MetisProfileFile(
        file=file,
        gpu=gpu,
        tp=tp,
        microbatch=microbatch,
        model=model,
        time_L=time_L,
        memory_L=memory_L,
        parameters_L=parameters_L,
        forward_backward=reader.number("execution_time", "forward_backward_time_ms", scale=_MS),
        optimizer=reader.number("execution_time", "optimizer_time_ms", scale=_MS),
        generation=reader.number("execution_time", "batch_generator_time_ms", scale=_MS),
    )


def read_metis_nodes(hostfile: Path, clusterfile: Path) -> list[MetisNode]:
    """Read a hostfile and a clusterfile.

    Raises
    ------
    InputError
        If a line or a field is wrong or missing: names it.
    """
    entries = mapping_at(read_json(clusterfile, "a clusterfile"), clusterfile, "", "an object by address")
    nodes = []
    for number, line in enumerate(read_text(hostfile, "hostfile").splitlines(), start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        where, match = f"{hostfile}:{number}", _HOST.fullmatch(text)
        if match is None or int(match["slots"]) < 1:
            raise InputError(f"found {text!r}", where=where, expected="<address> slots=<GPUs>: 10.0.0.1 slots=4")
        address = match["address"]
        if address not in entries:
            raise InputError(
                f"names {address}, which is not in the clusterfile",
                where=where,
                expected=f"one of {', '.join(list(entries)[:8])}",
            )
        nodes.append(_node(address, where, int(match["slots"]), entries[address], clusterfile))
    if not nodes:
        raise InputError("names no node", where=hostfile, expected="<address> slots=<GPUs> a line")
    return nodes


def _node(address: str, where: str, slots: int, entry: Any, file: Path) -> MetisNode:
    fields: Mapping[str, Any] = mapping_at(entry, file, address, ", ".join(_NODE_FIELDS))
    for name in _NODE_FIELDS:
        if name not in fields:
            raise InputError("is missing", where=file, field=f"{address}.{name}", expected="as the format has it")

    def positive(name: str, unit: str) -> float:
        value = number_list([fields[name]], file, f"{address}.{name}", unit, 1)[0]
        if value <= 0:
            raise InputError(f"found {value:g}", where=file, field=f"{address}.{name}", expected=f"more than 0 {unit}")
        return value

    def bandwidth(name: str) -> float:
        value = positive(name, "GB/s")
        return value if value >= _BYTES_PER_SECOND_FROM else value * 1e9

    return MetisNode(
        address=address,
        where=where,
        gpu=str(fields["instance_type"]),
        slots=slots,
        memory=positive("memory", "GB"),
        intra=bandwidth("intra_bandwidth"),
        inter=bandwidth("inter_bandwidth"),
    )
