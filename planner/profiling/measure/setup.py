"""What all measurements of one run share: the device, the sizes, the time for each, and helper processes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from planner.profiling.measure.backend import Backend, torch_dtype
from planner.profiling.measure.crew import Crew
from planner.profiling.measure.points import UnmeasurableError
from planner.profiling.measure.shapes import Shapes
from planner.profiling.measure.timing import TimeBudget

__all__ = ["Setup"]

_MOST_SETS: Final = 64
_BLOCK: Final = 1_000_003  # a prime: rows of a matrix then differ


@dataclass(slots=True)
class Setup:
    """One run.

    Parameters
    ----------
    backend
        The device.
    shapes
        Matrices, heads and layers to measure.
    quick
        Small sizes, short budgets.
    group_sizes
        Sizes of the groups whose collectives are measured.
    budget
        Time of a point.
    crews
        Helper processes that are alive, by what they do.
    """

    backend: Backend
    shapes: Shapes
    quick: bool
    group_sizes: tuple[int, ...]
    budget: TimeBudget
    crews: dict[str, Crew] = field(default_factory=dict)

    def crew(self, name: str, make: Callable[[], Crew]) -> Crew:
        """Return the helper processes of that name, started when first needed; others end, as they would compete."""
        if name not in self.crews or not self.crews[name].alive:
            self.close()
            self.crews[name] = make()
        return self.crews[name]

    def close(self) -> None:
        """End all helper processes."""
        for crew in self.crews.values():
            crew.close()
        self.crews.clear()

    def sets_for(self, size: float) -> int:
        """How many sets of operands of so many bytes are needed to find none in a cache.

        Raises
        ------
        UnmeasurableError
            If there is no memory for one set.
        """
        free = self.backend.free_bytes()
        if size > free:
            raise UnmeasurableError(f"needs {size / 2**30:.1f} GiB of {free / 2**30:.1f} GiB that are free")
        wanted = max(1, round(self.backend.evict_bytes / max(size, 1.0) + 0.5))
        return int(max(1, min(wanted, _MOST_SETS, free // max(size, 1.0))))

    def random(self, *shape: int, dtype: str) -> Any:
        """Tensor of normal random numbers on the device; a block of them, repeated: drawing takes long on a CPU."""
        torch, device = self.backend.torch, self.backend.device
        count = math.prod(shape)
        block = torch.randn(min(count, _BLOCK), device=device).to(torch_dtype(torch, dtype))
        out = torch.empty(count, device=device, dtype=block.dtype)
        whole = count // len(block) * len(block)
        out[:whole].view(-1, len(block)).copy_(block)
        out[whole:].copy_(block[: count - whole])
        return out.view(*shape)

    @property
    def half(self) -> str:
        """The 16-bit format that attention and layers run in."""
        return "bf16" if "bf16" in self.backend.dtypes else "fp16"
