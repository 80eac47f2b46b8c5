"""Every plan of the exact search's family on small training problems, in plain loops."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, pairwise, product

from planner.cost.memory import tensor_parallel_fault
from planner.cost.training import predict_training
from planner.cost.training_attention import sequence_parallel_fault
from planner.cost.training_experts import expert_fault
from planner.cost.training_replica import PlacedTrainingStage
from planner.engine.chunks import chunk_fault
from planner.plan import Schedule
from planner.search.problem import TrainingProblem
from planner.search.training.placing import Seat, place

__all__ = ["best_of_every_order", "changed", "even_groups", "every_order"]

Kind = tuple[int, int]


def _kinds(problem: TrainingProblem) -> list[Kind]:
    return [
        (index, tp)
        for index, members in enumerate(problem.cluster.classes)
        for tp in (1, 2, 4, 8)
        if members.gpus_per_node % tp == 0 and tensor_parallel_fault(problem.model, tp) is None
    ]


def every_order(problem: TrainingProblem, dp: int) -> Iterator[tuple[Kind, ...]]:
    """Every row of kinds of stage that the cluster has GPUs for."""
    room = {index: members.num_gpus for index, members in enumerate(problem.cluster.classes)}
    uniform, mixed = problem.engine.tensor_parallel == "uniform", problem.engine.mixed_gpu_types
    device = {index: members.device.name for index, members in enumerate(problem.cluster.classes)}
    most = min(problem.model.num_layers, problem.max_stages or 16)

    def grow(row: tuple[Kind, ...], left: dict[int, int]) -> Iterator[tuple[Kind, ...]]:
        if row:
            yield row
        if len(row) == most:
            return
        for node_class, tp in _kinds(problem):
            if row and uniform and tp != row[0][1]:
                continue
            if row and not mixed and device[node_class] != device[row[0][0]]:
                continue
            if left[node_class] >= dp * tp:
                yield from grow((*row, (node_class, tp)), {**left, node_class: left[node_class] - dp * tp})

    yield from grow((), room)


def even_groups(problem: TrainingProblem, dp: int) -> bool:
    """Whether groups divide nodes or fill them, for every kind of stage."""
    per_node = [problem.cluster.classes[k].gpus_per_node // tp for k, tp in _kinds(problem)]
    return all(dp % n == 0 or n % dp == 0 for n in per_node)


def _shapes(problem: TrainingProblem, row: tuple[Kind, ...], groups: int) -> Iterator[tuple[int, int]]:
    """Degrees of context and expert parallelism that so many groups of a row of stages may have."""
    uniform = problem.engine.tensor_parallel == "uniform"
    tps = {k: {tp for c, tp in _kinds(problem) if c == k and (not uniform or tp == row[0][1])} for k, _ in row}
    each = [problem.cluster.classes[k].gpus_per_node // tp for k, found in tps.items() for tp in found]
    even = all(groups % n == 0 or n % groups == 0 for n in each)
    for context in (1, 2, 4, 8):
        for experts in (1, 2, 4, 8):
            if context * experts > 1 and not even:
                continue
            if groups % context or (context > 1 and problem.job.sequence_length % (2 * context)):
                continue
            if problem.job.global_batch % (groups // context) or expert_fault(problem.model, experts, groups):
                continue
            yield context, experts


def best_of_every_order(problem: TrainingProblem, *, most: int = 10**9) -> tuple[float, float, int]:
    """Least iteration time of every plan that fits, the same of those whose groups are even, and how many plans.

    Stages that follow each other sit in one node where they can. Sequence parallelism is on where it can be.
    """
    layers = problem.model.num_layers
    best = even_best = float("inf")
    tried = 0
    for dp in range(1, problem.cluster.num_gpus + 1):
        even = even_groups(problem, dp)
        for row in every_order(problem, dp):
            groups = place(problem.cluster, [Seat(k, tp, with_next=True) for k, tp in row], dp)
            if groups is None:
                continue
            shapes = list(_shapes(problem, row, dp))
            for inner in combinations(range(1, layers), len(row) - 1):
                bounds = (0, *inner, layers)
                for stages, schedule in _runs(problem, row, groups, bounds, dp, shapes):
                    tried += 1
                    if tried > most:
                        return best, even_best, tried
                    price = predict_training(
                        problem.model, problem.cluster, problem.engine, problem.job, stages, schedule
                    )
                    pairs = zip(price.memory_S, price.limit_S, strict=True)
                    if all(memory.value <= limit * (1 + 1e-12) for memory, limit in pairs):
                        best = min(best, price.iteration_time)
                        even_best = min(even_best, price.iteration_time) if even else even_best
    return best, even_best, tried


def _runs(
    problem: TrainingProblem,
    row: tuple[Kind, ...],
    groups: list[list[tuple[str, ...]]],
    bounds: tuple[int, ...],
    dp: int,
    shapes: list[tuple[int, int]],
) -> Iterator[tuple[list[PlacedTrainingStage], Schedule]]:
    """Every way to run a pipeline that is cut and placed."""
    batch, length = problem.job.global_batch, problem.job.sequence_length
    for context, experts in shapes:
        whole = batch * context // dp
        divided = all(length % (tp * context) == 0 for _, tp in row) and max(tp for _, tp in row) > 1
        if any(sequence_parallel_fault(problem.model, problem.engine, tp, sequence_parallel=divided) for _, tp in row):
            continue
        for micro in (b for b in range(1, whole + 1) if whole % b == 0):
            stages = [
                PlacedTrainingStage(
                    devices=tuple(gpu for group in groups[s] for gpu in group),
                    layers=(bounds[s], bounds[s + 1]),
                    tp=tp,
                    dp=dp,
                    microbatch_shares=(micro,) * dp,
                )
                for s, (_, tp) in enumerate(row)
            ]
            chunks = [
                v
                for v in range(1, problem.model.num_layers + 2)
                if chunk_fault([end - start for start, end in pairwise(bounds)], v) is None
                and (v == 1 or (problem.engine.interleaving and whole // micro % len(row) == 0))
                and (v == 1 or len(problem.model.kinds) == 1)
            ]
            for recompute, virtual in product(("none", "selective", "full"), chunks):
                yield (
                    stages,
                    Schedule(
                        name="interleaved" if virtual > 1 else "1f1b",
                        virtual_stages=virtual,
                        microbatch_size=micro,
                        microbatches=whole // micro,
                        recompute=recompute,  # type: ignore[arg-type]
                        sequence_parallel=divided,
                        context_parallel=context,
                        expert_parallel=experts,
                    ),
                )


def changed(
    problem: TrainingProblem, *, bandwidth: float = 1.0, memory: float = 0.0, nodes: tuple[int, ...] = ()
) -> TrainingProblem:
    """The same with other links between nodes, more bytes on every GPU, or more nodes of each class."""
    classes = []
    for index, one in enumerate(problem.cluster.classes):
        amount = one.device.memory.model_copy(update={"value": one.device.memory.value + memory})
        more = tuple(f"{one.name}-more-{n}" for n in range(nodes[index] if nodes else 0))
        nic = one.nic.model_copy(update={"bandwidth": one.nic.bandwidth * bandwidth})
        device = one.device.model_copy(update={"memory": amount})
        classes.append(replace(one, nic=nic, device=device, nodes=(*one.nodes, *more)))
    pairs = tuple(
        pair.model_copy(update={"bandwidth": pair.bandwidth * bandwidth}) for pair in problem.cluster.spec.links.pairs
    )
    links = problem.cluster.spec.links.model_copy(update={"pairs": pairs})
    spec = problem.cluster.spec.model_copy(update={"links": links})
    return replace(problem, cluster=replace(problem.cluster, classes=tuple(classes), spec=spec))
