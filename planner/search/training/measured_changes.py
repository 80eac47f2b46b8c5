"""Jobs on measured layers without a plan: what binds, and the smallest change that works, found by really searching.

What was not measured cannot be had: a higher TP or a smaller microbatch than the profiles hold is no change here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

from planner.errors import InfeasibleError, TimeLimitError
from planner.search.smallest_change import Change, Kind, smallest_change
from planner.search.training.cells import search_graphs

if TYPE_CHECKING:
    from planner.cost.metis import MetisJob
    from planner.errors import PlannerError
    from planner.search.training.cells import Answer
    from planner.search.training.sailor import SailorJob
    from planner.search.training.stage_graph import StageGraph

__all__ = ["graphs_hold_a_plan", "metis_without_plan", "sailor_without_plan"]

_MOST_NODES: Final = 256
_MOST_GB: Final = 1024
T = TypeVar("T")

# Seconds that one job is tried for.
_PATIENCE: Final = 10.0


def graphs_hold_a_plan(graphs: Sequence[StageGraph]) -> bool:
    """Whether any path of any graph is a plan; the first one found ends the search."""
    return search_graphs(graphs, time_limit=_PATIENCE, tolerance=math.inf).graph is not None


def metis_without_plan(
    job: MetisJob, answer: Answer, time_limit: float, graphs_of: Callable[[MetisJob], Sequence[StageGraph]]
) -> PlannerError:
    """Make the error for a job of Metis' inputs that nothing fits.

    Parameters
    ----------
    job, answer, time_limit
        The job, and what the search said within how many seconds.
    graphs_of
        How the search sees a job.
    """
    if not answer.closed:
        return TimeLimitError(f"no plan within {time_limit:g} s")
    L = len(job.parameters_L)
    least = {
        layer: min(float(one.memory_L[layer]) for (name, _, _), one in job.profiles.items() if name in job.gpus)
        for layer in range(L)
    }
    largest = max(job.gpus.values(), key=lambda gpu: gpu.memory).memory
    layer = max(least, key=lambda one: least[one])
    whole = sum(
        min(float(p.memory_L[i]) * tp for (name, tp, _), p in job.profiles.items() if name in job.gpus)
        for i in range(L)
    )
    have = sum(gpu.count * gpu.memory for gpu in job.gpus.values())
    if least[layer] > largest:
        text = (
            f"layer {layer} takes {_gb(least[layer])} on a GPU at the best of what was profiled; the largest GPU has"
            f" {_gb(largest)}"
        )
    elif whole > have:
        text = f"one replica of all layers takes {_gb(whole)} at the least; all GPUs together have {_gb(have)}"
    else:
        text = (
            f"no division of {L} layers into at most {min(job.max_stages, L)} stages fits the GPUs with what was"
            f" profiled: one replica takes {_gb(whole)} at the least, all GPUs together have {_gb(have)}"
        )

    def more_nodes(name: str) -> Kind[MetisJob]:
        def at(size: int) -> Change[MetisJob]:
            gpu = job.gpus[name]
            gpus = {**job.gpus, name: replace(gpu, count=gpu.count + size * gpu.per_node)}
            return Change(_nodes(size, gpu.per_node, name), replace(job, gpus=gpus))

        return Kind(_MOST_NODES, at)

    def larger(size: int) -> Change[MetisJob]:
        memory = largest + size * 1024e6
        gpus = {name: replace(gpu, memory=max(gpu.memory, memory)) for name, gpu in job.gpus.items()}
        return Change(f"GPUs with {_gb(memory)} each", replace(job, gpus=gpus))

    deeper = _stages(job.max_stages, L, lambda most: replace(job, max_stages=most))
    kinds = [deeper, [more_nodes(name) for name in _by_memory(job)], [Kind(_MOST_GB, larger)]]
    change = smallest_change(kinds, lambda one: graphs_hold_a_plan(graphs_of(one)))
    return InfeasibleError(text, hint=None if change is None else change.words)


def sailor_without_plan(
    job: SailorJob, answer: Answer, time_limit: float, graphs_of: Callable[[SailorJob], Sequence[StageGraph]]
) -> PlannerError:
    """Make the error for a job on Sailor's tables that nothing fits; parameters as in `metis_without_plan`."""
    if not answer.closed:
        return TimeLimitError(f"no plan within {time_limit:g} s")
    fleet = ", ".join(f"{count} {name} of {_gb(job.memory[name])}" for name, count in sorted(job.gpus.items()))
    text = (
        f"no division of the {job.tables.num_layers} measured layers of {job.tables.model} into at most"
        f" {job.max_stages} stages fits {fleet}"
    )

    def more_nodes(name: str) -> Kind[SailorJob]:
        def at(size: int) -> Change[SailorJob]:
            gpus = {**job.gpus, name: job.gpus[name] + size * job.gpus_per_node}
            return Change(_nodes(size, job.gpus_per_node, name), replace(job, gpus=gpus))

        return Kind(_MOST_NODES, at)

    largest = max(job.memory.values())

    def larger(size: int) -> Change[SailorJob]:
        memory = {name: max(had, largest + size * 1e9) for name, had in job.memory.items()}
        return Change(f"GPUs with {_gb(largest + size * 1e9)} each", replace(job, memory=memory))

    layers = job.tables.num_layers
    deeper = _stages(job.max_stages, layers, lambda most: replace(job, max_stages=most))
    nodes = [more_nodes(name) for name in sorted(job.gpus, key=lambda name: -job.memory[name])]
    change = smallest_change([deeper, nodes, [Kind(_MOST_GB, larger)]], lambda one: graphs_hold_a_plan(graphs_of(one)))
    return InfeasibleError(text, hint=None if change is None else change.words)


def _by_memory(job: MetisJob) -> list[str]:
    return sorted(job.gpus, key=lambda name: -job.gpus[name].memory)


def _gb(value: float) -> str:
    return f"{value / 1e9:,.1f} GB"


def _nodes(size: int, per_node: int, name: str) -> str:
    return f"{size} more {'node' if size == 1 else 'nodes'} of {per_node} {name}"


def _stages(had: int, layers: int, with_stages: Callable[[int], T]) -> list[Kind[T]]:
    def at(size: int) -> Change[T]:
        return Change(f"up to {had + size} stages (--max-stages {had + size})", with_stages(had + size))

    return [Kind(layers - had, at)] if layers > had else []
