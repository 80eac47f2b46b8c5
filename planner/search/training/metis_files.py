"""A job from Metis' own input files, under the names that they use: hostfile, clusterfile, profiles.

Sizes are as the files count them: a card of 15 GB holds 15 x 1024 of the profiles' MB.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from planner.cost.metis import MetisGpu, MetisJob, MetisProfile
from planner.cost.metis_format import metis_profile_files, read_metis_nodes, read_metis_profile
from planner.errors import InputError

__all__ = ["read_metis_job"]

_MB: Final = 1e6


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
    gpus = _gpus(hostfile, clusterfile)
    entries = [entry for entry in metis_profile_files(profiles) if entry[1].casefold() in gpus]
    missing = sorted(set(gpus) - {gpu.casefold() for _, gpu, _, _ in entries})
    if missing:
        raise InputError(
            f"holds no profile of {', '.join(missing)}",
            where=profiles,
            expected="files called DeviceType.<GPU>_tp<TP>_bs<size>.json for every GPU type of the cluster",
        )
    # the smallest TP and microbatch say what a whole update takes, whatever order the folder is listed in
    entries.sort(key=lambda entry: (*entry[2:], entry[0].name))
    files = [read_metis_profile(*entry) for entry in entries]
    first = files[0]
    found: dict[tuple[str, int, int], MetisProfile] = {}
    for one in files:
        if len(one.time_L) != len(first.time_L):
            raise InputError(f"has {len(one.time_L)} layers, {first.file.name} has {len(first.time_L)}", where=one.file)
        time_L = np.array(one.time_L)
        beyond = max(0.0, one.forward_backward - float(time_L.sum()))
        found[one.gpu.casefold(), one.tp, one.microbatch] = MetisProfile(time_L, np.array(one.memory_L), beyond)
    return MetisJob(
        gpus=gpus,
        profiles=found,
        parameters_L=np.array(first.parameters_L),
        optimizer=first.optimizer,
        generation=first.generation,
        batch=batch,
        sequence_length=sequence_length,
        hidden=hidden,
        max_stages=max_stages or 16,
    )


def _gpus(hostfile: Path, clusterfile: Path) -> dict[str, MetisGpu]:
    gpus: dict[str, MetisGpu] = {}
    for node in read_metis_nodes(hostfile, clusterfile):
        name = node.gpu.casefold()
        had = gpus.get(name)
        if had is not None and had.per_node != node.slots:
            raise InputError(f"gives {name} nodes of {had.per_node} and of {node.slots} GPUs", where=node.where)
        gpus[name] = MetisGpu(
            count=node.slots + (had.count if had else 0),
            per_node=node.slots,
            memory=min(node.memory * 1024 * _MB, had.memory if had else np.inf),
            intra=min(node.intra, had.intra if had else np.inf),
            inter=min(node.inter, had.inter if had else np.inf),
        )
    return gpus
