"""A uniform configuration that does not fit: the smallest change after which it does, found by pricing what it becomes.

In this order, each alone: more recomputation, a smaller microbatch, a higher ZeRO stage, more tensor parallelism and
more stages on the same GPUs; then the last two with full recomputation and one sequence per microbatch; then more GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, get_args

from planner.cost.training import predict_training
from planner.cost.training_stage import Recompute
from planner.search.smallest_change import Change, Kind, smallest_change
from planner.search.training.uniform_space import UniformConfiguration, layer_splits, uniform_faults
from planner.search.training_changes import with_more_nodes

if TYPE_CHECKING:
    from planner.search.problem import TrainingProblem
    from planner.search.training.uniform import PlacedConfiguration

__all__ = ["UniformJob", "fits_uniform", "helpful_uniform_change"]

_ORDER: Final[tuple[Recompute, ...]] = get_args(Recompute)
_SLACK: Final = 1e-12
_ZERO: Final = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class UniformJob:
    """A configuration on a node class of a problem's cluster."""

    problem: TrainingProblem
    node_class: int
    configuration: UniformConfiguration

    def place(self) -> PlacedConfiguration:
        """Put it on GPUs."""
        from planner.search.training.uniform import place_uniform

        return place_uniform(self.problem, self.node_class, self.configuration)


def fits_uniform(job: UniformJob) -> bool:
    """Whether a configuration is legal and every GPU holds its part."""
    problem = job.problem
    if uniform_faults(problem, problem.cluster.classes[job.node_class], job.configuration):
        return False
    placed = job.place()
    price = predict_training(problem.model, problem.cluster, problem.engine, placed.job, placed.stages, placed.schedule)
    return all(
        memory.value <= limit * (1 + _SLACK) for memory, limit in zip(price.memory_S, price.limit_S, strict=True)
    )


def helpful_uniform_change(job: UniformJob) -> Change[UniformJob] | None:
    """Find the smallest change after which a configuration fits.

    Parameters
    ----------
    job
        A legal configuration that does not fit.

    Returns
    -------
    Change or None
        None where none of these helps.
    """
    # each size is a change of its own: memory need not fall with all of them
    return smallest_change([[Kind(1, lambda _, one=one: one)] for one in _changes(job)], fits_uniform)  # type: ignore[misc]


def _with(job: UniformJob, words: str, configuration: UniformConfiguration) -> Change[UniformJob]:
    return Change(words, replace(job, configuration=configuration))


def _changes(job: UniformJob) -> Iterator[Change[UniformJob]]:
    one = job.configuration
    for recompute in _ORDER[_ORDER.index(one.recompute) + 1 :]:
        yield _with(job, f"--recompute {recompute}", replace(one, recompute=recompute))
    size = one.microbatch
    while size > 1:
        size //= 2
        yield _with(job, f"--micro-batch-size {size}", replace(one, microbatch=size))
    for zero in _ZERO:
        if zero > one.zero_stage:
            yield _with(job, f"--zero {zero}", replace(one, zero_stage=zero))
    yield from _divided(job)
    least = replace(one, recompute="full", microbatch=1)
    words = " --recompute full" if one.recompute != "full" else ""
    words += " --micro-batch-size 1" if one.microbatch > 1 else ""
    if least != one:
        yield _with(job, words.strip(), least)
        for change in _divided(replace(job, configuration=least)):
            yield Change(change.words + words, change.job)
    yield from _more_nodes(replace(job, configuration=least), words)


def _divided(job: UniformJob) -> Iterator[Change[UniformJob]]:
    """More tensor parallelism, then more stages, with as much less data parallelism."""
    one, problem = job.configuration, job.problem
    cell, times = one.cell, 2
    while cell.dp % times == 0:
        tp = cell.tp * times
        parallel = problem.job.sequence_length % (tp * cell.cp) == 0
        wider = replace(cell, tp=tp, dp=cell.dp // times, sequence_parallel=parallel)
        yield _with(job, f"--tp {tp} --dp {wider.dp}", replace(one, cell=wider))
        times *= 2
    times = 2
    while cell.dp % times == 0 and cell.pp * times <= problem.model.num_layers:
        layers = _layers(problem, cell.pp * times, cell.virtual_stages)
        if layers is not None:
            deeper = replace(cell, layers=layers, dp=cell.dp // times)
            yield _with(job, f"--pp {deeper.pp} --dp {deeper.dp}", replace(one, cell=deeper))
        times *= 2


def _more_nodes(job: UniformJob, more: str) -> Iterator[Change[UniformJob]]:
    """Twice, four times … as many stages on so many more nodes as they take."""
    one, problem = job.configuration, job.problem
    pool = problem.cluster.classes[job.node_class]
    pp = 2 * one.cell.pp
    while pp <= problem.model.num_layers:
        layers = _layers(problem, pp, one.cell.virtual_stages)
        nodes = math.ceil(one.cell.tp * pp * one.cell.groups / pool.gpus_per_node) - len(pool.nodes)
        if layers is not None:
            larger = problem
            if nodes > 0:
                larger = replace(problem, cluster=with_more_nodes(problem.cluster, job.node_class, nodes))
            cell = replace(one.cell, layers=layers)
            each = "node" if nodes == 1 else "nodes"
            words = f"--pp {pp} --dp {cell.dp}{more}"
            words = f"{nodes} more {each} like those of {pool.name}, with {words}" if nodes > 0 else words
            yield Change(words, UniformJob(larger, job.node_class, replace(one, cell=cell)))
        pp *= 2


def _layers(problem: TrainingProblem, stages: int, virtual_stages: int) -> tuple[int, ...] | None:
    splits = layer_splits(problem.model.num_layers, stages, virtual_stages, uneven=problem.engine.uneven_layers)
    return splits[0] if splits else None
