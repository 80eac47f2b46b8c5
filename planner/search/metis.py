"""Training search over node classes: which GPUs to use, in which order, cut how; the best plan with a proven bound.

A plan is a pipeline whose stages are laid out class by class. The search enumerates

* every order of every subset of the node classes (leaving some idle is allowed), at most `MAX_NODE_CLASSES` in a
  pipeline;
* the tensor-parallel degree, a power of two that divides a node: one for all stages, or one per class where the
  engine can;
* the data-parallel degree and the microbatch size, divisors of the batch;
* how many stages each class holds, and full recomputation or none, or selective where flash attention is missing;

and splits the layers of each candidate exactly (`planner.partition`), unless its GPUs together cannot even hold
weights, gradients and optimizer state. Best first: every candidate has a bound in
closed form (`planner.search.training_candidates`), candidates are split in order of their bounds, and the search ends
when the next bound reaches the best plan's time. Nothing is lost by that, so the certificate is exact for the family.
Links are those of the placement (`planner.search.training_layout`), which does not depend on how layers are cut.

References
----------
T. Um et al., "Metis: fast automatic distributed training on heterogeneous GPUs", USENIX ATC 2024: the problem.
L. Zheng et al., "Alpa", OSDI 2022, section 5.2: the pipeline's objective.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.training_figures import model_flops, peak_flops
from planner.engine import check_runnable
from planner.errors import InputError, SolverError, TimeLimitError, UnsupportedError
from planner.plan import Certificate, Schedule, TrainingPlan, certify
from planner.search.problem import Budget, SearchResult, TrainingProblem
from planner.search.stage_classes import StageClasses
from planner.search.training_batch import make_batch, split_layers
from planner.search.training_candidates import MAX_NODE_CLASSES, Candidates, Family, families
from planner.search.training_fits import MAX_STAGES, deepest_pipeline
from planner.search.training_infeasible import misfit, no_plan
from planner.search.training_layout import Run, place_stages
from planner.search.training_plan import build_training_plan

if TYPE_CHECKING:
    from planner.cost._types import Array
    from planner.cost.training import TrainingPrediction

__all__ = ["MAX_MICROBATCH", "MAX_STAGES", "search_metis"]

# Sequences of a microbatch per data-parallel group.
MAX_MICROBATCH: Final = 32

# Candidates of a fresh family that are looked at, and of those the most that are split, for an early good plan.
_PROBE_LOOK, _PROBE_SPLIT = 64, 4
# Candidates split at once: few at first, while the best plan still improves.
_CHUNK_FIRST, _CHUNK_LAST = 64, 512
# Share of the time that ranking families may take.
_RANKING = 0.5
# Candidates kept (some 100 bytes each) before those that can no longer win are dropped.
_HELD = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Best:
    """The best plan so far, not placed yet."""

    seconds: float
    candidate: Candidates
    bounds: tuple[int, ...]


@dataclass(slots=True)
class _Search:
    """What the search knows while it runs."""

    stages: StageClasses
    best: _Best | None = None
    open_bound: float = math.inf
    counts: dict[str, int] = field(default_factory=lambda: {"families": 0, "candidates": 0, "splits": 0})

    @property
    def incumbent(self) -> float:
        return math.inf if self.best is None else self.best.seconds

    def split(self, candidates: Candidates, most: int | None = None) -> None:
        """Split the layers of candidates that may fit and win; keep the best, and note what stays open."""
        batch = make_batch(self.stages, candidates)
        slowest_B = batch.slowest_bound_B() + candidates.update_bound_B + batch.constant_B
        rows = np.flatnonzero(batch.may_fit_B() & (slowest_B < self.incumbent))[:most]
        if not len(rows):
            return
        self.counts["splits"] += len(rows)
        batch = batch.take(rows)
        result = split_layers(batch, self.incumbent)
        winner = int(np.argmin(result.time_B))
        if result.time_B[winner] < self.incumbent:
            depth = int(batch.stages_B[winner])
            self.best = _Best(
                seconds=float(result.time_B[winner]),
                candidate=candidates.take(rows[winner : winner + 1]),
                bounds=tuple(int(b) for b in result.bounds_BS1[winner][: depth + 1]),
            )
        if most is None:
            self.open_bound = min(self.open_bound, float(result.bound_B.min()))


def search_metis(problem: TrainingProblem, budget: Budget, /) -> SearchResult[TrainingPlan]:
    """Find the plan with the shortest iteration.

    Parameters
    ----------
    problem
        What to train, where, under which engine, with which batch.
    budget
        Time limit and progress callback. A search that ends by itself answers the same every time.

    Returns
    -------
    SearchResult
        ``counts``: families, candidates bounded, candidates whose layers were split.

    Raises
    ------
    InputError
        If a pipeline may have less than one stage.
    UnsupportedError
        If the engine does not train, or gradients or weights are to be divided.
    InfeasibleError
        If nothing fits; names the stage that comes closest.
    TimeLimitError
        If the time limit passed without a plan; where the closest stage does not fit either, with its numbers.
    """
    if problem.job.zero_stage > 1:
        raise UnsupportedError(
            f"this method divides no more than optimizer state (ZeRO 1), not ZeRO {problem.job.zero_stage}\n"
            "try: --method exact"
        )
    started = time.monotonic()
    engine, job = problem.engine, problem.job
    if "training" not in engine.tasks:
        raise UnsupportedError(f"{engine.title} is offered for {' and '.join(engine.tasks)}, not for training")
    if problem.max_stages is not None and problem.max_stages < 1:
        raise InputError(f"is {problem.max_stages}", field="max_stages", expected="a whole number >= 1")
    most = deepest_pipeline(problem)
    sizes = tuple(b for b in range(1, min(MAX_MICROBATCH, job.global_batch) + 1) if job.global_batch % b == 0)
    stages = StageClasses(problem, sizes, most)
    known: list[tuple[Array, Family]] = []
    too_large: list[Family] = []
    unranked = False
    ranking_ends = budget.remaining() * (1 - _RANKING)
    for family in families(stages):
        unranked = budget.remaining() <= ranking_ends
        if unranked:
            break
        if family.may_hold(stages):
            known.append((family.optimistic_RM(stages), family))
        else:
            too_large.append(family)
    known.sort(key=lambda pair: float(pair[0].min()))
    search = _Search(stages)
    unexplored = _explore(search, known, budget)
    if unranked:  # families that were not even looked at cannot beat all GPUs at their peak
        unexplored = min(unexplored, model_flops(stages.model, job) / peak_flops(stages.model, problem.cluster))
    if search.best is None:
        tried = [*(family for _, family in known), *too_large]
        if unexplored < math.inf:
            text = f"no plan within {budget.time_limit:g} s; {search.counts['candidates']} candidates looked at"
            closest = misfit(stages, tried)
            raise TimeLimitError(text if closest is None else f"{text}; of those, even the closest: {closest}")
        raise no_plan(stages, tried)
    plan = _plan(search, min(unexplored, search.open_bound), closed=unexplored == math.inf)
    return SearchResult(plan=plan, seconds=time.monotonic() - started, counts=search.counts)


def _explore(search: _Search, known: Sequence[tuple[Array, Family]], budget: Budget) -> float:
    """Run the search; return the least bound of what was left out for lack of time."""
    kept: list[Candidates] = []
    held, left = 0, math.inf
    for number, (optimistic_RM, family) in enumerate(known):
        least = float(optimistic_RM.min())
        if least >= search.incumbent:
            break
        if not budget.remaining():
            left = least
            break
        budget.report("bounding candidates", 0.5 * number / len(known))
        found, seen = family.candidates(search.stages, optimistic_RM, search.incumbent)
        search.counts["families"] += 1
        search.counts["candidates"] += seen
        if not len(found):
            continue
        search.split(found.take(slice(_PROBE_LOOK)), _PROBE_SPLIT)
        kept.append(found)
        held += len(found)
        if held > _HELD:
            kept = [_alive(kept, search.incumbent)]
            held = len(kept[0])
    if not kept:
        return left
    candidates = _alive(kept, search.incumbent)
    at, chunk = 0, _CHUNK_FIRST
    while at < len(candidates) and candidates.bound_B[at] < search.incumbent:
        if not budget.remaining():
            return min(left, float(candidates.bound_B[at]))
        budget.report("splitting layers", 0.5 + 0.5 * at / len(candidates))
        part = candidates.take(slice(at, at + chunk))
        search.split(part.take(np.flatnonzero(part.bound_B < search.incumbent)))
        at, chunk = at + chunk, min(2 * chunk, _CHUNK_LAST)
    budget.report("splitting layers", 1.0)
    return left


def _alive(parts: Sequence[Candidates], incumbent: float) -> Candidates:
    """Candidates that may still win, lowest bound first."""
    alive = Candidates.joined([part.take(np.flatnonzero(part.bound_B < incumbent)) for part in parts])
    return alive.take(np.argsort(alive.bound_B, kind="stable"))


def _plan(search: _Search, bound: float, *, closed: bool) -> TrainingPlan:
    """Place the best candidate and certify it."""
    best, stages = search.best, search.stages
    if best is None:
        raise SolverError("there is nothing to place")
    problem, one = stages.problem, best.candidate
    kinds = [int(j) for j in one.kind_BJ[0] if j >= 0]
    counts = [int(n) for n in one.count_BJ[0] if n > 0]
    dp, size = stages.degrees[int(one.degree_B[0])], stages.sizes[int(one.size_B[0])]
    runs = [
        Run(stages.classes[j].node_class, stages.classes[j].tp, count) for j, count in zip(kinds, counts, strict=True)
    ]
    layers = list(zip(best.bounds[:-1], best.bounds[1:], strict=True))
    placed = place_stages(problem.cluster, runs, dp, layers, (size,) * dp)
    reasons = check_runnable(
        problem.engine,
        tp_per_stage=[stage.tp for stage in placed],
        layers_per_stage=[end - first for first, end in layers],
        device_types_per_stage=[problem.cluster.device_of(stage.devices[0]).name for stage in placed],
        task="training",
        data_parallel=dp,
    )
    if reasons:
        raise UnsupportedError("; ".join(reasons))
    schedule = Schedule(
        microbatch_size=size,
        microbatches=problem.job.global_batch // (dp * size),
        recompute=stages.recomputes[int(one.recompute_B[0])],
        sequence_parallel=any(stages.classes[j].sequence_parallel for j in kinds),
    )

    def certificate(prediction: TrainingPrediction) -> Certificate:
        value = prediction.iteration_time
        if not math.isclose(value, best.seconds, rel_tol=1e-9):
            raise SolverError(f"the plan takes {value!r} s, the search had counted on {best.seconds!r} s")
        lowest = value if bound >= value * (1 - 1e-9) else bound
        return certify(
            objective="iteration_time",
            sense="min",
            unit="s",
            value=value,
            bound=lowest,
            proven=closed and lowest == value,
            method="best-first enumeration with closed-form bounds and exact layer partition",
            family=_family_in_words(stages),
        )

    return build_training_plan(problem, placed, schedule, certificate)


def _family_in_words(stages: StageClasses) -> str:
    """What the certificate covers."""
    engine, cluster = stages.problem.engine, stages.problem.cluster
    together = min(MAX_NODE_CLASSES, len(cluster.classes)) if engine.mixed_gpu_types else 1
    degree = (
        "one tensor-parallel degree" if engine.tensor_parallel == "uniform" else "a tensor-parallel degree per class"
    )
    recomputes = "any recomputation" if "selective" in stages.recomputes else "full recomputation or none"
    return (
        f"1F1B pipelines of at most {stages.max_stages} stages over any subset and order of up to {together} node"
        f" classes, stages of a class consecutive and placed node by node; {degree}, a power of two within a node; any"
        f" data-parallel degree and microbatch size up to {max(stages.sizes)} that divide the batch; any contiguous"
        f" split of the layers; {recomputes}; sequence parallelism where tensor parallelism divides the sequences;"
        f" ZeRO {stages.problem.job.zero_stage}"
    )
