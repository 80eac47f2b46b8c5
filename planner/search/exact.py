"""Training search, exact: every pipeline of every composition of stages, with a proven bound.

The job becomes stage graphs (`planner.search.training.job_graphs`), branch and bound closes them
(`planner.search.training.cells`), and what it finds is placed on GPUs and priced there
(`planner.search.training.placing`, `planner.cost.training.predict_training`). The best placed plan is the answer; its
certificate holds the bound on all of them.
"""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Final

from planner.cost.training import predict_training
from planner.cost.training_replica import PlacedTrainingStage
from planner.engine import check_runnable
from planner.errors import InputError, TimeLimitError, UnsupportedError
from planner.plan import Certificate, Schedule, TrainingPlan, certify
from planner.search.problem import Budget, SearchResult, TrainingProblem
from planner.search.stage_classes import StageClasses
from planner.search.training.cells import Answer, search_graphs
from planner.search.training.job_graphs import GraphKey, JobGraphs
from planner.search.training.placing import Seat, place
from planner.search.training_families import families
from planner.search.training_infeasible import misfit, no_plan
from planner.search.training_plan import build_training_plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from planner.cost.training import TrainingPrediction
    from planner.search.training.stage_graph import Stage, StageGraph

__all__ = ["MAX_MICROBATCH", "MAX_STAGES", "MAX_TOGETHER", "NEAR", "search_exact"]

# Stages of a pipeline unless the problem says otherwise, and sequences of a microbatch per data-parallel group.
MAX_STAGES: Final = 16
MAX_MICROBATCH: Final = 32
# Groups that share a sequence, or that hold different experts.
MAX_TOGETHER: Final = 8
# Relative distance of plan and bound from which on the search goes on about as long again, and no longer.
NEAR: Final = 1e-3


def search_exact(
    problem: TrainingProblem,
    budget: Budget,
    /,
    *,
    near: float = NEAR,
    on_better: Callable[[float], None] | None = None,
) -> SearchResult[TrainingPlan]:
    """Find the plan with the shortest iteration.

    Parameters
    ----------
    problem
        What to train, where, under which engine, with which batch.
    budget
        Time limit and progress callback. A search that ends by itself answers the same every time.
    near
        Relative distance of plan and bound from which on the search goes on about as long again; 0: to the end.
    on_better
        Told the seconds of each better plan when it is found.

    Returns
    -------
    SearchResult
        ``counts``: outlines, graphs made of them, cells, label searches, labels.

    Raises
    ------
    InputError
        If a pipeline may have less than one stage.
    UnsupportedError
        If the engine does not train.
    InfeasibleError
        If nothing fits; names the stage that comes closest.
    TimeLimitError
        If the time limit passed without a plan; where the closest stage does not fit either, with its numbers.
    """
    started = time.monotonic()
    engine, job = problem.engine, problem.job
    if "training" not in engine.tasks:
        raise UnsupportedError(f"{engine.title} is offered for {' and '.join(engine.tasks)}, not for training")
    if job.zero_stage not in engine.zero_stages:
        raise UnsupportedError(f"{engine.title} has no ZeRO {job.zero_stage}")
    if problem.max_stages is not None and problem.max_stages < 1:
        raise InputError(f"is {problem.max_stages}", field="max_stages", expected="a whole number >= 1")
    most = min(problem.max_stages or MAX_STAGES, problem.model.num_layers, problem.cluster.num_gpus)
    most = min(most, engine.max_pipeline or most) if engine.pipeline else 1
    sizes = tuple(b for b in range(1, min(MAX_MICROBATCH, job.global_batch) + 1) if job.global_batch % b == 0)
    stages = StageClasses(problem, sizes, most)
    referee = _Referee(stages, on_better)
    outlined = JobGraphs(stages).outlines()
    for context, experts in _shapes(problem):
        other = StageClasses(problem, sizes, most, context_parallel=context, expert_parallel=experts)
        outlined += JobGraphs(other).outlines() if other.classes and other.degrees else []
    answer = search_graphs(
        outlined,
        content=near,
        report=budget.report,
        referee=referee.seconds,
        late=lambda: budget.remaining() <= 0,
    )
    if answer.graph is None:
        tried = list(families(stages))
        if not answer.closed:
            text = f"no plan within {budget.time_limit:g} s; {answer.counts['graphs']} graphs looked at"
            closest = misfit(stages, tried)
            raise TimeLimitError(text if closest is None else f"{text}; even the closest: {closest}")
        raise no_plan(stages, tried)
    plan = referee.plan(answer)
    counts = {"outlines": len(outlined), **answer.counts}
    return SearchResult(plan=plan, seconds=time.monotonic() - started, counts=counts)


def _shapes(problem: TrainingProblem) -> list[tuple[int, int]]:
    """Degrees of context and expert parallelism to look at besides none."""
    engine, length = problem.engine, problem.job.sequence_length
    experts = {kind.experts for kind in problem.model.kinds if kind.experts}
    powers = [2**exponent for exponent in range(1, MAX_TOGETHER.bit_length())]
    contexts = [c for c in powers if engine.context_parallel and length % (2 * c) == 0]
    divided = [e for e in powers if engine.expert_parallel and experts and all(n % e == 0 for n in experts)]
    return [(c, e) for c in (1, *contexts) for e in (1, *divided) if c * e > 1]


def _interleaves(problem: TrainingProblem) -> bool:
    return problem.engine.interleaving and len(set(problem.model.kind_of_layer)) == 1


class _Referee:
    """Places paths and prices what was placed."""

    def __init__(self, stages: StageClasses, on_better: Callable[[float], None] | None = None) -> None:
        self.stages, self.on_better = stages, on_better
        self.best: tuple[float, list[PlacedTrainingStage], Schedule] | None = None

    def seconds(self, graph: StageGraph, path: tuple[Stage, ...]) -> float:
        """Seconds of an iteration on GPUs; infinite where the path cannot be placed or does not fit."""
        key, problem = graph.label, self.stages.problem
        assert isinstance(key, GraphKey) and key.stages is not None
        stages = key.stages
        kinds = [stages.classes[key.kind_C[c]] for c, _, _ in path]
        dp, size = stages.degrees[key.degree], stages.sizes[key.size]
        seats = [
            Seat(kind.node_class, kind.tp, key.with_next_C[c]) for kind, (c, _, _) in zip(kinds, path, strict=True)
        ]
        found = place(problem.cluster, seats, dp)
        if found is None:
            return math.inf
        placed = [
            PlacedTrainingStage(
                devices=tuple(gpu for group in groups for gpu in group),
                layers=(start, end),
                tp=kind.tp,
                dp=dp,
                microbatch_shares=(size,) * dp,
            )
            for kind, groups, (_, start, end) in zip(kinds, found, path, strict=True)
        ]
        schedule = Schedule(
            name="interleaved" if key.virtual > 1 else "1f1b",
            virtual_stages=key.virtual,
            microbatch_size=size,
            microbatches=graph.microbatches,
            recompute=stages.recomputes[key.recompute],
            sequence_parallel=any(kind.sequence_parallel for kind in kinds),
            context_parallel=stages.context_parallel,
            expert_parallel=stages.expert_parallel,
        )
        price = predict_training(problem.model, problem.cluster, problem.engine, problem.job, placed, schedule)
        for memory, limit in zip(price.memory_S, price.limit_S, strict=True):
            if memory.value > limit * (1 + 1e-12):
                return math.inf
        if self.best is None or price.iteration_time < self.best[0]:
            self.best = price.iteration_time, placed, schedule
            if self.on_better is not None:
                self.on_better(price.iteration_time)
        return price.iteration_time

    def plan(self, answer: Answer) -> TrainingPlan:
        """Write down the best plan, certified."""
        assert self.best is not None
        _, placed, schedule = self.best
        problem = self.stages.problem
        reasons = check_runnable(
            problem.engine,
            tp_per_stage=[stage.tp for stage in placed],
            layers_per_stage=[stage.layers[1] - stage.layers[0] for stage in placed],
            device_types_per_stage=[problem.cluster.device_of(stage.devices[0]).name for stage in placed],
            task="training",
            data_parallel=placed[0].dp,
            zero_stage=problem.job.zero_stage,
            context_parallel=schedule.context_parallel,
            expert_parallel=schedule.expert_parallel,
            virtual_stages=schedule.virtual_stages,
        )
        if reasons:
            raise UnsupportedError("; ".join(reasons))

        def certificate(prediction: TrainingPrediction) -> Certificate:
            value = prediction.iteration_time
            lowest = value if answer.bound >= value * (1 - 1e-9) else answer.bound
            return certify(
                objective="iteration_time",
                sense="min",
                unit="s",
                value=value,
                bound=lowest,
                proven=answer.closed and lowest == value,
                method="branch and bound over stage graphs: prices on GPUs, exact labels",
                family=_family_in_words(self.stages),
            )

        return build_training_plan(problem, placed, schedule, certificate)


def _family_in_words(stages: StageClasses) -> str:
    """What the certificate covers."""
    engine = stages.problem.engine
    degree = (
        "one tensor-parallel degree" if engine.tensor_parallel == "uniform" else "a tensor-parallel degree per stage"
    )
    types = "any node classes in any order" if engine.mixed_gpu_types else "node classes of one GPU type in any order"
    recomputes = "any recomputation" if "selective" in stages.recomputes else "full recomputation or none"
    shapes = _shapes(stages.problem)
    contexts, experts = (max((shape[i] for shape in shapes), default=1) for i in (0, 1))
    together = [f"context parallelism up to {contexts}"] if contexts > 1 else []
    together += [f"expert parallelism up to {experts}"] if experts > 1 else []
    divided = "".join(f"; {what}, by powers of two, among groups that lie alike on every node" for what in together)
    chunks = ", interleaved by any number of chunks or not," if _interleaves(stages.problem) else ""
    return (
        f"1F1B pipelines{chunks} of at most {stages.max_stages} stages on {types}, each stage on one node class,"
        f" its groups filling nodes or side by side in one; {degree}, a power of two within a node; any data-parallel"
        f" degree and microbatch size up to {max(stages.sizes)} that divide the batch{divided}; any contiguous split of"
        f" the layers; {recomputes}; sequence parallelism where tensor parallelism divides the sequences;"
        f" ZeRO {stages.problem.job.zero_stage}"
    )
