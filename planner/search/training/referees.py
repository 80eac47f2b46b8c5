"""Plans under a cost that rests on measured layers, in one form: what the searches of Metis' and Sailor's prices found.

These plans name GPU types and counts, no nodes, and are priced by another's formula or tables: they are for comparing,
not for `planner verify`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from planner.cost.metis import metis_memory
from planner.cost.sailor import sailor_memory
from planner.search.training.measured import measured_memory, reprice

if TYPE_CHECKING:
    from planner.cost.metis import MetisJob, MetisStage
    from planner.plan import Provenance
    from planner.search.training.cells import Answer
    from planner.search.training.sailor import SailorJob, SailorPlan

__all__ = ["MeasuredPlan", "MeasuredPlanStage", "MeasuredReplicas", "metis_plan", "own_plan", "sailor_plan"]


@dataclass(frozen=True, slots=True)
class MeasuredReplicas:
    """Replicas of a stage that are alike: GPU type, TP, how many, sequences of a microbatch on each, bytes per GPU."""

    gpu: str
    tp: int
    count: int
    sequences: int
    memory: float
    limit: float


@dataclass(frozen=True, slots=True)
class MeasuredPlanStage:
    """``[first, end)`` of the measured layers and the replicas that hold them."""

    layers: tuple[int, int]
    replicas: tuple[MeasuredReplicas, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredPlan:
    """What a search found.

    Parameters
    ----------
    cost_model
        Whose price it is.
    seconds, bound, proven
        Of an iteration; what no plan undercuts; whether that was proven to the plan's own price.
    microbatches
        Per iteration and replica.
    stages
        In order.
    provenance
        Whether all layer times were measured, or some put together from those that were.
    """

    cost_model: str
    seconds: float
    bound: float
    proven: bool
    microbatches: int
    stages: tuple[MeasuredPlanStage, ...]
    provenance: Provenance = "measured"

    @property
    def gap(self) -> float:
        """Relative distance to the bound."""
        return (self.seconds - self.bound) / self.bound

    def as_data(self) -> dict[str, Any]:
        """For programs."""
        return {
            "cost_model": self.cost_model,
            "iteration_time": self.seconds,
            "bound": self.bound,
            "gap": self.gap,
            "proven": self.proven,
            "layer_times": self.provenance,
            "microbatches": self.microbatches,
            "stages": [
                {
                    "layers": list(stage.layers),
                    "replicas": [
                        {
                            "gpu": one.gpu,
                            "tp": one.tp,
                            "count": one.count,
                            "microbatch": one.sequences,
                            "memory": one.memory,
                            "memory_limit": one.limit,
                        }
                        for one in stage.replicas
                    ],
                }
                for stage in self.stages
            ],
        }


def _proven(answer: Answer, seconds: float) -> bool:
    return answer.closed and answer.bound >= seconds * (1 - 1e-9)


def metis_plan(
    job: MetisJob, stages: Sequence[MetisStage], microbatches: int, answer: Answer, *, cost_model: str = "metis"
) -> MeasuredPlan:
    """Write down what `planner.search.training.metis_referee.search_metis_referee` found."""
    found = []
    for stage in stages:
        held = metis_memory(job, stage)
        replicas = (
            MeasuredReplicas(one.device, one.tp, one.count, one.share, held[one], job.gpus[one.device].memory)
            for one in stage.replicas
        )
        found.append(MeasuredPlanStage(stage.layers, tuple(replicas)))
    return MeasuredPlan(
        cost_model=cost_model,
        seconds=answer.seconds,
        bound=min(answer.bound, answer.seconds),
        proven=_proven(answer, answer.seconds),
        microbatches=microbatches,
        stages=tuple(found),
    )


def sailor_plan(job: SailorJob, plan: SailorPlan) -> MeasuredPlan:
    """Write down what `planner.search.training.sailor.search_sailor` found."""
    held = sailor_memory(job.tables, plan.stages, microbatch=plan.microbatch)
    return _of_tables("sailor", job, plan, held, "measured")


def own_plan(job: SailorJob, plan: SailorPlan) -> MeasuredPlan:
    """Write down what `planner.search.training.measured.search_measured` found."""
    return _of_tables("own", job, plan, measured_memory(job, plan), reprice(job, plan).provenance)


def _of_tables(
    cost_model: str,
    job: SailorJob,
    plan: SailorPlan,
    held: Sequence[Mapping[tuple[str, int], float]],
    provenance: Provenance,
) -> MeasuredPlan:
    found = []
    for stage, memory in zip(plan.stages, held, strict=True):
        replicas = (
            MeasuredReplicas(
                one.device, one.tp, one.count, plan.microbatch, memory[one.device, one.tp], job.memory[one.device]
            )
            for one in stage.replicas
        )
        found.append(MeasuredPlanStage(stage.layers, tuple(replicas)))
    degree = sum(one.count for one in plan.stages[0].replicas)
    return MeasuredPlan(
        cost_model=cost_model,
        seconds=plan.seconds,
        bound=min(plan.answer.bound, plan.seconds),
        proven=_proven(plan.answer, plan.seconds),
        microbatches=-(-job.batch // (degree * plan.microbatch)),
        stages=tuple(found),
        provenance=provenance,
    )
