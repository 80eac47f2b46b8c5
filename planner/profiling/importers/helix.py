"""Helix (ASPLOS 2025): one transformer layer in serving, by tokens of a prompt batch or sequences that decode.

Its artifact holds ``<model>/<machine>/prompt_bs2time.csv`` and ``decode_bs2time.csv`` without headers: tokens or
sequences, and milliseconds for one layer. Machines such as ``t4x4`` hold several GPUs, which share the layer.

References
----------
Mei et al., Helix: Serving Large Language Models over Heterogeneous GPUs and Network via Max-Flow, ASPLOS 2025.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from planner.errors import InputError
from planner.profiling.importers.base import Imported, device_named, read_csv
from planner.profiling.tables import Origin

__all__ = ["import_helix"]

_FILES: Final = {"prompt_bs2time.csv": "prefill", "decode_bs2time.csv": "decode"}
_MODELS: Final = {"llama1_30b": "llama-30b", "llama2_70b": "llama-2-70b"}
_MACHINES: Final = {"a100": "a100_sxm_40", "v100": "v100_sxm_16"}  # as rented for the paper
_MACHINE: Final = re.compile(r"(?P<gpu>.+?)(?:x(?P<count>\d+))?")
_NAMES: Final = ("model", "phase", "tp", "batch", "tokens", "seconds")
# Every sequence that decodes holds about this many tokens: the mean request has 750 tokens in and 240 out.
_CONTEXT: Final = 870


def import_helix(path: Path, *, device: str | None = None) -> Iterator[Imported]:
    """Read Helix' layer times.

    Parameters
    ----------
    path
        Folder with ``<model>/<machine>/*_bs2time.csv``.
    device
        The only GPU type to read; None reads all.

    Yields
    ------
    Imported
        One ``serving_layer`` table for each GPU type.

    Raises
    ------
    InputError
        If there are no such files, or one is not what it must be.
    """
    files = sorted(file for name in _FILES for file in path.glob(f"**/{name}"))
    if not files:
        raise InputError(
            "holds no layer times", where=path, expected="<model>/<machine>/prompt_bs2time.csv and decode_bs2time.csv"
        )
    only = None if device is None else device_named(device, "--device")
    rows: dict[str, dict[str, list[Any]]] = {}
    places: dict[str, list[str]] = {}
    for file in files:
        machine = file.parent.name
        parts = _MACHINE.fullmatch(machine)
        assert parts is not None  # the pattern matches any text
        gpu = device_named(_MACHINES.get(parts["gpu"], parts["gpu"]), file, "machine")
        if only not in (None, gpu):
            continue
        columns = rows.setdefault(gpu, {name: [] for name in _NAMES})
        for row in _rows(file, int(parts["count"] or 1)):
            for name, value in zip(_NAMES, row[:-1], strict=True):
                columns[name].append(value)
            places.setdefault(gpu, []).append(row[-1])
    for gpu in sorted(rows):
        yield Imported.of("helix_layers", _origin(gpu), rows[gpu], where=path, places=places[gpu])


def _rows(file: Path, gpus: int) -> Iterator[tuple[Any, ...]]:
    model = _MODELS.get(file.parent.parent.name, file.parent.parent.name)
    phase = _FILES[file.name]
    for row in read_csv(file, None, "tokens or sequences, and milliseconds for one layer"):
        if len(row.fields) != 2:
            raise InputError(f"{len(row.fields)} columns", where=row.where, expected="a size and milliseconds")
        size, time = row.whole("0"), row.number("1")
        if size == 0 and time == 0:
            continue
        if time is None:
            raise InputError("has no time", where=row.where, expected="milliseconds for one layer")
        batch, tokens = (1, size) if phase == "prefill" else (size, _CONTEXT)
        yield model, phase, gpus, batch, tokens, time * 1e-3, row.where


def _origin(device: str) -> Origin:
    return Origin(
        table="serving_layer",
        device=device,
        title="one layer of LLaMA 30B and Llama 2 70B in serving, by tokens or sequences and TP",
        source="Helix artifact (ASPLOS 2025), Apache-2.0: simulator/model_manager",
        licence="Apache-2.0",
        date="2024-11",
        software="vLLM",
        note="Many prefill times are rounded to 1 ms. Prompts of a batch are not counted, only their tokens. How many "
        f"tokens decoding sequences hold is not told: {_CONTEXT} is what the mean request holds halfway.",
    )
