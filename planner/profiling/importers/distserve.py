"""DistServe (OSDI 2024): fitted latencies of OPT on A100, and how many tokens the KV cache holds.

``profiler-*.json`` holds for each model and TP the coefficients of ``prefill = a + b sum(len) + c sum(len^2)`` and
``decode = a + b sum(context) + c batch``, the latter for batches below a threshold and from it on; milliseconds.
``max_num_tokens.csv`` holds capacities by model, TP and PP. The coefficients are imported, not evaluated points.

References
----------
Zhong et al., DistServe: Disaggregating Prefill and Decoding for Goodput-optimized Large Language Model Serving,
OSDI 2024, appendix A.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from planner.errors import InputError
from planner.profiling.importers.base import Imported, device_named, mapping_at, number_list, read_csv, read_json
from planner.profiling.tables import Origin

__all__ = ["import_distserve"]

_DEVICE: Final = "a100_sxm_80"
_CAPACITY: Final = "max_num_tokens.csv"
_THRESHOLD: Final = "decoding_large_small_bs_threshold"
_NAMES: Final = (
    "model",
    "engine",
    "phase",
    "tp",
    "from_batch",
    "below_batch",
    "constant",
    "per_token",
    "per_square",
    "per_sequence",
)


def import_distserve(path: Path, *, device: str | None = None) -> Iterator[Imported]:
    """Read DistServe's coefficients and capacities.

    Parameters
    ----------
    path
        Folder with ``profiler-*.json`` and ``max_num_tokens.csv``, or one of them.
    device
        GPU type that they were measured on; None takes the paper's A100 80 GB.

    Yields
    ------
    Imported
        A ``latency_fit`` and a ``kv_capacity`` table.

    Raises
    ------
    InputError
        If there is none of these files, or one is not what it must be.
    """
    files = sorted(path.glob("profiler-*.json")) if path.is_dir() else [path]
    capacity = path / _CAPACITY if path.is_dir() else path
    fits = [file for file in files if file.suffix == ".json"]
    if not fits and not (capacity.is_file() and capacity.suffix == ".csv"):
        raise InputError("holds nothing of DistServe's", where=path, expected=f"profiler-*.json or {_CAPACITY}")
    gpu = _DEVICE if device is None else device_named(device, "--device")
    if fits:
        yield _fits(fits, gpu, path)
    if capacity.is_file() and capacity.suffix == ".csv":
        yield _capacities(capacity, gpu)


def _model(name: str) -> str:
    return name.rpartition("/")[2].lower()


def _fits(files: list[Path], device: str, where: Path) -> Imported:
    columns: dict[str, list[Any]] = {name: [] for name in _NAMES}
    places = []
    for file in files:
        engine = file.stem.rpartition(".")[2]
        for model, tps in mapping_at(read_json(file, "DistServe's coefficients"), file, "", "model -> TP").items():
            for tp, entry in mapping_at(tps, file, model, "TP -> coefficients").items():
                for row in _rows(mapping_at(entry, file, f"{model}.{tp}", "coefficients"), file, f"{model}.{tp}"):
                    for name, value in zip(_NAMES, (_model(model), engine, row[0], tp, *row[1:]), strict=True):
                        columns[name].append(value)
                    places.append(f"{file}: {model}.{tp}.{row[0]}")
    origin = Origin(
        table="latency_fit",
        device=device,
        title="iterations of OPT 13B and 66B by TP, coefficients as DistServe fitted them",
        source="DistServe artifact (OSDI 2024), Apache-2.0: simdistserve/estimators/profiled_data",
        licence="Apache-2.0",
        date="2024-06",
        kind="fitted",
        note="Milliseconds there, seconds here. Its simulator adds 1 ms for each pipeline stage of prefill, and "
        "divides by the stages.",
    )
    return Imported.of("distserve_latency", origin, columns, where=where, places=places, digits=12)


def _rows(entry: Any, file: Path, field: str) -> Iterator[tuple[Any, ...]]:
    missing = [name for name in (_THRESHOLD, "prefill", "decoding_smallbs", "decoding_largebs") if name not in entry]
    if missing:
        raise InputError("is missing", where=file, field=f"{field}.{missing[0]}", expected="three coefficients in ms")
    threshold = int(number_list([entry[_THRESHOLD]], file, f"{field}.{_THRESHOLD}", "a batch size", 1)[0])
    a, b, c = (
        value * 1e-3 for value in number_list(entry["prefill"], file, f"{field}.prefill", "three coefficients in ms", 3)
    )
    yield "prefill", 1, 0, a, b, c, 0.0
    for name, first, below in (("decoding_smallbs", 1, threshold), ("decoding_largebs", threshold, 0)):
        values = number_list(entry[name], file, f"{field}.{name}", "three coefficients in ms", 3)
        a, b, c = (value * 1e-3 for value in values)
        yield "decode", first, below, a, b, 0.0, c


def _capacities(file: Path, device: str) -> Imported:
    columns: dict[str, list[Any]] = {name: [] for name in ("model", "tp", "pp", "capacity")}
    lines = []
    names = ("model", "tp", "pp", "max_num_tokens")
    for row in read_csv(file, names, f"columns {', '.join(names)}"):
        values = (_model(row.fields["model"]), *(row.whole(name) for name in names[1:]))
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)
        lines.append(row.line)
    origin = Origin(
        table="kv_capacity",
        device=device,
        title="tokens that the KV cache of a replica of OPT holds, by TP and PP",
        source="DistServe artifact (OSDI 2024), Apache-2.0: simdistserve/estimators/profiled_data",
        licence="Apache-2.0",
        date="2024-06",
    )
    return Imported.of("distserve_kv_capacity", origin, columns, where=file, places=lines, digits=12)
