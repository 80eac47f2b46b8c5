"""Output of nccl-tests, text or JSON: collectives by message size, out of place and in place.

Text prints microseconds and GB/s (1e9), sizes in bytes. JSON (``-J FILE``) has ``config.devices`` and ``results``.
``busbw`` is ``algbw`` times 2 (n-1)/n for an all-reduce, (n-1)/n for all-gather, reduce-scatter and all-to-all, 1 for
send and receive: a size or time that contradicts it is refused. The faster of out of place and in place counts: engines
choose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from planner.errors import InputError
from planner.profiling.importers.base import Imported, device_named, mapping_at, number_list, read_json
from planner.profiling.tables import Origin
from planner.resources import read_text

__all__ = ["import_nccl_tests"]

# Name of the program without _perf -> operation here, and busbw over algbw for n GPUs.
_OPERATIONS: Final = {
    "all_reduce": "all_reduce",
    "all_gather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "alltoall": "all_to_all",
    "sendrecv": "send_recv",
}
_DTYPES: Final = {"float": "fp32", "half": "fp16", "bfloat16": "bf16", "f8e4m3": "fp8", "f8e5m2": "fp8", "int8": "int8"}
_RANK: Final = re.compile(r"#\s+Rank\s+\d+\s.*? on\s+(?P<host>\S+)\s+device\s+\d+\s+\[[^\]]*\]\s+(?P<gpu>.+)")
_PROGRAM: Final = re.compile(r"(all_reduce|all_gather|reduce_scatter|alltoall|sendrecv)(?=_perf|\b|_)")
_NAMES: Final = ("operation", "dtype", "gpus", "nodes", "bytes", "library", "seconds")
_BUSBW_TOLERANCE: Final = 0.05
_LEAST_BANDWIDTH: Final = 0.5  # GB/s with two digits after the point: below that they say too little


class _Run(NamedTuple):
    """One run of a program."""

    where: str
    operation: str
    hosts: tuple[str, ...]
    gpus: tuple[str, ...]
    rows: list[tuple[str, int, str, list[tuple[float, float, float, float]]]]


def import_nccl_tests(path: Path, *, device: str | None = None) -> Iterator[Imported]:
    """Read output of nccl-tests.

    Parameters
    ----------
    path
        A file of text or JSON output, or a folder of ``.txt``, ``.log``, ``.out`` and ``.json`` files.
    device
        GPU type that it ran on; None takes what the output names.

    Yields
    ------
    Imported
        One ``collective`` table for each GPU type.

    Raises
    ------
    InputError
        If a file is cut short, tells wrong results, or contradicts itself: names the line.
    """
    suffixes = (".txt", ".log", ".out", ".json")
    files = [path] if path.is_file() else sorted(f for f in path.glob("**/*") if f.suffix in suffixes)
    if not files:
        raise InputError("holds no output of nccl-tests", where=path, expected=", ".join(suffixes))
    only = None if device is None else device_named(device, "--device")
    by_device: dict[str, dict[str, list[Any]]] = {}
    places: dict[str, list[str]] = {}
    for file in files:
        for run in _json(file) if file.suffix == ".json" else _text(file):
            gpu = only or _device_of(run)
            columns = by_device.setdefault(gpu, {name: [] for name in _NAMES})
            for where, size, dtype, measured in run.rows:
                seconds = min(_checked(run, where, size, *one) for one in measured)
                row = (run.operation, dtype, len(run.gpus), len(set(run.hosts)), size, "nccl", seconds)
                for name, value in zip(_NAMES, row, strict=True):
                    columns[name].append(value)
                places.setdefault(gpu, []).append(where)
    for gpu in sorted(by_device):
        origin = Origin(
            table="collective",
            device=gpu,
            title="collectives by nccl-tests",
            source=f"output of nccl-tests: {', '.join(file.name for file in files)[:200]}",
            licence="own measurement",
            date="2025",
            software="NCCL",
        )
        yield Imported.of("nccl_tests", origin, by_device[gpu], where=path, places=places[gpu])


def _device_of(run: _Run) -> str:
    names = sorted(set(run.gpus))
    if len(names) != 1 or not names[0]:
        raise InputError(
            f"ran on {', '.join(names) or 'GPUs that it does not name'}", where=run.where, hint="say --device NAME"
        )
    return device_named(names[0], run.where)


def _factor(operation: str, gpus: int) -> float:
    share = (gpus - 1) / gpus
    return {"all_reduce": 2.0 * share, "send_recv": 1.0}.get(operation, share)


def _checked(run: _Run, where: str, size: int, time_us: float, algbw: float, busbw: float, wrong: float) -> float:
    """Seconds, once size, time and both bandwidths agree."""
    if wrong > 0:
        raise InputError(f"{wrong:g} wrong values", where=where, field="#wrong", expected="0: the results were wrong")
    if time_us <= 0:
        raise InputError(f"a time of {time_us:g} us", where=where, field="time", expected="more than 0")
    expected = size / time_us * 1e-3
    if algbw >= _LEAST_BANDWIDTH and abs(algbw / expected - 1.0) > _BUSBW_TOLERANCE:
        raise InputError(
            f"{algbw:g} GB/s where {size} bytes in {time_us:g} us are {expected:.4g}{_suspicion(algbw / expected)}",
            where=where,
            field="algbw",
            expected="bytes over time: sizes are bytes, times microseconds",
        )
    factor = _factor(run.operation, len(run.gpus))
    if (
        algbw >= _LEAST_BANDWIDTH
        and busbw >= _LEAST_BANDWIDTH
        and abs(busbw / (algbw * factor) - 1.0) > _BUSBW_TOLERANCE
    ):
        raise InputError(
            f"{busbw:g} GB/s where {run.operation} among {len(run.gpus)} GPUs has {factor:.3g} times algbw",
            where=where,
            field="busbw",
            expected=f"{algbw * factor:.4g} GB/s",
            hint="the operation or the number of GPUs is not what the file says",
        )
    return time_us * 1e-6


def _suspicion(ratio: float) -> str:
    for factor, what in (
        (8.0, "bits for bytes?"),
        (1000.0, "milliseconds for microseconds?"),
        (2.0, "elements?"),
        (4.0, "elements?"),
    ):
        if any(abs(ratio / one - 1.0) < 0.1 for one in (factor, 1.0 / factor)):
            return f" ({factor:g} times off: {what})"
    return ""


def _dtype(name: str, where: str) -> str:
    return _DTYPES.get(name, name) if name else "bf16"


def _operation(text: str, where: str) -> str:
    match = _PROGRAM.search(text)
    if match is None:
        raise InputError(
            "does not say which collective ran",
            where=where,
            expected=f"a file name or a line with one of {', '.join(f'{name}_perf' for name in _OPERATIONS)}",
        )
    return _OPERATIONS[match[1]]


def _text(file: Path) -> Iterator[_Run]:
    hosts: list[str] = []
    gpus: list[str] = []
    rows: list[Any] = []
    program, ended = file.name, False
    for number, line in enumerate(read_text(file, "output of nccl-tests").splitlines(), start=1):
        where = f"{file}:{number}"
        if rows and "Using devices" in line:
            yield _run(file, program, hosts, gpus, rows)
            hosts, gpus, rows = [], [], []
        if "Collective test starting" in line:
            program = line.rpartition(":")[2]
        if line.startswith("#"):
            rank = _RANK.match(line)
            if rank is not None:
                hosts.append(rank["host"])
                gpus.append(rank["gpu"].strip())
            ended = ended or "Avg bus bandwidth" in line or "Out of bounds" in line
            continue
        fields = line.split()
        if fields and fields[0].isdigit() and len(fields) > 2:
            rows.append(_text_row(fields, where))
    if not rows:
        raise InputError(
            "holds no results", where=file, expected="lines: size count type redop root time algbw busbw #wrong"
        )
    if not ended:
        raise InputError(
            "ends without its summary",
            where=file,
            expected="# Avg bus bandwidth",
            hint="the run was cut short; run again",
        )
    yield _run(file, program, hosts, gpus, rows)


def _text_row(fields: list[str], where: str) -> tuple[str, int, str, list[tuple[float, float, float, float]]]:
    # size count type redop root, then time algbw busbw #wrong, twice; more columns may follow.
    values = fields[5:13]
    if len(values) < 8:
        raise InputError(
            f"{len(fields)} fields",
            where=where,
            expected="13: size count type redop root, and 4 results twice",
            hint="the run was cut short; take out that line, or run again",
        )
    numbers = []
    for text in values:
        try:
            numbers.append(0.0 if text == "N/A" else float(text))
        except ValueError:
            raise InputError(f"found {text!r}", where=where, expected="a number") from None
    return where, int(fields[0]), _dtype(fields[2], where), [tuple(numbers[:4]), tuple(numbers[4:])]  # type: ignore[list-item]  # four each


def _run(file: Path, program: str, hosts: list[str], gpus: list[str], rows: list[Any]) -> _Run:
    if len(gpus) < 2:
        raise InputError(
            f"names {len(gpus)} GPUs",
            where=file,
            expected="2 or more lines: # Rank 0 Group 0 Pid 1 on host device 0 [0x07] …",
        )
    return _Run(str(file), _operation(program, str(file)), tuple(hosts), tuple(gpus), rows)


def _json(file: Path) -> Iterator[_Run]:
    data = mapping_at(read_json(file, "JSON output of nccl-tests"), file, "", "config and results")
    for name in ("config", "results"):
        if name not in data:
            raise InputError("is missing", where=file, field=name, expected="JSON output of nccl-tests (-J)")
    devices = mapping_at(data["config"], file, "config", "devices").get("devices") or []
    args = data.get("args") or [file.name]
    rows = []
    for at, entry in enumerate(data["results"] or []):
        field = f"results.{at}"
        result = mapping_at(entry, file, field, "size, type, out_of_place, in_place")
        size = int(number_list([result.get("size")], file, f"{field}.size", "bytes", 1)[0])
        measured = [
            _json_result(result[name], file, f"{field}.{name}")
            for name in ("out_of_place", "in_place")
            if result.get(name) is not None
        ]
        if not measured:
            raise InputError("has neither out_of_place nor in_place", where=file, field=field, expected="one of them")
        rows.append((f"{file}: {field}", size, _dtype(str(result.get("type", "")), str(file)), measured))
    if not rows:
        raise InputError("holds no results", where=file, field="results", expected="at least one")
    hosts = [str(one.get("hostname", "")) for one in devices]
    gpus = [str(one.get("device_info", "")) for one in devices]
    yield _run(file, str(args[0]), hosts, gpus, rows)


def _json_result(value: Mapping[str, Any], file: Path, field: str) -> tuple[float, float, float, float]:
    entry = mapping_at(value, file, field, "time, alg_bw, bus_bw, nwrong")
    time = entry.get("time", entry.get("cpu_time"))
    numbers = [time, entry.get("alg_bw"), entry.get("bus_bw"), entry.get("nwrong") or 0]
    return tuple(number_list(numbers, file, field, "time, alg_bw, bus_bw, nwrong", 4))  # type: ignore[return-value]  # four
