"""MuxServe (ICML 2024): whole iterations of LLaMA on A100, by TP, share of the multiprocessors, batch and length.

One JSON file: model, TP, percent of the multiprocessors, batch, tokens, then ``prefill`` and ``decoding`` in
milliseconds; -1 means that it was not run.

References
----------
Duan et al., MuxServe: Flexible Spatial-Temporal Multiplexing for Multiple LLM Serving, ICML 2024.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from planner.errors import InputError
from planner.profiling.importers.base import Imported, device_named, mapping_at, read_json
from planner.profiling.tables import Origin

__all__ = ["import_muxserve"]

_FILE: Final = "llama_latency_ms.json"
_DEVICE: Final = "a100_sxm_80"
_PHASES: Final = {"prefill": "prefill", "decoding": "decode"}
_NAMES: Final = ("model", "phase", "tp", "sm_percent", "batch", "tokens", "seconds")
_NOT_RUN: Final = -1.0


def import_muxserve(path: Path, *, device: str | None = None) -> Iterator[Imported]:
    """Read MuxServe's iteration times.

    Parameters
    ----------
    path
        ``llama_latency_ms.json``, or the folder with it.
    device
        GPU type that it was measured on; None takes the paper's A100 80 GB.

    Yields
    ------
    Imported
        One ``serving_iteration`` table.

    Raises
    ------
    InputError
        If the file is not what it must be; names the field.
    """
    file = path / _FILE if path.is_dir() else path
    gpu = _DEVICE if device is None else device_named(device, "--device")
    columns: dict[str, list[Any]] = {name: [] for name in _NAMES}
    places: list[str] = []
    for keys, value in _leaves(read_json(file, "MuxServe's latencies"), file, ()):
        model, tp, percent, batch, tokens, phase = keys
        field = ".".join(keys)
        if phase not in _PHASES:
            raise InputError(f"unknown phase {phase!r}", where=file, field=field, expected="prefill or decoding")
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise InputError(f"found {value!r}", where=file, field=field, expected="milliseconds, -1 where not run")
        if value == _NOT_RUN:
            continue
        row = (model, _PHASES[phase], tp, percent, batch, tokens, value * 1e-3)
        for name, entry in zip(_NAMES, row, strict=True):
            columns[name].append(entry)
        places.append(field)
    order = sorted(range(len(places)), key=lambda at: _order(columns, at))
    columns = {name: [values[at] for at in order] for name, values in columns.items()}
    origin = Origin(
        table="serving_iteration",
        device=gpu,
        title="one iteration of LLaMA 7B, 13B and 65B, by TP, share of the multiprocessors, batch and length",
        source="MuxServe artifact (ICML 2024), Apache-2.0: its profile of LLaMA",
        licence="Apache-2.0",
        date="2024-05",
        software="MuxServe, on vLLM",
        note="Shares of the multiprocessors were set with CUDA MPS. Single runs: neighbouring values "
        "differ by up to 20 %.",
    )
    ordered = [places[at] for at in order]
    yield Imported.of("muxserve_iterations", origin, columns, where=file, places=ordered)


def _order(columns: dict[str, list[Any]], at: int) -> tuple[Any, ...]:
    row = [columns[name][at] for name in _NAMES[:-1]]
    return (
        int(row[0].rpartition("-")[2].rstrip("b") or 0) if row[0][-2:-1].isdigit() else 0,
        *row[:2],
        *map(int, row[2:]),
    )


def _leaves(data: Any, path: Path, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if len(keys) == 6:
        yield keys, data
        return
    what = "model -> TP -> % of the multiprocessors -> batch -> tokens -> {prefill, decoding}"
    for key, inner in mapping_at(data, path, ".".join(keys), what).items():
        if 1 <= len(keys) <= 4 and not key.isdigit():
            raise InputError(f"found {key!r}", where=path, field=".".join(keys), expected=f"a number: {what}")
        yield from _leaves(inner, path, (*keys, key))
