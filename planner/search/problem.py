"""What every search method is given and what it returns."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, Literal, Protocol, TypeVar

from planner.cluster import Cluster
from planner.engine import EngineProfile
from planner.errors import InputError
from planner.model import ModelSpec
from planner.plan import Plan, TrainingJob
from planner.workload import Workload

if TYPE_CHECKING:
    from planner.search.explain import Explanation

__all__ = [
    "Budget",
    "FleetObjective",
    "FleetProblem",
    "Progress",
    "Roles",
    "SearchResult",
    "Searcher",
    "ServedModel",
    "ServingObjective",
    "ServingProblem",
    "TrainingProblem",
]

# Requests/s within the SLO; USD/h, or GPUs, of a plan that serves the workload's rate; seconds per output token of one
# that does. "auto" is the least cost where there is a rate that can be met, and else the greatest goodput.
ServingObjective = Literal["auto", "goodput", "cost", "gpus", "tpot"]

# The greatest factor by which the rates of all models can be multiplied; the greatest weighted sum of requests/s within
# the SLO, of no model more than its rate; USD/h, or GPUs, of serving all rates. "auto" is the least cost where all
# models have a rate and all are met, else the greatest factor; the greatest goodput where a model has no rate.
FleetObjective = Literal["auto", "scale", "goodput", "cost", "gpus"]

# Replicas that prefill and decode together; that do the one or the other; or whichever is best.
Roles = Literal["colocated", "disaggregated", "any"]

# Told what is being done, and the share of the whole that is done (0 to 1).
Progress = Callable[[str, float], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingProblem:
    """Place replicas of a model on a cluster for a workload.

    Parameters
    ----------
    model, cluster, engine, workload
        What to place, where, under which engine, for whom.
    max_stages
        Most pipeline stages of a replica; None lets the method choose.
    objective
        What the plan is to be best at; see `ServingObjective`.
    roles
        Whether replicas prefill and decode together; see `Roles`.
    """

    model: ModelSpec
    cluster: Cluster
    engine: EngineProfile
    workload: Workload
    max_stages: int | None = None
    objective: ServingObjective = "auto"
    roles: Roles = "colocated"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model, who asks for it, and what a request of it is worth beside those of other models."""

    model: ModelSpec
    workload: Workload
    weight: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetProblem:
    """Place replicas of several models on one cluster, each for a workload of its own.

    Parameters
    ----------
    served
        The models, each once.
    cluster, engine
        Where, under which engine.
    max_stages, roles
        As of `ServingProblem`, for all of them.
    objective
        What the plan is to be best at; see `FleetObjective`.
    """

    served: tuple[ServedModel, ...]
    cluster: Cluster
    engine: EngineProfile
    max_stages: int | None = None
    objective: FleetObjective = "auto"
    roles: Roles = "colocated"

    def __post_init__(self) -> None:
        """Check that the models can be told apart."""
        names = [one.model.name for one in self.served]
        twice = sorted({name for name in names if names.count(name) > 1})
        if not names or twice:
            raise InputError(
                f"{', '.join(twice)} listed more than once" if twice else "no model to serve",
                field="models",
                expected="at least one model, and each once",
                hint="for one model with two workloads, give the second a copy of its config under another name",
            )
        for one in self.served:
            if not (math.isfinite(one.weight) and one.weight > 0):
                raise InputError(f"{one.weight}", field="weight", expected="a number above 0")

    def alone(self, index: int, *, roles: Roles = "colocated") -> ServingProblem:
        """One of the models as if it had the cluster to itself: its greatest goodput."""
        one = self.served[index]
        return ServingProblem(
            model=one.model,
            cluster=self.cluster,
            engine=self.engine,
            workload=one.workload,
            max_stages=self.max_stages,
            objective="goodput",
            roles=roles,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingProblem:
    """Place a training job on a cluster.

    Parameters
    ----------
    model, cluster, engine, job
        What to train, where, under which engine, with which batch.
    max_stages
        Most pipeline stages; None lets the method choose.
    """

    model: ModelSpec
    cluster: Cluster
    engine: EngineProfile
    job: TrainingJob
    max_stages: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a search may use. None of it changes the answer of a search that finishes.

    Parameters
    ----------
    time_limit
        Seconds after which the best plan so far is returned with the bound proven so far.
    seed
        For methods that draw random numbers.
    workers
        Processes to spread over; the plan is the same for any number.
    executor
        One's own pool (processes, Dask, Ray) to use instead.
    progress
        Called now and then.
    started
        `time.monotonic` at the start.
    """

    time_limit: float = 60.0
    seed: int = 0
    workers: int = 1
    executor: Executor | None = None
    progress: Progress | None = None
    started: float = field(default_factory=time.monotonic)

    def remaining(self) -> float:
        """Seconds left; not negative."""
        return max(0.0, self.time_limit - (time.monotonic() - self.started))

    def report(self, what: str, share: float) -> None:
        """Tell the progress callback, if there is one."""
        if self.progress is not None:
            self.progress(what, share)


PlanT_co = TypeVar("PlanT_co", bound=Plan, covariant=True)
ProblemT_contra = TypeVar("ProblemT_contra", ServingProblem, TrainingProblem, contravariant=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult(Generic[PlanT_co]):
    """A plan, and what finding it took.

    Parameters
    ----------
    plan
        The best plan found, certificate included.
    seconds
        Wall time of the search. It lives here and not in the plan, which is the same every time.
    counts
        What was looked at, by name: ``{"templates": 656, "columns": 41}``.
    explanation
        Why the plan looks as it does, from methods that can tell.
    """

    plan: PlanT_co
    seconds: float
    counts: Mapping[str, int]
    explanation: Explanation | None = None


class Searcher(Protocol[ProblemT_contra, PlanT_co]):
    """A search method: from a problem and a budget to a result.

    Raises `InfeasibleError` where no plan exists and `TimeLimitError` where none was found in time.
    """

    def __call__(self, problem: ProblemT_contra, budget: Budget, /) -> SearchResult[PlanT_co]:
        """Search."""
        ...
