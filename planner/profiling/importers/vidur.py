"""Vidur (MLSys 2024): operators of a layer, attention and collectives on A100, A40 and H100.

Its ``data/profiling`` holds ``compute/<GPU>/<model>/{mlp,attention}.csv`` and ``network/<GPU>_<topology>/*.csv``.
Columns ``time_stats.<operator>.median`` are milliseconds, ``size`` of a collective is bytes. Matrix products come out
of the projections by the widths that each row names.

References
----------
Agrawal et al., Vidur: A Large-Scale Simulation Framework for LLM Inference, MLSys 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

from planner.errors import InputError
from planner.profiling.importers.base import CsvRow, Imported, device_named, read_csv
from planner.profiling.tables import Origin

__all__ = ["import_vidur"]

_DEVICES: Final = {"a100": "a100_sxm_80", "h100": "h100_sxm", "a40": "a40"}
_DTYPE: Final = "fp16"
_LFS: Final = "version https://git-lfs"

Settings = tuple[Any, ...]
Measured = Iterator[tuple[Settings, float, str]]


class _Kind(NamedTuple):
    name: str
    table: str
    title: str
    settings: tuple[str, ...]
    files: Callable[[Path], bool]
    read: Callable[[Path], Measured]


def import_vidur(path: Path, *, device: str | None = None) -> Iterator[Imported]:
    """Read Vidur's profiles.

    Parameters
    ----------
    path
        Its ``data/profiling``, a folder below, or one CSV file.
    device
        GPU type: what the files were measured on where their path names none, else the only one to read.

    Yields
    ------
    Imported
        ``gemm``, ``prefill_attention``, ``decode_attention`` and ``collective`` tables; rows of the same settings as
        their median.

    Raises
    ------
    InputError
        If there are no such files, or one is not what it must be.
    """
    only = None if device is None else device_named(device, "--device")
    files = [path] if path.is_file() else sorted(path.glob("**/*.csv"))
    gathered: dict[tuple[str, str], dict[Settings, list[tuple[float, str]]]] = {}
    for file in files:
        for kind in _KINDS:
            if not kind.files(file):
                continue
            gpu = _device_of(file) or only
            if gpu is None:
                raise InputError("does not name a GPU in its path", where=file, hint="say --device")
            if only in (None, gpu):
                times = gathered.setdefault((gpu, kind.name), {})
                for settings, seconds, where in kind.read(file):
                    times.setdefault(settings, []).append((seconds, where))
    if not gathered:
        raise InputError(
            "holds no profile of Vidur's", where=path, expected="mlp.csv, attention.csv, all_reduce.csv, …"
        )
    by_name = {kind.name: kind for kind in _KINDS}
    for gpu, name in sorted(gathered):
        times = gathered[gpu, name]
        if times:
            yield _imported(by_name[name], gpu, times, path)


def _device_of(file: Path) -> str | None:
    for part in reversed(file.parts[:-1]):
        name = _DEVICES.get(part.split("_")[0].lower())
        if name is not None:
            return name
    return None


def _imported(kind: _Kind, device: str, times: dict[Settings, list[tuple[float, str]]], path: Path) -> Imported:
    ordered = sorted(times)
    columns: dict[str, list[Any]] = {
        name: [settings[at] for settings in ordered] for at, name in enumerate(kind.settings)
    }
    columns["seconds"] = [median(seconds for seconds, _ in times[settings]) for settings in ordered]
    origin = Origin(
        table=kind.table,
        device=device,
        title=kind.title,
        source="Vidur (MLSys 2024), MIT: data/profiling",
        licence="MIT",
        date="2024-11",
        software="PyTorch, FlashInfer or FlashAttention; NCCL",
    )
    places = [times[settings][0][1] for settings in ordered]
    return Imported.of(f"vidur_{kind.name}", origin, columns, where=path, places=places)


def _checked(path: Path, columns: tuple[str, ...], what: str) -> Iterator[CsvRow]:
    with path.open(encoding="utf-8", errors="replace") as file:
        if file.read(len(_LFS)) == _LFS:
            raise InputError("is a Git LFS pointer, not the data", where=path, hint="run: git lfs pull")
    return read_csv(path, columns, what)


def _milliseconds(row: CsvRow, operator: str) -> float | None:
    column = f"time_stats.{operator}.median"
    value = row.number(column) if column in row.fields else None
    return None if value is None or value == 0.0 else value * 1e-3


def _gemm(path: Path) -> Measured:
    columns: tuple[str, ...] = ("n_head", "n_kv_head", "n_embd", "n_expanded_embd", "use_gated_mlp", "num_tokens")
    columns += ("num_tensor_parallel_workers", "time_stats.mlp_up_proj.median")
    for row in _checked(path, columns, "a mlp.csv of Vidur"):
        heads, kv_heads, hidden, wide = (row.whole(name) for name in columns[:4])
        tokens, tp = row.whole("num_tokens"), row.whole("num_tensor_parallel_workers")
        gated = row.fields["use_gated_mlp"].strip().lower() == "true"
        size = hidden // heads
        shapes = {
            "attn_pre_proj": ((heads + 2 * kv_heads) * size // tp, hidden),
            "attn_post_proj": (hidden, heads * size // tp),
            "mlp_up_proj": ((2 if gated else 1) * wide // tp, hidden),
            "mlp_down_proj": (hidden, wide // tp),
        }
        for operator, (n, k) in shapes.items():
            seconds = _milliseconds(row, operator)
            if seconds is not None:
                yield (_DTYPE, tokens, n, k), seconds, row.where


_ATTENTION: Final = ("n_embd", "n_q_head", "n_kv_head", "num_tensor_parallel_workers", "batch_size")
_ATTENTION_MORE: Final = ("prefill_chunk_size", "kv_cache_size")


def _attention(path: Path, operator: str) -> Iterator[tuple[CsvRow, tuple[int, ...], float]]:
    for row in _checked(path, (*_ATTENTION, *_ATTENTION_MORE), "an attention.csv of Vidur"):
        hidden, heads, kv_heads, tp, batch = (row.whole(name) for name in _ATTENTION)
        seconds = _milliseconds(row, operator)
        if seconds is not None:
            yield row, (batch, heads // tp, max(kv_heads // tp, 1), hidden // heads), seconds


def _prefill(path: Path) -> Measured:
    for row, (batch, heads, kv_heads, size), seconds in _attention(path, "attn_prefill"):
        tokens, context = row.whole("prefill_chunk_size"), row.whole("kv_cache_size")
        if tokens > 0:
            yield (_DTYPE, _DTYPE, batch, tokens, context, heads, kv_heads, size), seconds, row.where


def _decode(path: Path) -> Measured:
    for row, (batch, heads, kv_heads, size), seconds in _attention(path, "attn_decode"):
        context = row.whole("kv_cache_size")
        if row.whole("prefill_chunk_size") == 0 and context > 0:
            yield (_DTYPE, _DTYPE, batch, context, heads, kv_heads, size), seconds, row.where


def _collective(path: Path) -> Measured:
    columns = ("num_workers", "size", "collective", "devices_per_node")
    for row in _checked(path, columns, "a table of collectives of Vidur"):
        if "rank" in row.fields and row.whole("rank") != 0:
            continue
        operation = row.fields["collective"].strip()
        gpus, per_node = row.whole("num_workers"), max(row.whole("devices_per_node"), 1)
        seconds = _milliseconds(row, operation)
        if seconds is not None:
            yield (operation, _DTYPE, gpus, -(-gpus // per_node), row.whole("size")), seconds, row.where


_HEADS: Final = ("heads", "kv_heads", "head_dim")
_KINDS: Final = (
    _Kind(
        "gemm", "gemm", "projections of a layer", ("dtype", "m", "n", "k"), lambda file: file.name == "mlp.csv", _gemm
    ),
    _Kind(
        "prefill_attention",
        "prefill_attention",
        "attention of prompt chunks",
        ("dtype", "kv_dtype", "batch", "tokens", "context", *_HEADS),
        lambda file: file.name == "attention.csv",
        _prefill,
    ),
    _Kind(
        "decode_attention",
        "decode_attention",
        "attention of decode steps",
        ("dtype", "kv_dtype", "batch", "context", *_HEADS),
        lambda file: file.name == "attention.csv",
        _decode,
    ),
    _Kind(
        "collectives",
        "collective",
        "collectives and transfers",
        ("operation", "dtype", "gpus", "nodes", "bytes"),
        lambda file: file.name in ("all_reduce.csv", "send_recv.csv"),
        _collective,
    ),
)
