"""Where the seconds of a training iteration go: the closed form of `planner.cost.training`, term by term.

What a microbatch takes is averaged over the stages; what the slowest stage takes beyond that, with every microbatch, is
imbalance; what the pipeline needs to fill and drain is the bubble. Gradient sync and optimizer are those of the stage
that ends last. The terms add up to the iteration.

Legend: S stage, X part of a microbatch's time (`MICROBATCH_PARTS`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from planner.cost._types import Array
    from planner.cost.training_replica import PricedStage

__all__ = ["MICROBATCH_PARTS", "Breakdown", "break_down"]

MICROBATCH_PARTS: Final = (
    "compute",
    "recomputation",
    "tensor_parallel",
    "context_parallel",
    "expert_parallel",
    "sharding",
)
"""What a stage's time for one microbatch consists of, in the order of `PricedStage.spent_X`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Breakdown:
    """Seconds of an iteration by what they are spent on.

    Parameters
    ----------
    compute
        Kernels of forward and backward passes, launches, embedding and head.
    recomputation
        Making activations anew, with the communication that belongs to it.
    tensor_parallel, context_parallel, expert_parallel
        Collectives that stay in view: inside tensor-parallel groups, keys and values around a context-parallel group,
        tokens to experts and back.
    sharding
        Weights gathered and gradients scattered with every microbatch (ZeRO 2 and 3).
    hops
        Activations and gradients between stages.
    imbalance
        Waiting for a stage that takes longer than the others.
    bubble
        Filling and draining the pipeline.
    gradient_sync, optimizer
        After the last microbatch.
    other
        Tied embeddings, the engine's own time, waiting for the slowest of many GPUs.
    """

    compute: float
    recomputation: float
    tensor_parallel: float
    context_parallel: float
    expert_parallel: float
    sharding: float
    hops: float
    imbalance: float
    bubble: float
    gradient_sync: float
    optimizer: float
    other: float

    def items(self) -> dict[str, float]:
        """Seconds by name, in order."""
        return asdict(self)

    @property
    def total(self) -> float:
        """Seconds of the iteration."""
        return float(sum(self.items().values()))


def break_down(
    priced: Sequence[PricedStage], hop_S: Array, *, microbatches: int, pipeline: float, total: float
) -> Breakdown:
    """Divide an iteration into its terms.

    Parameters
    ----------
    priced, hop_S
        Its stages' prices, and the seconds of the hops behind them.
    microbatches
        Per iteration.
    pipeline, total
        Seconds of all microbatches, and of the iteration.
    """
    cycle_S = np.array([stage.seconds for stage in priced]) + hop_S
    spent_X = microbatches * np.mean([stage.spent_X for stage in priced], axis=0)
    last = max(priced, key=lambda stage: stage.update)
    return Breakdown(
        **{name: float(seconds) for name, seconds in zip(MICROBATCH_PARTS, spent_X, strict=True)},
        hops=microbatches * float(hop_S.mean()),
        imbalance=microbatches * float(cycle_S.max() - cycle_S.mean()),
        bubble=pipeline - microbatches * float(cycle_S.max()),
        gradient_sync=last.sync,
        optimizer=last.optimizer,
        other=total - pipeline - last.update,
    )
