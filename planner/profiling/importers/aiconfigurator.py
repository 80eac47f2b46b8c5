"""Kernel tables of NVIDIA AIConfigurator (``aiconfigurator-core``) in the common layout.

Its tables lie in ``systems/data/<system>/<family>/<engine>/<version>/<operator>_perf.parquet``; columns that an older
version lacks (window, prior step, head dimension) mean their defaults. Latencies are milliseconds, message sizes count
elements.
"""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from planner.errors import InputError
from planner.profiling.tables import MeasuredTable, Origin
from planner.resources import read_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SYSTEMS", "data_folder", "find_tables", "import_aiconfigurator"]

# Their system -> our GPU type.
SYSTEMS: Final[dict[str, str]] = {
    "a100_sxm": "a100_sxm_80",
    "h100_sxm": "h100_sxm",
    "h200_sxm": "h200",
    "b200_sxm": "b200",
    "b300_sxm": "b300",
    "gb200": "gb200",
    "gb300": "gb300",
    "l40s": "l40s",
    "rtx_pro_6000_server": "rtx_pro_6000",
}
_DTYPES: Final[dict[str, str]] = {
    "bfloat16": "bf16",
    "float16": "fp16",
    "half": "fp16",
    "sq": "int8",
    "int8_wo": "int8_weights",
    "int4_wo": "int4",
}
_ELEMENT_BYTES: Final[dict[str, int]] = {"half": 2, "float16": 2, "bfloat16": 2, "int8": 1, "fp8": 1, "float32": 4}
_ENDINGS: Final = (".parquet", ".txt")  # of this release, and of older ones
_OPERATIONS: Final[dict[str, str]] = {"alltoall": "all_to_all"}

_SOURCE: Final = "aiconfigurator-core 0.12.0 kernel tables"
_LICENCE: Final = "Apache-2.0"
_DATE: Final = "2026-11"

Columns = dict[str, Any]
Frame = dict[str, "NDArray[Any]"]


class _Family(NamedTuple):
    """One of their files and how it is read."""

    kind: str
    title: str
    read: Callable[[Frame], Columns]


def import_aiconfigurator(
    path: Path | None = None, *, device: str | None = None, kinds: tuple[str, ...] | None = None
) -> Iterator[MeasuredTable]:
    """Read dense kernel tables: GEMM, prefill and decode attention, collectives.

    Parameters
    ----------
    path
        A folder that holds ``<system>/<family>/…``: ``systems/data`` of the package; None takes the installed one.
    device
        GPU type, as our profiles call it; None reads all that have one.
    kinds
        Kinds of tables to read, names in `planner.profiling.tables.KINDS`; None reads all.

    Yields
    ------
    MeasuredTable
        One for each file, its engine and version in ``origin.software``, in a fixed order.

    Raises
    ------
    InputError
        If there is no such folder or table, a table lacks a column, or pandas and pyarrow are not installed.
    """
    found = 0
    for file, name, family in find_tables(path, device=device):
        if kinds is None or family.kind in kinds:
            found += 1
            yield _table(file, name, family)
    if not found:
        what = f"holds no kernel tables of {device}" if device else "holds no kernel tables"
        raise InputError(what, where=path or _installed(), expected=f"folders of {', '.join(SYSTEMS)}")


def find_tables(path: Path | None, *, device: str | None = None) -> Iterator[tuple[Path, str, _Family]]:
    """Files that can be read, each with its GPU type and the reader of its family."""
    folder = data_folder(path)
    for system, name in SYSTEMS.items():
        if device is not None and name != device:
            continue
        for file in sorted(path for end in _ENDINGS for path in (folder / system).glob(f"*/*/*/*_perf{end}")):
            family = _FAMILIES.get(file.stem)
            if family is not None:
                yield file, name, family


def data_folder(path: Path | None) -> Path:
    """Folder of the systems: that of the package where `path` is None, or the one inside `path`."""
    folder = path if path is not None else _installed()
    if not folder.is_dir():
        raise InputError("no such folder", where=folder, expected="systems/data of aiconfigurator-core")
    inside = folder / "systems" / "data"
    return inside if inside.is_dir() else folder


def _installed() -> Path:
    found = importlib.util.find_spec("aiconfigurator_core")
    if found is None or not found.submodule_search_locations:
        raise InputError(
            "aiconfigurator-core is not installed",
            expected="the package, or the folder of its tables",
            hint="pip install 'hetplan[aic]'",
        )
    return Path(next(iter(found.submodule_search_locations))) / "systems" / "data"


def _table(file: Path, device: str, family: _Family) -> MeasuredTable:
    frame = _parquet(file) if file.suffix == ".parquet" else _text(file)
    engine, version = file.parts[-3], file.parts[-2]
    origin = Origin(
        table=family.kind,
        device=device,
        title=f"{family.title}, {engine} {version}",
        source=_SOURCE,
        licence=_LICENCE,
        date=_DATE,
        software=f"{engine} {version}",
    )
    try:
        columns = family.read(frame)
        columns["seconds"] = frame["latency"].astype(float) * 1e-3
    except KeyError as error:
        raise InputError(f"lacks the column {error}", where=file, expected=f"a table of {family.title}") from None
    except ValueError as error:
        raise InputError(f"holds what is no number: {error}", where=file, expected="sizes and milliseconds") from None
    return MeasuredTable.of(origin, columns, where=str(file))


def _parquet(file: Path) -> Frame:
    try:
        import pandas as pd  # an extra, and slow

        table = pd.read_parquet(file)
    except ImportError:
        raise InputError(
            "reading .parquet needs pandas and pyarrow", where=file, hint="pip install 'hetplan[aic]'"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {error}", where=file, expected="a complete .parquet file") from None
    return {str(name): table[name].to_numpy() for name in table.columns}


def _text(file: Path) -> Frame:
    """Read comma-separated text, as older releases hold it."""
    lines = [line for line in csv.reader(io.StringIO(read_text(file, "kernel table"), newline="")) if line]
    if len(lines) < 2:
        raise InputError("is empty", where=file, expected="a header and measurements")
    for number, line in enumerate(lines[1:], start=2):
        if len(line) != len(lines[0]):
            raise InputError(
                f"{len(line)} fields where the header has {len(lines[0])}",
                where=f"{file}:{number}",
                hint="the file may be cut short; complete that row, or take it out",
            )
    return {name.strip(): np.array([line[at] for line in lines[1:]]) for at, name in enumerate(lines[0])}


def _whole(values: NDArray[Any]) -> NDArray[Any]:
    """Sizes, which text holds as text."""
    return values.astype(float)


def _named(values: NDArray[Any], names: Mapping[str, str]) -> NDArray[Any]:
    texts, place = np.unique(values.astype(str), return_inverse=True)
    return np.array([names.get(text, text) for text in texts.tolist()])[place.reshape(-1)]


def _or(frame: Frame, column: str, default: int) -> NDArray[Any]:
    if column in frame:
        return _whole(frame[column])
    return np.full(len(frame["latency"]), float(default))


def _gemm(frame: Frame) -> Columns:
    return {"dtype": _named(frame["gemm_dtype"], _DTYPES), **{size: _whole(frame[size]) for size in "mnk"}}


def _heads(frame: Frame) -> Columns:
    heads, kv = _whole(frame["num_heads"]), _whole(frame["num_key_value_heads"])
    kv_dtype = _named(frame["kv_cache_dtype"], _DTYPES)
    return {
        "heads": heads,
        "kv_heads": np.where(kv > 0, kv, heads),  # 0 says that every head has its own
        "head_dim": _or(frame, "head_dim", 128),
        "window": _or(frame, "window_size", 0),
        "dtype": _named(frame["attn_dtype"], _DTYPES) if "attn_dtype" in frame else np.full(len(heads), "bf16"),
        "kv_dtype": kv_dtype,
        "batch": _whole(frame["batch_size"]),
    }


def _prefill(frame: Frame) -> Columns:
    return {**_heads(frame), "tokens": _whole(frame["isl"]), "context": _or(frame, "step", 0)}


def _decode(frame: Frame) -> Columns:
    return {**_heads(frame), "context": _whole(frame["isl"]) + _or(frame, "step", 0)}


def _messages(frame: Frame, dtype: str) -> Columns:
    each = _named(frame[dtype], {name: str(size) for name, size in _ELEMENT_BYTES.items()}).astype(float)
    return {
        "dtype": _named(frame[dtype], _DTYPES),
        "gpus": _whole(frame["num_gpus"]),
        "bytes": _whole(frame["message_size"]) * each,
    }


def _nccl(frame: Frame) -> Columns:
    return {
        "operation": _named(frame["op_name"], _OPERATIONS),
        "library": np.full(len(frame["latency"]), "nccl"),
        **_messages(frame, "nccl_dtype"),
    }


def _custom_all_reduce(frame: Frame) -> Columns:
    kernels = frame["kernel_source"].astype(str)
    return {
        "operation": np.full(len(kernels), "all_reduce"),
        "library": np.where(np.char.find(kernels, "eager") >= 0, "custom_eager", "custom"),
        **_messages(frame, "allreduce_dtype"),
    }


_FAMILIES: Final[dict[str, _Family]] = {
    "gemm_perf": _Family("gemm", "matrix products", _gemm),
    "context_attention_perf": _Family("prefill_attention", "prefill attention", _prefill),
    "generation_attention_perf": _Family("decode_attention", "decode attention", _decode),
    "nccl_perf": _Family("collective", "NCCL collectives", _nccl),
    "custom_allreduce_perf": _Family("collective", "fused all-reduce", _custom_all_reduce),
}
