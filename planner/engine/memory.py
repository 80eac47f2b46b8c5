"""How much of a GPU an engine gives to weights and KV cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planner.engine.spec import EngineProfile

__all__ = ["MemoryBudget", "memory_budget"]


@dataclass(frozen=True, slots=True)
class MemoryBudget:
    """What one GPU offers, once an engine has set its own share aside.

    Linear in what a stage holds, so that a layer partition can sum it: weights plus ``kv_weight`` times the KV cache
    must not exceed the capacity.

    Parameters
    ----------
    capacity
        Bytes for weights and KV cache together, the KV cache counted `kv_weight` times.
    kv_weight
        1, or more where the engine leaves a part of what is free unused.
    fixed
        Bytes of activations, CUDA context, graphs and communication buffers.
    """

    capacity: float
    kv_weight: float
    fixed: float

    @property
    def limit(self) -> float:
        """Bytes that weights, KV cache and the fixed part may take together."""
        return self.capacity + self.fixed

    def cache(self, weights: float) -> float:
        """Bytes left for the KV cache beside some weights; negative where they do not fit."""
        return (self.capacity - weights) / self.kv_weight


def memory_budget(engine: EngineProfile, memory: float, activations: float) -> MemoryBudget:
    """Divide the memory of one GPU under the rule of an engine's memory flag.

    Parameters
    ----------
    engine
        Says which share of the memory is meant, and what it reserves.
    memory
        Bytes of the GPU.
    activations
        Bytes of activations at the largest iteration.

    Examples
    --------
    >>> from planner.engine import load_engine
    >>> budget = memory_budget(load_engine("vllm"), 80 * 2**30, 2 * 2**30)
    >>> round(budget.cache(40 * 2**30) / 2**30, 1)  # 0.92 * 80 - 1 reserved - 2 - 40
    30.6
    """
    fraction = engine.memory_fraction.value
    fixed = activations + engine.reserved_memory.value
    if engine.memory_fraction_of == "total":
        return MemoryBudget(fraction * memory - fixed, 1.0, fixed)
    if engine.memory_fraction_of == "static":
        return MemoryBudget(min(fraction * memory, memory - fixed), 1.0, fixed)
    return MemoryBudget(memory - fixed, 1.0 / fraction, fixed)
