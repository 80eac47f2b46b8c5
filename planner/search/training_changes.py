"""Changes that may make a training job feasible, the smallest first: an option, then hardware, then the job itself.

Recomputation, tensor parallelism within a node and the smallest microbatch are not among them: a search chooses these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from planner.engine import load_engine
from planner.search.smallest_change import Change, Kind, smallest_change
from planner.search.training_fits import MAX_STAGES, has_a_plan

if TYPE_CHECKING:
    from planner.cluster import Cluster
    from planner.search.problem import TrainingProblem

__all__ = ["helpful_change", "with_more_nodes"]

# Nodes that may be added; who lacks more has another cluster in mind.
_MOST_NODES: Final = 1024
# GB on GPUs that are made.
_SIZES: Final = (24, 32, 40, 48, 80, 96, 141, 192, 288)
# Sequences are not cut shorter than this.
_LEAST_LENGTH: Final = 128


def with_more_nodes(cluster: Cluster, node_class: int, nodes: int) -> Cluster:
    """A cluster with more nodes in one of its classes, links as the class has them."""
    old, classes = cluster.classes[node_class], list(cluster.classes)
    names = tuple(f"{old.name}-{len(old.nodes) + i}" for i in range(nodes))
    classes[node_class] = replace(old, nodes=(*old.nodes, *names))
    groups = list(cluster.spec.nodes)
    groups[node_class] = groups[node_class].model_copy(update={"count": len(old.nodes) + nodes})
    spec = cluster.spec.model_copy(update={"nodes": tuple(groups)})
    return replace(cluster, spec=spec, classes=tuple(classes))


def helpful_change(
    problem: TrainingProblem, fits: Callable[[TrainingProblem], bool] = has_a_plan
) -> Change[TrainingProblem] | None:
    """Find the smallest change after which a job has a plan.

    Parameters
    ----------
    problem
        A job without a plan.
    fits
        Whether a job has a plan, as the search that failed sees it.

    Returns
    -------
    Change or None
        None where none of these helps.
    """
    deeper = _deeper(problem)
    found = smallest_change([_zero(problem), deeper, _freer(problem), _nodes(problem)], fits)
    if found is not None:
        return found
    unlimited = replace(problem, max_stages=problem.model.num_layers)
    found = smallest_change([_nodes(unlimited)], fits)
    if found is not None:
        fewest = smallest_change([[_up_to(found.job, problem.max_stages or MAX_STAGES)]], fits)
        return found if fewest is None else Change(f"{found.words} with {fewest.words}", fewest.job)
    return smallest_change([_shorter(problem), _larger(problem)], fits)


def _zero(problem: TrainingProblem) -> list[Kind[TrainingProblem]]:
    if problem.job.zero_stage:
        return []
    job = problem.job.model_copy(update={"zero_stage": 1})
    words = "ZeRO 1 (--zero 1), which divides the optimizer state over data parallelism"
    return [Kind(1, lambda _: Change(words, replace(problem, job=job)))]


def _deeper(problem: TrainingProblem) -> list[Kind[TrainingProblem]]:
    if not problem.engine.pipeline:
        return []
    return [_up_to(problem, problem.max_stages or MAX_STAGES)]


def _up_to(problem: TrainingProblem, had: int) -> Kind[TrainingProblem]:
    most = min(
        problem.model.num_layers, problem.cluster.num_gpus, problem.engine.max_pipeline or problem.cluster.num_gpus
    )

    def at(size: int) -> Change[TrainingProblem]:
        stages = had + size
        return Change(f"up to {stages} stages (--max-stages {stages})", replace(problem, max_stages=stages))

    return Kind(most - had, at)


def _freer(problem: TrainingProblem) -> list[Kind[TrainingProblem]]:
    """A degree of its own for every node class, and mixed GPU types, where the engine allows neither."""
    if problem.engine.tensor_parallel != "uniform" and problem.engine.mixed_gpu_types:
        return []
    words = "a tensor-parallel degree for each node class (--engine generic)"
    if not problem.engine.mixed_gpu_types:
        words = "GPU types together in a pipeline (--engine generic)"
    return [Kind(1, lambda _: Change(words, replace(problem, engine=load_engine("generic"))))]


def _nodes(problem: TrainingProblem) -> list[Kind[TrainingProblem]]:
    def of(index: int) -> Kind[TrainingProblem]:
        def at(size: int) -> Change[TrainingProblem]:
            each = "node" if size == 1 else "nodes"
            words = f"{size} more {each} like those of {problem.cluster.classes[index].name}"
            return Change(words, replace(problem, cluster=with_more_nodes(problem.cluster, index, size)))

        return Kind(_MOST_NODES, at)

    largest_first = sorted(
        range(len(problem.cluster.classes)),
        key=lambda c: -problem.cluster.classes[c].device.memory.value * problem.cluster.classes[c].gpus_per_node,
    )
    return [of(index) for index in largest_first]


def _shorter(problem: TrainingProblem) -> list[Kind[TrainingProblem]]:
    lengths = []
    length = problem.job.sequence_length
    while length // 2 >= _LEAST_LENGTH:
        length //= 2
        lengths.append(length)
    if not lengths:
        return []

    def at(size: int) -> Change[TrainingProblem]:
        job = problem.job.model_copy(update={"sequence_length": lengths[size - 1]})
        return Change(f"sequences of {lengths[size - 1]:,} tokens", replace(problem, job=job))

    return [Kind(len(lengths), at)]


def _larger(problem: TrainingProblem) -> list[Kind[TrainingProblem]]:
    had = max(node_class.device.memory.value for node_class in problem.cluster.classes)
    sizes = [size for size in _SIZES if size * 1e9 > had * 1.05]
    if not sizes:
        return []

    def at(size: int) -> Change[TrainingProblem]:
        classes = []
        for one in problem.cluster.classes:
            memory = one.device.memory.model_copy(update={"value": sizes[size - 1] * 1e9})
            classes.append(replace(one, device=one.device.model_copy(update={"memory": memory})))
        cluster = replace(problem.cluster, classes=tuple(classes))
        return Change(f"GPUs with {sizes[size - 1]} GB each", replace(problem, cluster=cluster))

    return [Kind(len(sizes), at)]
