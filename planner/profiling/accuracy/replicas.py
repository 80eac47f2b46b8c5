"""One serving replica as a truth row describes it, priced at several loads at once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from planner.cluster import DeviceProfile, load_link
from planner.cost.closed_loop import ClosedLoop, LoadPattern, closed_loop
from planner.cost.memory import tensor_parallel_fault
from planner.cost.network import collective_for
from planner.cost.parallelism import ReplicaParallelism
from planner.cost.prediction import stated_errors
from planner.cost.replica import PipelineStage, ReplicaPricer
from planner.engine import EngineProfile, default_split, list_engines, load_engine
from planner.errors import InfeasibleError, UnsupportedError
from planner.model import ModelSpec
from planner.profiling.accuracy.records import SkipRowError
from planner.workload import Workload, fixed_workload

__all__ = ["Loaded", "label_of", "replica_stages", "serve", "serving_engine"]

_NODE: int = 8  # GPUs that share the device's own link


@dataclass(frozen=True, slots=True)
class Loaded:
    """A replica at some loads.

    Parameters
    ----------
    loop
        What its clients see.
    rate_error, first_error
        Errors that the cost model states of rate, TPOT and latency, and of TTFT.
    """

    loop: ClosedLoop
    rate_error: float
    first_error: float


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
def serving_engine(name: str) -> EngineProfile:
    """Engine of a row.

    Raises
    ------
    SkipRowError
        If it is unknown, or does not serve.
    """
    if name not in list_engines() or "serving" not in load_engine(name).tasks:
        raise SkipRowError(f"engine {name!r} has no profile")
    return load_engine(name)


def serve(
    model: ModelSpec,
    device: DeviceProfile,
    engine: EngineProfile,
    *,
    tp: int,
    pp: int,
    isl: float,
    osl: float,
    concurrency: list[float],
    load: LoadPattern,
    parallelism: ReplicaParallelism | None = None,
) -> Loaded:
    """Price a replica on one node under a closed loop.

    Parameters
    ----------
    model, device, engine, tp, pp
        The replica.
    isl, osl
        Mean tokens in and out.
    concurrency
        Requests under way.
    load
        How they come.
    parallelism
        How the GPUs of a stage share a layer; None: tensor parallelism of degree `tp`.

    Raises
    ------
    SkipRowError
        If it spans nodes, is not legal for the model, or does not fit.
    """
    if parallelism is None:
        parallelism = ReplicaParallelism(tp=tp)
    pricer = ReplicaPricer(model, engine, _lengths(isl, osl), replica_stages(model, device, engine, parallelism, pp))
    try:
        loop = closed_loop(pricer, np.asarray(concurrency), load)
    except InfeasibleError as error:
        raise SkipRowError(str(error).split("\n")[0]) from None
    operation = pricer.at_rate(float(np.median(loop.rate_B)))
    rate_error, first_error = stated_errors(engine, operation)
    return Loaded(loop, rate_error, first_error)


def replica_stages(
    model: ModelSpec, device: DeviceProfile, engine: EngineProfile, parallelism: ReplicaParallelism, pp: int
) -> list[PipelineStage]:
    """Stages of a replica inside one node, layers split as the engine does by default.

    Raises
    ------
    SkipRowError
        If it spans nodes, or is not legal for the model.
    """
    gpus = parallelism.gpus
    if gpus * pp > _NODE:
        raise SkipRowError(f"{gpus * pp} GPUs span nodes, and the row does not say what connects these")
    fault = tensor_parallel_fault(model, parallelism.tp, parallelism) or parallelism.fault(model)
    if fault is not None:
        raise SkipRowError(fault)
    link = load_link(device.link).link()
    try:
        layers = np.concatenate([[0], np.cumsum(default_split(engine, model.num_layers, pp))]).tolist()
    except UnsupportedError as error:
        raise SkipRowError(str(error)) from None
    return [
        PipelineStage(
            device=device,
            collective=collective_for(device, gpus, link, native=True),
            layers=(layers[s], layers[s + 1]),
            hop=link if pp > 1 else None,
            parallelism=parallelism,
        )
        for s in range(pp)
    ]


def _lengths(isl: float, osl: float) -> Workload:
    return fixed_workload(max(1, round(isl)), max(1, round(osl)))
