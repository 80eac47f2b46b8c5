"""All uniform training configurations of a pool of equal GPUs, priced and ranked: what a person tunes by hand.

Exhaustive over what `planner.search.training.uniform_space` calls legal. As a search method it answers with the fastest
that fits on any one pool of the cluster; a table of them shows what the others lose by.

Legend: C configuration.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from planner.cost.training import TrainingPrediction, predict_training
from planner.cost.training_options import PLAIN, RunOptions
from planner.errors import InfeasibleError, SolverError, TimeLimitError, UnsupportedError
from planner.plan import Certificate, Schedule, TrainingJob, TrainingPlan, certify
from planner.plan.certificate import ALONE
from planner.search.problem import Budget, SearchResult, TrainingProblem
from planner.search.training.uniform_changes import UniformJob, helpful_uniform_change
from planner.search.training.uniform_price import UniformPricer
from planner.search.training.uniform_space import (
    MAX_MICROBATCH,
    Cell,
    Choices,
    UniformConfiguration,
    cells,
    default_choices,
    uniform_faults,
)
from planner.search.training_layout import Run, place_stages
from planner.search.training_plan import build_training_plan
from planner.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from planner.cost._types import Array, IntArray
    from planner.cost.training_replica import PlacedTrainingStage

__all__ = [
    "PlacedConfiguration",
    "UniformTable",
    "estimate_uniform",
    "place_uniform",
    "search_uniform",
    "uniform_table",
]

# Rounding that a memory limit allows, as the verifier does.
_SLACK = 1e-12


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedConfiguration:
    """A configuration on GPUs: what `planner.cost.training.predict_training` prices."""

    job: TrainingJob
    stages: tuple[PlacedTrainingStage, ...]
    schedule: Schedule

    def predict(self, problem: TrainingProblem, options: RunOptions = PLAIN) -> TrainingPrediction:
        """Price it by itself, figures and breakdown included."""
        return predict_training(
            problem.model, problem.cluster, problem.engine, self.job, self.stages, self.schedule, options
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class UniformTable:
    """Every legal configuration of a pool with its price.

    Parameters
    ----------
    problem, node_class, gpus
        What was asked, position of the pool in the cluster, and GPUs used.
    choices, sizes
        What was chosen from: `Choices`, and microbatch sizes.
    cells
        Degrees and layers.
    cell_C, zero_C, recompute_C, size_C
        Positions in `cells`, ``choices.zero_stages``, ``choices.recomputes`` and `sizes`.
    seconds_C, memory_C
        Of an iteration; bytes on the fullest GPU.
    limit
        Bytes that the engine may use of a GPU.
    complete
        Whether nothing was left out for lack of time.
    """

    problem: TrainingProblem
    node_class: int
    gpus: int
    choices: Choices
    sizes: tuple[int, ...]
    cells: tuple[Cell, ...]
    cell_C: IntArray
    zero_C: IntArray
    recompute_C: IntArray
    size_C: IntArray
    seconds_C: Array
    memory_C: Array
    limit: float
    complete: bool

    def __len__(self) -> int:
        return len(self.seconds_C)

    def ranked(self, *, fitting: bool = True) -> IntArray:
        """Positions of the configurations that fit memory (or that do not), fastest first."""
        fits_C = self.memory_C <= self.limit * (1 + _SLACK)
        chosen = np.flatnonzero(fits_C if fitting else ~fits_C)
        return chosen[np.argsort(self.seconds_C[chosen], kind="stable")]

    def best_of_cells(self, *, fitting: bool = True) -> IntArray:
        """The fastest configuration of each cell, fastest first."""
        order = self.ranked(fitting=fitting)
        _, first = np.unique(self.cell_C[order], return_index=True)
        return order[np.sort(first)]

    def configuration(self, c: int) -> UniformConfiguration:
        """One of them."""
        return UniformConfiguration(
            cell=self.cells[int(self.cell_C[c])],
            microbatch=self.sizes[int(self.size_C[c])],
            recompute=self.choices.recomputes[int(self.recompute_C[c])],
            zero_stage=self.choices.zero_stages[int(self.zero_C[c])],
        )

    def placed(self, c: int) -> PlacedConfiguration:
        """One of them on its GPUs."""
        return place_uniform(self.problem, self.node_class, self.configuration(c))


def place_uniform(
    problem: TrainingProblem, node_class: int, configuration: UniformConfiguration
) -> PlacedConfiguration:
    """Put a configuration on the GPUs of a pool: node by node, stage after stage, groups of a stage side by side."""
    cell, size = configuration.cell, configuration.microbatch
    ends = np.cumsum(cell.layers).tolist()
    layers = list(zip([0, *ends[:-1]], ends, strict=True))
    run = Run(node_class, cell.tp, cell.pp)
    return PlacedConfiguration(
        job=problem.job.model_copy(update={"zero_stage": configuration.zero_stage}),
        stages=tuple(place_stages(problem.cluster, [run], cell.groups, layers, (size,) * cell.groups)),
        schedule=Schedule(
            microbatch_size=size,
            microbatches=problem.job.global_batch // (cell.dp * size),
            recompute=configuration.recompute,
            sequence_parallel=cell.sequence_parallel,
            virtual_stages=cell.virtual_stages,
            context_parallel=cell.cp,
            expert_parallel=cell.ep,
        ),
    )


def uniform_table(
    problem: TrainingProblem,
    node_class: int,
    *,
    gpus: int | None = None,
    choices: Choices | None = None,
    options: RunOptions = PLAIN,
    budget: Budget | None = None,
) -> UniformTable:
    """Price every legal configuration of a pool.

    Parameters
    ----------
    problem
        What is to be trained, where, under which engine.
    node_class
        Position of the pool in the cluster.
    gpus
        GPUs to use, the first of the pool; None: all.
    choices
        What may be chosen beside the degrees; None: `default_choices`.
    options
        Formats and overlaps of the run.
    budget
        Time and progress; None: as long as it takes.
    """
    pool = problem.cluster.classes[node_class]
    gpus = len(pool.nodes) * pool.gpus_per_node if gpus is None else gpus
    choices = default_choices(problem, pool) if choices is None else choices
    pricer = UniformPricer(problem, node_class, choices, options)
    found = list(cells(problem, pool, gpus, choices))
    columns: list[tuple[IntArray, ...]] = []
    prices: list[tuple[Array, Array]] = []
    complete = True
    for number, cell in enumerate(found):
        if budget is not None:
            if not budget.remaining():
                complete = False
                break
            budget.report(f"uniform configurations of {pool.name}", number / len(found))
        price = pricer.price(cell)
        keep = np.nonzero(price.legal_M & np.isfinite(price.seconds_ZRM))
        columns.append((np.full(len(keep[0]), number), *keep))
        prices.append((price.seconds_ZRM[keep], price.memory_ZRM[keep]))
    empty = np.zeros(0, dtype=np.int64)
    cell_C, zero_C, recompute_C, size_C = (
        (np.concatenate(c) for c in zip(*columns, strict=True)) if columns else ((empty,) * 4)
    )
    seconds_C, memory_C = (np.concatenate(c) for c in zip(*prices, strict=True)) if prices else (np.zeros(0),) * 2
    return UniformTable(
        problem=problem,
        node_class=node_class,
        gpus=gpus,
        choices=choices,
        sizes=pricer.sizes,
        cells=tuple(found),
        cell_C=cell_C,
        zero_C=zero_C,
        recompute_C=recompute_C,
        size_C=size_C,
        seconds_C=seconds_C,
        memory_C=memory_C,
        limit=pricer.limit,
        complete=complete,
    )


def estimate_uniform(
    problem: TrainingProblem, node_class: int, configuration: UniformConfiguration
) -> tuple[TrainingPlan, TrainingPrediction]:
    """Price one configuration and write it down as a plan; nothing is searched.

    Raises
    ------
    UnsupportedError
        If it is not legal: says everything that is wrong.
    InfeasibleError
        If it does not fit: names the stage, both sizes, and the smallest change that works.
    """
    pool = problem.cluster.classes[node_class]
    faults = uniform_faults(problem, pool, configuration)
    if faults:
        raise UnsupportedError("; ".join(faults))
    placed = place_uniform(problem, node_class, configuration)
    prediction = placed.predict(problem)
    for s, (memory, limit) in enumerate(zip(prediction.memory_S, prediction.limit_S, strict=True)):
        if memory.value > limit * (1 + _SLACK):
            change = helpful_uniform_change(UniformJob(problem, node_class, configuration))
            raise InfeasibleError(
                f"stage {s} needs {format_bytes(memory.value)} on each GPU of {pool.device.title}, which offers"
                f" {format_bytes(limit)}; an iteration would take {format_seconds(prediction.iteration_time)}",
                hint=None if change is None else change.words,
            )

    def certificate(prediction: TrainingPrediction) -> Certificate:
        return certify(
            objective="iteration_time",
            sense="min",
            unit="s",
            value=prediction.iteration_time,
            bound=prediction.iteration_time,
            proven=False,
            method="estimate of a given configuration; nothing was searched",
            family=ALONE,
        )

    return build_training_plan(
        replace(problem, job=placed.job), placed.stages, placed.schedule, certificate
    ), prediction


def search_uniform(problem: TrainingProblem, budget: Budget) -> SearchResult[TrainingPlan]:
    """Fastest uniform configuration that fits, on all GPUs of one node class.

    Raises
    ------
    InfeasibleError
        If none is legal, or none fits; says what the closest lacks.
    TimeLimitError
        If none was found in time.
    """
    started = time.monotonic()
    tables = [uniform_table(problem, c, budget=budget) for c in range(len(problem.cluster.classes))]
    fastest = [(float(table.seconds_C[order[0]]), t, int(order[0])) for t, table in enumerate(tables)
               if len(order := table.ranked())]  # fmt: skip
    counts = {"configurations": sum(map(len, tables)), "that fit": sum(len(table.ranked()) for table in tables)}
    complete = all(table.complete for table in tables)
    if not fastest:
        if not complete:
            raise TimeLimitError(f"no configuration in {budget.time_limit:g} s; {counts['configurations']} looked at")
        raise _none(tables)
    seconds, t, c = min(fastest)
    placed = tables[t].placed(c)

    def certificate(prediction: TrainingPrediction) -> Certificate:
        value = prediction.iteration_time
        if not math.isclose(value, seconds, rel_tol=1e-9):
            raise SolverError(f"the plan takes {value!r} s, the table had counted on {seconds!r} s")
        return certify(
            objective="iteration_time",
            sense="min",
            unit="s",
            value=value,
            bound=value if complete else 0.0,
            proven=complete,
            method="enumeration of all uniform configurations",
            family=_family(problem),
        )

    plan = build_training_plan(problem, placed.stages, placed.schedule, certificate)
    return SearchResult(plan=plan, seconds=time.monotonic() - started, counts=counts)


def _family(problem: TrainingProblem) -> str:
    return (
        "uniform configurations on all GPUs of one node class: one tensor-parallel degree that divides a node, any"
        f" number of stages with equal layers (embedding and head may count as a layer), virtual stages, context and"
        f" expert parallelism as {problem.engine.title} has them, any microbatch size up to {MAX_MICROBATCH} that"
        f" divides the batch, any recomputation; ZeRO {problem.job.zero_stage}"
    )


def _none(tables: Sequence[UniformTable]) -> InfeasibleError:
    """Say why there is no configuration: none legal, or how much the smallest is too large."""
    closest: tuple[float, UniformTable, int] | None = None
    for table in tables:
        if len(table):
            c = int(np.argmin(table.memory_C))
            over = float(table.memory_C[c]) / table.limit
            if closest is None or over < closest[0]:
                closest = over, table, c
    if closest is None:
        return InfeasibleError(
            "no uniform configuration is legal: degrees must divide heads, layers, GPUs and the batch",
            hint="another global batch size, or --method metis, which may leave GPUs idle",
        )
    _, table, c = closest
    one, pool = table.configuration(c), table.problem.cluster.classes[table.node_class]
    return InfeasibleError(
        f"the smallest uniform configuration, TP {one.cell.tp} x PP {one.cell.pp} x CP {one.cell.cp} on"
        f" {table.gpus} GPUs of {pool.name}, needs {format_bytes(float(table.memory_C[c]))} per GPU of"
        f" {format_bytes(table.limit)}",
        hint="more GPUs, ZeRO 3, or a shorter sequence",
    )
