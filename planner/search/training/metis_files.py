"""A job from Metis' own input files, under the names that they use: hostfile, clusterfile, profiles.

Sizes are as the files count them: a card of 15 GB holds 15 x 1024 of the profiles' MB.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

import numpy as np

from planner.errors import InputError
from planner.resources import read_text
from planner.search.training.metis_referee import MetisGpu, MetisJob, MetisProfile

__all__ = ["read_metis_job"]

_NAME: Final = re.compile(r"(?:DeviceType\.)?(?P<gpu>.+)_tp(?P<tp>\d+)_bs(?P<size>\d+)\.json")
_HOST: Final = re.compile(r"(?P<address>\S+)\s+slots\s*=\s*(?P<slots>\d+)\s*")
_MB: Final = 1e6
# No link carries 100 TB/s: a larger number of GB/s is in bytes/s.
_BYTES_FROM: Final = 1e5


def read_metis_job(
    hostfile: Path,
    clusterfile: Path,
    profiles: Path,
    *,
    batch: int,
    sequence_length: int,
    hidden: int,
    max_stages: int | None = None,
) -> MetisJob:
    """Read a job.

    Parameters
    ----------
    hostfile
        ``<address> slots=<GPUs>`` a line.
    clusterfile
        JSON object by address: ``instance_type``, ``inter_bandwidth``, ``intra_bandwidth`` (GB/s), ``memory`` (GB).
    profiles
        Folder of ``DeviceType.<GPU>_tp<TP>_bs<microbatch>.json`` files.
    batch, sequence_length, hidden
        Sequences of an iteration, their tokens, and the width of activations.
    max_stages
        Most stages.

    Raises
    ------
    InputError
        If a file, a line or a field is wrong or missing: names it.
    """
    gpus = _gpus(hostfile, _object(clusterfile))
    found: dict[tuple[str, int, int], MetisProfile] = {}
    parameters, optimizer, generation = np.zeros(0), 0.0, 0.0
    names = [(match, file) for file in sorted(profiles.glob("*.json")) if (match := _NAME.fullmatch(file.name))]
    names = [(match, file) for match, file in names if match["gpu"].casefold() in gpus]
    if not names:
        raise InputError(
            "holds no profile of the cluster's GPUs",
            where=profiles,
            expected=f"files called DeviceType.<GPU>_tp<TP>_bs<size>.json for {', '.join(sorted(gpus))}",
        )
    # the smallest TP and microbatch say what a whole update takes, whatever order the folder is listed in
    names.sort(key=lambda pair: (int(pair[0]["tp"]), int(pair[0]["size"]), pair[1].name))
    for match, file in names:
        data = _object(file)
        time_L = _numbers(data, file, "execution_time", "layer_compute_total_ms") * 1e-3
        memory_L = _numbers(data, file, "execution_memory", "layer_memory_total_mb") * _MB
        if not found:
            parameters = _numbers(data, file, "model", "parameters", "parameters_per_layer_bytes")
            optimizer = _number(data, file, "execution_time", "optimizer_time_ms") * 1e-3
            generation = _number(data, file, "execution_time", "batch_generator_time_ms") * 1e-3
        if not len(time_L) == len(memory_L) == len(parameters):
            counts = f"{len(time_L)} times, {len(memory_L)} memory sizes"
            raise InputError(f"has {counts}, where the model has {len(parameters)} layers", where=file)
        both = _number(data, file, "execution_time", "forward_backward_time_ms") * 1e-3
        key = match["gpu"].casefold(), int(match["tp"]), int(match["size"])
        found[key] = MetisProfile(time_L, memory_L, max(0.0, both - float(time_L.sum())))
    missing = sorted(set(gpus) - {device for device, _, _ in found})
    if missing:
        raise InputError(f"holds no profile of {', '.join(missing)}", where=profiles)
    return MetisJob(
        gpus=gpus,
        profiles=found,
        parameters_L=parameters,
        optimizer=optimizer,
        generation=generation,
        batch=batch,
        sequence_length=sequence_length,
        hidden=hidden,
        max_stages=max_stages or 16,
    )


def _gpus(hostfile: Path, nodes: dict[str, Any]) -> dict[str, MetisGpu]:
    gpus: dict[str, MetisGpu] = {}
    for number, line in enumerate(read_text(hostfile, "hostfile").splitlines(), start=1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        where, match = f"{hostfile}:{number}", _HOST.fullmatch(text)
        if match is None:
            raise InputError(f"found {text!r}", where=where, expected="<address> slots=<GPUs>: 10.0.0.1 slots=4")
        if match["address"] not in nodes:
            raise InputError(f"names {match['address']}, which is not in the clusterfile", where=where)
        node, slots = nodes[match["address"]], int(match["slots"])
        name = str(node.get("instance_type", "")).casefold() if isinstance(node, dict) else ""
        if not name:
            raise InputError("is missing", where=where, field=f"{match['address']}.instance_type")
        intra, inter, memory = (
            _positive(node, hostfile, match["address"], field)
            for field in ("intra_bandwidth", "inter_bandwidth", "memory")
        )
        had = gpus.get(name)
        if had is not None and had.per_node != slots:
            raise InputError(f"gives {name} nodes of {had.per_node} and of {slots} GPUs", where=where)
        gpus[name] = MetisGpu(
            count=slots + (had.count if had else 0),
            per_node=slots,
            memory=min(memory * 1024 * _MB, had.memory if had else np.inf),
            intra=min(_bandwidth(intra), had.intra if had else np.inf),
            inter=min(_bandwidth(inter), had.inter if had else np.inf),
        )
    if not gpus:
        raise InputError("names no node", where=hostfile, expected="<address> slots=<GPUs> a line")
    return gpus


def _bandwidth(value: float) -> float:
    return value if value >= _BYTES_FROM else value * 1e9


def _positive(node: dict[str, Any], file: Path, address: str, field: str) -> float:
    value = node.get(field)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise InputError(f"found {value!r}", where=file, field=f"{address}.{field}", expected="a number above 0")
    return float(value)


def _object(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(read_text(file, "JSON file"))
    except json.JSONDecodeError as error:
        raise InputError(f"is not JSON: {error}", where=file) from None
    if not isinstance(data, dict):
        raise InputError("is no JSON object", where=file)
    return data


def _at(data: dict[str, Any], file: Path, *keys: str) -> Any:
    value: Any = data
    for depth, key in enumerate(keys):
        if not isinstance(value, dict) or key not in value:
            raise InputError("is missing", where=file, field=".".join(keys[: depth + 1]))
        value = value[key]
    return value


def _number(data: dict[str, Any], file: Path, *keys: str) -> float:
    value = _at(data, file, *keys)
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value) or value < 0:
        raise InputError(f"found {value!r}", where=file, field=".".join(keys), expected="a number >= 0")
    return float(value)


def _numbers(data: dict[str, Any], file: Path, *keys: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    value = _at(data, file, *keys)
    good = isinstance(value, list) and value and all(isinstance(one, int | float) and one >= 0 for one in value)
    if not good:
        raise InputError(
            "is no list of numbers", where=file, field=".".join(keys), expected="one number for each layer"
        )
    return np.array(value, dtype=float)
