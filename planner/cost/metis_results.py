"""Plans from Metis' printed result list, and what is wrong with them.

A plan is a line ``rank, cost, node_sequence, device_groups, strategies(dp_deg, tp_deg), batches, layer_partition``:

    ``1, 3509.15, (<DeviceType.A100: 'a100'>, <DeviceType.T4: 't4'>), [8, 8], [(4, 2), (4, 2)], 16, [0, 6, 10]``

Ranks are numbered type by type in the order of the node sequence, node by node as the hostfile has them; a stage takes
the next ranks, a tensor-parallel group each next tp of these. The list does not say how a stage of two GPU types
shares a microbatch: by their speeds, as the published rules do.

References
----------
T. Um et al., "Metis: fast automatic distributed training on heterogeneous GPUs", USENIX ATC 2024.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from planner.cost.metis import (
    MetisJob,
    MetisLinks,
    MetisPrice,
    MetisProfile,
    MetisReplicas,
    MetisStage,
    metis_memory,
    metis_price,
)
from planner.errors import InputError
from planner.resources import read_text

if TYPE_CHECKING:
    from planner.cost.metis_format import MetisNode

__all__ = ["MetisResult", "PlacedMetisPlan", "place_metis_plan", "read_metis_results"]

_LINE: Final = re.compile(
    r"\s*(?P<rank>\d+)\s*,\s*(?P<cost>[-+.\deE]+)\s*,\s*\((?P<sequence>[^)]*DeviceType[^)]*)\)\s*,"
    r"(?P<rest>\s*[\[(].*[\])])\s*"
)
_TYPE: Final = re.compile(r"DeviceType\.(\w+)")
_EXPECTED: Final = (
    "rank, cost, (<DeviceType.A100: 'a100'>, …), [GPUs of each stage], [(dp, tp) of each stage], microbatches,"
    " [layer cuts]"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetisResult:
    """One line of the list.

    Parameters
    ----------
    rank, cost
        As it says; milliseconds.
    sequence
        GPU types in the order of their ranks.
    groups, strategies
        GPUs of each stage, and their (data, tensor) parallel degrees.
    microbatches
        Of the batch.
    cuts
        First layer of each stage, and one past the last of all.
    """

    rank: int
    cost: float
    sequence: tuple[str, ...]
    groups: tuple[int, ...]
    strategies: tuple[tuple[int, int], ...]
    microbatches: int
    cuts: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlacedMetisPlan:
    """A plan on its ranks.

    Parameters
    ----------
    stages
        Those that hold a layer.
    faults
        Why it is no plan: lost layers, empty stages, groups across nodes, what was not profiled, memory.
    price
        Of what it holds; None where that cannot be said.
    memory_S, limit_S
        Bytes of the fullest GPU of each stage for its size, and what that GPU has.
    """

    stages: tuple[MetisStage, ...]
    faults: tuple[str, ...]
    price: MetisPrice | None
    memory_S: tuple[float, ...]
    limit_S: tuple[float, ...]


def read_metis_results(file: Path) -> list[MetisResult]:
    """Read all plans of a printed list; other lines are passed over.

    Raises
    ------
    InputError
        If there is no plan in it, or a line that begins as one does not go on as one.
    """
    found = []
    for number, line in enumerate(read_text(file, "result list of Metis").splitlines(), start=1):
        match = _LINE.fullmatch(line)
        if match is None:
            if re.match(r"\s*\d+\s*,.*DeviceType", line):
                raise InputError(f"found {line.strip()[:80]!r}", where=f"{file}:{number}", expected=_EXPECTED)
            continue
        found.append(_result(match, f"{file}:{number}"))
    if not found:
        raise InputError("holds no plan", where=file, expected=_EXPECTED)
    return found


def _result(match: re.Match[str], where: str) -> MetisResult:
    try:
        cost = float(match["cost"])
        groups, strategies, microbatches, cuts = json.loads(f"[{match['rest']}]".replace("(", "[").replace(")", "]"))
        good = _whole(groups) and _whole(cuts) and _whole([microbatches])
        good &= all(_whole(one) and len(one) == 2 for one in strategies)
        good &= len(groups) == len(strategies) == len(cuts) - 1 and cuts == sorted(cuts) and microbatches > 0
    except (ValueError, TypeError):
        good = False
    if not good:
        raise InputError(f"found {match[0].strip()[:80]!r}", where=where, expected=_EXPECTED)
    return MetisResult(
        rank=int(match["rank"]),
        cost=cost,
        sequence=tuple(name.casefold() for name in _TYPE.findall(match["sequence"])),
        groups=tuple(groups),
        strategies=tuple((dp, tp) for dp, tp in strategies),
        microbatches=microbatches,
        cuts=tuple(cuts),
    )


def _whole(values: Any) -> bool:
    return all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in values) and bool(values)


def place_metis_plan(result: MetisResult, job: MetisJob, nodes: Sequence[MetisNode]) -> PlacedMetisPlan:
    """Put a plan on its ranks, price it, and say what is wrong with it.

    Parameters
    ----------
    result
        The plan.
    job, nodes
        What it was made for: the job's batch, and the hostfile's nodes in order.
    """
    faults, ranks = _ranks(result, nodes)
    L = len(job.parameters_L)
    faults += _layer_faults(result.cuts, L)
    if job.batch % result.microbatches:
        faults.append(f"{result.microbatches} microbatches do not divide the batch of {job.batch}")
        return _unpriced(faults)
    if sum(result.groups) > len(ranks):
        faults.append(f"its stages take {sum(result.groups)} GPUs of {len(ranks)}")
        return _unpriced(faults)
    stages, spans, first = [], [], 0
    for s, (size, (dp, tp)) in enumerate(zip(result.groups, result.strategies, strict=True)):
        mine = ranks[first : first + size]
        first += size
        start, end = result.cuts[s], result.cuts[s + 1]
        if dp * tp != size:
            faults.append(f"stage {s}: DP {dp} times TP {tp} are not its {size} GPUs")
            return _unpriced(faults)
        if start == end:
            continue
        groups = [mine[g * tp : (g + 1) * tp] for g in range(dp)]
        fault = _group_fault(s, groups)
        if fault is not None:
            faults.append(fault)
        job, replicas, fault = _shared(job, [group[0][0] for group in groups], tp, job.batch // result.microbatches)
        if fault is not None:
            faults.append(f"stage {s}: {fault}")
            return _unpriced(faults)
        stages.append(MetisStage((start, end), replicas))
        spans.append(groups)
    links = [_links(job, spans, s) for s in range(len(stages))]
    memory_S, limit_S = [], []
    for s, stage in enumerate(stages):
        held = metis_memory(job, stage)
        one = max(held, key=lambda replicas: held[replicas] / job.gpus[replicas.device].memory)
        memory_S.append(held[one])
        limit_S.append(job.gpus[one.device].memory)
        if held[one] > job.gpus[one.device].memory:
            faults.append(
                f"stage {s} needs {held[one] / 1e6:,.0f} MB on each {one.device} of {limit_S[-1] / 1e6:,.0f} MB"
            )
    price = metis_price(job, stages, result.microbatches, links) if stages else None
    return PlacedMetisPlan(
        stages=tuple(stages), faults=tuple(faults), price=price, memory_S=tuple(memory_S), limit_S=tuple(limit_S)
    )


def _unpriced(faults: Sequence[str]) -> PlacedMetisPlan:
    return PlacedMetisPlan(stages=(), faults=tuple(faults), price=None, memory_S=(), limit_S=())


def _ranks(result: MetisResult, nodes: Sequence[MetisNode]) -> tuple[list[str], list[tuple[str, int]]]:
    """GPU type and node of each rank."""
    known = dict.fromkeys(node.gpu.casefold() for node in nodes)
    unknown = [name for name in result.sequence if name not in known]
    faults = [f"names {', '.join(unknown)}, which the cluster does not have"] if unknown else []
    ranks = [
        (name, number)
        for name in result.sequence
        for number, node in enumerate(nodes)
        if node.gpu.casefold() == name
        for _ in range(node.slots)
    ]
    return faults, ranks


def _layer_faults(cuts: Sequence[int], layers: int) -> list[str]:
    faults = []
    if cuts[0] > 0 or cuts[-1] < layers:
        lost = [*range(cuts[0]), *range(cuts[-1], layers)]
        text = str(lost[0]) if len(lost) == 1 else f"{lost[0]} to {lost[-1]}"
        faults.append(f"loses layers: it holds {cuts[-1] - cuts[0]} of {layers}, {text} nowhere")
    if cuts[-1] > layers:
        faults.append(f"places {cuts[-1]} layers of a model that has {layers}")
    empty = [str(s) for s in range(len(cuts) - 1) if cuts[s] == cuts[s + 1]]
    if empty:
        faults.append(f"stage {', '.join(empty)} holds no layer")
    return faults


def _group_fault(s: int, groups: Sequence[Sequence[tuple[str, int]]]) -> str | None:
    for group in groups:
        if len({name for name, _ in group}) > 1:
            return f"stage {s}: a tensor-parallel group on different GPU types"
        if len({node for _, node in group}) > 1:
            return f"stage {s}: a tensor-parallel group across nodes, which no profile has measured"
    return None


def _shared(
    job: MetisJob, types: Sequence[str], tp: int, sequences: int
) -> tuple[MetisJob, tuple[MetisReplicas, ...], str | None]:
    """Share a microbatch among replicas by their speed at one sequence, whole sequences, the largest rests first."""
    counts = Counter(types)
    if len(counts) == 1:
        (device,) = counts
        share, rest = divmod(sequences, counts[device])
        if rest or not share:
            return job, (), f"{counts[device]} replicas cannot share a microbatch of {sequences} equally"
        job, fault = _with_profile(job, device, tp, share)
        return job, (MetisReplicas(device, tp, counts[device], share),), fault
    if any((device, tp, 1) not in job.profiles for device in counts):
        return job, (), f"TP {tp} was not profiled with one sequence on all of {', '.join(counts)}"
    speed = np.array([1.0 / float(job.profiles[device, tp, 1].time_L.sum()) for device in types])
    exact = sequences * speed / speed.sum()
    shares = np.floor(exact).astype(int)
    for index in np.argsort(-(exact - shares), kind="stable")[: sequences - int(shares.sum())]:
        shares[index] += 1
    parts = Counter((device, int(share)) for device, share in zip(types, shares, strict=True) if share)
    for device, share in parts:
        job, fault = _with_profile(job, device, tp, share)
        if fault is not None:
            return job, (), fault
    return job, tuple(MetisReplicas(device, tp, count, share) for (device, share), count in parts.items()), None


def _with_profile(job: MetisJob, device: str, tp: int, share: int) -> tuple[MetisJob, str | None]:
    """A job that knows a size: measured, or put together from powers of two, with the memory of the next size."""
    if (device, tp, share) in job.profiles:
        return job, None
    sizes = [2**bit for bit in range(share.bit_length()) if share >> bit & 1]
    above = [size for name, t, size in job.profiles if (name, t) == (device, tp) and size >= share]
    if any((device, tp, size) not in job.profiles for size in sizes) or not above:
        return job, f"{device} was not profiled with TP {tp} and a microbatch of {share}"
    parts = [job.profiles[device, tp, size] for size in sizes]
    made = MetisProfile(
        np.sum([part.time_L for part in parts], axis=0),
        job.profiles[device, tp, min(above)].memory_L,
        sum(part.beyond for part in parts),
    )
    return replace(job, profiles={**job.profiles, (device, tp, share): made}), None


def _links(job: MetisJob, stages: Sequence[Sequence[Sequence[tuple[str, int]]]], s: int) -> MetisLinks:
    """Links of a stage as its ranks lie: its gradients' rings, one for each rank of a group, and its neighbours."""

    def link(ranks: Sequence[tuple[str, int]]) -> float:
        inside = len({node for _, node in ranks}) == 1
        return min(job.gpus[name].intra if inside else job.gpus[name].inter for name, _ in ranks)

    groups = stages[s]
    rings = [link([group[t] for group in groups]) for t in range(len(groups[0]))]

    def with_stage(other: int) -> float:
        if not 0 <= other < len(stages):
            return min(rings)
        return link([rank for one in (s, other) for group in stages[one] for rank in group])

    return MetisLinks(min(rings), with_stage(s - 1), with_stage(s + 1))
