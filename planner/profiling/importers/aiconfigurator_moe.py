"""Tables of routed experts and latent attention of NVIDIA AIConfigurator (``aiconfigurator-core``).

Its tables lie in ``systems/data/<system>/<family>/<engine>/<version>/<operator>_perf.parquet``; latencies are
milliseconds. Of the kernels that an engine was measured with for the same sizes the fastest counts, as engines choose
between them; layers without a gate (two matrices an expert) are left out.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from planner.errors import InputError
from planner.profiling.importers.aiconfigurator import SYSTEMS, data_folder
from planner.profiling.tables import MeasuredTable, Origin

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["ENGINES", "import_latent", "import_mixture", "import_moe", "newest"]

ENGINES: Final = ("trtllm", "sglang", "vllm")

_FORMATS: Final[dict[str, str]] = {
    "bfloat16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8_block",
    "nvfp4": "nvfp4",
    "w4a16_mxfp4": "mxfp4",
    "w4a8_mxfp4_mxfp8": "mxfp4_fp8",
    "int4_wo": "int4",
}
# (hidden, intermediate) of layers without a gate: Nemotron, by any kernel
_UNGATED: Final = ((2688, 1856), (1024, 2688), (2048, 5120), (8192, 5120))
_UNGATED_TOP_K: Final = (22, 6)

_SOURCE: Final = "aiconfigurator-core 0.12.0 kernel tables"
_LICENCE: Final = "Apache-2.0"
_DATE: Final = "2026-11"
_RANKS: Final = 512  # wide-EP shapes beyond this many GPUs are left out


def newest(folder: Path, name: str) -> Path | None:
    """File of that name in the folder of the newest version that has one; None if none has.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as where:
    ...     for version in ("1.3.0rc9", "1.3.0rc10", "1.2.0"):
    ...         (Path(where) / version).mkdir()
    ...         _ = (Path(where) / version / "x.parquet").write_text("")
    ...     newest(Path(where), "x.parquet").parent.name
    '1.3.0rc10'
    """
    return max(
        sorted(folder.glob(f"*/{name}")),
        key=lambda path: [int(n) for n in re.findall(r"\d+", path.parent.name)],
        default=None,
    )


def import_mixture(path: Path | None = None, *, device: str | None = None) -> Iterator[MeasuredTable]:
    """Read all tables of routed experts and latent attention, of the newest version of each engine.

    Parameters
    ----------
    path
        A folder that holds ``<system>/<family>/…``: ``systems/data`` of the package; None takes the installed one.
    device
        GPU type, as our profiles call it; None reads all that have one.

    Yields
    ------
    MeasuredTable
        In a fixed order: GPU types, engines, kinds.

    Raises
    ------
    InputError
        If there is no such folder, a table lacks a column, or pandas and pyarrow are not installed.
    """
    data = data_folder(path)
    for system, name in SYSTEMS.items():
        if device is not None and name != device:
            continue
        for engine in ENGINES:
            tables = (
                import_moe(data, system, engine, name),
                import_latent(data, system, engine, name, prefill=True),
                import_latent(data, system, engine, name, prefill=False),
            )
            yield from (table for table in tables if table is not None)


def import_moe(data: Path, system: str, engine: str, device: str) -> MeasuredTable | None:
    """Read the routed experts of one engine on one system.

    Parameters
    ----------
    data
        Their ``systems/data``.
    system, engine
        Folders of it: ``"h200_sxm"``, ``"trtllm"``.
    device
        The GPU type here.

    Returns
    -------
    MeasuredTable or None
        None where there is no table.
    """
    path = _gated_newest(data / system / "moe" / engine)
    if path is None:
        return None
    frame = _read(path)
    frame = frame[frame["moe_dtype"].isin(_FORMATS) & (frame["moe_tp_size"] * frame["moe_ep_size"] <= _RANKS)]
    shapes = list(zip(frame["hidden_size"], frame["inter_size"], strict=True))
    ungated = np.array([shape in _UNGATED for shape in shapes]) & frame["topk"].isin(_UNGATED_TOP_K).to_numpy()
    ungated |= frame["kernel_source"].str.contains("nongated").to_numpy()
    keys = {
        "dtype": "moe_dtype",
        "tokens": "num_tokens",
        "hidden": "hidden_size",
        "intermediate": "inter_size",
        "top_k": "topk",
        "experts": "num_experts",
        "tp": "moe_tp_size",
        "ep": "moe_ep_size",
        "distribution": "distribution",
    }
    return _table(frame[~ungated], keys, "moe", f"routed experts, {engine}", device, path)


def _gated_newest(folder: Path) -> Path | None:
    """Newest version whose table covers more than layers without a gate."""
    name = "moe_perf.parquet"
    versions = sorted(folder.glob(f"*/{name}"), key=lambda path: path.stat().st_size)
    large = [path for path in versions if path.stat().st_size > versions[-1].stat().st_size / 4]
    return max(large, key=lambda path: [int(n) for n in re.findall(r"\d+", path.parent.name)], default=None)


def import_latent(data: Path, system: str, engine: str, device: str, *, prefill: bool) -> MeasuredTable | None:
    """Read multi-head latent attention of one engine on one system, without the projections around it.

    Parameters
    ----------
    data, system, engine, device
        As in `import_moe`.
    prefill
        Prompts, whose latents are expanded; else decode steps, which work on the latents.
    """
    path = newest(data / system / "mla" / engine, f"{'context' if prefill else 'generation'}_mla_perf.parquet")
    if path is None:
        return None
    frame = _read(path).assign(kv_rank=512, rope_dim=64)
    frame["context"] = frame["step"] if prefill else frame["isl"] + frame["step"]
    keys = {
        "dtype": "mla_dtype",
        "kv_dtype": "kv_cache_dtype",
        "batch": "batch_size",
        "context": "context",
        "heads": "num_heads",
        "kv_rank": "kv_rank",
        "rope_dim": "rope_dim",
    }
    if prefill:
        keys["tokens"] = "isl"
    kind = "mla_prefill" if prefill else "mla_decode"
    return _table(frame, keys, kind, f"latent attention, {engine}", device, path)


def _read(path: Path) -> Any:
    try:
        import pandas as pd  # heavy, and in an extra

        return pd.read_parquet(path)
    except ImportError:
        raise InputError(
            "pandas and pyarrow are needed to read it", where=path, hint="pip install 'hetplan[aic]'"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read: {error}", where=path, expected="a parquet table") from None


def _table(frame: Any, keys: Mapping[str, str], kind: str, title: str, device: str, path: Path) -> MeasuredTable | None:
    if frame.empty:
        return None
    missing = [column for column in (*keys.values(), "latency") if column not in frame]
    if missing:
        raise InputError(f"lacks the column {missing[0]!r}", where=path, expected="a table of aiconfigurator-core 0.12")
    best = frame.groupby(list(keys.values()), as_index=False)["latency"].min()
    columns: dict[str, Any] = {name: best[column].to_numpy() for name, column in keys.items()}
    for name in ("dtype", "kv_dtype"):
        if name in columns:
            columns[name] = [_FORMATS.get(str(value), str(value)) for value in columns[name]]
    columns["seconds"] = best["latency"].to_numpy() * 1e-3
    origin = Origin(
        table=kind,
        device=device,
        title=title,
        source=f"{_SOURCE} ({path.relative_to(path.parents[4])})",
        licence=_LICENCE,
        date=_DATE,
        software=f"{path.parts[-3]} {path.parts[-2]}",
    )
    return MeasuredTable.of(origin, columns, where=str(path))
