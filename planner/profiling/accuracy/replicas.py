"""Serving replicas as truth rows describe them: tabulated once each, and all of their loads priced in one call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from planner.cluster import DeviceProfile
from planner.cost.closed_loop import ClosedLoop, LoopModel
from planner.cost.host_times import HostTimes
from planner.cost.iteration_tables import IterationTables
from planner.cost.load_pattern import LoadPattern
from planner.cost.loads import Loads
from planner.cost.node_replica import node_replica
from planner.cost.parallelism import ReplicaParallelism
from planner.cost.replica import ReplicaPricer
from planner.engine import EngineProfile, list_engines, load_engine
from planner.errors import UnsupportedError
from planner.model import ModelSpec
from planner.profiling.accuracy.records import Skipped, SkipRowError
from planner.workload import Workload

__all__ = ["Served", "ServedRows", "Setting", "label_of", "replica_of", "serving_engine"]

Key = tuple[int, int, int, ReplicaParallelism, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A replica on one node.

    Parameters
    ----------
    model, device, engine
        What runs, where, under what.
    parallelism, pp
        Of a stage, and how many stages there are.
    """

    model: ModelSpec
    device: DeviceProfile
    engine: EngineProfile
    parallelism: ReplicaParallelism
    pp: int = 1

    @property
    def gpus(self) -> int:
        """GPUs of the replica."""
        return self.parallelism.gpus * self.pp

    @property
    def key(self) -> Key:
        """The same for the same replica: names read once are the same objects."""
        return id(self.model), id(self.device), id(self.engine), self.parallelism, self.pp


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A replica under a load, as one row describes it.

    Parameters
    ----------
    row
        Number of the row.
    setting
        The replica.
    input, output
        Mean tokens in and out.
    concurrency
        Requests under way.
    pattern
        How they come.
    """

    row: int
    setting: Setting
    input: float
    output: float
    concurrency: float
    pattern: LoadPattern


@dataclass(frozen=True, slots=True)
class ServedRows:
    """Rows that can be priced, with the tables of their replicas.

    Parameters
    ----------
    rows
        B of them, those that fit.
    tables, pricers
        Of R replicas.
    loads
        Of the rows.
    """

    rows: tuple[Served, ...]
    tables: IterationTables
    pricers: tuple[ReplicaPricer, ...]
    loads: Loads

    @classmethod
    def of(cls, candidates: Iterable[Served]) -> tuple[ServedRows | None, list[Skipped]]:
        """Tabulate what can be priced.

        Returns
        -------
        tuple
            The rows that can, None where there are none; and the others, each with its reason.
        """
        pricers: list[ReplicaPricer] = []
        place: dict[Key, int | str] = {}
        rows: list[Served] = []
        skipped: list[Skipped] = []
        for one in candidates:
            if one.setting.key not in place:
                try:
                    pricers.append(replica_of(one.setting))
                    place[one.setting.key] = len(pricers) - 1
                except SkipRowError as reason:
                    place[one.setting.key] = str(reason)
            found = place[one.setting.key]
            if isinstance(found, str):
                skipped.append(Skipped(one.row, found))
            else:
                rows.append(one)
        if not rows:
            return None, skipped
        tables = IterationTables.of(pricers)
        model = LoopModel(tables, HostTimes.of([pricer.engine for pricer in pricers]))
        fits_B = model.solve(_loads(rows, place)).fits_B
        skipped += [Skipped(row.row, _too_long(row)) for row, fits in zip(rows, fits_B, strict=True) if not fits]
        rows = [row for row, fits in zip(rows, fits_B, strict=True) if fits]
        return (cls(tuple(rows), tables, tuple(pricers), _loads(rows, place)) if rows else None), skipped

    @property
    def engines(self) -> list[EngineProfile]:
        """Engine of each replica."""
        return [pricer.engine for pricer in self.pricers]

    def pricer_of(self, place: int) -> ReplicaPricer:
        """Replica of a row."""
        return self.pricers[int(self.loads.replica_B[place])]

    def solve(self) -> ClosedLoop:
        """Price all rows."""
        return LoopModel(self.tables, HostTimes.of(self.engines)).solve(self.loads)


def _loads(rows: Sequence[Served], place: dict[Key, int | str]) -> Loads:
    return Loads.of(
        [int(place[row.setting.key]) for row in rows],
        [row.input for row in rows],
        [row.output for row in rows],
        [row.concurrency for row in rows],
        [row.pattern for row in rows],
    )


def _too_long(row: Served) -> str:
    return f"one request of {row.input + row.output:,.0f} tokens does not fit the KV cache beside the weights"


def label_of(model: ModelSpec) -> str:
    """Name of a model in tables, with its weights' format where that is not 16 bit.

    Examples
    --------
    >>> from planner.model import load_model
    >>> label_of(load_model("llama-3.1-70b", weight_dtype="fp8")), label_of(load_model("llama-3.1-8b"))
    ('llama-3.1-70b fp8', 'llama-3.1-8b')
    """
    if model.weight_dtype in ("bf16", "fp16", "fp32") or model.weight_dtype in model.name.split("-"):
        return model.name
    return f"{model.name} {model.weight_dtype}"


@lru_cache(maxsize=16)
def serving_engine(name: str, *, offline: bool = False) -> EngineProfile:
    """Engine of a row, as a server or in batch runs.

    Raises
    ------
    SkipRowError
        If it is unknown, or does not serve.
    """
    if name not in list_engines() or "serving" not in load_engine(name).tasks:
        raise SkipRowError(f"engine {name!r} has no profile")
    engine = load_engine(name)
    if offline and engine.offline_overhead is not None:
        return engine.model_copy(update={"overhead": engine.offline_overhead})
    return engine


def replica_of(setting: Setting, workload: Workload | None = None) -> ReplicaPricer:
    """A replica inside one node, layers split as the engine does by default.

    Parameters
    ----------
    setting
        The replica.
    workload
        Its requests; None where only its tables are wanted.

    Raises
    ------
    SkipRowError
        If it spans nodes, or is not legal for the model.
    """
    try:
        return node_replica(
            setting.model, setting.device, setting.engine, setting.parallelism, pp=setting.pp, workload=workload
        )
    except UnsupportedError as reason:
        raise SkipRowError(str(reason)) from None
