"""Importers by name. A new one is a file beside this and a line here; others come by entry point."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from planner.errors import InputError, unknown_name
from planner.profiling.importers.aiconfigurator_all import read_aiconfigurator
from planner.profiling.importers.base import Imported, Source
from planner.profiling.importers.distserve import import_distserve
from planner.profiling.importers.helix import import_helix
from planner.profiling.importers.metis import import_metis
from planner.profiling.importers.muxserve import import_muxserve
from planner.profiling.importers.nccl_tests import import_nccl_tests
from planner.profiling.importers.sailor import import_sailor
from planner.profiling.importers.vidur import import_vidur

__all__ = ["GROUP", "SOURCES", "import_tables", "source_named"]

GROUP: Final = "hetplan.profile_sources"
"""Entry point group under which other packages offer a `Source`."""

SOURCES: Final[dict[str, Source]] = {
    "aiconfigurator": Source(
        title="NVIDIA AIConfigurator: GEMM, attention, MLA, MoE and collectives on nine GPU types",
        path="systems/data of aiconfigurator-core; without PATH the installed package, pip install 'hetplan[aic]'",
        read=read_aiconfigurator,
        needs_path=False,
    ),
    "helix": Source(
        title="Helix (ASPLOS 2025): layers in serving on A100, V100, L4, T4",
        path="folder with <model>/<machine>/prompt_bs2time.csv and decode_bs2time.csv",
        read=import_helix,
    ),
    "sailor": Source(
        title="Sailor (SOSP 2025): training layers, sizes of layers, bandwidth fits",
        path="folder with layer_profiles.json, model_layers.json, network_coeffs_all_homo.json, "
        "multizone_bandwidths_het.json, or one of them",
        read=import_sailor,
    ),
    "metis": Source(
        title="profiles in Metis' format (ATC 2024): training layers",
        path="folder with DeviceType.<GPU>_tp<TP>_bs<microbatch>.json",
        read=import_metis,
    ),
    "vidur": Source(
        title="Vidur (MLSys 2024): projections, attention, collectives",
        path="its data/profiling, a folder below, or a CSV file",
        read=import_vidur,
    ),
    "distserve": Source(
        title="DistServe (OSDI 2024): fitted latencies and KV capacities of OPT on A100",
        path="folder with profiler-*.json and max_num_tokens.csv, or one of them",
        read=import_distserve,
    ),
    "muxserve": Source(
        title="MuxServe (ICML 2024): iterations of LLaMA on A100, by share of the GPU",
        path="llama_latency_ms.json, or the folder with it",
        read=import_muxserve,
    ),
    "nccl_tests": Source(
        title="output of nccl-tests: collectives",
        path="text or JSON output, or a folder of them",
        read=import_nccl_tests,
    ),
}


def source_named(name: str) -> Source:
    """Importer of that name, built in or from the entry point group ``hetplan.profile_sources``.

    Raises
    ------
    InputError
        If there is none; names the known ones.
    """
    if name in SOURCES:
        return SOURCES[name]
    offered = {point.name: point for point in sorted(entry_points(group=GROUP), key=lambda p: (p.name, p.value))}
    if name not in offered:
        raise unknown_name("kind of profile", name, [*SOURCES, *offered])
    source: Source = offered[name].load()
    return source


def import_tables(kind: str, path: str | Path | None, *, device: str | None = None) -> Iterator[Imported]:
    """Read what somebody else measured.

    Parameters
    ----------
    kind
        A name in `SOURCES`.
    path
        What its `Source.path` says.
    device
        GPU type: which one it was measured on where the files do not say, else the only one to read.

    Yields
    ------
    Imported
        One table after another.

    Raises
    ------
    InputError
        If there is no such importer or path, or the files are not what they must be.
    """
    source = source_named(kind)
    if path is None:
        if source.needs_path:
            raise InputError(f"{kind} needs a PATH", expected=source.path)
        path = Path()
    elif not Path(path).exists():
        raise InputError("no such file or folder", where=path, expected=source.path)
    if source.needs_device and device is None:
        raise InputError(
            "does not say which GPU type it was measured on", where=path, hint="name it: --device h100_sxm"
        )
    yield from source.read(Path(path), device=device)
