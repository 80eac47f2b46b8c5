"""A training job on Sailor's measurements under our own terms: the same plans as in `planner.search.training.sailor`.

What differs is the cost (`planner.cost.training_measured`): the gradient rings of a group's ranks share their node's
network card, the update is that of all layers of a stage and follows its own gradients, transfers hold up the
cycle both ways, memory is what was fitted to measured runs, and a microbatch between two that were measured is
interpolated. `reprice` gives either's plans the other's price.

Legend: C class, K GPU type, L layer, N layer boundary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np

from planner.cost.sailor import SailorReplica, SailorStage
from planner.cost.training_measured import (
    MeasuredConstants,
    MeasuredPrice,
    MeasuredStage,
    measured_layer_seconds,
    measured_node_link,
    measured_price,
    measured_stage_memory,
    measured_update,
)
from planner.search.training.cells import search_graphs
from planner.search.training.class_graph import (
    ClassCosts,
    PairClass,
    class_graph,
    interval_sums,
    pair_classes,
    replica_counts,
)
from planner.search.training.measured_changes import sailor_without_plan
from planner.search.training.sailor import SailorJob, SailorPlan, check_measured
from planner.search.training.stage_graph import Hops, StageGraph

if TYPE_CHECKING:
    from planner.cost._types import Array, IntArray
    from planner.search.problem import Budget

__all__ = ["measured_graphs", "measured_memory", "measured_stages", "reprice", "search_measured"]

# A stage waits for both of its boundaries, both ways; the sum counts every boundary once, both ways.
_HOPS: Final = Hops(peak_before=2.0, peak_after=2.0, sum_after=2.0)


def measured_stages(stages: Sequence[SailorStage]) -> list[MeasuredStage]:
    """Stages as the cost takes them: a GPU type and a TP for every replica."""
    found = []
    for stage in stages:
        devices = tuple(one.device for one in stage.replicas for _ in range(one.count))
        tps = tuple(one.tp for one in stage.replicas for _ in range(one.count))
        found.append(MeasuredStage(stage.layers, devices, max(tps), tps))
    return found


def reprice(job: SailorJob, plan: SailorPlan, constants: MeasuredConstants | None = None) -> MeasuredPrice:
    """Price a plan by our own terms, whoever found it."""
    degree = sum(one.count for one in plan.stages[0].replicas)
    return measured_price(
        job.tables,
        measured_stages(plan.stages),
        microbatch=plan.microbatch,
        microbatches=math.ceil(job.batch / (degree * plan.microbatch)),
        constants=constants or MeasuredConstants.fitted(),
    )


def measured_memory(
    job: SailorJob, plan: SailorPlan, constants: MeasuredConstants | None = None
) -> list[dict[tuple[str, int], float]]:
    """Bytes on a GPU of each stage, by (GPU type, TP)."""
    constants = constants or MeasuredConstants.fitted()
    degree = sum(one.count for one in plan.stages[0].replicas)
    microbatches = math.ceil(job.batch / (degree * plan.microbatch))
    return [
        {
            (one.device, one.tp): measured_stage_memory(
                job.tables,
                stage.layers,
                one.tp,
                plan.microbatch * min(microbatches, len(plan.stages) - s),
                constants,
            )
            for one in stage.replicas
        }
        for s, stage in enumerate(plan.stages)
    ]


def measured_graphs(job: SailorJob, constants: MeasuredConstants | None = None) -> list[StageGraph]:
    """All stage graphs of a job."""
    constants = constants or MeasuredConstants.fitted()
    types = sorted(job.gpus)
    check_measured(job)
    sizes = sorted({m for device, _, m in job.tables.times if device in types and m <= job.batch})
    whole, graphs = sum(job.gpus.values()), []
    for size in sizes:
        classes = pair_classes(types, _degrees(job, types, size))
        if not classes:
            continue
        times = _times(job, classes, size, constants)
        least = {math.ceil(job.batch / (size * d)): d for d in range(whole, 0, -1)}
        for microbatches, degree in sorted(least.items()):
            costs = ClassCosts(
                time_CNN=times,
                depth_CNN=_depth(job, classes, size, microbatches, constants),
                end_CN=_ends(job, classes, size),
                sync=_finish(job, size),
                update=_none(job),
                hops=_HOPS,
            )
            graphs.append(
                class_graph(
                    job.gpus,
                    classes,
                    costs,
                    size=size,
                    microbatches=microbatches,
                    degree=degree,
                    max_stages=job.max_stages,
                )
            )
    return graphs


def _degrees(job: SailorJob, types: Sequence[str], size: int) -> dict[str, list[int]]:
    """TP degrees at which a microbatch of that size was measured, or lies between two that were."""
    found = {}
    for name in types:
        known = {tp: job.tables.microbatches(name, tp) for tp in (1, 2, 4, 8) if tp in job.tables.sizes}
        found[name] = [
            tp for tp, sizes in known.items() if tp <= job.gpus_per_node and sizes and sizes[0] <= size <= sizes[-1]
        ]
    return found


def _pairs(classes: Sequence[PairClass]) -> list[tuple[str, int]]:
    return sorted({pair for one in classes for pair in one})


def _finite(value_NN: Array) -> Array:
    return np.where(np.isfinite(value_NN), value_NN, 0.0)


def _times(job: SailorJob, classes: Sequence[PairClass], size: int, constants: MeasuredConstants) -> Array:
    one = {
        pair: interval_sums(measured_layer_seconds(job.tables, *pair, size, constants.curve))
        for pair in _pairs(classes)
    }
    return np.stack([np.max([one[pair] for pair in c], axis=0) for c in classes])


def _depth(
    job: SailorJob, classes: Sequence[PairClass], size: int, microbatches: int, constants: MeasuredConstants
) -> IntArray:
    """Most stages from each one to the end, by the memory of its tightest GPU; no more microbatches than there are."""
    L, found = job.tables.num_layers, {}
    for pair in _pairs(classes):

        def held(layers: tuple[int, int], sequences: int, tp: int = pair[1]) -> float:
            return measured_stage_memory(job.tables, layers, tp, sequences, constants)

        reserve = held((0, 0), 0)
        state_L = np.array([held((i, i + 1), 0) - reserve for i in range(L)])
        active_L = np.array([held((i, i + 1), size) - held((i, i + 1), 0) for i in range(L)])
        sums = interval_sums(state_L)
        room = job.memory[pair[0]] - reserve - _finite(sums)
        most = np.floor(room / np.maximum(_finite(interval_sums(active_L)), 1e-9) * (1 + 1e-12))
        most = np.where(most >= microbatches, job.max_stages, most).clip(0, job.max_stages)
        found[pair] = np.where(np.isfinite(sums), most, 0).astype(np.int64)
    return np.stack([np.min([found[pair] for pair in c], axis=0) for c in classes])


def _ends(job: SailorJob, classes: Sequence[PairClass], size: int) -> Array:
    N = job.tables.num_layers + 1
    end_CN = np.zeros((len(classes), N))
    message_n = job.tables.sizes[1].output_L[: N - 2] * size
    for c, one in enumerate(classes):
        links = [job.tables.node_links[name, 1] for name, _ in one]
        end_CN[c, 1 : N - 1] = np.max([message_n / link.bandwidths(message_n) for link in links], axis=0)
    return end_CN


def _finish(job: SailorJob, size: int) -> Callable[[PairClass, int], Array]:
    """Gradients and the update behind them, of every interval of layers, by class and degree."""

    @cache
    def finish(one: PairClass, degree: int) -> Array:
        update = np.max([_finite(interval_sums(measured_update(job.tables, *pair, size))) for pair in one], axis=0)
        if degree == 1:
            return np.asarray(update)
        shares = [_finite(interval_sums(job.tables.sizes[tp].parameters_L)) / degree for _, tp in one]
        links = [measured_node_link(job.tables, *pair) for pair in one]
        slowest = np.min([link.bandwidths(share) for link, share in zip(links, shares, strict=True)], axis=0)
        moved = np.max([share * tp for share, (_, tp) in zip(shares, one, strict=True)], axis=0)
        return np.asarray(2.0 * (degree - 1) * moved / slowest + update)

    return finish


def _none(job: SailorJob) -> Callable[[PairClass], Array]:
    nothing = np.zeros((job.tables.num_layers + 1,) * 2)
    return lambda one: nothing


def search_measured(job: SailorJob, budget: Budget, *, tolerance: float = 1e-3) -> SailorPlan:
    """Find the plan that is fastest by our own terms.

    Parameters
    ----------
    job
        What to train, and where.
    budget
        Time limit and progress callback.
    tolerance
        Relative distance to the bound at which the search may end.

    Returns
    -------
    SailorPlan
        With seconds by `reprice`.

    Raises
    ------
    InfeasibleError
        If nothing fits; names the smallest change that would help.
    TimeLimitError
        If the time limit passed without a plan.
    """
    graphs = measured_graphs(job)
    answer = search_graphs(graphs, time_limit=budget.remaining(), tolerance=tolerance, report=budget.report)
    if answer.graph is None:
        raise sailor_without_plan(job, answer, budget.time_limit, measured_graphs)
    graph, types = graphs[answer.graph], sorted(job.gpus)
    size, _, classes = graph.label
    stages = []
    for (c, start, end), counts in zip(answer.path, replica_counts(graph, types, answer.path), strict=True):
        members = dict(classes[c])
        stages.append(SailorStage((start, end), tuple(SailorReplica(g, members[g], n) for g, n in counts.items())))
    plan = SailorPlan(stages=tuple(stages), microbatch=size, seconds=answer.seconds, answer=answer)
    seconds = reprice(job, plan).seconds
    return SailorPlan(stages=plan.stages, microbatch=size, seconds=seconds, answer=answer)
