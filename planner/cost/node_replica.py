"""A replica of equal GPUs that one link joins, layers split as its engine does where it is told nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from planner.cluster import load_link
from planner.cost.memory import tensor_parallel_fault
from planner.cost.network import collective_for
from planner.cost.replica import PipelineStage, ReplicaPricer
from planner.engine import default_split
from planner.errors import UnsupportedError
from planner.workload import fixed_workload

if TYPE_CHECKING:
    from planner.cluster import DeviceProfile
    from planner.cost.parallelism import ReplicaParallelism
    from planner.engine import EngineProfile
    from planner.model import ModelSpec
    from planner.workload import Workload

__all__ = ["node_replica"]


def node_replica(
    model: ModelSpec,
    device: DeviceProfile,
    engine: EngineProfile,
    parallelism: ReplicaParallelism,
    *,
    pp: int = 1,
    workload: Workload | None = None,
) -> ReplicaPricer:
    """Build a replica.

    Parameters
    ----------
    model, device, engine
        What runs, where, under what.
    parallelism, pp
        How the GPUs of a stage share a layer, and how many stages there are.
    workload
        Its requests; None where only its tables are wanted.

    Raises
    ------
    UnsupportedError
        If it spans nodes, does not divide the model, or the engine cannot split it.
    """
    gpus = parallelism.gpus * pp
    if gpus > device.link_domain:
        raise UnsupportedError(f"{gpus} GPUs span nodes of {device.link_domain}, and nothing says what connects these")
    fault = tensor_parallel_fault(model, parallelism.tp, parallelism) or parallelism.fault(model)
    if fault is not None:
        raise UnsupportedError(fault)
    link = load_link(device.link).link()
    cuts = np.concatenate([[0], np.cumsum(default_split(engine, model.num_layers, pp))]).tolist()
    stages = [
        PipelineStage(
            device=device,
            collective=collective_for(device, parallelism.gpus, link, native=True),
            layers=(cuts[s], cuts[s + 1]),
            hop=link if pp > 1 else None,
            parallelism=parallelism,
        )
        for s in range(pp)
    ]
    return ReplicaPricer(model, engine, workload or fixed_workload(1, 1), stages)
